-- follow: events that fit and have changed: new ones, any that failed, and those that were seen open.
-- $1 status, $2 event type, $3 target, $4 since, $5 since so many seconds ago, $6 before, $7 before so many seconds ago,
-- $8 error class, $9 error
-- $10 changes after this time, $11 events that were open
-- The newest, the failed and the named have an index each; a change of any other event would need the whole table.
select to_jsonb(s) || jsonb_build_object('error_class', notification_error_class(s.last_error)) as event, updated_at
from notification_find($1, $2, $3,
        coalesce($4, now() - $5::double precision * interval '1 second'),
        coalesce($6, now() - $7::double precision * interval '1 second'), $8, $9) s
where updated_at >= $10
  and (created_at > now() - interval '10 minutes'
      or completed_at is not null and failed_at >= $10
      or completed_at is null and failed_at >= $10
      or id = any($11))
order by updated_at, seq
