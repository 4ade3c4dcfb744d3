-- alerts_rung: notes that people were told, or that they were not: after a rest whoever looks may try, so that of any number of
-- processes one asks again, and not all of them a robot that shuts when it is asked too often.
-- $1 conditions, $2 subjects, $3 until when each was this process's to ring, $4 whether it is over, $5 whether they were told,
-- $6 rest in seconds
with rung as (
    select *
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::boolean[]) as r (condition, subject, ringing_until, is_over)
)
update notification_alerts a
set rung_at = case when $5::boolean and not rung.is_over then now() else a.rung_at end,
    all_clear_at = case when $5::boolean and rung.is_over then now() else a.all_clear_at end,
    ringing_until = case when not $5::boolean then now() + $6::double precision * interval '1 second' end
from rung
where (a.condition, a.subject, a.ringing_until) = (rung.condition, rung.subject, rung.ringing_until)
