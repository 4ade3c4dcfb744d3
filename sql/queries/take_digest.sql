-- take_digest: a message of several events whose outcome is unknown is taken as a whole, or not at all.
-- $1 digest id, $2 send lease in seconds, $3 alone: the consumer has nothing else in hand
-- $4 lost leases at which it is held to kill its consumers
-- Verdicts: as those of take; delivered: it has arrived, as one of its members knows, and now all do. Nothing comes back
-- where a member is not due, or held by another consumer or transaction: look again later.
with member as (
    select id, status, lost_leases, scheduled_at, sending_until
    from notification_events
    where digest_id = $1
      and completed_at is null
      and failed_at is null
), locked as (
    select e.id, e.seq, e.status, e.lost_leases, e.scheduled_at, e.sending_until
    from notification_events e
    where e.digest_id = $1
      and e.completed_at is null
      and e.failed_at is null
      and e.scheduled_at <= now()
      and (e.status = 'pending' or e.sending_until < now())
    order by e.seq
    for update skip locked
), verdict as (
    select case
            when (select count(*) from locked) < (select count(*) from member) then 'busy'
            when exists (select from notification_events where digest_id = $1 and status = 'delivered') then 'delivered'
            when max(lost_leases + (status = 'delivering')::integer) >= $4 then 'failed'
            when max(lost_leases + (status = 'delivering')::integer) = $4 - 1 and not $3 then 'alone'
            else 'taken'
        end as verdict
    from locked
), taken as (
    update notification_events e
    set status = case verdict when 'taken' then 'delivering' else verdict end,
        attempt = e.attempt + (verdict = 'taken')::integer,
        lost_leases = e.lost_leases + (e.status = 'delivering')::integer,
        sending_until = case when verdict = 'taken' then now() + $2 * interval '1 second' end,
        hinted_until = case when verdict = 'taken' then now() + $2 * interval '1 second' end,
        waiting_since = case when verdict = 'taken' then e.waiting_since end,
        failed_at = case when verdict = 'failed' then now() end,
        delivered_at = case when verdict = 'delivered' then now() end,
        completed_at = case when verdict = 'delivered' then now() end,
        last_error = case when verdict = 'failed'
            then 'kills its consumer: ' || e.lost_leases + 1 || ' consumers in a row stopped while they had this event in hand'
            else e.last_error
        end,
        response = case when verdict = 'delivered'
            then (select response from notification_events where digest_id = $1 and status = 'delivered' limit 1)
            else e.response
        end,
        updated_at = now()
    from locked, verdict
    where e.id = locked.id
      and verdict not in ('busy', 'alone')
    returning e.*, verdict, locked.status = 'delivering' as is_taken_over
), woken as (
    select notification_wake_relay() from taken where status = 'failed' limit 1
)
select verdict, id, event_type, channel, target, template_id, payload::text as payload, options::text as options,
       trace_id, retry_count, max_retry, attempt, lost_leases, replay_count, last_error, robot, digest_id, digest_limit,
       urgent, seq, is_taken_over,
       extract(epoch from now() - scheduled_at)::double precision as late_seconds,
       (select count(*) from woken) as woken
from taken
union all
select 'alone', id, '', '', '', null, null, null, null, 0, null, 0, 0, 0, null, null, $1, null, false, seq, false, 0, 0
from locked, verdict
where verdict = 'alone'
order by seq
