-- sync_robots: every robot has a row, with the budget it is configured to have.
-- $1 names, $2 channels, $3 rate limits (null: no budget), $4 rate windows in seconds, $5 slots kept for urgent ones
with wanted as (
    select name, channel, rate_limit,
           case when rate_limit is not null then window_s * interval '1 second' end as rate_window,
           least(urgent_reserve, rate_limit - 1) as urgent_reserve
    from unnest($1::text[], $2::text[], $3::integer[], $4::double precision[], $5::integer[])
        as w (name, channel, rate_limit, window_s, urgent_reserve)
), changed as (
    insert into notification_robots as r (name, channel, rate_limit, rate_window, urgent_reserve)
    select name, channel, rate_limit, rate_window, coalesce(urgent_reserve, 0)
    from wanted w
    -- Looked at first: to try to insert would lock the row, and others wait for it.
    where not exists (
        select
        from notification_robots r
        where r.name = w.name
          and (r.channel, r.rate_limit, r.rate_window, r.urgent_reserve)
              is not distinct from (w.channel, w.rate_limit, w.rate_window, coalesce(w.urgent_reserve, 0))
    )
    order by name
    on conflict (name) do update
    set channel = excluded.channel, rate_limit = excluded.rate_limit, rate_window = excluded.rate_window,
        urgent_reserve = excluded.urgent_reserve, updated_at = now()
    returning r.name
)
select notification_wake_relay() from changed limit 1
