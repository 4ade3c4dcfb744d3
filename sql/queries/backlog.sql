-- backlog: how many rows are due and not hinted, counted up to a limit, and the age of the oldest in seconds.
-- $1 most rows to count
select count(*) as due,
       coalesce(extract(epoch from now() - min(due_at)), 0)::double precision as oldest_seconds
from (
    select greatest(hinted_until, scheduled_at) as due_at
    from notification_events
    where completed_at is null
      and failed_at is null
      and greatest(hinted_until, scheduled_at) <= now()
      and not (status = 'delivering' and sending_until >= now())
    order by greatest(hinted_until, scheduled_at), seq
    limit $1
) due_rows
