-- mergeable: what could go into one message with the event that leads it, the oldest first.
-- $1 lane, $2 digest key, $3 most
select id, event_type, channel, target, template_id, payload::text as payload, options::text as options, trace_id,
       retry_count, max_retry, attempt, replay_count, digest_limit, robot, urgent, seq,
       extract(epoch from now() - scheduled_at)::double precision as late_seconds
from notification_events
where waiting_since is not null
  and completed_at is null
  and failed_at is null
  and robot = $1
  and not urgent
  and digest_key = $2
  and digest_id is null
  and hinted_until = 'infinity'
  and status = 'pending'
  and scheduled_at <= now()
order by seq
limit $3
