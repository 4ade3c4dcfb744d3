-- retain_delivered: removes a batch of the events that were delivered or cancelled long ago, the oldest first.
-- $1 seconds since they ended, $2 most rows, $3 the end from which on to look (null: all): what a batch before this one left
-- behind, rows that somebody holds and entries of the index that are not cleaned up yet, is not looked at again
with ended as (
    select id, completed_at
    from notification_events e
    where completed_at is not null
      and failed_at is null
      and completed_at >= coalesce($3::timestamptz, '-infinity')
      and completed_at < now() - $1 * interval '1 second'
      -- It may be the only one that knows that their message arrived.
      and not exists (
          select from notification_events other where other.digest_id = e.digest_id and other.completed_at is null
      )
    order by completed_at
    limit $2
    for update of e skip locked
), removed as (
    delete from notification_events
    where id = any(array(select id from ended))
    returning id
)
select (select count(*) from removed) as removed, (select max(completed_at) from ended) as until
