-- payloads: what events carry, for those who ask for it and may see it.
-- $1 ids
select id, payload, options
from notification_events
where id = any($1)
