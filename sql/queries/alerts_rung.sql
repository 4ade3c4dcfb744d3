-- alerts_rung: notes that people were told, or that they could not be: whoever looks next may try.
-- $1 conditions, $2 subjects, $3 until when each was this process's to ring, $4 whether it is over, $5 whether they were told
with rung as (
    select *
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::boolean[]) as r (condition, subject, ringing_until, is_over)
)
update notification_alerts a
set rung_at = case when $5::boolean and not rung.is_over then now() else a.rung_at end,
    all_clear_at = case when $5::boolean and rung.is_over then now() else a.all_clear_at end,
    ringing_until = null
from rung
where (a.condition, a.subject, a.ringing_until) = (rung.condition, rung.subject, rung.ringing_until)
