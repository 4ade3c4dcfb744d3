-- Robots: what they may be sent, and what waits for them.
--
-- A robot takes so many messages a minute and no more, rests after an answer that says so, and refuses everything while
-- its settings are wrong. An event that its robot cannot take now is *parked*: status pending, hinted_until = infinity,
-- waiting_since set, robot = the robot (or pool) it waits for. It is outside every scan for due rows, so it costs nothing
-- while it rests. The relay *unparks* it: makes it due again when there is a place. When that is follows from the parked
-- rows and the rows of their robots alone; no timer is stored that could be lost.

alter table public.notification_events
    add column digest_key text,
    add column digest_limit integer;

comment on column public.notification_events.waiting_since is
    'since when it waits for its robot; kept until there is an outcome';
comment on column public.notification_events.robot is
    'the robot it was sent by, waits for (or the pool), or must stay with after an unknown outcome; ?name: its target cannot be used';
comment on column public.notification_events.digest_id is
    'the message it is merged into: set before the send, and kept while that message''s outcome is unknown';
comment on column public.notification_events.digest_key is
    'while it waits: events with the same key may be merged into one message; null: never';
comment on column public.notification_events.digest_limit is
    'most events in a message it is merged into, after a larger one was refused; 1: it goes alone';

-- What waits for a robot: on its way (hinted_until is finite) first, then what rests.
create index notification_events_waiting
    on public.notification_events (robot, urgent, hinted_until, seq)
    where waiting_since is not null and completed_at is null and failed_at is null;

create index notification_events_digest
    on public.notification_events (digest_id)
    where digest_id is not null;

-- Named targets. No secret is in here: webhook and secret say where it is.
create table public.notification_channels (
    name        text        not null constraint notification_channels_pkey primary key,
    channel     text        not null default 'dingtalk',
    webhook     text,
    secret      text,
    -- A pool instead of a webhook: the names of several robots of one group.
    robots      text[],
    rate        text,
    enabled     boolean     not null default true,
    at_mobiles  text[]      not null default '{}',
    at_user_ids text[]      not null default '{}',
    at_all      boolean     not null default false,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),

    constraint name_must_be_1_to_40_letters_digits_dots_dashes_or_underscores
        check (name ~ '^[[:alnum:]_.-]{1,40}$'),
    constraint channel_must_be_dingtalk
        check (channel = 'dingtalk'),
    constraint webhook_must_be_env_colon_variable_or_file_colon_absolute_path
        check (webhook ~ '^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$'),
    constraint secret_must_be_env_colon_variable_or_file_colon_absolute_path
        check (secret ~ '^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$'),
    constraint either_a_webhook_or_the_robots_of_a_pool
        check ((webhook is null) <> (robots is null)),
    constraint a_pool_names_1_to_20_robots_and_not_itself
        check (cardinality(robots) between 1 and 20 and array_position(robots, null) is null and name <> all (robots)),
    constraint default_is_a_robot_and_no_pool
        check (name <> 'default' or robots is null),
    constraint a_pool_has_no_secret_and_no_rate_of_its_own
        check (robots is null or (secret is null and rate is null)),
    constraint rate_must_be_off_or_a_count_and_a_duration_such_as_18_slash_60s
        check (rate ~ '^(off|[1-9][0-9]{0,2}/[1-9][0-9]{0,6}(ms|s|m|h))$')
);

comment on table public.notification_channels is
    'postbell targets by name: a robot (webhook) or a pool of robots of one group (robots)';
comment on column public.notification_channels.webhook is 'where its webhook URL is: env:VARIABLE or file:/path';
comment on column public.notification_channels.secret is
    'where its signing secret is: env:VARIABLE or file:/path; null: it does not sign';
comment on column public.notification_channels.rate is
    'most messages, such as 18/60s, or off; null: NOTIFICATION_ROBOT_RATE';
comment on column public.notification_channels.enabled is
    'false: its events wait; of the row default also for the robot in the environment, as rate and the mentions are';
comment on column public.notification_channels.at_mobiles is
    'mentioned, like at_user_ids and at_all, where neither the event nor its template mentions anybody';

