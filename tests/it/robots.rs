//! Robots that take so much and no more: budget, digests, cool-down, pause, targets and pools.

mod budget;
mod cli;
