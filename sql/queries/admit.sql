-- admit: asks for leave to send what was taken, many sends through one lane at once. Who gets it holds a place of a
-- robot's budget; who does not is parked in the same statement, keeps its retries, and is unparked in its turn.
-- $1 lane: the robot, or the pool, they are for; $2 its robots
-- $3 ids, $4 attempts, $5 digest keys (null: not to be merged), $6 units: what goes in one message has the same one
-- $7 seconds until the last moment at which a request can still be written, $8 seconds between probes of a paused robot
-- What does not come back is held by somebody else's transaction, or not this consumer's any more. A row without an id says
-- why nothing was done: busy, somebody else holds the row of one of the robots; missing, one of them has none.
with locked as materialized (
    select *
    from notification_robots
    where name = any($2::text[])
    order by name
    for update skip locked
), robot as (
    select name, rate_limit, urgent_reserve, rate_window, paused_at is not null as paused,
           array(select slot from unnest(slots) slot where slot > now()) as taken,
           (cool_until is null or cool_until <= now())
               and (paused_at is null or (paused_by = 'postbell' and probe_at <= now())) as open
    from locked
), obstacle as (
    select case when known.count < cardinality($2::text[]) then 'missing' else 'busy' end as why
    from (select count(*) from notification_robots where name = any($2::text[])) known
    where (select count(*) from locked) < cardinality($2::text[])
), given as (
    select *
    from unnest($3::uuid[], $4::integer[], $5::text[], $6::uuid[]) as a (id, attempt, digest_key, unit)
), mine as (
    -- A person's open transaction must not hold up the others, nor the robot's row.
    select given.id, given.unit, given.digest_key, e.seq, e.urgent, e.waiting_since is not null as has_waited
    from given
    join notification_events e on e.id = given.id and e.attempt = given.attempt
    where e.status = 'delivering'
      and not exists (select from obstacle)
    order by e.seq
    for update of e skip locked
), unit as (
    select unit, min(seq) as seq, bool_or(urgent) as urgent, bool_and(has_waited) as has_waited, count(*) as size,
           min(digest_key) as digest_key
    from mine
    group by unit
    -- All of a message, or nothing of it.
    having count(*) = (select count(*) from given where given.unit = mine.unit)
), asked as (
    select mine.* from mine join unit using (unit)
), waiting as (
    -- Those before whom a newcomer must not go, as many as matter.
    select count(*) as count
    from (
        select
        from notification_events
        where robot = $1
          and waiting_since is not null
          and completed_at is null
          and failed_at is null
          and status = 'pending'
          and not urgent
        -- So that the index is walked, and not the table.
        order by robot, urgent, hinted_until, seq
        limit 1000
    ) w
), room as (
    select name, paused, rate_limit, rate_window,
           case when not open then 0
                when paused then 1
                when rate_limit is null then 1000000
                else greatest(rate_limit - cardinality(taken), 0)
           end as places,
           case when not open then 0
                when paused then 1
                when rate_limit is null then 1000000
                else greatest(rate_limit - urgent_reserve - cardinality(taken), 0)
           end as places_for_all
    from robot
), place as (
    -- Every place that could be used, those of the emptiest robot first, and those kept for urgent ones last.
    select r.name, nth <= r.places_for_all as for_all,
           row_number() over (order by nth <= r.places_for_all desc, r.places - nth desc, r.name) as rank
    from room r
    cross join lateral generate_series(1, least(r.places, (select count(*) from unit))) nth
), fits as (
    -- Newcomers go all or none: where they do not fit, or others wait, they take their turn with them.
    select (select count(*) from unit) + waiting.count <= (select coalesce(sum(places_for_all), 0) from room) as all_of_them
    from waiting
), ranked as (
    select unit.*, row_number() over (order by not urgent, not has_waited, seq) as rank
    from unit
    cross join fits
    where urgent or has_waited or all_of_them
), granted as (
    select ranked.unit, ranked.has_waited, ranked.size, ranked.digest_key, place.name
    from ranked
    join place using (rank)
    where ranked.urgent or place.for_all
), spent as (
    update notification_robots r
    set slots = case
            when r.rate_limit is null then '{}'
            else robot.taken
                || array_fill((now() + $7 * interval '1 second' + robot.rate_window)::timestamptz, array[used.count::integer])
        end,
        probe_at = case when robot.paused then now() + $8 * interval '1 second' else r.probe_at end,
        updated_at = now()
    from robot
    join (select name, count(*) as count from granted group by name) used using (name)
    where r.name = robot.name
      and (r.rate_limit is not null or robot.paused)
), bound as (
    -- Decided durably before the first byte leaves: by which robot of a pool, and that an event which may have arrived
    -- alone goes alone ever after.
    update notification_events e
    set robot = granted.name,
        digest_limit = case when e.digest_id is null then 1 else e.digest_limit end
    from asked
    join granted using (unit)
    where e.id = asked.id
), parked as (
    update notification_events e
    set status = 'pending',
        waiting_since = coalesce(e.waiting_since, now()),
        hinted_until = case
            -- One that came in its turn, and whose robot takes messages: only a place was lacking, so it asks again then.
            when asked.has_waited and exists (select from robot where open) then greatest(
                now() + interval '1 second', (select min(slot) from robot, unnest(taken) slot where open))
            -- The pool names robots that this consumer does not know, for which it may have been unparked: not at once again.
            when asked.has_waited and cardinality($2::text[])
                < (select coalesce(cardinality(robots), 1) from notification_channels where name = $1)
                then now() + interval '5 seconds'
            else 'infinity'
        end,
        sending_until = null,
        robot = $1,
        digest_key = asked.digest_key,
        updated_at = now()
    from asked
    where e.id = asked.id
      and asked.unit not in (select unit from granted)
    returning e.id
), woken as (
    -- A place may be free all the same.
    select notification_wake_relay() from parked limit 1
)
select null as why, asked.id, granted.name as robot,
       case when room.rate_limit is not null then now() + $7 * interval '1 second' + room.rate_window end as slot,
       coalesce(room.paused, false) as probes,
       -- More wait than can go one by one: what may be merged is.
       granted.has_waited and granted.size = 1 and granted.digest_key is not null and not room.paused
           and waiting.count > (select sum(places_for_all) from room) - (select count(*) from granted) as merges,
       (select count(*) from woken) as woken
from asked
cross join waiting
left join granted using (unit)
left join room on room.name = granted.name
union all
select why, null, null, null, false, false, 0 from obstacle
