-- retain_audit: removes a batch of old rows, the oldest first, which have the lowest ids.
-- $1 seconds since they were made, $2 most rows, $3 the id after which to look (null: all)
with oldest as (
    select id, at
    from notification_audit
    where id > coalesce($3::bigint, 0)
    order by id
    limit $2
), removed as (
    delete from notification_audit
    where id = any(array(select id from oldest where at < now() - $1 * interval '1 second'))
    returning id
)
select count(*) as removed, max(id) as until from removed