-- How each robot is: written by postbell, and by notification_robot_pause and notification_robot_resume.
create table public.notification_robots (
    name           text        not null constraint notification_robots_pkey primary key,
    channel        text        not null default 'dingtalk',

    -- Its budget: so many messages in any window of this length, some of them for urgent ones only. Null: no budget.
    rate_limit     integer,
    rate_window    interval,
    urgent_reserve integer     not null default 0,
    -- When each place of the budget that is taken becomes free: one window after the answer, or, while there is none,
    -- one window after the last moment at which the request can still be written.
    slots          timestamptz[] not null default '{}',

    cool_until     timestamptz,
    cool_reason    text,

    paused_at      timestamptz,
    -- postbell, or the operator who did it; only a pause of postbell's own is ended by postbell.
    paused_by      text,
    pause_reason   text,
    -- From when on one event may try whether a robot that postbell paused works again.
    probe_at       timestamptz,

    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),

    constraint a_budget_has_a_limit_and_a_window
        check ((rate_limit is null) = (rate_window is null)),
    constraint rate_limit_must_be_1_to_999
        check (rate_limit between 1 and 999),
    constraint urgent_reserve_must_leave_a_place
        check (urgent_reserve >= 0 and (rate_limit is null or urgent_reserve < rate_limit)),
    constraint a_pause_has_its_author
        check ((paused_at is null) = (paused_by is null))
) with (
    -- One small row a robot, written at every send: room for heap-only updates.
    fillfactor = 20
);

comment on table public.notification_robots is
    'postbell robots: budget, cool-down and pause; people read the view notification_robot_status';

-- Waking: a target that is added, enabled or changed may be what events wait for.
create trigger notification_channels_wake_relay
    after insert or update or delete on public.notification_channels
    for each statement execute function public.notification_wake_relay_on_insert();

-- For each robot or pool that events rest in front of, urgent ones and others apart: how many of them can go now, and
-- from when on one can (null: those on their way will tell).
create function public.notification_lanes()
returns table (lane text, urgent boolean, places bigint, ready_at timestamptz)
language sql stable
as $$
    -- One probe of the index for each lane, however many rows rest in it.
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
    ), resting as (
        select l.lane, kind.urgent
        from lanes l
        cross join (values (true), (false)) kind (urgent)
        -- What waits for a target that cannot be used is adopted by a consumer that can use it.
        where left(l.lane, 1) <> '?'
          -- Ordered and limited rather than exists: so that the index is walked, and not the table, however many rest.
          and (
            select true
            from public.notification_events e
            where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
              and e.robot = l.lane and e.urgent = kind.urgent and e.hinted_until = 'infinity'
            order by e.seq
            limit 1
        )
    ), robots as materialized (
        select r.lane, r.urgent, robot.*,
               robot.rate_limit - case when r.urgent then 0 else robot.urgent_reserve end as most,
               array(select slot from unnest(robot.slots) slot where slot > now() order by slot) as taken
        from resting r
        left join public.notification_channels target on target.name = r.lane
        cross join lateral unnest(coalesce(target.robots, array[r.lane])) member (name)
        left join public.notification_channels configured on configured.name = member.name
        left join public.notification_robots robot on robot.name = member.name
        where coalesce(target.enabled, true)
          and coalesce(configured.enabled, true)
          -- Of a pool only those that consumers know. What nobody knows goes one by one: a consumer says what becomes of it.
          and (target.robots is null or configured.webhook is not null or member.name = 'default')
    ), openings as (
        select r.lane, r.urgent,
               case when r.paused_at is not null or r.name is null then 1
                    when r.most is null then 1000
                    else r.most - cardinality(r.taken)
               end as places,
               greatest(
                   now(),
                   r.cool_until,
                   -- The time at which so many slots have become free that one of ours is.
                   case when cardinality(r.taken) >= r.most then r.taken[cardinality(r.taken) - r.most + 1] end,
                   case when r.paused_at is not null then
                       case when r.paused_by = 'postbell' then r.probe_at else 'infinity' end
                   end
               ) as ready_at
        from robots r
    ), summed as (
        select o.lane, o.urgent,
               coalesce(sum(o.places) filter (where o.ready_at <= now()), 0)::bigint as places,
               min(o.ready_at) as ready_at
        from openings o
        group by o.lane, o.urgent
    )
    select s.lane, s.urgent,
           greatest(s.places - on_its_way.count, 0),
           case when s.places > 0 and s.places <= on_its_way.count then null else s.ready_at end
    from summed s
    cross join lateral (
        -- Urgent ones have places of their own, so they do not wait for others; a message of several counts once.
        select count(distinct e.unit)
        from (
            select coalesce(e.digest_id, e.id) as unit
            from public.notification_events e
            where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
              and e.robot = s.lane and e.urgent in (true, s.urgent)
              and e.hinted_until < 'infinity' and e.status = 'pending'
            order by e.robot, e.urgent, e.hinted_until
            limit 1000
        ) e
    ) on_its_way
$$;

