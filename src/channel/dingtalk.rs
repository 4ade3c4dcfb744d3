//! DingTalk's custom group robot.

mod body;
mod links;
mod shorten;
mod sign;
