-- unpark: what rests for a robot becomes due again, as its budget allows, the oldest first. Of those that may be merged
-- with each other only the first goes, and not while a message of theirs is under way: its consumer merges the rest.
-- Returns how many there were.
with lane as materialized (
    select * from notification_lanes() where places > 0
), candidate as (
    select lane.lane, lane.urgent, lane.places, e.id, e.seq,
           coalesce(e.digest_id::text, e.digest_key, e.id::text) as unit
    from lane
    cross join lateral (
        select id, seq, digest_id, digest_key
        from notification_events
        where waiting_since is not null
          and completed_at is null
          and failed_at is null
          and robot = lane.lane
          and urgent = lane.urgent
          and hinted_until = 'infinity'
        order by seq
        limit 1000
    ) e
), under_way as (
    select distinct lane.lane, e.unit
    from lane
    cross join lateral (
        select coalesce(digest_id::text, digest_key) as unit
        from notification_events
        where waiting_since is not null
          and completed_at is null
          and failed_at is null
          and robot = lane.lane
          and urgent = lane.urgent
          and hinted_until < 'infinity'
        -- So that the index is walked, and not the table.
        order by hinted_until
        limit 10000
    ) e
    where e.unit is not null
), first_of_unit as (
    select distinct on (lane, urgent, unit) *
    from candidate
    where not exists (select from under_way u where u.lane = candidate.lane and u.unit = candidate.unit)
    order by lane, urgent, unit, seq
), ranked as (
    select id, places, row_number() over (partition by lane, urgent order by seq) as rank
    from first_of_unit
), chosen as (
    select id
    from notification_events
    where id = any(array(select id from ranked where rank <= places))
      and waiting_since is not null
      and completed_at is null
      and hinted_until = 'infinity'
    order by seq
    for update skip locked
), unparked as (
    update notification_events e
    set hinted_until = now(), updated_at = now()
    where e.id = any(array(select id from chosen))
    returning e.id
)
select count(*) as unparked from unparked
