//! A measurement, and what it must reach.

use serde::Serialize;

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Which of the works it belongs to.
    pub(crate) work: &'static str,
    /// What was measured.
    pub(crate) what: String,
    /// How it came out.
    pub(crate) value: f64,
    /// In what.
    pub(crate) unit: &'static str,
    /// What it is held against, in the same unit.
    pub(crate) base: Option<f64>,
    /// The median of the ratios of neighbouring runs, with the smallest and the largest; or the value itself.
    pub(crate) ratio: Option<Ratio>,
    /// What it must reach.
    pub(crate) goal: Option<Goal>,
}

/// Ratios of neighbouring runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// What a ratio, or a value without one, must reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    /// A value by itself.
    pub(crate) fn plain(work: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { work, what: what.into(), value, unit, base: None, ratio: None, goal: None }
    }

    /// Runs of one side against runs of the other that were next to them.
    pub(crate) fn against(
        work: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        ours: &[f64],
        bases: &[f64],
    ) -> Figure {
        let ratios: Vec<f64> = ours.iter().zip(bases).map(|(one, base)| one / base).collect();
        let ratio = Ratio {
            median: median(&ratios),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        };
        let base = Some(median(bases));
        Figure { base, ratio: Some(ratio), ..Figure::plain(work, what, median(ours), unit) }
    }

    pub(crate) fn goal(self, goal: Goal) -> Figure {
        Figure { goal: Some(goal), ..self }
    }

    /// What the goal is for.
    pub(crate) fn judged(&self) -> f64 {
        self.ratio.map_or(self.value, |ratio| ratio.median)
    }

    /// By how much the goal is missed, in hundredths of it; none where it is reached, or there is none.
    pub(crate) fn missed_by(&self) -> Option<f64> {
        let missed = match self.goal? {
            Goal::AtLeast(least) => (least - self.judged()) / least,
            Goal::AtMost(most) => (self.judged() - most) / most,
        };
        // A value that could not be measured reaches nothing.
        (!missed.is_finite() || missed > 0.0).then_some(missed * 100.0)
    }
}

/// The one in the middle, or the mean of the two that are.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that this share of the others does not exceed.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share * sorted.len().saturating_sub(1) as f64;
    match (sorted.get(at.floor() as usize), sorted.get(at.ceil() as usize)) {
        (Some(below), Some(above)) => below + (above - below) * at.fract(),
        _ => f64::NAN,
    }
}
