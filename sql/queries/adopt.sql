-- adopt: what has waited for targets that nobody knew, or that could not be used, waits for their robots now.
-- $1 names of robots and pools that can be used, $2 most rows in this call; returns how many there were
with orphan as (
    select id
    from notification_events
    where waiting_since is not null
      and completed_at is null
      and failed_at is null
      and robot = any(array(select '?' || name from unnest($1::text[]) name))
    order by seq
    limit $2
    for update skip locked
), adopted as (
    update notification_events e
    set robot = substr(e.robot, 2), updated_at = now()
    where e.id = any(array(select id from orphan))
    returning e.id
), woken as (
    select notification_wake_relay() from adopted limit 1
)
select count(*) as adopted, (select count(*) from woken) as woken from adopted
