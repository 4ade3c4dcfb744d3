-- doctor: what a session can see of its server and of its own rights, whether the schema is there or not.
with needed (relation, privilege) as (
    -- What notification_grant gives the kind relay.
    values ('notification_events', 'select'), ('notification_events', 'update'), ('notification_events', 'delete'),
           ('notification_robots', 'select'), ('notification_robots', 'insert'), ('notification_robots', 'update'),
           ('notification_robots', 'delete'), ('notification_channels', 'select'), ('notification_attempts', 'insert'),
           ('notification_attempts', 'select'), ('notification_attempts', 'delete'), ('notification_audit', 'delete'),
           ('notification_alerts', 'select'), ('notification_alerts', 'insert'), ('notification_alerts', 'update'),
           ('notification_alerts', 'delete'), ('postbell_schema_history', 'select')
), lacking (what) as (
    select privilege || ' on ' || relation
    from needed
    where to_regclass('public.' || relation) is not null
      and not has_table_privilege('public.' || relation, privilege)
    union all
    select 'execute on ' || f
    from unnest(array['notification_wake_relay()', 'notification_lanes()']) f
    where to_regprocedure('public.' || f) is not null
      and not has_function_privilege('public.' || f, 'execute')
)
select jsonb_build_object(
    'version', current_setting('server_version'),
    'version_num', current_setting('server_version_num')::integer,
    'is_standby', pg_is_in_recovery(),
    'role', current_user,
    'is_superuser', (select rolsuper from pg_roles where rolname = current_user),
    'fsync', current_setting('fsync'),
    'full_page_writes', current_setting('full_page_writes'),
    'synchronous_standby_names', current_setting('synchronous_standby_names'),
    'autovacuum', current_setting('autovacuum'),
    'clock_s', extract(epoch from clock_timestamp()),
    'most_connections', current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer,
    'connections', (select count(*) from pg_stat_activity where backend_type = 'client backend'),
    'relays', (
        select count(*) from pg_stat_activity where datname = current_database() and application_name = 'postbell listen'
    ),
    'sees_others', pg_has_role('pg_read_all_stats', 'usage'),
    'oldest_transaction', (
        select jsonb_build_object('pid', pid, 'seconds', extract(epoch from now() - xact_start), 'by', usename,
            'application', application_name)
        from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
          and backend_type = 'client backend'
        order by xact_start
        limit 1
    ),
    'prepared', (
        select jsonb_build_object('name', gid, 'seconds', extract(epoch from now() - prepared))
        from pg_prepared_xacts
        where database = current_database()
        order by prepared
        limit 1
    ),
    'slot', (
        select jsonb_build_object('name', slot_name, 'age', age(xmin), 'active', active)
        from pg_replication_slots
        where xmin is not null
        order by age(xmin) desc
        limit 1
    ),
    'has_history', to_regclass('public.postbell_schema_history') is not null,
    'trigger', (
        select tgenabled
        from pg_trigger
        where tgrelid = to_regclass('public.notification_events') and tgname = 'notification_events_wake_relay'
    ),
    'rows', (
        select jsonb_build_object('live', n_live_tup, 'dead', n_dead_tup,
            'vacuumed_at', greatest(last_vacuum, last_autovacuum))
        from pg_stat_all_tables
        where relid = to_regclass('public.notification_events')
    ),
    'lacking', (select coalesce(jsonb_agg(what order by what), '[]') from lacking)
) as facts
