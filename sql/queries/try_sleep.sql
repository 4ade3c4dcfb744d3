-- try_sleep: the relay asks for the wake-up lock, on the connection it listens on.
-- $1 key. Not taken: either a transaction that made rows due is still in flight, or another relay sleeps on it.
with tried as materialized (
    select pg_try_advisory_lock($1) as taken
)
select taken,
       not taken and exists (
           select
           from pg_locks
           where locktype = 'advisory'
             and database = (select oid from pg_database where datname = current_database())
             and classid = ($1 >> 32)::oid
             and objid = ($1 & 4294967295)::oid
             and objsubid = 1
             and mode = 'ExclusiveLock'
             and granted
             and pid <> pg_backend_pid()
       ) as another_relay_sleeps
from tried
