-- give_back: hints that did not reach the queue, or were received and not taken, give their leases back: their rows
-- are due again at once.
-- $1 ids. A row that rests for its robot goes on resting, and one that a transaction holds keeps its lease.
with given_back as (
    update notification_events e
    set hinted_until = null
    from (
        select id
        from notification_events
        where id = any($1)
          and completed_at is null
          and hinted_until < 'infinity'
        order by seq
        for update skip locked
    ) mine
    where e.id = mine.id
    returning e.id
)
select notification_wake_relay() from given_back limit 1
