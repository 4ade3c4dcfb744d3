-- What postbell rings the operations robot about: one row for each condition and what it is about. The right to ring is taken
-- here, by one statement, so that of any number of processes one rings. The rows say how things are; they are no history.
create table public.notification_alerts (
    condition     text        not null,
    subject       text        not null default '',
    raised_at     timestamptz not null,
    held_at       timestamptz not null,
    cleared_at    timestamptz,
    rung_at       timestamptz,
    all_clear_at  timestamptz,
    ringing_until timestamptz,
    detail        jsonb       not null default '{}',

    constraint notification_alerts_pkey primary key (condition, subject),
    constraint condition_must_be_one_that_is_known
        check (condition in ('dead_letters', 'failure_rate', 'robot_paused', 'oldest_due'))
) with (
    -- A few rows, written at every look while something is wrong: room for heap-only updates.
    fillfactor = 50
);

comment on table public.notification_alerts is
    'postbell alerts: what the operations robot is rung about; those that go on have no cleared_at';
comment on column public.notification_alerts.subject is 'what it is about, where there are several: a robot';
comment on column public.notification_alerts.raised_at is 'since when it goes on';
comment on column public.notification_alerts.held_at is 'when a process last saw that it does';
comment on column public.notification_alerts.cleared_at is 'when it was held to be over; null: it goes on';
comment on column public.notification_alerts.rung_at is 'when people were last told';
comment on column public.notification_alerts.all_clear_at is 'when they were last told that it was over';
comment on column public.notification_alerts.ringing_until is
    'ringing lease: until then one process rings, or nobody, after a refusal; whoever comes after it may, where nobody was told';
comment on column public.notification_alerts.detail is 'in figures';

-- Since when a robot or pool that events wait for could have sent one of them, and has sent none; null: all of them get on.
-- Relay and consumer write the row of a robot whenever they use it, so this tells of either that is gone: parked rows, and those
-- that were unparked and are hinted for ever, say nothing. What waits for a pause, a rest or a place does so by intent.
create function public.notification_stalled_since()
returns table (stalled_since timestamptz)
language sql stable
as $$
    -- One probe of the index for each lane, as in notification_lanes.
    with recursive lanes (lane) as (
        select min(e.robot)
        from public.notification_events e
        where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
        union all
        select (
            select min(e.robot)
            from public.notification_events e
            where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
              and e.robot > lanes.lane
        )
        from lanes
        where lanes.lane is not null
    ), waiting as (
        select l.lane, first.waiting_since
        from lanes l
        cross join lateral (
            select e.waiting_since
            from public.notification_events e
            where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
              and e.robot = l.lane
            -- So that the index is walked, and not the table, however many rest.
            order by e.robot, e.urgent, e.hinted_until, e.seq
            limit 1
        ) first
        -- What waits for a target that nobody knows, or that is disabled, waits for a person.
        where left(l.lane, 1) <> '?'
    ), member as (
        select w.lane, w.waiting_since,
               greatest(
                   robot.updated_at,
                   -- One without a budget is not written when it sends: that anything was sent must do.
                   case when robot.name is not null and robot.rate_limit is null then
                       (select a.started_at from public.notification_attempts a order by a.id desc limit 1)
                   end
               ) as used_at,
               greatest(
                   robot.cool_until,
                   -- When so many of its places had become free that one was left for any event.
                   case when robot.rate_limit is not null then (
                       select slot
                       from unnest(robot.slots) slot
                       order by slot desc
                       offset robot.rate_limit - robot.urgent_reserve - 1
                       limit 1
                   ) end
               ) as open_since
        from waiting w
        left join public.notification_channels target on target.name = w.lane
        cross join lateral unnest(coalesce(target.robots, array[w.lane])) known (name)
        left join public.notification_channels configured on configured.name = known.name
        left join public.notification_robots robot on robot.name = known.name
        where coalesce(target.enabled, true)
          and coalesce(configured.enabled, true)
          -- Of a pool only those that consumers know.
          and (target.robots is null or configured.webhook is not null or known.name = 'default')
          and robot.paused_at is null
    )
    select min(since)
    from (
        select greatest(min(waiting_since), max(used_at), min(coalesce(open_since, '-infinity'))) as since
        from member
        group by lane
    ) lane
    where since <= now()
$$;

-- Robots that are paused and of use to somebody: whose target is enabled, or for which something waits. Nobody waits for one
-- that a person disabled, or that was named by a URL which nobody uses any more.
create function public.notification_paused_robots()
returns table (name text, paused_at timestamptz, paused_by text, pause_reason text)
language sql stable
as $$
    select r.name, r.paused_at, r.paused_by, r.pause_reason
    from public.notification_robots r
    where r.paused_at is not null
      and not exists (select from public.notification_channels c where c.name = r.name and not c.enabled)
      and (
          r.name = 'default'
          or exists (
              select
              from public.notification_channels c
              where c.enabled and (c.name = r.name or r.name = any(c.robots))
          )
          or (
              -- Ordered and limited rather than exists: so that the index is probed, and not read, however many wait.
              select true
              from public.notification_events e
              where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
                and e.robot = r.name
              order by e.robot, e.urgent, e.hinted_until, e.seq
              limit 1
          )
      )
