//! What may be wrong.

/// A kind of thing that is rung about. How it is found out is in `sql/queries/check_alerts.sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Too many events have failed, and nobody has replayed or purged them.
    DeadLetters,
    /// Too many of the last sends failed.
    FailureRate,
    /// postbell has paused a robot, for its settings are wrong. What a person paused is not rung about.
    RobotPaused,
    /// An event that should have been sent is not, and its robot could have sent it: no relay, no consumer, or too few.
    OldestDue,
}

impl Condition {
    /// All of them.
    pub const ALL: [Condition; 4] =
        [Condition::DeadLetters, Condition::FailureRate, Condition::RobotPaused, Condition::OldestDue];

    /// The word for it in SQL, logs, metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            Condition::DeadLetters => "dead_letters",
            Condition::FailureRate => "failure_rate",
            Condition::RobotPaused => "robot_paused",
            Condition::OldestDue => "oldest_due",
        }
    }

    /// The one with this word.
    pub fn of(word: &str) -> Option<Condition> {
        Condition::ALL.into_iter().find(|condition| condition.word() == word)
    }
}
