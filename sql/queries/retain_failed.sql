-- retain_failed: removes a batch of the events that failed long ago and whose dead letters are in their stream, the oldest
-- first. $1 seconds since they ended, $2 most rows, $3 the end from which on to look (null: all), as in retain_delivered
with ended as (
    select id, completed_at
    from notification_events
    where completed_at is not null
      and failed_at is not null
      and completed_at >= coalesce($3::timestamptz, '-infinity')
      and completed_at < now() - $1 * interval '1 second'
    order by completed_at
    limit $2
    for update skip locked
), removed as (
    delete from notification_events
    where id = any(array(select id from ended))
    returning id
)
select (select count(*) from removed) as removed, (select max(completed_at) from ended) as until
