-- retain_robots: removes robots that nobody refers to any more: whoever makes up webhook URLs leaves one each.
-- $1 seconds in which nothing was sent by them, $2 most rows
-- Should an event come for one all the same, it gets a row again where it asks for admission.
with unused as (
    select name
    from notification_robots r
    where r.name <> 'default'
      and r.updated_at < now() - $1 * interval '1 second'
      -- One without a budget is not written when it sends: nobody knows when it did last.
      and r.rate_limit is not null
      and coalesce(r.paused_by, 'postbell') = 'postbell'
      and (r.cool_until is null or r.cool_until <= now())
      and not exists (
          select from notification_channels c where c.name = r.name or r.name = any(c.robots)
      )
      and not exists (
          select
          from notification_events e
          where e.waiting_since is not null
            and e.completed_at is null
            and e.failed_at is null
            and e.robot in (r.name, '?' || r.name)
      )
    order by name
    limit $2
    for update skip locked
), removed as (
    delete from notification_robots
    where name = any(array(select name from unused))
    returning name
)
select count(*) as removed from removed
