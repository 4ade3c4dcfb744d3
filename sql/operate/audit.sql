-- audit: who changed what, the newest first.
-- $1 since, $2 since so many seconds ago, $3 actor, $4 action, $5 event
-- $6 most
select to_jsonb(a) as change
from notification_audit a
where ($1::timestamptz is null or at >= $1)
  and ($2::double precision is null or at >= now() - $2 * interval '1 second')
  and ($3::text is null or actor = $3 or database_user = $3)
  and ($4::text is null or action = $4)
  and ($5::uuid is null or event_id = $5)
order by at desc, id desc
limit $6
