//! `postbell robots test`: a message through the running sidecar, with its environment, its files and its network.

use std::io::Write as _;
use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;

use crate::cli::NotYet;
use crate::commands::outcome::{self, Seen};
use crate::commands::{block_on, explain};
use crate::config;

/// Arguments of `postbell robots test`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 delivered; 1 failed, or not accepted (standard error says why); 75 no outcome in time. \
                  Once nobody waits for it any more, the message is not sent.\n\n\
                  The message is the template postbell.test, which is built in; postbell.test.md or .txt in the folder \
                  of templates takes its place. It publishes: a role needs the grant writer beside reader or operator."
)]
pub(super) struct Args {
    /// The robot or pool, or a webhook URL whose host is allowed
    name: String,

    /// Text to put into the message, such as the keyword that the robot demands
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,

    /// How long to wait for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    wait: u32,

    #[command(flatten)]
    database: config::Database,
}

/// After the wait, for a consumer whose clock is not the database's.
const LATE: Duration = Duration::from_secs(10);

/// Publishes the message, prints its id, and waits for it.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let most = Duration::from_secs(args.wait.into());
    block_on(async {
        let client = super::connect(&args.database).await?;
        let id = publish(&client, &args.name, args.text.as_deref(), most + LATE).await?;
        writeln!(std::io::stdout().lock(), "{id}")?;
        wait(&client, id, &args.name, most).await?.end(most)
    })
}

/// The same without a word: whether the message was delivered.
pub(in crate::commands) async fn ring(database: &config::Database, name: &str, most: Duration) -> anyhow::Result<()> {
    let client = super::connect(database).await?;
    let id = publish(&client, name, None, most + LATE).await?;
    let seen = wait(&client, id, name, most).await?;
    anyhow::ensure!(
        seen.status == "delivered",
        "{}: {}",
        seen.status,
        seen.last_error.as_deref().unwrap_or("no reason is recorded")
    );
    Ok(())
}

/// What became of the message; an error where it is not complete.
async fn wait(client: &Client, id: Uuid, name: &str, most: Duration) -> anyhow::Result<Seen> {
    let seen = outcome::wait(client, id, most, is_answered).await?;
    if seen.is_complete() {
        return Ok(seen);
    }
    // It would hold up a paused robot's events: each probe would be this message, which may be what is refused. A role
    // that may not take it back leaves it to expire.
    let _ = client.query_one("select notification_cancel($1)", &[&id]).await;
    let lane = seen.robot.as_deref().unwrap_or(name);
    let robots = super::list::describe(client, lane, seen.last_error.as_deref()).await.unwrap_or_default();
    verdict(&seen, most, &robots)?;
    Ok(seen)
}

/// Urgent, so that it does not wait behind others, and without a retry, so that the answer comes at once.
async fn publish(client: &Client, name: &str, text: Option<&str>, expires: Duration) -> anyhow::Result<Uuid> {
    let publish = "select notification_publish(
        'postbell.test',
        jsonb_build_object('robot', $2::text, 'text', $3::text, 'at', now()),
        target => $1,
        options => jsonb_build_object('urgent', true, 'expires_at', now() + $4 * interval '1 second'),
        max_retry => 0)";
    // A webhook has a token in it.
    let shown = Some(name).filter(|name| !name.contains("://"));
    let published = client.query_one(publish, &[&name, &shown, &text, &expires.as_secs_f64()]).await;
    Ok(published.map_err(|error| explain("the test message", error))?.get(0))
}

/// Whether the robot, or what is configured, has spoken against it: it would wait for somebody to repair that.
fn is_answered(seen: &Seen) -> bool {
    seen.detail.as_deref() == Some("waiting for its robot") && seen.last_error.is_some()
}

/// What to make of a message that is not complete, and of its robots.
fn verdict(seen: &Seen, most: Duration, robots: &[String]) -> anyhow::Result<()> {
    let robots: String = robots.iter().map(|robot| format!("\n  {robot}")).collect();
    if let (true, Some(why)) = (is_answered(seen), &seen.last_error) {
        let keyword = if why.contains("keyword") { "\n  --text KEYWORD puts one into the message" } else { "" };
        anyhow::bail!("not accepted: {why}{keyword}{robots}");
    }
    let still = match seen.end(most) {
        Err(still) => still,
        Ok(()) => return Ok(()),
    };
    let check = if seen.detail.as_deref() == Some("waiting for its robot") {
        "\n  postbell robots resume ends a pause or a cool-down"
    } else {
        "\n  is a consumer running (postbell run, or relay and consume)? postbell robots list shows all robots"
    };
    Err(NotYet(format!("{still}{robots}{check}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(detail: &str, last_error: Option<&str>) -> Seen {
        let (detail, last_error) = (Some(detail.to_owned()), last_error.map(str::to_owned));
        Seen { status: "pending".to_owned(), detail, last_error, robot: None }
    }

    fn said(seen: &Seen) -> (bool, String) {
        let error = verdict(seen, Duration::from_secs(30), &["hr: open".to_owned()]).unwrap_err();
        (error.downcast_ref::<NotYet>().is_some(), error.to_string())
    }

    #[test]
    fn what_the_robot_says_against_it_is_an_answer_and_a_wait_is_none() {
        let keyword = "robot's settings: none of its keywords is in the message";
        let (not_yet, text) = said(&pending("waiting for its robot", Some(keyword)));
        assert!(!not_yet && text.starts_with(&format!("not accepted: {keyword}\n  --text KEYWORD")), "{text}");
        assert!(text.ends_with("\n  hr: open"), "{text}");
        let (not_yet, text) = said(&pending("waiting for its robot", None));
        assert!(not_yet && text.contains("\n  hr: open\n  postbell robots resume"), "{text}");
        let (not_yet, text) = said(&pending("due", None));
        assert!(not_yet && text.starts_with("still pending after 30 s (due)\n  hr: open\n  is a consumer"), "{text}");
    }
}
