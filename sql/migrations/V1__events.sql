-- The outbox. A committed row is the truth; whatever lies in a queue is only a hint that a row is due.
-- All of postbell lives in the schema public, because business code must find the table without setting anything.

-- A time-ordered uuid (RFC 9562, version 7): 48 bits of unix milliseconds, then the random bits of a version 4 uuid.
-- PostgreSQL 18 has uuidv7() of its own; this one serves 13 and later.
create function public.notification_uuid_v7() returns uuid
language sql volatile parallel safe
as $$
    select overlay(
        pg_catalog.gen_random_uuid()::text
        placing pg_catalog.regexp_replace(
            pg_catalog.lpad(pg_catalog.to_hex((extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint), 12, '0'),
            '^(.{8})', '\1-') || '-7'
        from 1 for 15)::uuid
$$;

create table public.notification_events (
    id              uuid        not null default public.notification_uuid_v7() constraint notification_events_pkey primary key,
    -- Insertion order: the rows of one transaction share every timestamp.
    seq             bigint      not null generated always as identity,

    -- What business code writes.
    event_type      text        not null,
    channel         text        not null default 'dingtalk',
    target          text        not null default 'default',
    template_id     text,
    payload         jsonb       not null,
    options         jsonb       not null default '{}',
    idempotency_key text,
    trace_id        text,
    max_retry       integer,
    scheduled_at    timestamptz not null default now(),

    -- What became of it.
    status          text        not null default 'pending',
    retry_count     integer     not null default 0,
    last_error      text,
    response        text,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    dispatched_at   timestamptz,
    delivered_at    timestamptz,
    failed_at       timestamptz,
    completed_at    timestamptz,

    -- The protocol's own.
    hinted_until    timestamptz,
    sending_until   timestamptz,
    attempt         integer     not null default 0,
    lost_leases     integer     not null default 0,
    replay_count    integer     not null default 0,
    waiting_since   timestamptz,
    robot           text,
    digest_id       uuid,

    constraint event_type_must_be_1_to_128_characters
        check (char_length(event_type) between 1 and 128),
    constraint channel_must_be_1_to_64_characters
        check (char_length(channel) between 1 and 64),
    constraint target_must_be_1_to_2048_characters
        check (char_length(target) between 1 and 2048),
    constraint template_id_must_be_1_to_128_characters
        check (char_length(template_id) between 1 and 128),
    constraint payload_must_be_a_json_object
        check (jsonb_typeof(payload) = 'object'),
    -- || '{}' unpacks a value that comes compressed from another table: its real size counts.
    constraint payload_must_be_at_most_64_kb
        check (pg_column_size(payload || '{}') <= 65536),
    constraint options_must_be_a_json_object_of_at_most_16_kb
        check (jsonb_typeof(options) = 'object' and pg_column_size(options || '{}') <= 16384),
    constraint idempotency_key_must_be_1_to_512_characters
        check (char_length(idempotency_key) between 1 and 512),
    constraint trace_id_must_be_at_most_256_characters
        check (char_length(trace_id) <= 256),
    constraint max_retry_must_be_0_to_100
        check (max_retry between 0 and 100),
    constraint retry_count_must_not_be_negative
        check (retry_count >= 0),
    -- Differences to infinity are errors: one such row would stop the relay from knowing how long to sleep.
    constraint scheduled_at_must_be_finite
        check (isfinite(scheduled_at)),
    constraint status_must_be_pending_delivering_delivered_failed_or_cancelled
        check (status in ('pending', 'delivering', 'delivered', 'failed', 'cancelled')),
    constraint only_a_failed_row_has_failed_at
        check ((status = 'failed') = (failed_at is not null)),
    constraint only_a_delivered_row_has_delivered_at
        check ((status = 'delivered') = (delivered_at is not null)),
    -- A failed row is complete only once its dead letter is in the stream; the other final states are so at once.
    constraint completed_at_must_agree_with_status
        check (case status
                   when 'failed' then true
                   when 'delivered' then completed_at is not null
                   when 'cancelled' then completed_at is not null
                   else completed_at is null
               end),
    constraint a_delivering_row_has_a_send_lease
        check (status <> 'delivering' or sending_until is not null)
) with (
    -- Room on the page, so that the take (which touches no indexed column) stays a heap-only update.
    fillfactor = 50,
    -- A queue's rows die young: vacuum by count, not by a share of a history that only grows.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 2000
);

comment on table public.notification_events is
    'postbell outbox: insert (event_type, payload) in your own transaction; a message goes out once it commits';
comment on column public.notification_events.target is
    'named robot (default: the one in the environment) or a webhook URL whose host is allowed';
comment on column public.notification_events.template_id is 'null: the event_type';
comment on column public.notification_events.scheduled_at is
    'when it is meant to be sent: the caller''s time, then each retry''s';
comment on column public.notification_events.completed_at is
    'set in every final state; what "not due any more" means';
comment on column public.notification_events.hinted_until is
    'hint lease: until then the relay trusts the hint in the queue (or the slot of a robot this row waits for)';
comment on column public.notification_events.sending_until is
    'send lease: until then the consumer that took this row is the only one to send it';
comment on column public.notification_events.attempt is 'fence, raised at each take';
comment on column public.notification_events.lost_leases is
    'how often in a row a consumer took this row and never recorded an outcome';
comment on column public.notification_events.replay_count is
    'generation: outcomes of an earlier one do not count';

create unique index notification_events_idempotency
    on public.notification_events (channel, target, idempotency_key)
    where idempotency_key is not null;

-- All work that is due to be hinted, oldest first.
create index notification_events_due
    on public.notification_events (greatest(hinted_until, scheduled_at), seq)
    where completed_at is null and failed_at is null;

-- Failed rows whose dead letter is still owed. Apart from the due rows, so that a full stream, which stops hints,
-- does not stop burying, and a dead-letter stream that refuses does not block the head of the due index.
create index notification_events_unburied
    on public.notification_events (failed_at)
    where completed_at is null and failed_at is not null;

-- Retention walks the table by age.
create index notification_events_created_at
    on public.notification_events using brin (created_at);
