-- check_alerts: finds out what is wrong, notes it, and takes the right to ring about that of which it is time to.
-- $1 dead letters that are too many; $2 percent of failed sends that are too many, $3 of the sends of so many seconds, $4 least
-- sends; $5 seconds that are too late. Null: not watched.
-- $6 seconds between two messages about the same, $7 seconds for which something must be over before it is said to be,
-- $8 seconds for which the right lasts, $9 seconds for which a hint does
with dead as (
    -- Each half walks its index. A thousand more than needed are counted, for the message.
    select count(*) as letters
    from (
        (
            select
            from notification_events
            where completed_at is not null and failed_at is not null
            order by completed_at
            limit coalesce($1::bigint + 1000, 0)
        )
        union all
        (
            select
            from notification_events
            where completed_at is null and failed_at is not null
            order by failed_at
            limit coalesce($1::bigint + 1000, 0)
        )
    ) failed_rows
), last_sends as (
    -- The newest by their ids, which are an index in order; there is none of times that says so little in so few pages.
    select id, event_id, digest_id, class, started_at
    from notification_attempts
    order by id desc
    limit case when $2::bigint is null then 0 else 5000 end
), sends as (
    select count(*) filter (where counts and is_recent) as sends,
           count(*) filter (where counts and is_recent and class <> 'success') as failed,
           coalesce((array_agg(class = 'success' order by id desc) filter (where counts))[1], true) as last_succeeded,
           -- So long only, where so many were sent that not all of the time was looked at.
           least($3, case when count(*) = 5000 then extract(epoch from now() - min(started_at)) end)::bigint as span_s
    from (
        select *, started_at > now() - $3::double precision * interval '1 second' as is_recent,
               -- A robot whose settings are wrong has an alert of its own; what is withheld was not sent.
               class not in ('robot', 'withheld')
               -- A message of several events has a row for each of them, at each send: those of one of them are the sends.
               and (
                   digest_id is null
                   or event_id = first_value(event_id) over (partition by digest_id order by event_id)
               ) as counts
        from last_sends
    ) told_apart
), open_rows as (
    -- Those that are due, and those whose hints have not run out, among which are such as are scheduled for so long.
    (
        select scheduled_at, created_at, waiting_since, false as is_hinted
        from notification_events
        where completed_at is null
          and failed_at is null
          and greatest(hinted_until, scheduled_at) <= now()
        order by greatest(hinted_until, scheduled_at), seq
        limit case when $5::double precision is null then 0 else 5000 end
    )
    union all
    (
        select scheduled_at, created_at, waiting_since, true
        from notification_events
        where completed_at is null
          and failed_at is null
          and greatest(hinted_until, scheduled_at) > now()
          and greatest(hinted_until, scheduled_at) <= now() + $9::double precision * interval '1 second'
        order by greatest(hinted_until, scheduled_at), seq
        limit case when $5::double precision is null then 0 else 5000 end
    )
), oldest as (
    -- Since when it should be sent: a hint that is renewed for ever, because nobody takes it, is no reason to wait. What waits
    -- for its robot is looked at below.
    select min(greatest(scheduled_at, created_at)) filter (where waiting_since is null and scheduled_at <= now()) as due_since,
           -- The order is that of leases, not of age: behind so many there may be an older one.
           5000 in (count(*) filter (where is_hinted), count(*) filter (where not is_hinted)) as is_partial
    from open_rows
), late as (
    select least(due_since, stalled_since) as due_since, is_partial
    from oldest
    cross join notification_stalled_since()
    where $5 is not null
), measured (condition, subject, since, holds, detail) as (
    select 'dead_letters', '', now(), letters >= $1, jsonb_build_object('letters', letters)
    from dead
    where $1 is not null
    union all
    -- Unknown while nothing, or no success, has come since: silence is no sign that it is over.
    select 'failure_rate', '', now(),
           case when sends >= $4::bigint and failed > 0 and failed * 100 >= $2 * sends then true when last_succeeded then false end,
           jsonb_build_object('sends', sends, 'failed', failed, 'span_s', span_s)
    from sends
    where $2 is not null
    union all
    -- Unknown while not all are looked at and none of those is late.
    select 'oldest_due', '', now(),
           case when due_since <= now() - $5 * interval '1 second' then true when not is_partial then false end,
           jsonb_build_object('late_s', extract(epoch from now() - due_since)::bigint)
    from late
    union all
    -- Whoever pauses a robot by hand knows of it.
    select 'robot_paused', name, paused_at, true, jsonb_build_object('reason', coalesce(pause_reason, ''))
    from notification_paused_robots()
    where paused_by = 'postbell'
), raised as (
    insert into notification_alerts as a (condition, subject, raised_at, held_at, detail, ringing_until)
    select condition, subject, since, now(), detail, now() + $8::double precision * interval '1 second'
    from measured
    where holds
    order by condition, subject
    on conflict (condition, subject) do update
    set raised_at = case when a.cleared_at is null then a.raised_at else excluded.raised_at end,
        held_at = greatest(a.held_at, excluded.held_at),
        cleared_at = null,
        detail = excluded.detail,
        ringing_until = case
            when coalesce(a.rung_at <= now() - $6::double precision * interval '1 second', true)
                and coalesce(a.ringing_until <= now(), true) then excluded.ringing_until
            else a.ringing_until
        end
    returning a.*
), cleared as (
    update notification_alerts a
    set cleared_at = coalesce(a.cleared_at, now()),
        -- An all-clear is owed where somebody was told since the last one.
        ringing_until = case
            when a.rung_at > coalesce(a.all_clear_at, '-infinity') then now() + $8 * interval '1 second'
        end
    where a.held_at <= now() - $7::double precision * interval '1 second'
      -- What a newer postbell watches is not this one's to end.
      and a.condition in ('dead_letters', 'failure_rate', 'robot_paused', 'oldest_due')
      and not exists (
          select
          from measured m
          where (m.condition, m.subject) = (a.condition, a.subject)
            and m.holds is distinct from false
      )
      and coalesce(a.ringing_until <= now(), true)
      and (a.cleared_at is null or a.rung_at > coalesce(a.all_clear_at, '-infinity'))
    returning a.*
), forgotten as (
    -- A robot that is gone was once the subject of one.
    delete from notification_alerts a
    where a.cleared_at < now() - interval '30 days'
      and coalesce(a.rung_at <= a.all_clear_at, true)
      and not exists (
          select from measured m where (m.condition, m.subject) = (a.condition, a.subject) and m.holds
      )
)
select condition, subject, raised_at, held_at, rung_at, cleared_at is not null as is_over, detail, ringing_until
from (select * from raised union all select * from cleared) noted
where ringing_until = now() + $8 * interval '1 second'
-- Not all of it may fit into a message: of what nobody was told yet first, and then of that which is the longest ago.
order by rung_at nulls first, is_over, condition, subject