-- How robots and pools are, for people.
create view public.notification_robot_status as
select
    coalesce(robot.name, target.name) as name,
    coalesce(target.channel, robot.channel) as channel,
    case
        when target.robots is not null and target.enabled then 'pool of ' || array_to_string(target.robots, ', ')
        when not target.enabled then 'disabled'
        when robot.paused_at is not null then 'paused by ' || robot.paused_by
        when robot.cool_until > now() then 'cooling down'
        when robot.name is null then 'not used yet'
        else 'open'
    end as state,
    case when robot.rate_limit is not null
        then robot.rate_limit || ' in ' || extract(epoch from robot.rate_window)::real || ' s'
        when robot.name is not null then 'no budget'
    end as rate,
    case when robot.rate_limit is not null
        then greatest(robot.rate_limit - robot.urgent_reserve - taken.count, 0)
    end as budget_left,
    case when robot.rate_limit is not null then greatest(robot.rate_limit - taken.count, 0) end as urgent_budget_left,
    taken.first_free_at,
    robot.cool_until, robot.cool_reason,
    robot.paused_at, robot.paused_by, robot.pause_reason, robot.probe_at,
    (
        select count(*)
        from public.notification_events e
        where e.waiting_since is not null and e.completed_at is null and e.failed_at is null
          and e.robot in (coalesce(robot.name, target.name), '?' || coalesce(robot.name, target.name))
    ) as waiting
from public.notification_robots robot
full join public.notification_channels target on target.name = robot.name
left join lateral (
    select count(*) as count, min(slot) as first_free_at from unnest(robot.slots) slot where slot > now()
) taken on true;

comment on view public.notification_robot_status is
    'robots and pools: budget left, cool-down, pause and why, how many events wait';

-- Pauses a robot until notification_robot_resume: its events wait and use no retries. Returns what happened.
create function public.notification_robot_pause(robot text, reason text default null, by text default session_user)
returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    members text[] := (select c.robots from public.notification_channels c where c.name = robot);
begin
    if members is not null then
        return format('unchanged: %s is a pool; pause its robots: %s', robot, array_to_string(members, ', '));
    end if;
    if by = 'postbell' then
        return 'unchanged: by must not be postbell, which ends its own pauses';
    end if;
    -- One that nobody has used yet: a row of notification_channels, or the robot in the environment.
    insert into public.notification_robots (name)
    select robot
    where robot = 'default' or exists (select from public.notification_channels c where c.name = robot)
    on conflict (name) do nothing;
    update public.notification_robots r
    set paused_at = now(), paused_by = coalesce(by, session_user), pause_reason = reason, probe_at = null, updated_at = now()
    where r.name = robot;
    if not found then
        return 'not found: no robot has this name';
    end if;
    return 'paused: its events wait until it is resumed';
end
$$;

