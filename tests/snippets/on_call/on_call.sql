-- Which events failed since yesterday, and why?
select id, event_type, target, failed_at, last_error
from notification_find(status => 'failed', since => now() - interval '1 day');

-- The template was wrong, and is correct by now: which events would go out again? Then send them.
select * from notification_replay_all(since => now() - interval '1 day', error_class => 'template', dry_run => true);
set postbell.actor = 'li.lei';
select * from notification_replay_all(since => now() - interval '1 day', error_class => 'template');

-- Who did what, and how are things now?
select at, actor, database_user, action, event_id, detail
from notification_audit
where at > now() - interval '1 hour'
order by at desc;
select * from notification_stats;
