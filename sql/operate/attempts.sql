-- attempts: each send of these events, the oldest first.
-- $1 ids
select event_id, to_jsonb(a) - 'id' - 'event_id' as attempt
from notification_attempts a
where event_id = any($1)
order by started_at, id
