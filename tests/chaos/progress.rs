//! What is told while it runs: one line that changes, on a terminal; a line a fault, elsewhere; nothing, among tests.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::ledger::{Ledger, Totals};
use crate::options::Order;
use crate::recovery::Recovery;

/// Where and how it is told.
pub(crate) struct Progress {
    manner: Manner,
    started: Instant,
    ledger: Arc<Ledger>,
}

enum Manner {
    Line(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    /// On standard error, so that the report can be piped.
    pub(crate) fn new(order: Order, ledger: Arc<Ledger>) -> Progress {
        let manner =
            if std::io::stderr().is_terminal() { Manner::Line(line(order, ledger.clone())) } else { Manner::Lines };
        Progress { manner, started: Instant::now(), ledger }
    }

    pub(crate) fn silent(ledger: Arc<Ledger>) -> Progress {
        Progress { manner: Manner::Silent, started: Instant::now(), ledger }
    }

    /// Something is being done now.
    pub(crate) fn doing(&self, what: &str) {
        match &self.manner {
            Manner::Line(line) => line.set_message(what.to_owned()),
            Manner::Lines | Manner::Silent => {}
        }
    }

    /// A fault is over.
    pub(crate) fn recovered(&self, what: &str, recovery: Recovery) {
        if let Manner::Lines = self.manner {
            let Recovery { flows, caught_up, .. } = recovery;
            let (seconds, counts) = (self.started.elapsed().as_secs_f64(), counts(self.ledger.totals()));
            eprintln!("{seconds:6.1} s  {what}: flows after {flows:.2?}, caught up after {caught_up:.2?}; {counts}");
        }
    }

    /// Makes way for the report.
    pub(crate) fn finish(self) {
        if let Manner::Line(line) = self.manner {
            line.finish_and_clear();
        }
    }
}

fn counts(totals: Totals) -> String {
    let Totals { committed, arrived, sent_again } = totals;
    format!("committed {committed}, arrived {arrived}, sent again {sent_again}")
}

fn line(order: Order, ledger: Arc<Ledger>) -> ProgressBar {
    let style = "{elapsed_precise} {bar:20} {counts}  {wide_msg}";
    let style = ProgressStyle::with_template(style).unwrap().with_key(
        "counts",
        move |_: &indicatif::ProgressState, text: &mut dyn std::fmt::Write| {
            let _ = text.write_str(&counts(ledger.totals()));
        },
    );
    let line = ProgressBar::new(order.lasts.as_secs()).with_style(style);
    line.enable_steady_tick(Duration::from_millis(250));
    line
}

impl Progress {
    /// How far it is.
    pub(crate) fn at(&self, elapsed: Duration) {
        if let Manner::Line(line) = &self.manner {
            line.set_position(elapsed.as_secs().min(line.length().unwrap_or(u64::MAX)));
        }
    }
}
