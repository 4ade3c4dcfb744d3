-- settle: what sends leave behind at their robots, many in one statement, before their outcomes are recorded.
-- $1 robots, $2 slots (null: none was held), $3 whether a request may have left: then the slot is free a window from now,
--    else at once
-- $4 verdicts: pause (its settings are wrong), cool (it needs a rest), block (every robot does), resume (a probe got
--    through), or null; $5 reasons, $6 rests in seconds; $7 seconds until the first probe
-- Tells what is new, once: paused, resumed, cooling; and busy: somebody else holds the robot's row, so that nothing is
-- done for it; settle again. An operator's pause is left alone.
with settled as (
    select *
    from unnest($1::text[], $2::timestamptz[], $3::boolean[], $4::text[], $5::text[], $6::double precision[])
        as s (robot, slot, has_left, verdict, reason, rest)
), locked as materialized (
    select *
    from notification_robots r
    where r.name in (select robot from settled)
       or exists (select from settled where verdict = 'block')
    order by name
    for update skip locked
), judged as (
    select locked.*,
        array(
            select kept.slot
            from (
                select slot, row_number() over (partition by slot) as nth
                from unnest(locked.slots) slot
                where slot > now()
            ) kept
            where not exists (
                select
                from (
                    select slot, row_number() over (partition by slot) as nth
                    from settled
                    where robot = locked.name and slot is not null
                ) gone
                where gone.slot = kept.slot and gone.nth = kept.nth
            )
            union all
            select now() + locked.rate_window
            from settled
            -- One that is settled a second time counts once.
            where robot = locked.name and slot = any(locked.slots) and has_left and locked.rate_window is not null
        ) as slots_left,
        pause.reason as pauses, cool.rest as cools, cool.reason as cools_because,
        locked.paused_by = 'postbell' and pause.robot is null
            and exists (select from settled where robot = locked.name and verdict = 'resume') as resumes
    from locked
    left join lateral (
        select robot, coalesce(reason, '') as reason from settled where robot = locked.name and verdict = 'pause' limit 1
    ) pause on true
    left join lateral (
        select rest, reason
        from settled
        where (robot = locked.name and verdict = 'cool') or verdict = 'block'
        order by rest desc
        limit 1
    ) cool on true
), changed as (
    update notification_robots r
    set slots = judged.slots_left,
        cool_until = case
            when judged.cools is null then r.cool_until
            else greatest(r.cool_until, now() + judged.cools * interval '1 second')
        end,
        cool_reason = case
            when r.cool_until > now() + judged.cools * interval '1 second' then r.cool_reason
            else coalesce(judged.cools_because, r.cool_reason)
        end,
        paused_at = case when judged.resumes then null when judged.pauses is not null then coalesce(r.paused_at, now())
            else r.paused_at end,
        paused_by = case when judged.resumes then null when judged.pauses is not null then coalesce(r.paused_by, 'postbell')
            else r.paused_by end,
        pause_reason = case
            when judged.resumes then null
            when judged.pauses is not null and coalesce(r.paused_by, 'postbell') = 'postbell' then judged.pauses
            else r.pause_reason
        end,
        probe_at = case
            when judged.resumes then null
            when judged.pauses is not null and r.paused_at is null then now() + $7 * interval '1 second'
            else r.probe_at
        end,
        updated_at = now()
    from judged
    where r.name = judged.name
    returning r.name
), woken as (
    -- When a place becomes free is known only now.
    select notification_wake_relay()
    from changed
    where exists (
        select
        from notification_events
        where waiting_since is not null and completed_at is null and failed_at is null
    )
    limit 1
)
select name, 'paused' as change, pauses as reason, (select count(*) from woken) as woken
from judged
where pauses is not null and paused_at is null
union all
select name, 'resumed', pause_reason, 0 from judged where resumes
union all
select name, 'cooling', cools_because, 0
from judged
where cools is not null and (cool_until is null or cool_until <= now())
union all
select r.name, 'busy', null, 0
from notification_robots r
where r.name in (select robot from settled)
  and (
      r.name not in (select name from locked)
      -- A rest that is for all has not reached all.
      or (
          exists (select from settled s where s.robot = r.name and s.verdict = 'block')
          and (select count(*) from locked) < (select count(*) from notification_robots)
      )
  )
union all
-- So that the wake-up runs although nothing is new.
select null, 'woken', null, count(*) from woken having count(*) > 0
