//! One run, from the first server to the verdict.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::faults::{self, Done};
use crate::harness::{SOON, eventually};
use crate::judge::{self, Row};
use crate::ledger::Ledger;
use crate::options::{Options, Order};
use crate::progress::Progress;
use crate::recovery;
use crate::report::{MOST_STORIES, Report};
use crate::schedule::{self, Kind, Schedule};
use crate::writers::Writers;

/// How long the last events may take.
const DRAIN: Duration = Duration::from_secs(60);

/// A thread that wanted to sleep for a tick and slept so much longer got no time: neither did anybody else.
const TICK: Duration = Duration::from_millis(50);
const STOOD_STILL: Duration = Duration::from_millis(500);

/// As `ops/chaos` starts it: tells how it gets on, and ends with the report.
pub(crate) fn by_itself(options: &Options) -> ExitCode {
    let order = options.order();
    let ledger = Arc::new(Ledger::default());
    let progress = Progress::new(order, ledger.clone());
    let report = runtime().block_on(run(order, ledger, progress));
    if options.json {
        println!("{}", report.json())
    } else {
        println!("{report}")
    }
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As `cargo test` starts it: a short run, and the tests of what the verdict rests on.
pub(crate) fn among_tests(options: &Options) -> ExitCode {
    let order = options.tested_order();
    let run = Trial::test("nothing_is_lost_and_every_duplicate_is_explained", move || {
        let ledger = Arc::new(Ledger::default());
        let report = runtime().block_on(run(order, ledger.clone(), Progress::silent(ledger)));
        if report.passed() {
            println!("\n{report}\n");
            return Ok(());
        }
        Err(report.to_string().into())
    });
    macro_rules! trials {
        ($($module:ident: $($name:ident)*;)*) => {
            [$($(Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
                $module::tests::$name();
                Ok(())
            }),)*)*]
        };
    }
    let judged = trials! {
        schedule:
            a_seed_is_a_schedule
            a_round_has_every_kind_of_fault
            a_fault_is_about_those_who_can_have_it;
        judge:
            a_committed_event_that_arrived_once_is_delivered
            a_committed_event_that_never_arrived_is_lost
            an_event_that_was_not_committed_must_not_be_sent
            where_the_answer_to_the_commit_was_lost_the_table_knows
            a_duplicate_is_explained_only_by_a_fault_of_that_moment_that_hides_outcomes
            an_answer_that_the_robot_kept_to_itself_explains_the_next_send
            every_send_of_an_event_has_the_same_key_and_body
            an_event_that_asks_for_at_most_one_delivery_fails_only_after_a_fault_and_is_never_sent_twice
            what_nobody_wrote_is_unexplained;
    };
    options.run(judged.into_iter().chain([run]).collect()).exit_code()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

async fn run(order: Order, ledger: Arc<Ledger>, progress: Progress) -> Report {
    progress.doing("starting servers");
    let machine = Machine::watch();
    let mut cluster = Cluster::start(order, ledger.clone()).await;
    let writers = Writers::start(&cluster.business_url(), &ledger, order.seed);
    let started = Instant::now();
    let (mut faults, mut recoveries, mut failures) = (Vec::new(), BTreeMap::<_, Vec<_>>::new(), Vec::new());
    let mut schedule = Schedule::new(order.seed);
    eventually(SOON, "the first event to arrive", async || (ledger.totals().arrived > 0).then_some(())).await;
    while started.elapsed() < order.lasts && failures.is_empty() {
        progress.at(started.elapsed());
        let planned = schedule.next();
        if !planned.iter().all(|fault| cluster.can_have(fault)) {
            recoveries.entry(planned[0].kind).or_default();
            continue;
        }
        let what: Vec<String> = planned.iter().map(|fault| fault.describe()).collect();
        let what = what.join(", and meanwhile ");
        progress.doing(&what);
        // What delivery takes without a fault, on this machine at this time; and a pause after the fault before.
        let usual = match recovery::watch(&cluster, &ledger, Instant::now(), None).await {
            Ok(usual) => usual,
            Err(why) => {
                failures.push(format!("without any fault: {why}"));
                break;
            }
        };
        recoveries.entry(Kind::Nothing).or_default().push(usual);
        let (done, since) = faults::inflict(&mut cluster, &ledger, &planned).await;
        let kind = if done.len() > 1 { Kind::TwoAtOnce } else { planned[0].kind };
        faults.extend(done);
        match recovery::watch(&cluster, &ledger, since, Some(usual.flows)).await {
            Ok(recovery) => {
                recoveries.entry(kind).or_default().push(recovery);
                progress.recovered(&what, recovery);
            }
            Err(why) => failures.push(format!("no recovery from: {what}: {why}")),
        }
        failures.extend(cluster.deaths());
    }
    progress.doing("waiting for the last events");
    writers.stop().await;
    failures.extend(drain(&cluster).await);
    failures.extend(cluster.deaths());
    let stood_still = machine.stood_still();
    faults.extend(&stood_still);
    let rows = rows(&cluster).await;
    let findings = judge::judge(&ledger.pages(), &rows, &faults);
    failures.append(&mut ledger.pages().oddities);
    let mut ids: Vec<Uuid> = findings.problems().map(|problem| problem.id).collect();
    ids.dedup();
    let stories = ids.into_iter().take(MOST_STORIES);
    let stories = stories.map(|id| story(id, started, &cluster, &ledger, rows.get(&id), &faults)).collect();
    progress.finish();
    let stood_still = stood_still.len();
    Report { order, took: started.elapsed(), recoveries, findings, failures, stories, stood_still }
}

