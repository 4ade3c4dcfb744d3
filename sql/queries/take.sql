-- take: a consumer takes the rows it can start to send now. What was hinted long ago may be anything by now, so each
-- row is judged as it stands; ids that do not come back are done, not due, or gone, and their hints can be dropped.
-- $1 ids
-- $2 send lease in seconds
-- $3 alone: the consumer has nothing else in hand
-- $4 lost leases at which a row is held to kill its consumers
-- Verdicts: taken; failed (its dead letter follows); alone (to be taken when nothing else is in hand, for the next
-- lost lease would be its last); busy (another consumer sends it: look again when its lease may have run out); held (a
-- transaction holds it, such as the claim of a relay that was late: look again soon); digest (its outcome is unknown
-- together with others': see take_digest). And whether its send lease had run out in another consumer's hand.
with locked as (
    select id, case
            when status = 'delivering' and options ->> 'delivery' = 'at_most_once' then 'unknown_outcome'
            when status = 'delivering' and lost_leases + 1 >= $4 then 'kills_its_consumer'
            when lost_leases + (status = 'delivering')::integer = $4 - 1 and not $3 then 'alone'
            else 'taken'
        end as verdict, status = 'delivering' as is_taken_over
    from notification_events
    where id = any($1)
      and completed_at is null
      and failed_at is null
      and scheduled_at <= now()
      -- An old hint must not cut short the wait for a robot.
      and hinted_until is distinct from 'infinity'
      and (status = 'pending' or sending_until < now())
      and digest_id is null
    order by seq
    for update skip locked
), taken as (
    update notification_events e
    set status = case when verdict = 'taken' then 'delivering' else 'failed' end,
        attempt = e.attempt + (verdict = 'taken')::integer,
        lost_leases = e.lost_leases + (e.status = 'delivering')::integer,
        sending_until = case when verdict = 'taken' then now() + $2 * interval '1 second' end,
        failed_at = case when verdict <> 'taken' then now() end,
        hinted_until = case when verdict = 'taken' then e.hinted_until end,
        last_error = case verdict
            when 'unknown_outcome' then
                'outcome unknown: a consumer stopped while sending this event, and it asks for at most one delivery'
            when 'kills_its_consumer' then
                'kills its consumer: ' || e.lost_leases + 1 || ' consumers in a row stopped while they had this event in hand'
            else e.last_error
        end,
        updated_at = now()
    from locked
    where e.id = locked.id
      and verdict <> 'alone'
    returning e.*, is_taken_over
), woken as (
    select notification_wake_relay() from taken where status = 'failed' limit 1
)
select case when status = 'delivering' then 'taken' else 'failed' end as verdict,
       id, event_type, channel, target, template_id, payload::text as payload, options::text as options,
       trace_id, retry_count, max_retry, attempt, lost_leases, replay_count, last_error, robot, digest_id, digest_limit,
       urgent, seq, is_taken_over,
       -- Robots that take nothing now, for those that need not ask for admission otherwise.
       (select array_agg(name) from notification_robots where paused_at is not null or cool_until > now()) as closed,
       extract(epoch from now() - scheduled_at)::double precision as late_seconds,
       (select count(*) from woken) as woken
from taken
union all
select case
           when e.digest_id is not null and (e.status = 'pending' or e.sending_until < now()) then 'digest'
           when locked.id is null and e.status = 'delivering' and e.sending_until >= now() then 'busy'
           when locked.id is null then 'held'
           else locked.verdict
       end,
       e.id, e.event_type, e.channel, '', null, null, null, null, 0, null, 0, 0, 0, null, null, e.digest_id, null, e.urgent, e.seq,
       false, null, 0, 0
from notification_events e
left join locked on locked.id = e.id
-- Mostly none: what was taken is not looked up once more.
where e.id = any(array(select id from unnest($1) as given (id) where id not in (select id from taken)))
  and e.completed_at is null
  and e.failed_at is null
  and e.scheduled_at <= now()
  and e.hinted_until is distinct from 'infinity'
