-- stats: how things are at a glance, each robot, and the alerts that go on.
select to_jsonb(s) as stats,
       (select coalesce(jsonb_agg(to_jsonb(r) order by r.name), '[]') from notification_robot_status r) as robots,
       (
           select coalesce(jsonb_agg(jsonb_build_object(
               'condition', condition, 'subject', subject, 'raised_at', raised_at, 'rung_at', rung_at, 'detail', detail
           ) order by raised_at), '[]')
           from notification_alerts
           where cleared_at is null
       ) as alerts
from notification_stats s
