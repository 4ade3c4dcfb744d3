//! Everything that needs a real PostgreSQL, a real Redis or the real binary, in one test binary: the servers are started
//! once and shared. Run it with `ops/test`, which installs what is missing.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod alerts;
#[cfg(test)]
mod attempts;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod footprint;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod operate;
#[cfg(test)]
mod options;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod robots;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod secrets;
#[cfg(feature = "otel")]
#[cfg(test)]
mod traces;
