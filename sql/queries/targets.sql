-- targets: the named robots and pools, as they are configured now.
select name, channel, webhook, secret, robots, rate, enabled, at_mobiles, at_user_ids, at_all
from notification_channels
order by name
