-- A webhook URL carries its token: only its scheme, host and port are ever shown, and nothing of what merely resembles a
-- URL, as a parser may forgive it. The operator is qualified, because a reader's search_path must not decide who sees
-- the target.
create function public.notification_mask_target(target text) returns text
language sql immutable parallel safe
as $$
    select case
        when target operator(pg_catalog.~) '^[A-Za-z][A-Za-z0-9+.-]*://'
            then pg_catalog.regexp_replace(
                target, '^([^:]+://)(?:[^/?#\\]*@)?(\[[0-9A-Fa-f:.]*\]|[^]/?#@\\:[]*)(:[0-9]+)?.*$', '\1\2\3/***')
        when target operator(pg_catalog.~) '[]/?#@=&:\\[:space:][]' then '***'
        else target
    end
$$;

-- What became of each event, for people: no payload, no token.
create view public.notification_status as
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
    seq
from public.notification_events;

comment on view public.notification_status is 'notification_events without payload, options or tokens';

-- Gives a role what its kind needs, and no more:
--   writer    business code: insert (also insert ... returning id), notification_publish
--   reader    people and dashboards: the view notification_status
--   operator  people on call: reader, and replay, cancel, reschedule
--   relay     the sidecars postbell relay, consume and run
create function public.notification_grant(role_name name, kind text) returns text
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
        execute pg_catalog.format('grant select on public.notification_status to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_mask_target(text) to %I', role_name);
    when 'operator' then
        perform public.notification_grant(role_name, 'reader');
        execute pg_catalog.format('grant execute on function public.notification_replay(uuid), public.notification_cancel(uuid),
            public.notification_reschedule(uuid, timestamptz) to %I', role_name);
    when 'relay' then
        execute pg_catalog.format('grant select, update on public.notification_events to %I', role_name);
        execute pg_catalog.format('grant select on public.postbell_schema_history, public.notification_status to %I', role_name);
        execute pg_catalog.format('grant execute on function public.notification_wake_relay(),
            public.notification_mask_target(text) to %I', role_name);
    else
        raise exception 'unknown kind %', pg_catalog.quote_literal(kind)
            using hint = 'a kind is writer, reader, operator or relay';
    end case;
    return pg_catalog.format('granted to %s: %s', role_name, kind);
end
$$;
