-- closed_robots: the robots that take nothing now, and why.
select name, paused_by, coalesce(pause_reason, '') as pause_reason,
       extract(epoch from cool_until - now())::double precision as cools_s, coalesce(cool_reason, '') as cool_reason
from notification_robots
where paused_at is not null
   or cool_until > now()
order by name
