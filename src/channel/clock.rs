//! The one place where the machine's clock is read: a signature carries the time at which it was made.

/// Milliseconds since the Unix epoch.
pub(super) fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
