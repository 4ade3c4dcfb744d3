//! The server of the streams, and the streams.

use std::time::{Duration, Instant};

use super::postgres::clock;
use super::{Finding, Report};
use crate::config;
use crate::queue::redis::{RedisQueue, Seen, SeenStream};

const SERVER: &str = "Redis";

/// The oldest server: the first with XAUTOCLAIM.
const OLDEST: (u32, u32) = (6, 2);

pub(super) async fn look(report: &mut Report, config: &config::Queue, send_lease: Duration) -> anyhow::Result<()> {
    let queue = match RedisQueue::new(config, send_lease) {
        Ok(queue) => queue,
        Err(error) => return report.add([Finding::fail("streams", error.to_string(), "give it another key")]),
    };
    let before = jiff::Timestamp::now();
    let asked = Instant::now();
    let seen = match queue.look().await {
        Ok(seen) => seen,
        Err(error) => {
            let remedy = "start it, or correct REDIS_URL; no event is lost meanwhile, but none is sent";
            return report.add([Finding::fail(
                SERVER,
                format!("cannot be used: {error} (at {})", queue.place()),
                remedy,
            )]);
        }
    };
    let here = before.as_duration().as_secs_f64() + asked.elapsed().as_secs_f64() / 2.0;
    report.add([server(&seen), memory(&seen), clock("Redis", seen.clock_s - here)])?;
    report.add(seen.streams.iter().map(|stream| judge(stream, config)))
}

fn server(seen: &Seen) -> Finding {
    let Seen { version, .. } = seen;
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if number < OLDEST {
        return Finding::fail(
            SERVER,
            format!("{version} is too old"),
            "6.2 or later is needed: XAUTOCLAIM came with it",
        );
    }
    if seen.is_replica {
        return Finding::fail(
            SERVER,
            format!("{version} is a replica, which takes no writes"),
            "point REDIS_URL to the primary",
        );
    }
    Finding::ok(SERVER, version.clone())
}

fn memory(seen: &Seen) -> Finding {
    /// From this share on the next hints may be refused, or evicted.
    const NEARLY_FULL: f64 = 0.9;
    const WHAT: &str = "Redis memory";
    const MB: f64 = 1024.0 * 1024.0;
    let Seen { eviction, used, most, .. } = seen;
    #[expect(clippy::cast_precision_loss, reason = "for people, in MB")]
    let (used, limit) = (*used as f64, *most as f64);
    if *most == 0 {
        return Finding::ok(WHAT, format!("{:.0} MB used, without a limit", used / MB));
    }
    let found = format!("{:.0} of {:.0} MB used, maxmemory-policy {eviction}", used / MB, limit / MB);
    if eviction.starts_with("allkeys") {
        return Finding::warn(
            WHAT,
            format!("{found}: the streams may be evicted"),
            "config set maxmemory-policy noeviction, or a Redis of its own: hints that are evicted are noticed, and come again late",
        );
    }
    if used > NEARLY_FULL * limit {
        return Finding::warn(WHAT, format!("{found}: hints will be refused"), "raise maxmemory, or see what fills it");
    }
    Finding::ok(WHAT, found)
}

fn judge(stream: &SeenStream, config: &config::Queue) -> Finding {
    const WHAT: &str = "stream";
    let SeenStream { key, kind, length, group, is_hints } = stream;
    match kind.as_str() {
        "none" if *is_hints => return Finding::ok(WHAT, format!("{key}: not there yet; the first process makes it")),
        "none" => return Finding::ok(WHAT, format!("{key}: not there yet; the first dead letter makes it")),
        "stream" => {}
        other => {
            return Finding::fail(
                WHAT,
                format!("{key} is a {other} and no stream"),
                format!(
                    "del {key}, if nobody needs it, or give NOTIFICATION_QUEUE_STREAM and NOTIFICATION_DEAD_LETTER_STREAM other keys"
                ),
            );
        }
    }
    if !is_hints {
        return Finding::ok(WHAT, format!("{key}: {length} dead letters"));
    }
    let name = &config.consumer_group;
    let Some(group) = group else {
        return Finding::warn(
            WHAT,
            format!("{key} has no group {name}"),
            "start a consumer, which makes it; where one runs, it has another NOTIFICATION_CONSUMER_GROUP",
        );
    };
    let found = format!("{key}: {length} hints, {} in hand, {} consumers in {name}", group.pending, group.consumers);
    if *length >= config.stream_max_len {
        return Finding::fail(
            WHAT,
            format!("{key} is full ({length} of {}): no more is hinted", config.stream_max_len),
            "start consumers, or look at /readyz of those that run: they do not keep up",
        );
    }
    if group.consumers == 0 {
        return Finding::warn(WHAT, found, "start postbell run, or postbell consume: nobody reads it");
    }
    Finding::ok(WHAT, found)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn seen() -> Seen {
        Seen {
            version: "7.0.15".to_owned(),
            is_replica: false,
            eviction: "noeviction".to_owned(),
            used: 10 << 20,
            most: 100 << 20,
            clock_s: 0.0,
            streams: Vec::new(),
        }
    }

    #[test]
    fn servers_that_are_too_old_or_take_no_writes_fail() {
        for (version, verdict) in [("6.0.16", Verdict::Fail), ("6.2.0", Verdict::Ok), ("10.1", Verdict::Ok)] {
            assert_eq!(server(&Seen { version: version.to_owned(), ..seen() }).verdict, verdict, "{version}");
        }
        assert_eq!(server(&Seen { is_replica: true, ..seen() }).verdict, Verdict::Fail);
    }

    #[test]
    fn memory_that_is_evicted_or_nearly_full_is_warned_of() {
        assert_eq!(memory(&seen()).verdict, Verdict::Ok);
        assert_eq!(memory(&Seen { eviction: "allkeys-lru".to_owned(), ..seen() }).verdict, Verdict::Warn);
        assert_eq!(memory(&Seen { eviction: "allkeys-lru".to_owned(), most: 0, ..seen() }).verdict, Verdict::Ok);
        assert_eq!(memory(&Seen { used: 95 << 20, ..seen() }).verdict, Verdict::Warn);
    }
}
