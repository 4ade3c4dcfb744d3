-- claim: due rows that nobody is sending get a hint lease, oldest first; failed rows get one for their dead letter.
-- $1 most dead letters, $2 most hints, $3 hint lease in seconds
with unburied as (
    select id
    from notification_events
    where completed_at is null
      and failed_at is not null
      and (hinted_until is null or hinted_until <= now())
    order by failed_at
    limit $1
    for update skip locked
), due as (
    select id
    from notification_events
    where completed_at is null
      and failed_at is null
      and greatest(hinted_until, scheduled_at) <= now()
      and not (status = 'delivering' and sending_until >= now())
    order by greatest(hinted_until, scheduled_at), seq
    limit $2
    for update skip locked
), claimed as (
    select id from unburied
    union all
    select id from due
)
update notification_events e
set hinted_until = now() + $3 * interval '1 second',
    -- Its slot has come; from here on the lease is a hint's.
    waiting_since = null,
    dispatched_at = coalesce(e.dispatched_at, now()),
    updated_at = now()
from claimed
where e.id = claimed.id
returning
    e.id, e.seq, e.event_type, e.channel, notification_mask_target(e.target) as target,
    coalesce(e.template_id, e.event_type) as template_id,
    -- A large payload is not worth carrying in a hint: what is sent is rendered from the row. || '{}' unpacks it, for
    -- what compresses well is still large in the hint.
    case when pg_column_size(e.payload || '{}') <= 8192 then e.payload::text end as payload,
    e.trace_id, e.retry_count, e.replay_count, e.attempt,
    e.failed_at is not null as is_dead, e.last_error
