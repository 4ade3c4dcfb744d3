-- What business code and operators call. All of them run with the owner's rights, so that a role needs no more on the
-- table than notification_grant gives it, and all names inside are schema-qualified, so that nobody's search_path
-- decides what they mean.

-- Publishes an event and returns its id. With an idempotency_key that is already taken for this channel and target it
-- inserts nothing and returns the id of the event that has it.
create function public.notification_publish(
    event_type      text,
    payload         jsonb,
    idempotency_key text        default null,
    target          text        default 'default',
    scheduled_at    timestamptz default null,
    template_id     text        default null,
    options         jsonb       default '{}',
    trace_id        text        default null,
    channel         text        default 'dingtalk',
    max_retry       integer     default null
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    published uuid;
begin
    loop
        insert into public.notification_events as e
            (event_type, payload, idempotency_key, target, scheduled_at, template_id, options, trace_id, channel, max_retry)
        values (notification_publish.event_type, notification_publish.payload, notification_publish.idempotency_key,
                coalesce(notification_publish.target, 'default'), coalesce(notification_publish.scheduled_at, now()),
                notification_publish.template_id, coalesce(notification_publish.options, '{}'),
                notification_publish.trace_id, coalesce(notification_publish.channel, 'dingtalk'),
                notification_publish.max_retry)
        on conflict (channel, target, idempotency_key) where idempotency_key is not null do nothing
        returning e.id into published;
        exit when published is not null;

        select e.id into published
        from public.notification_events e
        where e.channel = coalesce(notification_publish.channel, 'dingtalk')
          and e.target = coalesce(notification_publish.target, 'default')
          and e.idempotency_key = notification_publish.idempotency_key;
        exit when published is not null;
        -- The row that held the key was removed between the two statements: the key is free again.
    end loop;
    return published;
end
$$;

-- Sends a completed or failed event again, as a new generation: outcomes of the one before no longer count.
create function public.notification_replay(event_id uuid) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_events;
begin
    select * into was from public.notification_events e where e.id = event_id for update;
    if not found then
        return 'not found: no event has this id';
    end if;
    if was.status in ('pending', 'delivering') then
        return format('unchanged: the event is still %s; replay is for events that are delivered, failed or cancelled', was.status);
    end if;
    update public.notification_events e set
        status = 'pending', retry_count = 0, lost_leases = 0, replay_count = e.replay_count + 1,
        scheduled_at = now(), updated_at = now(),
        completed_at = null, delivered_at = null, failed_at = null,
        hinted_until = null, sending_until = null, waiting_since = null, digest_id = null
    where e.id = event_id;
    perform public.notification_wake_relay();
    return format('replayed: the event was %s and is sent again now', was.status);
end
$$;

-- Takes back an event that is not delivered yet. What is being sent at this moment cannot be called back: no further
-- send is made, and should that one succeed, the event is recorded as delivered all the same.
create function public.notification_cancel(event_id uuid) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_events;
begin
    select * into was from public.notification_events e where e.id = event_id for update;
    if not found then
        return 'not found: no event has this id';
    end if;
    if was.status not in ('pending', 'delivering') then
        return format('unchanged: the event is already %s', was.status);
    end if;
    update public.notification_events e set
        status = 'cancelled', completed_at = now(), updated_at = now(), waiting_since = null
    where e.id = event_id;
    if was.status = 'delivering' and was.sending_until >= now() then
        return 'cancelled: a send was under way; there will be no further one, and if it succeeds the event is recorded as delivered';
    end if;
    return 'cancelled';
end
$$;

-- Moves an event that is still pending to another time; a time in the past means now.
create function public.notification_reschedule(event_id uuid, at timestamptz) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_events;
begin
    if at is null then
        return 'unchanged: the new time must not be null';
    end if;
    if at = 'infinity' then
        return 'unchanged: the new time must not be infinite';
    end if;
    select * into was from public.notification_events e where e.id = event_id for update;
    if not found then
        return 'not found: no event has this id';
    end if;
    if was.status = 'delivering' then
        return 'unchanged: the event is being sent at this moment';
    end if;
    if was.status <> 'pending' then
        return format('unchanged: the event is already %s; notification_replay sends it again', was.status);
    end if;
    update public.notification_events e set
        scheduled_at = greatest(at, now()), updated_at = now(), hinted_until = null, waiting_since = null
    where e.id = event_id;
    perform public.notification_wake_relay();
    return format('rescheduled: from %s to %s', was.scheduled_at, greatest(at, now()));
end
$$;

-- Operators are granted these one by one.
revoke execute on function
    public.notification_publish(text, jsonb, text, text, timestamptz, text, jsonb, text, text, integer),
    public.notification_replay(uuid),
    public.notification_cancel(uuid),
    public.notification_reschedule(uuid, timestamptz)
from public;