-- Ends a pause, and a cool-down: what waits goes out as fast as the budget allows. Returns what happened.
create function public.notification_robot_resume(robot text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_robots;
begin
    select * into was from public.notification_robots r where r.name = robot for update;
    if not found then
        return 'not found: no robot has this name';
    end if;
    if was.paused_at is null and (was.cool_until is null or was.cool_until <= now()) then
        return 'unchanged: the robot is neither paused nor cooling down';
    end if;
    update public.notification_robots r
    set paused_at = null, paused_by = null, pause_reason = null, probe_at = null, cool_until = null, cool_reason = null,
        updated_at = now()
    where r.name = robot;
    perform public.notification_wake_relay();
    return case when was.paused_at is not null
        then format('resumed: it was paused by %s', was.paused_by)
        else format('resumed: it was cooling down until %s', was.cool_until)
    end;
end
$$;

revoke execute on function
    public.notification_lanes(),
    public.notification_robot_pause(text, text, text),
    public.notification_robot_resume(text)
from public;

create or replace function public.notification_replay(event_id uuid) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_events;
begin
    select * into was from public.notification_events e where e.id = event_id for update;
    if not found then
        return 'not found: no event has this id';
    end if;
    if was.status in ('pending', 'delivering') then
        return format('unchanged: the event is still %s; replay is for events that are delivered, failed or cancelled', was.status);
    end if;
    update public.notification_events e set
        status = 'pending', retry_count = 0, lost_leases = 0, replay_count = e.replay_count + 1,
        scheduled_at = now(), updated_at = now(),
        completed_at = null, delivered_at = null, failed_at = null,
        hinted_until = null, sending_until = null, waiting_since = null,
        robot = null, digest_id = null, digest_key = null, digest_limit = null
    where e.id = event_id;
    perform public.notification_wake_relay();
    return format('replayed: the event was %s and is sent again now', was.status);
end
$$;

create or replace function public.notification_cancel(event_id uuid) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_events;
begin
    select * into was from public.notification_events e where e.id = event_id for update;
    if not found then
        return 'not found: no event has this id';
    end if;
    if was.status not in ('pending', 'delivering') then
        return format('unchanged: the event is already %s', was.status);
    end if;
    -- It may have arrived, and the message can only be sent again as it was.
    if was.digest_id is not null then
        return 'unchanged: the event is part of a message with others that is being sent, or sent again as a whole';
    end if;
    update public.notification_events e set
        status = 'cancelled', completed_at = now(), updated_at = now(), waiting_since = null
    where e.id = event_id;
    if was.waiting_since is not null then
        -- What waits behind it may be next.
        perform public.notification_wake_relay();
    end if;
    if was.status = 'delivering' and was.sending_until >= now() then
        return 'cancelled: a send was under way; there will be no further one, and if it succeeds the event is recorded as delivered';
    end if;
    return 'cancelled';
end
$$;

create or replace function public.notification_reschedule(event_id uuid, at timestamptz) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was public.notification_events;
begin
    if at is null then
        return 'unchanged: the new time must not be null';
    end if;
    if at = 'infinity' then
        return 'unchanged: the new time must not be infinite';
    end if;
    select * into was from public.notification_events e where e.id = event_id for update;
    if not found then
        return 'not found: no event has this id';
    end if;
    if was.status = 'delivering' then
        return 'unchanged: the event is being sent at this moment';
    end if;
    if was.status <> 'pending' then
        return format('unchanged: the event is already %s; notification_replay sends it again', was.status);
    end if;
    if was.digest_id is not null then
        return 'unchanged: the event is part of a message with others that is sent again as a whole';
    end if;
    update public.notification_events e set
        scheduled_at = greatest(at, now()), updated_at = now(), hinted_until = null, waiting_since = null
    where e.id = event_id;
    perform public.notification_wake_relay();
    return format('rescheduled: from %s to %s', was.scheduled_at, greatest(at, now()));
end
$$;

create or replace view public.notification_status as
select
    id, event_type, status,
    case
        when status = 'pending' and waiting_since is not null then 'waiting for its robot'
        when status = 'pending' and retry_count > 0 then 'waiting for retry ' || retry_count
        when status = 'pending' and scheduled_at > now() then 'scheduled'
        when status = 'pending' then 'due'
        when status = 'delivering' and sending_until < now() then 'its consumer is gone; it will be taken over'
        when status = 'delivering' then 'being sent'
        when status = 'failed' and completed_at is null then 'dead letter to be written'
        when status = 'failed' then 'dead letter written'
    end as detail,
    channel, public.notification_mask_target(target) as target,
    coalesce(template_id, event_type) as template_id,
    idempotency_key, trace_id,
    retry_count, max_retry, attempt, lost_leases, replay_count,
    last_error, response, robot,
    scheduled_at, created_at, updated_at, dispatched_at, delivered_at, failed_at, completed_at, waiting_since,
    seq, digest_id
from public.notification_events;

-- Gives a role what its kind needs, and no more:
--   writer    business code: insert (also insert ... returning id), notification_publish
--   reader    people and dashboards: the views notification_status and notification_robot_status
--   operator  people on call: reader; replay, cancel, reschedule; targets; pause and resume robots
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
        execute pg_catalog.format('grant select on public.notification_status, public.notification_robot_status to %I',
            role_name);
        execute pg_catalog.format('grant execute on function public.notification_mask_target(text) to %I', role_name);
    when 'operator' then
        perform public.notification_grant(role_name, 'reader');
        execute pg_catalog.format('grant select, insert, update, delete on public.notification_channels to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_replay(uuid), public.notification_cancel(uuid),
            public.notification_reschedule(uuid, timestamptz), public.notification_robot_pause(text, text, text),
            public.notification_robot_resume(text), public.notification_wake_relay() to %I', role_name);
    when 'relay' then
        execute pg_catalog.format('grant select, update on public.notification_events to %I', role_name);
        execute pg_catalog.format('grant select, insert, update on public.notification_robots to %I', role_name);
        execute pg_catalog.format('grant select on public.notification_channels, public.postbell_schema_history,
            public.notification_status to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_wake_relay(),
            public.notification_mask_target(text), public.notification_lanes() to %I', role_name);
    else
        raise exception 'unknown kind %', pg_catalog.quote_literal(kind)
            using hint = 'a kind is writer, reader, operator or relay';
    end case;
    return pg_catalog.format('granted to %s: %s', role_name, kind);
end
$$;
