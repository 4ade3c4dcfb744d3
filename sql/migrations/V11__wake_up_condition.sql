-- The same wake-up as in V2, decided before a trigger function is called: while no relay sleeps, an insert pays for one
-- look at the lock and no more.
--
-- The function tries the lock once more. Where it gets it then, the relay has woken up in between, and cannot fall asleep
-- again before this transaction has ended: nobody needs to be notified.
drop trigger notification_events_wake_relay on public.notification_events;

create trigger notification_events_wake_relay
    after insert on public.notification_events
    for each statement
    when (
        pg_catalog.current_setting('postbell.notify', true) is distinct from 'off'
        and not pg_catalog.pg_try_advisory_xact_lock_shared(8101821198367026284)
    )
    execute function public.notification_wake_relay_on_insert();
