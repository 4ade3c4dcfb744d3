-- history: what was done to these events, the oldest first.
-- $1 ids
select event_id, to_jsonb(a) - 'id' - 'event_id' as change
from notification_audit a
where event_id = any($1)
order by at, id
