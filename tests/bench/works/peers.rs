//! Other relays, from the npm registry, on the same servers: each a script in `tests/bench/peers` that knows `prepare`,
//! `fill N`, `run` and `publish`.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::drain::watch;
use super::latency::{Publish, to_entries};
use crate::bed::{Bed, STREAM};
use crate::figure::{Figure, Goal, median, percentile};
use crate::harness::process::Postbell;
use crate::harness::servers::Database;
use crate::options::Options;

/// One more floor, in another language: no relay that one installs.
const BY_HAND: &str = "node-relay";

const PEERS: [&str; 3] = ["graphile-worker", "pg-boss", BY_HAND];

/// Drains of the same number of jobs.
pub(crate) async fn drain(bed: &Bed, options: &Options, folder: &Path, rows: u64, ours: &[f64]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut best = vec![0.0];
    for peer in PEERS {
        let (mut rates, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..options.runs() {
            let database = prepared(bed, folder, peer).await;
            wait(command(bed, folder, peer, &database).args(["fill", &rows.to_string()])).await;
            let drained = watch(bed, &mut running(bed, folder, peer, &database), rows).await;
            rates.push(drained.rate);
            cpus.push(drained.cpu);
        }
        figures.push(Figure::against("drain", format!("against {peer}"), "events/s", ours, &rates));
        figures.push(Figure::plain("drain", format!("CPU of {peer}"), median(&cpus), "s/10,000"));
        if peer != BY_HAND && median(&rates) > median(&best) {
            best = rates;
        }
    }
    figures.push(
        Figure::against("drain", "against the best relay of the registry", "events/s", ours, &best)
            .goal(Goal::AtLeast(2.0)),
    );
    figures
}

/// Commit to entry.
pub(crate) async fn latency(bed: &Bed, folder: &Path, count: u64, ours: &[f64]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for peer in PEERS {
        let database = prepared(bed, folder, peer).await;
        let _running = running(bed, folder, peer, &database);
        let publisher = Publisher::start(command(bed, folder, peer, &database).arg("publish"));
        let millis = to_entries(bed, publisher, count).await;
        let what = format!("commit to entry at 100 inserts/s, p50, against {peer}");
        figures.push(Figure::against("latency", what, "ms", &[median(ours)], &[percentile(&millis, 0.5)]));
    }
    figures
}

async fn prepared(bed: &Bed, folder: &Path, peer: &str) -> Database {
    let database = bed.empty().await;
    wait(command(bed, folder, peer, &database).arg("prepare")).await;
    database
}

fn command(bed: &Bed, folder: &Path, peer: &str, database: &Database) -> Command {
    let mut command = Command::new("node");
    command.arg(folder.join(format!("{peer}.mjs"))).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("DATABASE_URL", database.url()).env("REDIS_URL", bed.redis_url()).env("STREAM", STREAM);
    command
}

fn running(bed: &Bed, folder: &Path, peer: &str, database: &Database) -> Postbell {
    let script = folder.join(format!("{peer}.mjs"));
    let env = bed.env(database).with("STREAM", STREAM).with("PATH", "/usr/local/bin:/usr/bin:/bin");
    Postbell::spawn("node", &[script.to_str().unwrap(), "run"], &env)
}

async fn wait(command: &mut Command) {
    let status = command.status().await.unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A peer that publishes what it is told to.
struct Publisher {
    _child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Publisher {
    fn start(command: &mut Command) -> Publisher {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Publisher { _child: child, to, from }
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, number: u64) {
        self.to.write_all(format!("{number}\n").as_bytes()).await.unwrap();
        let done = format!("done {number}");
        while self.from.next_line().await.unwrap().expect("it goes on") != done {}
    }
}
