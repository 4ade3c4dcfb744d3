-- gauges: what is measured in the tables when somebody asks, one value a row: which gauge, of which robot or condition, the value.
-- $1 most rows to count
with target as (
    -- Robots that are addressed by their URLs are shown as one: labels must not grow with what callers make up.
    select name from notification_channels
    union
    select 'default'
), robot as (
    select coalesce(target.name, 'other') as name,
           case when r.rate_limit is not null
               then greatest(r.rate_limit - r.urgent_reserve
                             - (select count(*) from unnest(r.slots) slot where slot > now()), 0)
           end as budget_left,
           greatest(extract(epoch from r.cool_until - now()), 0) as cools_s,
           -- Of others only those that are of use: what nobody needs is nothing to mend.
           r.paused_at is not null and r.name in (select name from notification_paused_robots()) as paused
    from notification_robots r
    left join target on target.name = r.name
), waiting as (
    select coalesce(target.name, 'other') as name, count(*) as events
    from (
        select robot
        from notification_events
        where waiting_since is not null
          and completed_at is null
          and failed_at is null
        -- So that the index is walked, and not the table.
        order by robot, urgent, hinted_until, seq
        limit $1
    ) w
    left join target on target.name = ltrim(w.robot, '?')
    group by 1
), oldest as (
    -- Since when it should be sent, hinted or not: a hint that is renewed for ever, because nobody takes it, is no reason to
    -- wait. What waits for its robot is late only where that could have sent it. Five thousand of each kind are looked
    -- at, in the order of their leases.
    select min(greatest(scheduled_at, created_at)) as due_since
    from (
        (
            select scheduled_at, created_at, waiting_since
            from notification_events
            where completed_at is null
              and failed_at is null
              and greatest(hinted_until, scheduled_at) <= now()
            order by greatest(hinted_until, scheduled_at), seq
            limit 5000
        )
        union all
        (
            select scheduled_at, created_at, waiting_since
            from notification_events
            where completed_at is null
              and failed_at is null
              and greatest(hinted_until, scheduled_at) > now()
              -- What is parked for its robot.
              and greatest(hinted_until, scheduled_at) < 'infinity'
            order by greatest(hinted_until, scheduled_at), seq
            limit 5000
        )
    ) open_rows
    where waiting_since is null
      and scheduled_at <= now()
), dead as (
    -- Walked by their indexes, too: both have failed rows only.
    (
        select
        from notification_events
        where completed_at is not null and failed_at is not null
        order by completed_at
        limit $1
    )
    union all
    (
        select
        from notification_events
        where completed_at is null and failed_at is not null
        order by failed_at
        limit $1
    )
)
select 'dead_letter_backlog' as gauge, null::text as label, least(count(*), $1)::double precision as value
from dead
union all
select 'oldest_due_age', null,
       coalesce(greatest(extract(epoch from now() - least(due_since, stalled_since)), 0), 0)::double precision
from oldest
cross join notification_stalled_since()
union all
-- What a role without pg_monitor cannot see of other sessions, the oldest transaction that writes, is in the snapshot.
select 'oldest_xmin_age', null, greatest(
    -- Vacuum of these tables respects neither other databases' snapshots nor other vacuums'. A replica has no database.
    (
        select max(age(backend_xmin))
        from pg_stat_activity
        where (datname = current_database() or datname is null)
          and backend_type <> 'autovacuum worker'
    ),
    (select max(greatest(age(xmin), age(catalog_xmin))) from pg_replication_slots),
    (select max(age(transaction)) from pg_prepared_xacts),
    (
        select pg_snapshot_xmax(now_seen)::text::bigint - pg_snapshot_xmin(now_seen)::text::bigint
        from pg_current_snapshot() now_seen
    ),
    0
)::double precision
union all
select 'robot_budget_left', name, min(budget_left)::double precision
from robot
where budget_left is not null
group by name
union all
select 'robot_cool_down', name, max(coalesce(cools_s, 0))::double precision
from robot
group by name
union all
select 'robot_paused', name, bool_or(paused)::integer::double precision
from robot
group by name
union all
select 'robot_waiting', name, coalesce(max(waiting.events), 0)::double precision
from (select name from target union select name from robot) known
full join waiting using (name)
group by name
union all
select 'alerts_raised', known.condition, count(a.condition)::double precision
from unnest('{dead_letters, failure_rate, robot_paused, oldest_due}'::text[]) known (condition)
left join notification_alerts a on a.condition = known.condition and a.cleared_at is null
group by known.condition
