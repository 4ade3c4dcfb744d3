-- What was tried, and who did what: a row for each send, and a row for each thing that a person changed. Both are only ever
-- added to; retention removes what is old.

create table public.notification_attempts (
    id           bigint      not null generated always as identity constraint notification_attempts_pkey primary key,
    started_at   timestamptz not null,
    event_id     uuid        not null,
    digest_id    uuid,
    replay_count integer     not null,
    attempt      integer     not null,
    duration_ms  integer     not null,
    errcode      integer,
    http_status  smallint,
    tries        smallint    not null,
    class        text        not null,
    robot        text        not null,
    worker       text        not null,
    answer       text,
    trace_id     text,

    -- A take sends once; what is recorded a second time, because nobody knew whether the first had committed, is the same.
    constraint an_attempt_is_recorded_once unique (event_id, attempt),
    constraint answer_must_be_at_most_300_characters check (char_length(answer) <= 300)
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05
);

comment on table public.notification_attempts is
    'postbell: one row for each send that was begun, written with its outcome; a consumer that was killed wrote none';
comment on column public.notification_attempts.digest_id is 'the message of several events that it was: a row for each of them';
comment on column public.notification_attempts.replay_count is 'the generation it belongs to: 0 until the first replay';
comment on column public.notification_attempts.attempt is 'the take: raised by one each time a consumer takes the event';
comment on column public.notification_attempts.tries is 'requests of this send: more than one where a connection failed or an answer called for it';
comment on column public.notification_attempts.class is
    'what the answer meant: success, message, robot, throttled, blocked, transient, ambiguous, withheld';
comment on column public.notification_attempts.worker is 'the consumer that sent it';
comment on column public.notification_attempts.answer is
    'what the robot said, or, where it said nothing, what went wrong; null for a success: errcode and http_status say it all';

-- For people who look at a time. Retention does not rely on it: space that is used again mixes old and new.
create index notification_attempts_started_at
    on public.notification_attempts using brin (started_at);

create table public.notification_audit (
    id            bigint      not null generated always as identity constraint notification_audit_pkey primary key,
    at            timestamptz not null default now(),
    actor         text        not null,
    database_user text        not null,
    action        text        not null,
    event_id      uuid,
    robot         text,
    detail        jsonb       not null default '{}',

    constraint action_must_be_one_that_is_known
        check (action in ('replay', 'cancel', 'reschedule', 'pause', 'resume', 'target_added', 'target_changed',
                          'target_removed', 'purge'))
);

comment on table public.notification_audit is
    'postbell: who replayed, cancelled, paused or changed what, and when; written in the same transaction';
comment on column public.notification_audit.actor is 'the setting postbell.actor, where it is set, else the role that was logged in';
comment on column public.notification_audit.database_user is 'the role that was logged in';

create index notification_audit_event_id
    on public.notification_audit (event_id)
    where event_id is not null;

create index notification_audit_at
    on public.notification_audit using brin (at);

-- What has ended, the oldest first: retention takes it from here, whatever ids and however many rows there are. An index on
-- created_at by ranges of pages does not do: space that is used again mixes old and new, and a range keeps its oldest time.
-- Nor does it speak of the status, which the take changes: the take would be no heap-only update any more.
create index notification_events_ended
    on public.notification_events (completed_at)
    where completed_at is not null and failed_at is null;

-- The same for dead letters, which are kept longer, and which people look for.
create index notification_events_dead
    on public.notification_events (completed_at)
    where completed_at is not null and failed_at is not null;

