-- admit_again: one more place of its robot's budget, for a second request that an answer calls for.
-- $1 robot, $2 seconds until the last moment at which it can be written. Nothing comes back: there is none, or
-- somebody else holds the robot's row.
with locked as materialized (
    select name, rate_window, array(select slot from unnest(slots) slot where slot > now()) as taken
    from notification_robots
    where name = $1
      and rate_limit > (select count(*) from unnest(slots) slot where slot > now())
      and (cool_until is null or cool_until <= now())
    for update skip locked
)
update notification_robots r
set slots = locked.taken || (now() + $2 * interval '1 second' + locked.rate_window), updated_at = now()
from locked
where r.name = locked.name
returning now() + $2 * interval '1 second' + locked.rate_window as slot
