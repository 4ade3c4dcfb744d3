-- retain_alone: whether this session is the one that removes old rows; until it ends no other is.
-- $1 the lock
select pg_try_advisory_lock($1) as alone