-- Writes one line of the audit. For the functions below, which run with the owner's rights: nobody else may.
create function public.notification_note(
    action   text,
    event_id uuid,
    robot    text,
    detail   jsonb,
    by       text default null
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.notification_audit (actor, database_user, action, event_id, robot, detail)
    values (left(coalesce(nullif(current_setting('postbell.actor', true), ''), by, session_user), 200), session_user,
            action, event_id, robot, detail)
$$;

create function public.notification_note_target() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- People's numbers and ids are nobody's business.
    personal constant text[] := array['at_mobiles', 'at_user_ids'];
    was jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - array['name', 'created_at', 'updated_at'] end;
    is_now jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - array['name', 'created_at', 'updated_at'] end;
    changes jsonb;
begin
    if tg_op = 'UPDATE' and old.name = new.name then
        select jsonb_object_agg(key, case
                when key = any(personal) then '"changed"'
                else jsonb_build_object('from', o.value, 'to', n.value)
            end)
        into changes
        from jsonb_each(was) o
        join jsonb_each(is_now) n using (key)
        where o.value is distinct from n.value;
        if changes is not null then
            perform public.notification_note('target_changed', null, new.name, changes);
        end if;
        return null;
    end if;
    if was is not null then
        perform public.notification_note('target_removed', null, old.name, jsonb_strip_nulls(was - personal));
    end if;
    if is_now is not null then
        perform public.notification_note('target_added', null, new.name, jsonb_strip_nulls(is_now - personal));
    end if;
    return null;
end
$$;

create trigger notification_channels_note
    after insert or update or delete on public.notification_channels
    for each row execute function public.notification_note_target();

-- The functions of V6, which leave a line in the audit where they change something.
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
    perform public.notification_note('replay', event_id, null,
        jsonb_build_object('was', was.status, 'last_error', was.last_error, 'replay_count', was.replay_count + 1));
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
    perform public.notification_note('cancel', event_id, null, jsonb_build_object('was', was.status));
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
    perform public.notification_note('reschedule', event_id, null,
        jsonb_build_object('from', was.scheduled_at, 'to', greatest(at, now())));
    return format('rescheduled: from %s to %s', was.scheduled_at, greatest(at, now()));
end
$$;

create or replace function public.notification_robot_pause(robot text, reason text default null, by text default session_user)
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
    perform public.notification_note('pause', null, robot, jsonb_strip_nulls(jsonb_build_object('reason', reason)), by);
    return 'paused: its events wait until it is resumed';
end
$$;

create or replace function public.notification_robot_resume(robot text) returns text
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
    perform public.notification_note('resume', null, robot, jsonb_strip_nulls(jsonb_build_object(
        'paused_by', was.paused_by, 'pause_reason', was.pause_reason, 'cool_until', was.cool_until)));
    return case when was.paused_at is not null
        then format('resumed: it was paused by %s', was.paused_by)
        else format('resumed: it was cooling down until %s', was.cool_until)
    end;
end
$$;

-- Removes an event that has ended, and what is known of its sends, before its time: its payload is gone then. The audit keeps
-- that it was removed, and by whom.
create function public.notification_purge(event_id uuid) returns text
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
    if was.completed_at is null then
        return format('unchanged: the event is %s; only what is delivered, cancelled, or failed with its dead letter written is removed',
            was.status);
    end if;
    -- It may be the only one that knows that their message arrived.
    if exists (select from public.notification_events e where e.digest_id = was.digest_id and e.completed_at is null) then
        return 'unchanged: the event is part of a message with others that is being sent, or sent again as a whole';
    end if;
    delete from public.notification_events e where e.id = event_id;
    delete from public.notification_attempts a where a.event_id = notification_purge.event_id;
    perform public.notification_note('purge', event_id, null, jsonb_build_object(
        'was', was.status, 'event_type', was.event_type, 'created_at', was.created_at, 'completed_at', was.completed_at));
    return format('removed: the event was %s', was.status);
end
$$;

revoke execute on function
    public.notification_note(text, uuid, text, jsonb, text),
    public.notification_note_target(),
    public.notification_purge(uuid)
from public;

-- Gives a role what its kind needs, and no more:
--   writer    business code: insert (also insert ... returning id), notification_publish
--   reader    people and dashboards: the views notification_status and notification_robot_status, attempts and audit
--   operator  people on call: reader; replay, cancel, reschedule, purge; targets; pause and resume robots
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
            public.notification_attempts, public.notification_audit to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_mask_target(text) to %I', role_name);
    when 'operator' then
        perform public.notification_grant(role_name, 'reader');
        execute pg_catalog.format('grant select, insert, update, delete on public.notification_channels to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_replay(uuid), public.notification_cancel(uuid),
            public.notification_reschedule(uuid, timestamptz), public.notification_robot_pause(text, text, text),
            public.notification_robot_resume(text), public.notification_purge(uuid), public.notification_wake_relay() to %I', role_name);
    when 'relay' then
        -- It removes what is old.
        execute pg_catalog.format('grant select, update, delete on public.notification_events to %I', role_name);
        execute pg_catalog.format('grant select, insert, update, delete on public.notification_robots to %I', role_name);
        execute pg_catalog.format('grant select, insert, delete on public.notification_attempts to %I', role_name);
        execute pg_catalog.format('grant select, delete on public.notification_audit to %I', role_name);
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

-- Roles that were granted a kind before have what is new in it, too: a sidecar that may not write attempts could record nothing.
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
