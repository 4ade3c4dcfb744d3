-- Waking the relay without taxing the business.
--
-- NOTIFY puts every notifying commit of a database behind one lock, so it is used only while a relay sleeps. One
-- advisory lock (its key spells "postbell") is both the flag and the fence:
--   * who makes a row due tries the lock shared, to the end of its transaction. Got it: no relay sleeps, and none can
--     fall asleep before this transaction has ended, because
--   * a relay takes the lock exclusively, for its session, before its last look at the table, and sleeps holding it.
--     Who then makes a row due does not get the lock, and notifies.
-- Advisory locks are not part of a snapshot, so this holds at every isolation level.

create function public.notification_wake_relay() returns void
language plpgsql volatile
as $$
begin
    -- NOTIFY is refused in a transaction that is to be prepared (two-phase commit). Such a caller says
    -- set local postbell.notify = off, and the relay's poll interval carries its rows.
    if pg_catalog.current_setting('postbell.notify', true) is not distinct from 'off' then
        return;
    end if;
    if not pg_catalog.pg_try_advisory_xact_lock_shared(8101821198367026284) then
        perform pg_catalog.pg_notify('notification_events', '');
    end if;
end
$$;

create function public.notification_wake_relay_on_insert() returns trigger
language plpgsql volatile
as $$
begin
    perform public.notification_wake_relay();
    return null;
end
$$;

create trigger notification_events_wake_relay
    after insert on public.notification_events
    for each statement execute function public.notification_wake_relay_on_insert();
