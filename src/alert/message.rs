//! What people are told: what is wrong, how much, since when, and what to do.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::Condition;
use crate::config;
use crate::message::{Format, Mentions, Message};
use crate::store::alerts::Right;
use crate::template;

/// What a message says beside what was found out.
pub(super) struct Context<'a> {
    /// The thresholds.
    pub(super) config: &'a config::Alerts,
    /// Where the database is.
    pub(super) place: &'a str,
}

/// One message about all of these. Plain text: a reason may have been written by a robot.
pub(super) fn written(rights: &[Right], context: &Context<'_>) -> Message {
    let parts: Vec<String> = rights.iter().map(|right| part(right, context)).collect();
    let body = format!("{}\n来源：PostgreSQL {}", parts.join("\n\n"), context.place);
    Message { format: Format::Text, title: String::new(), body, mentions: Mentions::default() }
}

fn part(right: &Right, context: &Context<'_>) -> String {
    let Right { condition, subject, raised_at, held_at, rung_at, is_over, detail, .. } = right;
    let Some(kind) = Condition::of(condition) else { return condition.clone() };
    let name = name(kind, subject);
    let since = local(*raised_at);
    if *is_over {
        let lasted = span(Duration::try_from(held_at.duration_since(*raised_at)).unwrap_or_default());
        return format!("✅ postbell 恢复：{name}\n自 {since} 起，持续 {lasted}（{condition}）");
    }
    let again = if rung_at.is_some_and(|at| at >= *raised_at) { "（仍未恢复）" } else { "" };
    let found = found(kind, detail, context.config);
    let remedy = remedy(kind);
    format!("🚨 postbell 告警{again}：{name}\n现状：{found}\n开始：{since}（{condition}）\n处理：{remedy}")
}

fn name(condition: Condition, subject: &str) -> String {
    match condition {
        Condition::DeadLetters => "死信过多".to_owned(),
        Condition::FailureRate => "发送失败过多".to_owned(),
        Condition::RobotPaused => format!("机器人 {subject} 暂停"),
        Condition::OldestDue => "到期消息未发出".to_owned(),
    }
}

/// The figures, beside their thresholds.
fn found(condition: Condition, detail: &Value, config: &config::Alerts) -> String {
    let number = |key: &str| detail[key].as_u64().unwrap_or_default();
    match condition {
        Condition::DeadLetters => {
            let (letters, most) = (number("letters"), config.alert_dead_letters.0.unwrap_or_default());
            // So many are counted, and no more.
            let or_more = if letters >= u64::from(most) + 1_000 { "以上" } else { "" };
            format!("{letters} 条{or_more}失败的事件未处理（阈值 {most}）")
        }
        Condition::FailureRate => {
            let (sends, failed) = (number("sends"), number("failed"));
            let percent = config.alert_failure_rate.0.map_or(0, |rate| rate.percent);
            let period = span(Duration::from_secs(number("span_s")));
            format!("最近 {period}内发送 {sends} 次，失败 {failed} 次（阈值 {percent}%）")
        }
        Condition::RobotPaused => {
            format!("它的消息在等待，不丢失也不消耗重试；原因：{}", detail["reason"].as_str().unwrap_or_default())
        }
        Condition::OldestDue => {
            let most = config.alert_oldest_due.0.unwrap_or_default();
            format!("最早的一条已晚 {}（阈值 {}）", span(Duration::from_secs(number("late_s"))), span(most))
        }
    }
}

fn remedy(condition: Condition) -> &'static str {
    match condition {
        Condition::DeadLetters => {
            "postbell dead-letter list 看原因，改正后 postbell dead-letter replay，不再需要的 postbell dead-letter purge"
        }
        Condition::FailureRate => "postbell list --since 1h 看 last_error；postbell doctor 检查网络与机器人",
        Condition::RobotPaused => {
            "postbell robots 看状态；改正 webhook、密钥、关键词或 IP 白名单，一分钟内自动恢复；没有消息在等时 postbell robots test 名称 试一次，或 postbell robots resume 名称"
        }
        Condition::OldestDue => "看 relay 与 consumer 是否在运行（/readyz）；postbell doctor；postbell stats",
    }
}

