-- probe_now: the settings of these robots have changed, so those that postbell paused are tried at once.
-- $1 names
with tried as (
    update notification_robots r
    set probe_at = now(), updated_at = now()
    from (
        select name
        from notification_robots
        where name = any($1)
          and paused_by = 'postbell'
          and probe_at > now()
        order by name
        for update
    ) mine
    where r.name = mine.name
    returning r.name
)
select notification_wake_relay() from tried limit 1
