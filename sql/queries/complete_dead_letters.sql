-- complete_dead_letters: the dead letter is in its stream, so the failed row is complete.
-- $1 ids, $2 replay counts: a row replayed in the meantime is another generation and stays as it is; one that a
--    transaction holds is buried again when its lease has run out
update notification_events e
set completed_at = now(), updated_at = now(), hinted_until = null
from (
    select e.id
    from notification_events e
    join unnest($1::uuid[], $2::integer[]) as buried (id, replay_count) using (id, replay_count)
    where e.failed_at is not null
      and e.completed_at is null
    order by e.seq
    for update of e skip locked
) mine
where e.id = mine.id