/// As templates write a time.
fn local(time: Timestamp) -> String {
    template::local_time(time).unwrap_or_else(|_| time.to_string())
}

/// A duration in one or two units.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {smaller}"),
    };
    match seconds {
        0..60 => format!("{seconds} 秒"),
        60..3_600 => format!("{} 分钟", seconds / 60),
        3_600..86_400 => two(seconds / 3_600, "小时", seconds % 3_600 / 60, "分钟"),
        _ => two(seconds / 86_400, "天", seconds % 86_400 / 3_600, "小时"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Config {
        #[command(flatten)]
        alerts: config::Alerts,
    }

    pub(in super::super) fn right(condition: Condition, subject: &str, is_over: bool) -> Right {
        Right {
            condition: condition.word().to_owned(),
            subject: subject.to_owned(),
            raised_at: "2026-11-27T12:31:00Z".parse().unwrap(),
            held_at: "2026-11-27T12:43:10Z".parse().unwrap(),
            rung_at: None,
            is_over,
            detail: json!({ "letters": 12, "sends": 4, "failed": 3, "span_s": 600, "late_s": 4_000, "reason": "robot's settings: x" }),
            until: "2026-11-27T12:44:00Z".parse().unwrap(),
        }
    }

    fn text(rights: &[Right]) -> String {
        let config = Config::parse_from(["test"]).alerts;
        written(rights, &Context { config: &config, place: "db.internal port 5432" }).body
    }

    #[test]
    fn a_message_says_what_is_wrong_how_much_since_when_and_what_to_do() {
        assert_eq!(
            text(&[right(Condition::DeadLetters, "", false)]),
            "🚨 postbell 告警：死信过多\n现状：12 条失败的事件未处理（阈值 10）\n开始：11-27 20:31（dead_letters）\n\
             处理：postbell dead-letter list 看原因，改正后 postbell dead-letter replay，不再需要的 postbell dead-letter purge\n\
             来源：PostgreSQL db.internal port 5432"
        );
        for (condition, subject, words, remedy) in [
            (Condition::FailureRate, "", "最近 10 分钟内发送 4 次，失败 3 次（阈值 50%）", "postbell list"),
            (Condition::RobotPaused, "hr", "机器人 hr 暂停\n现状：它的消息在等待，", "postbell robots"),
            (Condition::RobotPaused, "hr", "原因：robot's settings: x", "webhook、密钥"),
            (Condition::OldestDue, "", "最早的一条已晚 1 小时 6 分钟（阈值 10 分钟）", "/readyz"),
        ] {
            let said = text(&[right(condition, subject, false)]);
            for part in [words, remedy, condition.word(), "开始：11-27 20:31", "处理："] {
                assert!(said.contains(part), "no {part:?} in {said}");
            }
        }
    }

    #[test]
    fn an_all_clear_says_of_what_and_how_long_it_was() {
        assert_eq!(
            text(&[right(Condition::RobotPaused, "hr", true)]),
            "✅ postbell 恢复：机器人 hr 暂停\n自 11-27 20:31 起，持续 12 分钟（robot_paused）\n\
             来源：PostgreSQL db.internal port 5432"
        );
    }

    #[test]
    fn what_goes_on_is_told_again_as_such_and_what_comes_together_is_one_message() {
        let first = right(Condition::OldestDue, "", false);
        let again = Right { rung_at: Some(first.held_at), ..first.clone() };
        let anew = Right { rung_at: Some("2026-11-26T00:00:00Z".parse().unwrap()), ..first };
        assert!(text(std::slice::from_ref(&again)).contains("告警（仍未恢复）：到期消息未发出"));
        assert!(!text(&[anew]).contains("仍未恢复"));
        let both = text(&[again, right(Condition::DeadLetters, "", true)]);
        assert_eq!((both.matches("🚨").count(), both.matches("✅").count(), both.matches("来源").count()), (1, 1, 1));
    }

    #[test]
    fn spans_have_one_or_two_units() {
        for (seconds, words) in [
            (0, "0 秒"),
            (59, "59 秒"),
            (600, "10 分钟"),
            (3_600, "1 小时"),
            (90_000, "1 天 1 小时"),
            (172_800, "2 天"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
    }
}
