//! What a run tells at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::cluster::HINT_LEASE;
use crate::judge::Findings;
use crate::options::Order;
use crate::recovery::Recovery;
use crate::schedule::Kind;

/// Longest time until delivery flows again after a FLUSHALL, beyond what delivery takes anyhow: a machine that is busy
/// with something else is slow without a fault, too.
const AFTER_FLUSHALL: Duration = Duration::from_secs(2);

/// The same until what had lost its hints by it is delivered: no lease can have helped by then.
const WITHOUT_A_LEASE: Duration = HINT_LEASE.saturating_sub(Duration::from_secs(1));

const LEGEND: &str = " flows: until the robot got an event that was published afterwards
 caught up: until it got all that was due; counted from the beginning of a fault that others can cover, else from its end";

/// Complaints that are told; a run that goes wrong may have thousands.
const MOST_COMPLAINTS: usize = 20;

/// Events with a problem that are told with all that is known of them.
pub(crate) const MOST_STORIES: usize = 5;

/// A finished run.
pub(crate) struct Report {
    pub(crate) order: Order,
    pub(crate) took: Duration,
    /// By kind of fault, in the order in which they came.
    pub(crate) recoveries: BTreeMap<Kind, Vec<Recovery>>,
    pub(crate) findings: Findings,
    /// What went wrong beside what became of events: no recovery, a process that died by itself, hints left over.
    pub(crate) failures: Vec<String>,
    /// What is known of the first events that have a problem.
    pub(crate) stories: Vec<String>,
    /// How often this machine gave nobody any time.
    pub(crate) stood_still: usize,
}

impl Report {
    /// Everything that must not be, a line each; none: it passed.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = self.failures.clone();
        for recovery in self.recoveries.get(&Kind::FlushAll).into_iter().flatten() {
            let Recovery { flows, caught_up, usual } = recovery;
            if *flows >= AFTER_FLUSHALL + *usual || *caught_up >= WITHOUT_A_LEASE + *usual {
                complaints.push(format!(
                    "after FLUSHALL delivery flowed again after {flows:.2?} (allowed: {AFTER_FLUSHALL:?}) and had caught up \
                     after {caught_up:.2?} (allowed: {WITHOUT_A_LEASE:?}), where it usually takes {usual:.2?}"
                ));
            }
        }
        complaints.extend(self.findings.problems().map(|problem| format!("{}: {}", problem.id, problem.why)));
        complaints
    }

    pub(crate) fn passed(&self) -> bool {
        self.complaints().is_empty()
    }

    fn faults(&self) -> usize {
        self.recoveries.iter().filter(|(kind, _)| **kind != Kind::Nothing).map(|(_, times)| times.len()).sum()
    }

    fn recovery_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["fault", "times", "flows: median", "longest", "caught up: median", "longest", "sent again"]);
        for (kind, recoveries) in &self.recoveries {
            let flows = spread(recoveries.iter().map(|recovery| recovery.flows));
            let caught_up = spread(recoveries.iter().map(|recovery| recovery.caught_up));
            let again = self.findings.sent_again.get(kind).copied().unwrap_or(0);
            table.add_row([
                if recoveries.is_empty() { format!("{} (not here)", kind.name()) } else { kind.name().to_owned() },
                recoveries.len().to_string(),
                seconds(flows.0),
                seconds(flows.1),
                seconds(caught_up.0),
                seconds(caught_up.1),
                if again == 0 { String::new() } else { again.to_string() },
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn counts(&self) -> Vec<(&'static str, usize, String)> {
        let findings = &self.findings;
        let none = String::new;
        vec![
            (
                "committed",
                findings.committed,
                format!("of {} the answer to the commit was lost", findings.committed_unheard),
            ),
            ("delivered", findings.delivered, none()),
            ("failed as asked", findings.given_up, "at most one delivery, outcome hidden by a fault".to_owned()),
            ("lost", findings.lost.len(), none()),
            ("rolled back", findings.rolled_back, none()),
            ("rolled back but sent", findings.rolled_back_but_sent.len(), none()),
            (
                "sent again",
                findings.sent_again_explained(),
                "with the same msgUuid, and explained by a fault of that moment".to_owned(),
            ),
            ("sent again, unexplained", findings.sent_again_unexplained.len(), none()),
            ("unexplained otherwise", findings.unexplained.len(), none()),
        ]
    }

    /// The same for machines.
    pub(crate) fn json(&self) -> Value {
        let recoveries = self.recoveries.iter().map(|(kind, recoveries)| {
            let flows = spread(recoveries.iter().map(|recovery| recovery.flows));
            let caught_up = spread(recoveries.iter().map(|recovery| recovery.caught_up));
            let entry = json!({
                "times": recoveries.len(),
                "flows_median_ms": flows.0.as_millis() as u64,
                "flows_max_ms": flows.1.as_millis() as u64,
                "caught_up_median_ms": caught_up.0.as_millis() as u64,
                "caught_up_max_ms": caught_up.1.as_millis() as u64,
            });
            (kind.name().to_owned(), entry)
        });
        let counts = self.counts().into_iter().map(|(name, count, _)| (name.to_owned(), json!(count)));
        json!({
            "seed": self.order.seed,
            "seconds": self.order.lasts.as_secs(),
            "took_ms": self.took.as_millis() as u64,
            "passed": self.passed(),
            "events": serde_json::Map::from_iter(counts),
            "stood_still": self.stood_still,
            "faults": serde_json::Map::from_iter(recoveries),
            "complaints": self.complaints(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, lasts) = (self.order.seed, self.order.lasts.as_secs());
        writeln!(f, "Fault run, seed {seed}: {} faults in {lasts} s, {:.0?} in all\n", self.faults(), self.took)?;
        writeln!(f, "{}\n", self.recovery_table().trim_fmt())?;
        writeln!(f, "{LEGEND}\n")?;
        for (name, count, remark) in self.counts() {
            let remark = if count == 0 || remark.is_empty() { String::new() } else { format!("  ({remark})") };
            writeln!(f, " {name:<25}{count:>7}{remark}")?;
        }
        if self.stood_still > 0 {
            writeln!(f, "\n This machine stood still {} times; that explains duplicates, too.", self.stood_still)?;
        }
        let complaints = self.complaints();
        if !complaints.is_empty() {
            writeln!(f)?;
        }
        for complaint in complaints.iter().take(MOST_COMPLAINTS) {
            writeln!(f, " {complaint}")?;
        }
        if let Some(more @ 1..) = complaints.len().checked_sub(MOST_COMPLAINTS) {
            writeln!(f, " … and {more} more")?;
        }
        for story in &self.stories {
            writeln!(f, "\n{story}")?;
        }
        let verdict = if complaints.is_empty() { "PASS" } else { "FAIL" };
        write!(f, "\n{verdict}  ops/chaos --seconds {lasts} --seed {seed}")
    }
}

/// Median and longest.
fn spread(times: impl Iterator<Item = Duration>) -> (Duration, Duration) {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let median = times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
