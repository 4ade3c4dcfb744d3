-- holds: is this row still this consumer's to send? Asked before every further try of one take.
-- $1 id, $2 replay count, $3 attempt
select exists (
    select
    from notification_events
    where id = $1
      and replay_count = $2
      and attempt = $3
      and status = 'delivering'
      and sending_until > now()
) as holds
