-- give_back: a hint that did not reach the queue gives its lease back, so that the row is due again at once.
-- $1 ids. A row that waits for its robot keeps its slot.
update notification_events e
set hinted_until = null
from (
    select id
    from notification_events
    where id = any($1)
      and completed_at is null
      and waiting_since is null
    order by seq
    for update
) mine
where e.id = mine.id
