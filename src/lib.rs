//! postbell: a row committed in PostgreSQL rings in a chat group.

pub mod channel;
pub mod cli;
pub mod commands;
pub mod config;
pub mod event;
pub mod log;
pub mod message;
pub mod sandbox;
pub mod template;
