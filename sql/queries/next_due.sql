-- next_due: how many seconds until a row becomes due without anybody telling the relay; null: none does within $3 seconds.
-- $1 and $2: due time and seq behind which to look for those that are due now (null: all of them), as in claim.
-- Rows that rest for a robot (infinity) are none: somebody will tell. Infinity cannot be subtracted from, either.
-- Zero or less: a row is due now but could not be claimed (another transaction holds it).
select extract(epoch from least(
    -- Rows whose hint lease has run out are held up only by a send lease, or by a lock.
    (
        select min(case when status = 'delivering' and sending_until >= now() then sending_until else now() end)
        from (
            select status, sending_until
            from notification_events
            where completed_at is null
              and failed_at is null
              and greatest(hinted_until, scheduled_at) <= now()
              and (greatest(hinted_until, scheduled_at), seq) > (coalesce($1::timestamptz, '-infinity'), coalesce($2::bigint, 0))
            order by greatest(hinted_until, scheduled_at), seq
            -- So that the index is walked, and not the table, however many rows the planner takes for due. Where so many
            -- are being sent beyond their hint leases, the first of them to end is soon enough.
            limit 1000
        ) due
    ),
    (
        select greatest(hinted_until, scheduled_at)
        from notification_events
        where completed_at is null
          and failed_at is null
          and greatest(hinted_until, scheduled_at) > now()
          -- Which also leaves out what rests. Hints of rows that were sent long before their leases end leave entries here
          -- that an open transaction keeps: they are walked over as far as it matters.
          and greatest(hinted_until, scheduled_at) <= now() + $3 * interval '1 second'
        order by greatest(hinted_until, scheduled_at)
        limit 1
    ),
    (
        select min(coalesce(hinted_until, now()))
        from notification_events
        where completed_at is null
          and failed_at is not null
          and hinted_until is distinct from 'infinity'
    ),
    -- What rests becomes due when a robot has a place for it.
    (
        select nullif(min(ready_at), 'infinity')
        from notification_lanes()
    )
) - now())::double precision as seconds
