//! What `ops/prometheus` and `ops/grafana` have for the people on call.

mod dashboard;
mod faults;
mod live;
mod rules;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::metrics::documented;

/// A file of `ops`.
fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ops").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The names in an expression that are those of postbell's metrics, without what a histogram adds to its name.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let known = documented(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")));
    let base = |name: &str| {
        let of_histogram = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        of_histogram.filter(|name| known.contains(*name)).unwrap_or(name).to_owned()
    };
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("notification_") || word.starts_with("postbell_")).map(base).collect()
}

/// Fails where an expression has a name that is not in the README's table.
fn assert_documented(what: &str, expression: &str) {
    let known = documented(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")));
    let unknown: Vec<String> = metrics_in(expression).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "{what} asks for {unknown:?}, which the README does not name");
}
