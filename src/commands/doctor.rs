//! `postbell doctor`: looks at everything postbell depends on, and says what is wrong and how to mend it.
//!
//! What is found out is a value, and what to make of it a pure function of that: one module a part.

mod alerts;
mod postgres;
mod redis;
mod robots;
mod settings;

use std::io::Write as _;

use serde_json::json;

use super::{block_on, listing, template};
use crate::config;

/// Arguments of `postbell doctor`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Run it where the sidecar runs, with its environment: webhooks, secrets and templates are looked for there. \
                  It changes nothing, but for --send.\n\nExit codes: 0 nothing failed, warnings there may be; 1 something \
                  failed; 64 bad usage or configuration."
)]
pub struct Args {
    /// Send a test message through the running sidecar, too, to this robot or pool (default if not given), and one to the operations robot
    #[arg(long, value_name = "ROBOT", num_args = 0..=1, require_equals = true, default_missing_value = "default")]
    send: Option<String>,

    /// One JSON object a line: {"verdict": "ok", "what": "…", "found": "…", "remedy": "…"}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sidecar: config::Sidecar,
    #[command(flatten)]
    relay: config::Relay,
    #[command(flatten)]
    sending: config::Sending,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It works, but not as well, or not as safely, as it could.
    Warn,
    /// It does not work.
    Fail,
}

/// What one look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    what: &'static str,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Ok, what, found: found.into(), remedy: None }
    }

    fn warn(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warn, what, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Fail, what, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at one part after the other and says at once what it finds.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut report = Report { json: args.json, failed: 0, warned: 0, ok: 0 };
    let Args { sidecar, relay, sending, .. } = &args;
    report.add(settings::judge(sidecar, relay, sending))?;
    report.add(templates(&sending.templates))?;
    report.add([alerts::judge(&sidecar.alerts, sending)])?;
    block_on(async {
        let targets = postgres::look(&mut report, &sidecar.database, relay).await?;
        report.add(robots::judge(&sending.channel, targets.as_deref()))?;
        redis::look(&mut report, &sidecar.queue, sending.consumer.send_lease).await?;
        if let Some(robot) = &args.send {
            report.add([robots::ring(&sidecar.database, robot).await])?;
            report.add(alerts::ring(&sidecar.alerts, &sending.channel.requests).await)?;
        }
        Ok(())
    })?;
    report.end()
}

struct Report {
    json: bool,
    failed: usize,
    warned: usize,
    ok: usize,
}

impl Report {
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        for Finding { verdict, what, found, remedy } in findings {
            let (word, count) = match verdict {
                Verdict::Ok => ("ok", &mut self.ok),
                Verdict::Warn => ("warn", &mut self.warned),
                Verdict::Fail => ("fail", &mut self.failed),
            };
            *count += 1;
            if self.json {
                writeln!(out, "{}", json!({ "verdict": word, "what": what, "found": found, "remedy": remedy }))?;
                continue;
            }
            writeln!(out, "{}", lines(word, what, &found, remedy.as_deref(), listing::width()))?;
        }
        Ok(out.flush()?)
    }

    fn end(self) -> anyhow::Result<()> {
        let Report { json, failed, warned, ok } = self;
        if !json {
            let warnings = if warned == 1 { "1 warning".to_owned() } else { format!("{warned} warnings") };
            writeln!(std::io::stdout().lock(), "\n{failed} failed, {warnings}, {ok} ok")?;
        }
        anyhow::ensure!(failed == 0, "{failed} of {} checks failed", failed + warned + ok);
        Ok(())
    }
}

/// A finding for people: one line, and one more where there is something to do; on a terminal, as many as fit its width.
fn lines(word: &str, what: &str, found: &str, remedy: Option<&str>, width: Option<usize>) -> String {
    /// Of what comes before what was found.
    const MARGIN: usize = 20;
    /// Narrower is not readable.
    const LEAST: usize = 30;
    let fit = |text: &str, indent: usize| match width {
        Some(width) => wrap(text, width.saturating_sub(indent).max(LEAST)).join(&format!("\n{:indent$}", "")),
        None => text.to_owned(),
    };
    let mut lines = format!("{word:<4}  {what:<13} {}", fit(found, MARGIN));
    if let Some(remedy) = remedy {
        lines.push_str(&format!("\n{:MARGIN$}→ {}", "", fit(remedy, MARGIN + 2)));
    }
    lines
}

/// Whole words on each line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn templates(config: &config::Templates) -> Vec<Finding> {
    const WHAT: &str = "templates";
    let remedy = "postbell template check shows all of them; correct them and restart the consumers";
    match template::look(&config.templates_dir) {
        Err(error) => vec![Finding::fail(WHAT, error.to_string(), "mount the folder, or correct the variable")],
        Ok(seen) if seen.count == 0 => {
            let dir = config.templates_dir.display();
            vec![Finding::fail(WHAT, format!("{dir} has no template"), "put <template_id>.md or .txt there")]
        }
        Ok(seen) if seen.problems.is_empty() => {
            vec![Finding::ok(WHAT, format!("{} load, {} render their samples", seen.count, seen.rendered))]
        }
        Ok(seen) => seen.problems.into_iter().map(|problem| Finding::fail(WHAT, problem, remedy)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_fits_the_terminal_and_is_one_line_for_other_programs() {
        let found = "a word and another word, and so on to the end";
        assert_eq!(lines("ok", "clock", found, None, None), format!("ok    clock         {found}"));
        let narrow = lines("fail", "clock", found, Some("set it"), Some(50));
        let expected = "fail  clock         a word and another word, and\n                    so on to the end\n                    → set it";
        assert_eq!(narrow, expected);
    }
}
