-- next_due: how many seconds until a row becomes due without anybody telling the relay; null: none is waiting.
-- Zero or less: a row is due now but could not be claimed (another transaction holds it).
select extract(epoch from least(
    -- Rows whose hint lease has run out are held up only by a send lease, or by a lock.
    (
        select min(case when status = 'delivering' and sending_until >= now() then sending_until else now() end)
        from notification_events
        where completed_at is null
          and failed_at is null
          and greatest(hinted_until, scheduled_at) <= now()
    ),
    (
        select greatest(hinted_until, scheduled_at)
        from notification_events
        where completed_at is null
          and failed_at is null
          and greatest(hinted_until, scheduled_at) > now()
        order by greatest(hinted_until, scheduled_at)
        limit 1
    ),
    (
        select min(coalesce(hinted_until, now()))
        from notification_events
        where completed_at is null
          and failed_at is not null
    )
) - now())::double precision as seconds
