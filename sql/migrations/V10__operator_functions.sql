-- What people on call ask and do, so that psql alone suffices: find events, replay and purge many, and see how things are at
-- a glance. The command line uses the same.

-- What kind of error a last_error is: its first words, which are postbell's own.
create function public.notification_error_class(last_error text) returns text
language sql immutable parallel safe
as $$
    select case
        when last_error is null then null
        when last_error like 'message:%' then 'message'
        when last_error like 'robot''s settings:%' then 'robot'
        when last_error like 'platform:%' then 'platform'
        when last_error like 'network:%' then 'network'
        when last_error like 'template %' or last_error like 'unknown template %' or last_error like 'title of template %'
            then 'template'
        when last_error like 'expired:%' then 'expired'
        when last_error like 'outcome unknown%' then 'unknown_outcome'
        when last_error like 'kills its consumer:%' then 'kills_its_consumer'
        when last_error like '%cannot be read:%' then 'unreadable'
        else 'other'
    end
$$;

-- Events that fit all of what is given; what is null fits all. An event_type may have * for any characters, a target may be
-- given as the URL it is, error is a part of last_error. since and before are about the last thing that became of an event:
-- when it failed, was delivered or cancelled, else when it was published.
create function public.notification_find(
    status      text        default null,
    event_type  text        default null,
    target      text        default null,
    since       timestamptz default null,
    before      timestamptz default null,
    error_class text        default null,
    error       text        default null
) returns setof public.notification_status
language sql stable
as $$
    select s.*
    from public.notification_status s
    where (notification_find.status is null or s.status = notification_find.status)
      -- Says nothing new, but is what the two indexes of failed rows (unburied, dead) are known by.
      and (notification_find.status is distinct from 'failed'
          or s.completed_at is not null and s.failed_at is not null
          or s.completed_at is null and s.failed_at is not null)
      and (notification_find.event_type is null or s.event_type like pg_catalog.replace(
          pg_catalog.replace(pg_catalog.replace(notification_find.event_type, '\', '\\'), '_', '\_'), '*', '%'))
      and (notification_find.target is null or s.target = public.notification_mask_target(notification_find.target))
      and (notification_find.since is null
          or coalesce(s.failed_at, s.delivered_at, s.completed_at, s.created_at) >= notification_find.since)
      and (notification_find.before is null
          or coalesce(s.failed_at, s.delivered_at, s.completed_at, s.created_at) < notification_find.before)
      and (notification_find.error_class is null
          or public.notification_error_class(s.last_error) = notification_find.error_class)
      and (notification_find.error is null
          or pg_catalog.strpos(pg_catalog.lower(s.last_error), pg_catalog.lower(notification_find.error)) > 0)
$$;

-- Replays every event that fits, the oldest first, and says of each what happened. With dry_run it only says which they are.
-- Without any condition it replays what failed.
create function public.notification_replay_all(
    status      text        default 'failed',
    event_type  text        default null,
    target      text        default null,
    since       timestamptz default null,
    before      timestamptz default null,
    error_class text        default null,
    error       text        default null,
    most        bigint      default 1000,
    dry_run     boolean     default false
) returns table (event_id uuid, said text)
language plpgsql volatile
as $$
begin
    for event_id, said in
        select s.id, pg_catalog.format('would be replayed: %s, %s', s.event_type, coalesce(s.last_error, s.status))
        from public.notification_find(notification_replay_all.status, notification_replay_all.event_type,
            notification_replay_all.target, notification_replay_all.since, notification_replay_all.before,
            notification_replay_all.error_class, notification_replay_all.error) s
        -- What is under way needs no replay.
        where s.status in ('delivered', 'failed', 'cancelled')
        order by s.seq
        limit notification_replay_all.most
    loop
        if not dry_run then
            said := public.notification_replay(event_id);
        end if;
        return next;
    end loop;
end
$$;

-- Purges every dead letter that fits, the oldest first, and says of each what happened. With dry_run it only says which they
-- are. The entries in the dead-letter stream go when that is trimmed.
create function public.notification_purge_all(
    event_type  text        default null,
    target      text        default null,
    since       timestamptz default null,
    before      timestamptz default null,
    error_class text        default null,
    error       text        default null,
    most        bigint      default 1000,
    dry_run     boolean     default false
) returns table (event_id uuid, said text)
language plpgsql volatile
as $$
begin
    for event_id, said in
        select s.id, pg_catalog.format('would be removed: %s, %s', s.event_type, s.last_error)
        from public.notification_find('failed', notification_purge_all.event_type, notification_purge_all.target,
            notification_purge_all.since, notification_purge_all.before, notification_purge_all.error_class,
            notification_purge_all.error) s
        where s.completed_at is not null
        order by s.seq
        limit notification_purge_all.most
    loop
        if not dry_run then
            said := public.notification_purge(event_id);
        end if;
        return next;
    end loop;
end
$$;

-- How things are, at a glance: one row.
create view public.notification_stats as
select
    open.*, coalesce(extract(epoch from now() - open.oldest_due_at), 0)::double precision as oldest_due_seconds,
    coalesce(extract(epoch from now() - open.oldest_waiting_at), 0)::double precision as oldest_waiting_seconds,
    failed.*, recent.*, now() as at
from (
    select
        count(*) filter (where is_due) as due,
        min(due_at) filter (where is_due) as oldest_due_at,
        count(*) filter (where status = 'pending' and not is_due and waiting_since is null and scheduled_at <= now()) as hinted,
        count(*) filter (where status = 'delivering') as delivering,
        count(*) filter (where status = 'pending' and scheduled_at > now() and retry_count = 0) as scheduled,
        count(*) filter (where status = 'pending' and scheduled_at > now() and retry_count > 0) as retrying,
        count(*) filter (where waiting_since is not null) as waiting,
        min(waiting_since) as oldest_waiting_at
    from (
        select e.status, e.scheduled_at, e.retry_count, e.waiting_since,
               greatest(e.hinted_until, e.scheduled_at) as due_at,
               greatest(e.hinted_until, e.scheduled_at) <= now()
                   and not (e.status = 'delivering' and e.sending_until >= now()) as is_due
        from public.notification_events e
        where e.completed_at is null and e.failed_at is null
    ) e
) open, (
    select
        count(*) as dead_letters,
        count(*) filter (where e.completed_at is null) as dead_letters_to_be_written,
        min(e.failed_at) as oldest_dead_letter_at
    from public.notification_events e
    -- Each half has an index.
    where e.completed_at is not null and e.failed_at is not null or e.completed_at is null and e.failed_at is not null
) failed, (
    -- Of events published within two days, so that the table is not read to its beginning.
    select
        count(*) filter (where e.created_at > now() - interval '5 minutes') as published_5m,
        count(*) filter (where e.delivered_at > now() - interval '5 minutes') as delivered_5m,
        count(*) filter (where e.failed_at > now() - interval '5 minutes') as failed_5m,
        count(*) filter (where e.created_at > now() - interval '1 hour') as published_1h,
        count(*) filter (where e.delivered_at > now() - interval '1 hour') as delivered_1h,
        count(*) filter (where e.failed_at > now() - interval '1 hour') as failed_1h,
        count(*) filter (where e.created_at > now() - interval '1 day') as published_1d,
        count(*) filter (where e.delivered_at > now() - interval '1 day') as delivered_1d,
        count(*) filter (where e.failed_at > now() - interval '1 day') as failed_1d
    from public.notification_events e
    where e.created_at > now() - interval '2 days'
) recent;

comment on view public.notification_stats is
    'one row: backlog, what waits, dead letters, and what was published, delivered and failed of late';

revoke execute on function
    public.notification_error_class(text),
    public.notification_find(text, text, text, timestamptz, timestamptz, text, text),
    public.notification_replay_all(text, text, text, timestamptz, timestamptz, text, text, bigint, boolean),
    public.notification_purge_all(text, text, timestamptz, timestamptz, text, text, bigint, boolean)
from public;

-- Gives a role what its kind needs, and no more:
--   writer    business code: insert (also insert ... returning id), notification_publish
--   reader    people and dashboards: the views notification_status, notification_robot_status and notification_stats;
--             attempts and audit; notification_find
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
            public.notification_stats, public.notification_attempts, public.notification_audit to %I', role_name);
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
