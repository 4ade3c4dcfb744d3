-- claim: due rows that nobody is sending get a hint lease, urgent ones first, else the oldest first; failed rows get one
-- for their dead letter. Rows that rest for a robot (hinted_until = infinity) are never due.
-- $1 most dead letters, $2 most hints, less the urgent ones, $3 most urgent hints, $4 hint lease in seconds
-- $5 and $6: due time and seq behind which to look for those that are not urgent (null: at all). While somebody's open
-- transaction keeps dead index entries from being removed, every scan from the beginning walks over all of them.
-- scanned_at and scanned_seq: how far this one came; null where nothing was due but urgent ones, or dead letters.
with unburied as (
    select id
    from notification_events
    where completed_at is null
      and failed_at is not null
      and (hinted_until is null or hinted_until <= now())
    order by failed_at
    limit $1
    for update skip locked
), urgent_due as (
    select id
    from notification_events
    where completed_at is null
      and failed_at is null
      and urgent
      and greatest(hinted_until, scheduled_at) <= now()
      and not (status = 'delivering' and sending_until >= now())
    order by greatest(hinted_until, scheduled_at), seq
    limit $3
    for update skip locked
), due as (
    select id, greatest(hinted_until, scheduled_at) as due_at, seq
    from notification_events
    where completed_at is null
      and failed_at is null
      -- Also so that no row is found twice: a statement does not skip what it has locked itself.
      and not urgent
      and greatest(hinted_until, scheduled_at) <= now()
      and (greatest(hinted_until, scheduled_at), seq) > (coalesce($5::timestamptz, '-infinity'), coalesce($6::bigint, 0))
      and not (status = 'delivering' and sending_until >= now())
    order by greatest(hinted_until, scheduled_at), seq
    limit greatest($2 - (select count(*) from urgent_due), 0)
    for update skip locked
), claimed as (
    select id from unburied
    union all
    select id from urgent_due
    union all
    select id from due
)
update notification_events e
set hinted_until = now() + $4 * interval '1 second',
    dispatched_at = coalesce(e.dispatched_at, now()),
    updated_at = now()
-- An array and not a join: whatever the planner takes for due, it looks up these rows and does not walk the table.
where e.id = any(array(select id from claimed))
  -- This commit need not wait for the disk: a claim that a crash undoes is a hint given twice. Asked once, not for each row.
  and (select set_config('synchronous_commit', 'off', true)) = 'off'
returning
    e.id, e.seq, e.event_type, e.channel, notification_mask_target(e.target) as target,
    coalesce(e.template_id, e.event_type) as template_id,
    -- A large payload is not worth carrying in a hint: what is sent is rendered from the row. || '{}' unpacks it, for
    -- what compresses well is still large in the hint.
    case when pg_column_size(e.payload || '{}') <= 8192 then e.payload::text end as payload,
    e.trace_id, e.retry_count, e.replay_count, e.attempt,
    e.urgent, e.failed_at is not null as is_dead, e.last_error,
    (select max(due_at) from due) as scanned_at,
    (select max(seq) from due where due_at = (select max(due_at) from due)) as scanned_seq
