-- options.urgent, in a form that an index can use: urgent events are claimed before all others.
alter table public.notification_events
    add column urgent boolean not null generated always as (options @> '{"urgent": true}') stored;

comment on column public.notification_events.urgent is 'options.urgent: claimed, and read from its own stream, before others';

create index notification_events_due_urgent
    on public.notification_events (greatest(hinted_until, scheduled_at), seq)
    where completed_at is null and failed_at is null and urgent;
