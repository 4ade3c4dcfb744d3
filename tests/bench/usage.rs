//! What a process has used, as the kernel tells it.

use std::fs;

/// Seconds of CPU that a process has used, of those it has waited for too where `with_children`.
fn cpu(pid: i32, with_children: bool) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(if with_children { 4 } else { 2 });
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Seconds of CPU that a process has used.
pub(crate) fn cpu_seconds(pid: i32) -> f64 {
    cpu(pid, false)
}

/// Seconds of CPU that a process and its children have used, those that have ended and those that have not.
pub(crate) fn cpu_seconds_of_tree(pid: i32) -> f64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    cpu(pid, true) + children.map(|child| cpu(child, false)).sum::<f64>()
}

/// The parent of a process.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Memory that a process has in RAM now, and the most it ever had, in MiB.
pub(crate) fn memory_mib(pid: i32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    (kilobytes("VmRSS:") / 1024.0, kilobytes("VmHWM:") / 1024.0)
}
