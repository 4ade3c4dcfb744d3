-- candidates: events that fit and have ended, the oldest first: what can be replayed, or where they failed, purged.
-- $1 status, $2 event type, $3 target, $4 since, $5 since so many seconds ago, $6 before, $7 before so many seconds ago,
-- $8 error class, $9 error
-- $10 most events
select to_jsonb(s) || jsonb_build_object('error_class', notification_error_class(s.last_error)) as event
from notification_find($1, $2, $3,
        coalesce($4, now() - $5::double precision * interval '1 second'),
        coalesce($6, now() - $7::double precision * interval '1 second'), $8, $9) s
where status in ('delivered', 'failed', 'cancelled')
order by seq
limit $10
