-- probe_now: the settings of these robots have changed, so those that postbell paused are tried at once. Where nothing waits for
-- one there is nothing to try it with: its pause ends, and what comes next finds out.
-- $1 names. Tells which were resumed, and which are busy: somebody else holds their rows; try again.
with paused as (
    select r.name, r.pause_reason, r.probe_at > now() as rests, is_waited_for
    from notification_robots r
    cross join lateral (
        select exists (
            select
            from (
                select r.name as lane
                union all
                select c.name from notification_channels c where c.enabled and r.name = any(c.robots)
            ) known
            cross join lateral (
                select
                from notification_events e
                where e.waiting_since is not null
                  and e.completed_at is null
                  and e.failed_at is null
                  and e.robot = known.lane
                -- So that the index is probed, and not read, however many wait.
                order by e.robot, e.urgent, e.hinted_until, e.seq
                limit 1
            ) first
        ) as is_waited_for
    ) waiting
    where r.name = any($1)
      and r.paused_by = 'postbell'
), mine as (
    select name
    from notification_robots
    where name in (select name from paused where rests or not is_waited_for)
      and paused_by = 'postbell'
    order by name
    for update skip locked
), tried as (
    update notification_robots r
    set paused_at = case when is_waited_for then r.paused_at end,
        paused_by = case when is_waited_for then r.paused_by end,
        pause_reason = case when is_waited_for then r.pause_reason end,
        probe_at = case when is_waited_for then now() end,
        updated_at = now()
    from mine
    join paused using (name)
    where r.name = mine.name
    returning r.name, is_waited_for
), woken as (
    select notification_wake_relay() from tried limit 1
)
select name, 'busy' as change, null as reason, (select count(*) from woken) as woken
from paused
where (rests or not is_waited_for)
  and name not in (select name from mine)
union all
select name, 'resumed', pause_reason, 0 from tried join paused using (name) where not tried.is_waited_for
union all
-- So that the wake-up runs although nothing is left.
select null, 'woken', null, count(*) from woken having count(*) > 0
