-- release_hints: the queue may have lost its hints; every row that trusts one is due again at once.
-- $1 seconds: leases given before the loss was noticed end at most so far from now. Later ones, and rows scheduled for
--    later, are left alone.
-- $2 most rows in this call; returns how many there were, and wakes a sleeping relay
with hinted as (
    select id
    from notification_events
    where completed_at is null
      and failed_at is null
      and greatest(hinted_until, scheduled_at) > now()
      and greatest(hinted_until, scheduled_at) <= now() + $1 * interval '1 second'
      and hinted_until > now()
    order by seq
    limit $2
    for update skip locked
), released as (
    update notification_events e
    set hinted_until = null
    -- An array and not a join: see claim.
    where e.id = any(array(select id from hinted))
    returning e.id
), woken as (
    select notification_wake_relay() from released limit 1
)
select count(*) as released, (select count(*) from woken) as woken from released
