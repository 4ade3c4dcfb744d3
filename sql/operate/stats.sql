-- stats: how things are at a glance, and each robot.
select to_jsonb(s) as stats,
       (select coalesce(jsonb_agg(to_jsonb(r) order by r.name), '[]') from notification_robot_status r) as robots
from notification_stats s
