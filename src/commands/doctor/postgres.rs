//! The server, the role, the schema, and what happens in it.

use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool};
use serde::Deserialize;

use super::{Finding, Report};
use crate::channel::Target;
use crate::config::{self, show};
use crate::db::{self, Database};
use crate::migrations::{self, Schema};
use crate::relay;
use crate::store::Store;

const SERVER: &str = "PostgreSQL";
const SCHEMA: &str = "schema";
const ROLE: &str = "role";
const LISTEN: &str = "LISTEN";
const BACKLOG: &str = "backlog";

/// The oldest server that the schema works on.
const OLDEST: i32 = 130_000;

/// Clocks that are further apart than this are told of, …
const SKEW: f64 = 5.0;
/// … and so far apart that `expires_at` is judged wrongly, and signatures soon are.
const BAD_SKEW: f64 = 300.0;

/// A transaction that is open for longer keeps dead rows.
const OLD_TRANSACTION: Duration = Duration::from_secs(15 * 60);

/// A replication slot that is so many transactions behind keeps dead rows.
const OLD_SLOT: i64 = 1_000_000;

/// Rows that are due for longer than this have nobody who moves them.
const OVERDUE: Duration = Duration::from_secs(60);

/// Dead rows below this number are no matter.
const FEW_DEAD_ROWS: i64 = 50_000;

/// Most rows of the backlog that are counted.
const MOST_DUE: i64 = 100_000;