$$;

revoke execute on function public.notification_stalled_since(), public.notification_paused_robots() from public;

-- Gives a role what its kind needs, and no more:
--   writer    business code: insert (also insert ... returning id), notification_publish
--   reader    people and dashboards: the views notification_status, notification_robot_status and notification_stats;
--             attempts, audit and alerts; notification_find
--   operator  people on call: reader; replay, cancel, reschedule, purge, one or many; targets; pause and resume robots
--   relay     the sidecars postbell relay, consume and run
create or replace function public.notification_grant(role_name name, kind text) returns text
language plpgsql volatile
as $$
begin
    if not exists (select from pg_catalog.pg_roles r where r.rolname = role_name) then
        raise exception 'role % does not exist', pg_catalog.quote_ident(role_name)
            using hint = 'create role ... login; then grant again';
    end if;
    execute pg_catalog.format('grant usage on schema public to %I', role_name);
    case kind
    when 'writer' then
        -- created_at, updated_at, status and retry_count because object mappers write them whether asked or not.
        execute pg_catalog.format('grant insert (id, event_type, channel, target, template_id, payload, options, idempotency_key,
            trace_id, max_retry, scheduled_at, status, retry_count, created_at, updated_at)
            on public.notification_events to %I', role_name);
        -- What insert ... returning may name: nothing of other callers' payloads or tokens.
        execute pg_catalog.format('grant select (id, seq, event_type, channel, template_id, idempotency_key, trace_id, max_retry,
            scheduled_at, status, retry_count, created_at, updated_at)
            on public.notification_events to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_uuid_v7(), public.notification_wake_relay(),
            public.notification_publish(text, jsonb, text, text, timestamptz, text, jsonb, text, text, integer)
            to %I', role_name);
    when 'reader' then
        execute pg_catalog.format('grant select on public.notification_status, public.notification_robot_status,
            public.notification_stats, public.notification_attempts, public.notification_audit,
            public.notification_alerts to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_mask_target(text),
            public.notification_error_class(text),
            public.notification_find(text, text, text, timestamptz, timestamptz, text, text) to %I', role_name);
    when 'operator' then
        perform public.notification_grant(role_name, 'reader');
        execute pg_catalog.format('grant select, insert, update, delete on public.notification_channels to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_replay(uuid), public.notification_cancel(uuid),
            public.notification_reschedule(uuid, timestamptz), public.notification_robot_pause(text, text, text),
            public.notification_robot_resume(text), public.notification_purge(uuid), public.notification_wake_relay(),
            public.notification_replay_all(text, text, text, timestamptz, timestamptz, text, text, bigint, boolean),
            public.notification_purge_all(text, text, timestamptz, timestamptz, text, text, bigint, boolean) to %I', role_name);
    when 'relay' then
        -- It removes what is old.
        execute pg_catalog.format('grant select, update, delete on public.notification_events to %I', role_name);
        execute pg_catalog.format('grant select, insert, update, delete on public.notification_robots to %I', role_name);
        execute pg_catalog.format('grant select, insert, delete on public.notification_attempts to %I', role_name);
        execute pg_catalog.format('grant select, delete on public.notification_audit to %I', role_name);
        execute pg_catalog.format('grant select, insert, update, delete on public.notification_alerts to %I', role_name);
        execute pg_catalog.format('grant select on public.notification_channels, public.postbell_schema_history,
            public.notification_status to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_wake_relay(),
            public.notification_mask_target(text), public.notification_lanes(), public.notification_stalled_since(),
            public.notification_paused_robots() to %I', role_name);
    else
        raise exception 'unknown kind %', pg_catalog.quote_literal(kind)
            using hint = 'a kind is writer, reader, operator or relay';
    end case;
    return pg_catalog.format('granted to %s: %s', role_name, kind);
end
$$;

-- Roles that were granted a kind before have what is new in it, too.
do $$
declare
    granted record;
begin
    for granted in
        select distinct acl.grantee::regrole::name as role_name, kind.name as kind
        from (
            select relname as name, relowner as owner, relacl as acl
            from pg_catalog.pg_class where relnamespace = 'public'::regnamespace
            union all
            select proname, proowner, proacl from pg_catalog.pg_proc where pronamespace = 'public'::regnamespace
        ) object
        cross join lateral pg_catalog.aclexplode(object.acl) acl
        join (values
            ('notification_status', 'SELECT', 'reader'),
            ('notification_replay', 'EXECUTE', 'operator'),
            ('notification_lanes', 'EXECUTE', 'relay')
        ) kind (object, privilege, name) on kind.object = object.name and kind.privilege = acl.privilege_type
        -- Not the owner, nor everybody.
        where acl.grantee not in (object.owner, 0)
    loop
        -- A sidecar reads the status, too, and is no reader for that.
        if granted.kind <> 'reader'
            or not pg_catalog.has_function_privilege(granted.role_name, 'public.notification_lanes()', 'execute') then
            perform public.notification_grant(granted.role_name, granted.kind);
        end if;
    end loop;
end
$$;
