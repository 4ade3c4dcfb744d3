//! What can be counted, and comes out the same on a busy machine: statements, commands, WAL, row versions and system calls
//! of an event's life. Limits stand a little above what they were when they were set.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::Client;

use crate::bed::{Bed, number, unfinished, while_running};
use crate::figure::{Figure, Goal};
use crate::harness::SOON;
use crate::harness::process::Postbell;
use crate::harness::servers::Database;

const WORK: &str = "counts";

/// Twenty batches of a relay.
const ROWS: u64 = 10_000;

/// Three times every row, five hundred at a time, as claim, take and record do, without room on the page.
const PLAIN_REWRITES: &str = "
    create table bench_plain (like notification_events including defaults including indexes) with (fillfactor = 100);
    insert into bench_plain select * from notification_events;
    vacuum (freeze, analyze) bench_plain";

const REWRITES: [&str; 3] = [
    "update bench_plain set hinted_until = now() + interval '1 minute', dispatched_at = now(), updated_at = now()
     where seq between $1 and $1 + 499",
    "update bench_plain set status = 'delivering', attempt = attempt + 1, sending_until = now() + interval '45 seconds',
        updated_at = now() where seq between $1 and $1 + 499",
    "update bench_plain set status = 'delivered', delivered_at = now(), completed_at = now(), sending_until = null,
        robot = 'default', response = '{\"errcode\":0,\"errmsg\":\"ok\"}', updated_at = now()
     where seq between $1 and $1 + 499",
];

pub(crate) async fn measure(bed: &Bed) -> Vec<Figure> {
    let database = bed.with_rows(ROWS).await;
    let client = database.client().await;
    prepare(&client).await;
    let plain = plain_rewrites(&client).await;
    let mut figures = Vec::new();
    let mut wal = 0.0;
    for (part, statements, commands, syscalls) in [("relay", 0.01, 1.02, 0.9), ("consume", 0.2, 0.3, 14.0)] {
        let before = Counted::now(bed, &client).await;
        let mut traced = Traced::start(part, bed, &database);
        while_running(&mut traced.process, async || match part {
            "relay" => bed.entries().await == ROWS,
            _ => unfinished(&client).await == 0.0 && bed.entries().await == 0,
        })
        .await;
        let calls = traced.stop().await;
        let after = Counted::now(bed, &client).await;
        wal += after.wal - before.wal;
        let of = |what: &str| format!("{what} of postbell {part}");
        let each = |before: f64, after: f64| (after - before) / ROWS as f64;
        figures.extend([
            Figure::plain(WORK, of("statements"), each(before.statements, after.statements), "an event")
                .goal(Goal::AtMost(statements)),
            Figure::plain(WORK, of("Redis commands"), each(before.commands, after.commands), "an event")
                .goal(Goal::AtMost(commands)),
            Figure::plain(WORK, of("row versions"), each(before.versions, after.versions), "an event"),
            Figure::plain(WORK, of("row versions in place (HOT)"), each(before.in_place, after.in_place), "an event"),
            Figure::plain(WORK, of("WAL"), each(before.wal, after.wal), "bytes an event"),
        ]);
        if let Some(calls) = calls {
            let each = calls / ROWS as f64;
            figures.push(Figure::plain(WORK, of("system calls"), each, "an event").goal(Goal::AtMost(syscalls)));
        }
    }
    let wal = wal / ROWS as f64;
    let what = "WAL of an event's life after the insert, against three plain rewrites of its row";
    figures.push(Figure::against(WORK, what, "bytes an event", &[wal], &[plain]).goal(Goal::AtMost(0.8)));
    let dead =
        number(&client, "select n_dead_tup from pg_stat_user_tables where relname = 'notification_events'").await;
    figures.push(Figure::plain(WORK, "dead rows that are left to vacuum", dead / ROWS as f64, "an event"));
    figures
}

/// Neither a checkpoint nor vacuum may write something in between.
async fn prepare(client: &Client) {
    for statement in [
        "create extension if not exists pg_stat_statements",
        "alter system set full_page_writes = off",
        "alter system set autovacuum = off",
        "select pg_reload_conf()",
        "checkpoint",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
}

/// Bytes of WAL an event.
async fn plain_rewrites(client: &Client) -> f64 {
    client.batch_execute("set synchronous_commit = off").await.unwrap();
    for statement in PLAIN_REWRITES.split(';') {
        client.batch_execute(statement).await.unwrap();
    }
    let before = number(client, "pg_current_wal_insert_lsn() - '0/0'").await;
    for rewrite in REWRITES {
        for from in (1..=ROWS as i64).step_by(500) {
            client.execute(rewrite, &[&from]).await.unwrap();
        }
    }
    let after = number(client, "pg_current_wal_insert_lsn() - '0/0'").await;
    client.batch_execute("reset synchronous_commit").await.unwrap();
    (after - before) / ROWS as f64
}

/// What the servers have counted until now.
struct Counted {
    statements: f64,
    commands: f64,
    versions: f64,
    in_place: f64,
    wal: f64,
}

impl Counted {
    async fn now(bed: &Bed, client: &Client) -> Counted {
        // Statements that say which step of postbell's protocol they are.
        let statements = "select coalesce(sum(calls), 0) from pg_stat_statements
            where dbid = (select oid from pg_database where datname = current_database()) and query like '-- %'";
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut bed.queue()).await.unwrap();
        // XLEN is asked for by this benchmark as well; postbell has it in the same round trip as its entries.
        let calls = info.lines().filter(|line| line.starts_with("cmdstat_x") && !line.starts_with("cmdstat_xlen"));
        let calls = calls.filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<f64>().ok());
        let table =
            |column: &str| format!("select {column} from pg_stat_user_tables where relname = 'notification_events'");
        Counted {
            statements: number(client, statements).await,
            commands: calls.sum(),
            versions: number(client, &table("n_tup_upd")).await,
            in_place: number(client, &table("n_tup_hot_upd")).await,
            wal: number(client, "pg_current_wal_insert_lsn() - '0/0'").await,
        }
    }
}

/// postbell, with its system calls counted where strace is on this machine.
struct Traced {
    process: Postbell,
    log: Option<PathBuf>,
}

impl Traced {
    fn start(part: &str, bed: &Bed, database: &Database) -> Traced {
        let env = bed.env(database);
        if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
            return Traced { process: Postbell::start(&[part], &env), log: None };
        }
        let log = std::env::temp_dir().join(format!("postbell-bench-{:016x}", fastrand::u64(..)));
        let binary = env!("CARGO_BIN_EXE_postbell");
        let arguments = ["--follow-forks", "--summary-only", "--output", log.to_str().unwrap(), binary, part];
        Traced { process: Postbell::spawn("strace", &arguments, &env.with("PATH", "/usr/bin:/bin")), log: Some(log) }
    }

    /// Ends it; the calls it made.
    async fn stop(mut self) -> Option<f64> {
        let Some(log) = self.log else {
            self.process.sigterm();
            self.process.exit_status(SOON).await;
            return None;
        };
        // The tracer passes no signal on.
        let tracer = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).unwrap();
        let traced = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
        kill_process(traced, Signal::TERM).unwrap();
        self.process.exit_status(SOON).await;
        let summary = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        let total = summary.lines().rfind(|line| line.ends_with("total"))?;
        total.split_whitespace().nth(3)?.parse().ok()
    }
}
