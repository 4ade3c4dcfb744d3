-- probe_now: the settings of these robots have changed, so those that postbell paused are tried at once.
-- $1 names. Returns those whose rows somebody else holds: try again.
with paused as (
    select name from notification_robots where name = any($1) and paused_by = 'postbell' and probe_at > now()
), mine as (
    select name
    from notification_robots
    where name in (select name from paused)
      and paused_by = 'postbell'
    order by name
    for update skip locked
), tried as (
    update notification_robots r
    set probe_at = now(), updated_at = now()
    from mine
    where r.name = mine.name
    returning r.name
), woken as (
    select notification_wake_relay() from tried limit 1
)
select name, (select count(*) from woken) as woken from paused where name not in (select name from mine)
union all
-- So that the wake-up runs although nothing is left.
select null, count(*) from woken having count(*) > 0
