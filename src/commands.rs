//! One file a command: it reads its arguments, wires the parts, and says what happened.

pub mod consume;
pub mod migrate;
pub mod publish;
pub mod relay;
pub mod run;
pub mod sandbox;
pub mod status;
pub mod template;

use std::future::Future;

/// Runs an asynchronous command on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