/// Waits until every event is complete and every hint is gone; what is left over is a failure.
async fn drain(cluster: &Cluster) -> Vec<String> {
    let client = cluster.client().await;
    let open = "select count(*) from notification_events where completed_at is null";
    let limit = Instant::now() + DRAIN;
    loop {
        let events: i64 = client.query_one(open, &[]).await.unwrap().get(0);
        let hints = cluster.hints().await;
        if (events, hints) == (0, 0) {
            return Vec::new();
        }
        if Instant::now() > limit {
            return vec![format!(
                "{events} events are not complete and {hints} hints are left after {DRAIN:?} of quiet"
            )];
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn rows(cluster: &Cluster) -> HashMap<Uuid, Row> {
    let query =
        "select id, status, last_error, extract(epoch from completed_at - created_at)::double precision as lived
        from notification_events";
    let rows = cluster.client().await.query(query, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| {
        let lived: Option<f64> = row.get("lived");
        let lived = lived.and_then(|lived| Duration::try_from_secs_f64(lived).ok());
        (row.get("id"), Row { status: row.get("status"), last_error: row.get("last_error"), lived })
    };
    rows.iter().map(row).collect()
}

/// All that is known of an event, for whoever has to find out what went wrong.
fn story(id: Uuid, started: Instant, cluster: &Cluster, ledger: &Ledger, row: Option<&Row>, faults: &[Done]) -> String {
    let second = |time: Instant| match time.checked_duration_since(started) {
        Some(after) => format!("{:9.3} s", after.as_secs_f64()),
        None => "before     ".to_owned(),
    };
    let pages = ledger.pages();
    let mut lines: Vec<(Instant, String)> = Vec::new();
    if let Some(written) = pages.written.get(&id) {
        let once = if written.at_most_once { ", to be sent at most once" } else { "" };
        lines.push((written.begun, format!("begun{once}, due at {}", second(written.due).trim())));
        lines.extend(written.ended.map(|(at, end)| (at, format!("{end:?}"))));
    }
    for seen in pages.sightings.get(&id).into_iter().flatten() {
        let script = seen.script.map(|script| format!(" ({script})")).unwrap_or_default();
        let key = seen.msg_uuid.as_deref().unwrap_or("none");
        lines.push((seen.at, format!("sent: {:?}{script}, msgUuid {key}", seen.verdict)));
    }
    let (first, last) = (lines.iter().map(|line| line.0).min(), lines.iter().map(|line| line.0).max());
    let near = Duration::from_secs(3);
    for fault in faults {
        if first.is_some_and(|first| fault.ends + near >= first) && last.is_some_and(|last| fault.begins <= last + near)
        {
            lines.push((fault.begins, format!("fault: {} until {}", fault.kind.name(), second(fault.ends).trim())));
        }
    }
    lines.sort_by_key(|line| line.0);
    let mut story = format!("{id}, now {row:?}");
    for (time, line) in lines {
        story.push_str(&format!("\n    {}  {line}", second(time)));
    }
    for member in &cluster.members {
        for line in member.lines_with(&id.to_string()) {
            story.push_str(&format!("\n    {}: {line}", member.name));
        }
    }
    story
}

/// Notices when this machine gives nobody any time: then leases run out that nobody could keep.
struct Machine {
    stood_still: Arc<Mutex<Vec<Done>>>,
}

impl Machine {
    /// Watches until this value is gone.
    fn watch() -> Machine {
        let stood_still: Arc<Mutex<Vec<Done>>> = Arc::default();
        let watched = Arc::downgrade(&stood_still);
        std::thread::spawn(move || {
            loop {
                let begins = Instant::now();
                std::thread::sleep(TICK);
                let Some(stood_still) = watched.upgrade() else { return };
                if begins.elapsed() > STOOD_STILL {
                    let done = Done { kind: Kind::Machine, begins, ends: Instant::now(), blinds: true };
                    stood_still.lock().unwrap().push(done);
                }
            }
        });
        Machine { stood_still }
    }

    fn stood_still(&self) -> Vec<Done> {
        self.stood_still.lock().unwrap().clone()
    }
}
