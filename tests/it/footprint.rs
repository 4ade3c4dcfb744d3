//! How many connections a process takes: what ops/README.md says of it.

use std::collections::BTreeSet;

use crate::harness::get;
use crate::harness::process::Postbell;
use crate::harness::stage::Stage;
use crate::metrics::address;

/// The cells of the row of the table that begins so: how many, for `relay`, `consumer` and `run`.
fn most(row: &str) -> [usize; 3] {
    let table = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/ops/README.md"));
    let line = table.lines().find(|line| line.starts_with(row)).unwrap();
    let number = |cell: &str| cell.trim().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let cells: Vec<usize> = line.trim_matches('|').split('|').skip(1).map(number).collect();
    cells.try_into().unwrap()
}

#[tokio::test]
async fn no_process_takes_more_connections_than_is_said() {
    let (postgres, redis) = (most("| connections to PostgreSQL"), most("| connections to Redis"));
    for (at, commands) in [&["relay", "consume"][..], &["consume", "relay"], &["run"]].into_iter().enumerate() {
        let stage = Stage::new().await;
        let measured = Postbell::start(&commands[..1], &stage.env);
        let beside: Vec<Postbell> =
            commands[1..].iter().map(|command| Postbell::start(&[command], &stage.env)).collect();
        let address = address(&measured).await;
        let mut seen = (0, 0);
        // Work of every kind, with a scrape in between.
        for _ in 0..3 {
            stage.publish(200).await;
            get(&address, "/metrics").await;
            stage.settled().await;
            let now = counted(&stage, measured.pid()).await;
            seen = (seen.0.max(now.0), seen.1.max(now.1));
        }
        let command = commands[0];
        assert!(seen.0 > 0 && seen.1 > 0, "{command}: {seen:?}");
        assert!(seen.0 <= postgres[at] && seen.1 <= redis[at], "{command}: {seen:?}");
        drop(beside);
    }
}

/// Connections of this process to PostgreSQL and to Redis.
async fn counted(stage: &Stage, pid: i32) -> (usize, usize) {
    let ports = remote_ports(pid);
    let to = |port: u16| ports.iter().filter(|remote| **remote == port).count();
    let postgres: i32 = stage.world.client().query_one("select inet_server_port()", &[]).await.unwrap().get(0);
    let redis = stage.world.redis.address();
    (to(postgres.try_into().unwrap()), to(redis.rsplit(':').next().unwrap().parse().unwrap()))
}

/// Where the established connections of a process lead to, as the kernel tells.
fn remote_ports(pid: i32) -> Vec<u16> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    let inodes: BTreeSet<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Remote address, state (01: established), inode.
    let own = rows.filter(|row| row[3] == "01" && inodes.contains(row[9]));
    own.map(|row| u16::from_str_radix(row[2].rsplit(':').next().unwrap(), 16).unwrap()).collect()
}