/// What `sql/operate/doctor.sql` finds.
#[derive(Clone, Debug, Deserialize)]
struct Facts {
    version: String,
    version_num: i32,
    is_standby: bool,
    role: String,
    is_superuser: bool,
    fsync: String,
    full_page_writes: String,
    synchronous_standby_names: String,
    autovacuum: String,
    clock_s: f64,
    most_connections: i64,
    connections: i64,
    relays: i64,
    sees_others: bool,
    oldest_transaction: Option<Open>,
    prepared: Option<Prepared>,
    slot: Option<Slot>,
    has_history: bool,
    trigger: Option<String>,
    rows: Option<Rows>,
    lacking: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Open {
    pid: i32,
    seconds: f64,
    by: Option<String>,
    application: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Prepared {
    name: String,
    seconds: f64,
}

/// A replication slot that keeps dead rows.
#[derive(Clone, Debug, Deserialize)]
struct Slot {
    name: String,
    /// In transactions.
    age: i64,
    active: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Rows {
    live: i64,
    dead: i64,
    vacuumed_at: Option<String>,
}

/// Looks, and returns the rows of `notification_channels` where they can be read.
pub(super) async fn look(
    report: &mut Report,
    config: &config::Database,
    relay: &config::Relay,
) -> anyhow::Result<Option<Vec<Target>>> {
    let database = Database::new(config)?;
    let pool = database.pool(2)?;
    let place = database.place();
    let client = match db::client(&pool).await {
        Ok(client) => client,
        Err(error) => {
            report.add([unreachable(&place, &error)])?;
            return Ok(None);
        }
    };
    let before = jiff::Timestamp::now();
    let asked = Instant::now();
    let facts = match facts(&client).await {
        Ok(facts) => facts,
        Err(error) => {
            report.add([not_read(SERVER, &error)])?;
            return Ok(None);
        }
    };
    // In the middle of the way there and back.
    let here = before.as_duration().as_secs_f64() + asked.elapsed().as_secs_f64() / 2.0;
    report.add(server(&facts, &place))?;
    report.add([clock("PostgreSQL", facts.clock_s - here), crashes(&facts), connections(&facts)])?;
    report.add(transactions(&facts))?;
    let lacking = rights(&facts);
    let may_read = lacking.verdict != super::Verdict::Fail;
    let schema = match facts.has_history && facts.lacking.iter().any(|what| what.ends_with("postbell_schema_history")) {
        true => None,
        false => Some(migrations::look(&client).await),
    };
    let is_there = matches!(&schema, Some(Ok(schema)) if schema.pending.is_empty());
    report.add(schema.map(|schema| self::schema(schema, facts.has_history)))?;
    if facts.has_history {
        report.add([lacking])?;
    }
    drop(client);
    report.add([listening(&database, &pool, relay).await])?;
    if !is_there || !may_read {
        return Ok(None);
    }
    report.add(wake_up(&facts))?;
    report.add(facts.rows.as_ref().map(|rows| dead_rows(rows, &facts.autovacuum)))?;
    let store = Store::new(pool.clone());
    report.add([backlog(&store, &facts).await])?;
    report.add(closed(&store).await)?;
    Ok(store.targets().await.ok())
}

async fn facts(client: &Object) -> anyhow::Result<Facts> {
    let row = client.query_one(include_str!("../../../sql/operate/doctor.sql"), &[]).await.map_err(db::Failed::from)?;
    Ok(serde_json::from_value(row.get(0))?)
}

fn unreachable(place: &str, error: &anyhow::Error) -> Finding {
    let said = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let remedy = if db::refuses_for_good(error) {
        "correct user, password or database in DATABASE_URL, or the server's pg_hba.conf"
    } else {
        "start it, or correct host and port in DATABASE_URL; nothing that depends on it was looked at"
    };
    Finding::fail(SERVER, format!("at {place} cannot be used: {said}"), remedy)
}

/// A question that the server did not answer.
fn not_read(what: &'static str, error: &anyhow::Error) -> Finding {
    let remedy = if db::is_pooled(error) {
        "connect directly, or through a pooler in session mode: this looks like one in transaction mode"
    } else {
        "see the server's log"
    };
    Finding::fail(what, format!("cannot be read: {error:#}"), remedy)
}

fn server(facts: &Facts, place: &str) -> Vec<Finding> {
    let Facts { version, .. } = facts;
    if facts.version_num < OLDEST {
        return vec![Finding::fail(SERVER, format!("{version} is too old"), "13 or later is needed")];
    }
    if facts.is_standby {
        return vec![Finding::fail(
            SERVER,
            format!("{version} at {place} is a standby: nothing can be written there"),
            "point DATABASE_URL to the primary; target_session_attrs=read-write finds it among several hosts",
        )];
    }
    vec![Finding::ok(SERVER, format!("{version} at {place}, a primary"))]
}

/// How far another clock is ahead of this machine's.
pub(super) fn clock(whose: &str, ahead_s: f64) -> Finding {
    const WHAT: &str = "clock";
    let apart = format!(
        "of {whose} is {:.1} s {} this machine's",
        ahead_s.abs(),
        if ahead_s < 0.0 { "behind" } else { "ahead of" }
    );
    let remedy = "run NTP on both: expires_at is compared with this machine's clock, and DingTalk refuses signatures an hour off";
    match ahead_s.abs() {
        off if off > BAD_SKEW => Finding::fail(WHAT, apart, remedy),
        off if off > SKEW => Finding::warn(WHAT, apart, remedy),
        _ => Finding::ok(WHAT, apart),
    }
}

fn crashes(facts: &Facts) -> Finding {
    const WHAT: &str = "durability";
    if facts.fsync == "off" || facts.full_page_writes == "off" {
        let off: Vec<&str> = [("fsync", &facts.fsync), ("full_page_writes", &facts.full_page_writes)]
            .into_iter()
            .filter(|(_, value)| *value == "off")
            .map(|(name, _)| name)
            .collect();
        return Finding::warn(
            WHAT,
            format!(
                "{} off: a crash of that machine may lose committed events, or all of the database",
                off.join(" and ")
            ),
            "alter system set fsync = on; alter system set full_page_writes = on; off is for tests",
        );
    }
    // synchronous_commit every session of postbell sets for itself.
    let standbys = match facts.synchronous_standby_names.as_str() {
        "" => "no synchronous standby: a failover may lose the last commits".to_owned(),
        names => format!("synchronous standbys: {names}"),
    };
    Finding::ok(WHAT, format!("commits are on disk; {standbys}"))
}

fn connections(facts: &Facts) -> Finding {
    /// What one `postbell run` may need.
    const NEEDED: i64 = 7;
    const WHAT: &str = "connections";
    let Facts { connections, most_connections, .. } = facts;
    let found = format!("{connections} of {most_connections} in use");
    if most_connections - connections < NEEDED {
        return Finding::warn(
            WHAT,
            found,
            format!("raise max_connections, or stop others: one sidecar may need {NEEDED}"),
        );
    }
    Finding::ok(WHAT, found)
}

fn transactions(facts: &Facts) -> Vec<Finding> {
    const WHAT: &str = "transactions";
    let old = |seconds: f64| seconds > OLD_TRANSACTION.as_secs_f64();
    let since = |seconds: f64| crate::commands::roughly(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let mut findings = Vec::new();
    if let Some(Prepared { name, seconds }) = facts.prepared.as_ref().filter(|one| old(one.seconds)) {
        findings.push(Finding::warn(
            WHAT,
            format!("prepared and never ended, since {}: {name}", since(*seconds)),
            "commit prepared or rollback prepared it: it holds its locks, and no dead row goes meanwhile",
        ));
    }
    if let Some(Open { pid, seconds, by, application }) =
        facts.oldest_transaction.as_ref().filter(|one| old(one.seconds))
    {
        let who = [by, application].into_iter().flatten().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>();
        findings.push(Finding::warn(
            WHAT,
            format!("open for {}: process {pid} of {}", since(*seconds), who.join(", ")),
            format!("end it, or select pg_terminate_backend({pid}): no dead row goes meanwhile, and the table grows"),
        ));
    }
    if let Some(Slot { name, age, active }) = facts.slot.as_ref().filter(|slot| slot.age > OLD_SLOT) {
        let idle = if *active { "" } else { ", and nobody reads it" };
        findings.push(Finding::warn(
            WHAT,
            format!("the replication slot {name} is {age} transactions behind{idle}"),
            format!("bring its standby back, or select pg_drop_replication_slot('{name}'): no dead row goes meanwhile"),
        ));
    }
    if findings.is_empty() {
        let seen = if facts.sees_others { "" } else { ", as far as this role sees (grant pg_monitor shows all)" };
        findings.push(Finding::ok(WHAT, format!("none is open for more than {}{seen}", show(OLD_TRANSACTION))));
    }
    findings
}

fn schema(schema: anyhow::Result<Schema>, has_history: bool) -> Finding {
    let migrate = "postbell migrate, as the owner of the database";
    match schema {
        Err(error) => not_read(SCHEMA, &error),
        Ok(_) if !has_history => {
            Finding::fail(SCHEMA, "is missing", format!("{migrate}; or DATABASE_URL names another database"))
        }
        Ok(Schema { changed, .. }) if !changed.is_empty() => Finding::fail(
            SCHEMA,
            format!("was made by other migrations than this postbell's: {}", changed.join(", ")),
            "use the released binary that made it, or a newer one; a released migration never changes",
        ),
        Ok(Schema { pending, version, .. }) if !pending.is_empty() => Finding::fail(
            SCHEMA,
            format!("is at version {version}; not applied yet: {}", pending.join(", ")),
            format!("{migrate}; before the sidecars are updated"),
        ),
        Ok(Schema { version, .. }) if version > migrations::newest() => Finding::ok(
            SCHEMA,
            format!("version {version}, newer than this postbell's {}, which works on it", migrations::newest()),
        ),
        Ok(Schema { version, .. }) => Finding::ok(SCHEMA, format!("version {version}")),
    }
}

fn rights(facts: &Facts) -> Finding {
    let Facts { role, lacking, .. } = facts;
    if !lacking.is_empty() {
        return Finding::fail(
            ROLE,
            format!("{role} may not do what a sidecar does: {}", lacking.join(", ")),
            format!("as the owner: select notification_grant('{role}', 'relay')"),
        );
    }
    if facts.is_superuser {
        return Finding::warn(
            ROLE,
            format!("{role} is a superuser"),
            "create a role of its own for the sidecar: select notification_grant('…', 'relay') is all it needs",
        );
    }
    Finding::ok(ROLE, format!("{role} has what a sidecar needs"))
}

async fn listening(database: &Database, pool: &Pool, relay: &config::Relay) -> Finding {
    let Err(error) = relay::hears(database, &Store::new(pool.clone())).await else {
        return Finding::ok(LISTEN, "notifications come through");
    };
    let found = format!("{error:#}");
    let remedy =
        "connect directly, or through a pooler in session mode; where that cannot be, NOTIFICATION_POLL_INTERVAL=1s";
    // Somebody knows, and has done what there is to do.
    if relay.poll_interval <= Duration::from_secs(1) {
        return Finding::warn(LISTEN, found, remedy);
    }
    Finding::fail(LISTEN, found, remedy)
}

fn wake_up(facts: &Facts) -> Option<Finding> {
    const WHAT: &str = "wake-up";
    let found = match facts.trigger.as_deref() {
        Some("O" | "A") => return None,
        Some(_) => "the trigger notification_events_wake_relay is disabled: new events wait for the next poll",
        None => "the trigger notification_events_wake_relay is gone: new events wait for the next poll",
    };
    let remedy = "alter table notification_events enable trigger notification_events_wake_relay; where it is gone, make it \
                  again as sql/migrations/V11__wake_up_condition.sql does";
    Some(Finding::fail(WHAT, found, remedy))
}

fn dead_rows(rows: &Rows, autovacuum: &str) -> Finding {
    const WHAT: &str = "dead rows";
    let Rows { live, dead, vacuumed_at } = rows;
    let vacuumed = vacuumed_at.as_deref().map_or("never", |at| at.split('.').next().unwrap_or(at));
    let found = format!("about {dead} beside {live} living ones; last vacuum: {vacuumed}");
    if autovacuum == "off" {
        return Finding::fail(
            WHAT,
            format!("autovacuum is off; {found}"),
            "alter system set autovacuum = on; a queue needs it",
        );
    }
    if *dead > FEW_DEAD_ROWS && dead > live {
        return Finding::warn(
            WHAT,
            found,
            "vacuum notification_events; if they stay, an old transaction or replication slot keeps them",
        );
    }
    Finding::ok(WHAT, found)
}

async fn backlog(store: &Store, facts: &Facts) -> Finding {
    let backlog = match store.backlog(MOST_DUE).await {
        Ok(backlog) => backlog,
        Err(error) => return not_read(BACKLOG, &error),
    };
    let relays = match facts.relays {
        0 => "no relay listens".to_owned(),
        1 => "1 relay listens".to_owned(),
        relays => format!("{relays} relays listen"),
    };
    if backlog.due > 0 && backlog.oldest > OVERDUE {
        let oldest = crate::commands::roughly(backlog.oldest);
        return Finding::fail(
            BACKLOG,
            format!("{} events are due, the oldest for {oldest}; {relays}", backlog.due),
            "start postbell run, or look at /readyz of the relays: nobody hints these events",
        );
    }
    let found = format!("{} due; {relays}", backlog.due);
    if facts.relays == 0 {
        return Finding::warn(BACKLOG, found, "start postbell run, or postbell relay: nothing is sent until then");
    }
    Finding::ok(BACKLOG, found)
}

/// The robots that take nothing now, whatever their settings here are.
async fn closed(store: &Store) -> Vec<Finding> {
    const WHAT: &str = "robots";
    let remedy = "postbell robots says more; correct what it names, then postbell robots resume NAME";
    match store.closed_robots().await {
        Err(error) => vec![not_read(WHAT, &error)],
        Ok(lines) => {
            let judge = |line: String| {
                let is_broken = line.contains(" is paused by postbell");
                let line = line.trim_start_matches("robot ").to_owned();
                if is_broken { Finding::fail(WHAT, line, remedy) } else { Finding::warn(WHAT, line, remedy) }
            };
            lines.into_iter().map(judge).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_of_and_those_that_differ_much_are_a_failure() {
        for (ahead, verdict, says) in [
            (0.2, Verdict::Ok, "0.2 s ahead of"),
            (-8.0, Verdict::Warn, "8.0 s behind"),
            (4000.0, Verdict::Fail, "4000.0 s ahead"),
        ] {
            let finding = clock("Redis", ahead);
            assert_eq!(finding.verdict, verdict);
            assert!(finding.found.contains(says), "{finding:?}");
        }
    }

    /// A server on which all is well, but for this.
    fn facts(but: serde_json::Value) -> Facts {
        let mut whole = serde_json::json!({
            "version": "17.2", "version_num": 170_002, "is_standby": false, "role": "postbell", "is_superuser": false,
            "fsync": "on", "full_page_writes": "on", "synchronous_standby_names": "", "autovacuum": "on", "clock_s": 0.0,
            "most_connections": 97, "connections": 12, "relays": 1, "sees_others": true, "has_history": true, "trigger": "O",
            "lacking": [],
        });
        let serde_json::Value::Object(but) = but else { panic!("{but}") };
        whole.as_object_mut().unwrap().extend(but);
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_server_that_is_too_old_or_takes_no_writes_fails() {
        let judged = |but| server(&facts(but), "db").remove(0);
        assert_eq!(judged(serde_json::json!({})).verdict, Verdict::Ok);
        assert_eq!(judged(serde_json::json!({"version_num": 120_000})).verdict, Verdict::Fail);
        let standby = judged(serde_json::json!({"is_standby": true}));
        assert!(standby.verdict == Verdict::Fail && standby.found.contains("standby"), "{standby:?}");
    }

    #[test]
    fn transactions_and_slots_that_keep_dead_rows_are_warned_of_by_name() {
        let judged = |but| transactions(&facts(but));
        assert_eq!(judged(serde_json::json!({}))[0].verdict, Verdict::Ok);
        let young =
            serde_json::json!({"oldest_transaction": {"pid": 7, "seconds": 60.0, "by": "hire", "application": "psql"}});
        assert_eq!(judged(young)[0].verdict, Verdict::Ok);
        let old = judged(serde_json::json!({
            "oldest_transaction": {"pid": 7, "seconds": 4000.0, "by": "hire", "application": "psql"},
            "prepared": {"name": "two-phase", "seconds": 90_061.0},
            "slot": {"name": "standby_1", "age": 2_000_000, "active": false},
        }));
        let found: Vec<&str> = old.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(
            found,
            [
                "prepared and never ended, since 1 d 1 h: two-phase",
                "open for 1 h 6 min: process 7 of hire, psql",
                "the replication slot standby_1 is 2000000 transactions behind, and nobody reads it"
            ]
        );
        assert!(old.iter().all(|finding| finding.verdict == Verdict::Warn));
        let blind = judged(serde_json::json!({"sees_others": false}));
        assert!(blind[0].found.contains("as far as this role sees"), "{blind:?}");
    }

    #[test]
    fn what_a_crash_could_cost_and_connections_that_run_out_are_warned_of() {
        assert_eq!(crashes(&facts(serde_json::json!({}))).verdict, Verdict::Ok);
        let off = crashes(&facts(serde_json::json!({"fsync": "off", "full_page_writes": "off"})));
        assert!(off.verdict == Verdict::Warn && off.found.starts_with("fsync and full_page_writes off"), "{off:?}");
        assert_eq!(connections(&facts(serde_json::json!({}))).verdict, Verdict::Ok);
        assert_eq!(connections(&facts(serde_json::json!({"connections": 95}))).verdict, Verdict::Warn);
    }

    #[test]
    fn dead_rows_matter_where_they_are_many() {
        let rows = |live, dead| Rows { live, dead, vacuumed_at: None };
        assert_eq!(dead_rows(&rows(10, 40_000), "on").verdict, Verdict::Ok);
        assert_eq!(dead_rows(&rows(900_000, 400_000), "on").verdict, Verdict::Ok);
        assert_eq!(dead_rows(&rows(90_000, 400_000), "on").verdict, Verdict::Warn);
        assert_eq!(dead_rows(&rows(1, 1), "off").verdict, Verdict::Fail);
    }
}
