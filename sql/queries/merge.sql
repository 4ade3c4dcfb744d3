-- merge: the members of a message are taken together with the event that leads it, and membership is stored, before it is
-- sent. What is not pending any more is left out; without the leader nothing is done.
-- $1 the leader's id, $2 its attempt, $3 ids of the others, $4 their replay counts, $5 digest id, $6 robot,
-- $7 send lease in seconds
with leader as (
    select id
    from notification_events
    where id = $1
      and attempt = $2
      and status = 'delivering'
      and sending_until > now()
    for update skip locked
), others as (
    select e.id
    from notification_events e
    join unnest($3::uuid[], $4::integer[]) as other (id, replay_count) using (id, replay_count)
    where e.status = 'pending'
      and e.completed_at is null
      and e.digest_id is null
      and e.waiting_since is not null
      and e.scheduled_at <= now()
      and exists (select from leader)
    order by e.seq
    for update of e skip locked
), member as (
    select id from leader
    union all
    select id from others
)
update notification_events e
set status = 'delivering',
    attempt = e.attempt + (e.id <> $1)::integer,
    sending_until = now() + $7 * interval '1 second',
    hinted_until = now() + $7 * interval '1 second',
    digest_id = $5,
    robot = $6,
    updated_at = now()
where e.id = any(array(select id from member))
returning e.id, e.attempt, e.replay_count
