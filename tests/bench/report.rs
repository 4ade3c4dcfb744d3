//! What people read: a table, JSON, a chart.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use crate::chart;
use crate::figure::{Figure, Goal};
use crate::options::{Options, Work};

/// Says what comes now.
pub(crate) fn progress(work: Work) {
    eprintln!("measuring: {work:?}");
}

/// Prints the report, and draws it where that is wanted.
pub(crate) fn print(options: &Options, figures: &[Figure]) {
    if options.json {
        let machine = json!({"cores": std::thread::available_parallelism().map_or(0, usize::from)});
        println!("{:#}", json!({"machine": machine, "runs": options.runs(), "figures": figures}));
    } else {
        println!("{}", table(figures));
        let missed: Vec<&Figure> = figures.iter().filter(|figure| figure.missed_by().is_some()).collect();
        for figure in &missed {
            println!("not reached: {} — {}", figure.work, missing(figure));
        }
        if missed.is_empty() {
            println!("every goal is reached");
        }
    }
    if let Some(file) = &options.chart {
        chart::draw(figures, file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

fn missing(figure: &Figure) -> String {
    let by = figure.missed_by().unwrap_or_default();
    format!("{}: {} where {} is wanted, {by:.0} % off", figure.what, number(figure.judged()), goal(figure.goal))
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "",
        "",
        "postbell",
        "against",
        "",
        "ratio",
        "least … most",
        "goal",
        "",
    ]);
    for column in [2, 3, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for figure in figures {
        let ratio = figure.ratio;
        table.add_row([
            figure.work.to_owned(),
            figure.what.clone(),
            number(figure.value),
            figure.base.map(number).unwrap_or_default(),
            figure.unit.to_owned(),
            ratio.map(|ratio| format!("{:.2}", ratio.median)).unwrap_or_default(),
            ratio.map(|ratio| format!("{:.2} … {:.2}", ratio.least, ratio.most)).unwrap_or_default(),
            goal(figure.goal),
            match (figure.goal, figure.missed_by()) {
                (None, _) => "",
                (Some(_), None) => "✓",
                (Some(_), Some(_)) => "✗",
            }
            .to_owned(),
        ]);
    }
    table
}

fn goal(goal: Option<Goal>) -> String {
    match goal {
        Some(Goal::AtLeast(least)) => format!("≥ {least}"),
        Some(Goal::AtMost(most)) => format!("≤ {most}"),
        None => String::new(),
    }
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
