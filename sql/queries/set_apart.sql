-- set_apart: events that cannot be shown together with others are to be sent alone.
-- $1 ids
with apart as (
    update notification_events e
    set digest_key = null, digest_limit = 1, updated_at = now()
    from (
        select id
        from notification_events
        where id = any($1)
          and completed_at is null
          and digest_id is null
          and status = 'pending'
        order by seq
        for update skip locked
    ) mine
    where e.id = mine.id
    returning e.id
)
select notification_wake_relay() from apart limit 1
