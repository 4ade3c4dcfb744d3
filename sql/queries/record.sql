-- record: what became of each send, many in one statement.
-- $1 ids, $2 replay counts, $3 attempts, $4 outcomes, $5 errors, $6 responses, $7 delays in seconds
-- $8 robots: that it was sent by, must stay with, or waits for
-- $9 digest ids: of those with the same one all are recorded, or none; $10 whether it remains part of it
-- $11 digest limits, $12 digest keys
-- Of each send that was begun, for notification_attempts: $13 ids, $14 replay counts, $15 attempts, $16 digest ids,
-- $17 trace ids, $18 robots, $19 seconds since it began, $20 its length in ms, $21 classes, $22 HTTP statuses, $23 errcodes,
-- $24 answers, $25 tries, $26 the consumer
-- Outcomes: delivered; failed; retry (uses one, due after the delay); wait (uses none, due after the delay, or, where
-- there is none, parked until its robot can take it); released (uses none, due at once).
-- Only the row's own generation counts. A success wins unless the row is already complete, or was cancelled during the
-- send; everything else counts only while this take still holds the row.
-- Verdicts: counted; busy (a transaction holds the row: try again). An outcome that does not come back does not count.
-- Of what is delivered, how long after it was due. A retry moves what the row was meant for, so the first hint stands for
-- it; of a replay that is retried nothing earlier is known than the retry.
with outcome as (
    -- Two takes of one row may end in one batch: a success is the one to keep.
    select distinct on (id, replay_count) *
    from unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::double precision[],
                $8::text[], $9::uuid[], $10::boolean[], $11::integer[], $12::text[])
        as o (id, replay_count, attempt, kind, error, response, delay, robot, digest_id, keeps_digest, digest_limit,
              digest_key)
    order by id, replay_count, kind = 'delivered' desc, attempt desc
), locked as (
    select o.*
    from notification_events e
    join outcome o on o.id = e.id and o.replay_count = e.replay_count
    where case o.kind
              when 'delivered' then e.completed_at is null or e.status = 'cancelled'
              else e.status = 'delivering' and e.attempt = o.attempt
          end
    order by e.seq
    for update of e skip locked
), held as (
    -- Those that would count, too, but for a transaction that holds them. Mostly none is left to be looked up.
    select o.id, o.attempt, o.digest_id
    from notification_events e
    join (select * from outcome where id not in (select id from locked)) o
        on o.id = e.id and o.replay_count = e.replay_count
    where case o.kind
              when 'delivered' then e.completed_at is null or e.status = 'cancelled'
              else e.status = 'delivering' and e.attempt = o.attempt
          end
), whole as (
    select *
    from locked
    where digest_id is null
       or not exists (select from held where held.digest_id = locked.digest_id)
), recorded as (
    update notification_events e
    set status = case kind when 'delivered' then 'delivered' when 'failed' then 'failed' else 'pending' end,
        delivered_at = case kind when 'delivered' then now() end,
        completed_at = case kind when 'delivered' then now() end,
        failed_at = case kind when 'failed' then now() end,
        retry_count = e.retry_count + (kind = 'retry')::integer,
        scheduled_at = case kind when 'retry' then now() + delay * interval '1 second' else e.scheduled_at end,
        hinted_until = case kind
            when 'delivered' then e.hinted_until
            when 'wait' then coalesce(now() + delay * interval '1 second', 'infinity')
        end,
        -- Who has waited, and is put back for a moment, goes before newcomers still.
        waiting_since = case
            when kind = 'wait' and delay is null then coalesce(e.waiting_since, now())
            when kind = 'wait' then e.waiting_since
        end,
        sending_until = null,
        lost_leases = case kind when 'released' then e.lost_leases else 0 end,
        last_error = coalesce(whole.error, e.last_error),
        response = coalesce(whole.response, e.response),
        robot = case when kind in ('delivered', 'failed') then coalesce(whole.robot, e.robot) else whole.robot end,
        -- A delivered row names the message it is in, and no other that it was put into meanwhile.
        digest_id = case
            when kind = 'delivered' then whole.digest_id
            when whole.keeps_digest then coalesce(whole.digest_id, e.digest_id)
        end,
        digest_limit = case when kind in ('delivered', 'failed') then e.digest_limit else whole.digest_limit end,
        digest_key = case when kind = 'wait' then whole.digest_key end,
        updated_at = now()
    from whole
    where e.id = whole.id
    returning e.id, whole.attempt, kind,
              case when kind = 'delivered' then extract(epoch from now() - greatest(
                  e.created_at,
                  case when e.retry_count > 0 and e.replay_count = 0 then least(e.scheduled_at, e.dispatched_at)
                       else e.scheduled_at
                  end
              ))::double precision end as late_seconds
), busy as (
    select id, attempt from held
    union all
    select id, attempt from locked where id not in (select id from whole)
), attempted as (
    -- Whether it counts or not, it was sent. One that is recorded a second time is there already.
    insert into notification_attempts
        (event_id, replay_count, attempt, digest_id, trace_id, robot, started_at, duration_ms, class, http_status, errcode,
         answer, tries, worker)
    select id, replay_count, attempt, digest_id, trace_id, robot, now() - ago * interval '1 second', ms, class, http_status,
           errcode, answer, tries, $26
    from unnest($13::uuid[], $14::integer[], $15::integer[], $16::uuid[], $17::text[], $18::text[], $19::double precision[],
                $20::integer[], $21::text[], $22::smallint[], $23::integer[], $24::text[], $25::smallint[])
        as s (id, replay_count, attempt, digest_id, trace_id, robot, ago, ms, class, http_status, errcode, answer, tries)
    where (id, attempt) not in (select id, attempt from busy)
    on conflict do nothing
), woken as (
    -- A sleeping relay does not know of the new due time, nor of the dead letter.
    select notification_wake_relay() from recorded where kind <> 'delivered' limit 1
)
select 'counted' as verdict, id, attempt, late_seconds, (select count(*) from woken) as woken from recorded
union all
select 'busy', id, attempt, null, 0 from busy
