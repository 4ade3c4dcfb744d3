//! 6 — the channel: from a message to the robot of a group.

mod dingtalk;
