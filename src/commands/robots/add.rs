//! `postbell robots add`: gives a robot or a pool a name.

use std::io::Write as _;

use anyhow::Context as _;
use clap::ArgGroup;
use tokio_postgres::Client;

use crate::cli::BadConfiguration;
use crate::commands::{block_on, explain};
use crate::config::{self, RobotRate};

/// Arguments of `postbell robots add`.
#[derive(clap::Args, Debug)]
#[command(
    group = ArgGroup::new("way").args(["webhook", "pool"]).required(true),
    after_help = "The database has no secret in it: webhook and secret say where they are, and the sidecar looks there, \
                  with its own environment and its own files.\n\n\
                  Examples:\n  \
                  postbell robots add hr --webhook env:HR_WEBHOOK --secret env:HR_SECRET\n  \
                  postbell robots add ops --webhook file:/run/secrets/ops-webhook --rate 10/60s\n  \
                  postbell robots add hiring --pool hr,hr2"
)]
pub(super) struct Args {
    /// What events name it by: 1 to 40 letters, digits, dots, dashes or underscores
    name: String,

    // Not shown where it is refused: it may be a webhook, or a secret, itself.
    /// Where the sidecar finds its webhook URL: env:VARIABLE or file:/absolute/path
    #[arg(long, value_name = "REFERENCE", hide_env_values = true, value_parser = reference)]
    webhook: Option<String>,

    /// Where the sidecar finds its signing secret, if it signs: env:VARIABLE or file:/absolute/path
    #[arg(long, value_name = "REFERENCE", hide_env_values = true, value_parser = reference, conflicts_with = "pool")]
    secret: Option<String>,

    /// A pool instead: robots of one group, comma-separated; each is default, or was added before
    #[arg(long, value_name = "NAMES", value_delimiter = ',', hide_env_values = true, value_parser = member)]
    pool: Option<Vec<String>>,

    /// Most messages in any window of this length, such as 18/60s, or off; NOTIFICATION_ROBOT_RATE if not given
    #[arg(long, value_name = "COUNT/DURATION", value_parser = rate, conflicts_with = "pool")]
    rate: Option<String>,

    /// Mobile number to mention where neither the event nor its template mentions anybody; repeatable
    #[arg(long = "at-mobile", value_name = "MOBILE")]
    at_mobiles: Vec<String>,

    /// User id to mention, likewise; repeatable
    #[arg(long = "at-user-id", value_name = "ID")]
    at_user_ids: Vec<String>,

    /// Mention everybody, likewise
    #[arg(long)]
    at_all: bool,

    /// Have its events wait for now
    #[arg(long)]
    disabled: bool,

    /// Replace all of what is configured under this name, if anything is
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    operator: config::Operator,
    #[command(flatten)]
    database: config::Database,
}

/// Inserts or replaces the row, and says what happens next.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let is_new = block_on(async {
        let client = super::connect_as(&args.database, &args.operator).await?;
        if let Some(pool) = &args.pool {
            check_members(&client, pool).await?;
        }
        let upsert = "insert into notification_channels
                (name, webhook, secret, robots, rate, enabled, at_mobiles, at_user_ids, at_all)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            on conflict (name) do update
            set channel = excluded.channel, webhook = excluded.webhook, secret = excluded.secret,
                robots = excluded.robots, rate = excluded.rate, enabled = excluded.enabled,
                at_mobiles = excluded.at_mobiles, at_user_ids = excluded.at_user_ids, at_all = excluded.at_all,
                updated_at = now()
            where $10
            returning created_at = now()";
        let Args { name, webhook, secret, pool, rate, at_mobiles, at_user_ids, at_all, .. } = &args;
        let enabled = !args.disabled;
        let row = client
            .query_opt(
                upsert,
                &[name, webhook, secret, pool, rate, &enabled, at_mobiles, at_user_ids, at_all, &args.replace],
            )
            .await
            .map_err(|error| explain("the robot", error))?;
        let row = row.with_context(|| format!("{name} is there already; --replace replaces all of its settings"))?;
        Ok(row.get(0))
    })?;
    writeln!(std::io::stdout().lock(), "{}", next(&args, is_new))?;
    Ok(())
}

/// Refuses members that could never be sent through.
async fn check_members(client: &Client, pool: &[String]) -> anyhow::Result<()> {
    let members = "select m.name, c.robots is not null
        from unnest($1::text[]) with ordinality m (name, nth)
        left join notification_channels c on c.name = m.name
        where (c.name is null and m.name <> 'default') or c.robots is not null
        order by nth";
    let wrong = client.query(members, &[&pool]).await.context("looking for the robots of the pool")?;
    let named = |pools: bool| {
        let names = wrong.iter().filter(|row| row.get::<_, bool>(1) == pools).map(|row| row.get::<_, &str>(0));
        names.collect::<Vec<_>>().join(", ")
    };
    let (unknown, pools) = (named(false), named(true));
    if !unknown.is_empty() {
        return Err(BadConfiguration(format!("--pool: no such robot: {unknown}; add it first")).into());
    }
    if !pools.is_empty() {
        return Err(BadConfiguration(format!("--pool: allowed: robots; a pool itself is: {pools}")).into());
    }
    Ok(())
}

/// What happens next.
fn next(args: &Args, is_new: bool) -> String {
    let Args { name, webhook, secret, pool, disabled, .. } = args;
    let done = if is_new { "added" } else { "replaced" };
    let pool = pool.as_ref().map(|pool| format!(", a pool of {}", pool.join(", "))).unwrap_or_default();
    let mut lines = vec![format!("{done} {name}{pool}; consumers know it within seconds, without a restart")];
    let of_kind = |kind: &str| {
        let references = webhook.iter().chain(secret).filter_map(|reference| reference.strip_prefix(kind));
        references.collect::<Vec<_>>().join(", ")
    };
    let (variables, files) = (of_kind("env:"), of_kind("file:"));
    if !variables.is_empty() {
        let restart = "a variable that is new to them needs a restart all the same, a file does not";
        lines.push(format!("{variables}: to be set where consumers run, not here; {restart}"));
    }
    if !files.is_empty() {
        lines.push(format!("{files}: to be readable where consumers run, not here"));
    }
    if name == "default" {
        lines
            .push("where DINGTALK_NOTIFICATION_WEBHOOK is set, that robot is the default, and not this one".to_owned());
    }
    lines.push(if *disabled {
        "it is disabled: its events wait until it is added with --replace and without --disabled".to_owned()
    } else {
        format!("try it: postbell robots test {name}")
    });
    lines.join("\n")
}

/// As the database has it, which would show a literal secret in the detail of its refusal.
fn reference(text: &str) -> Result<String, String> {
    let is_variable = |name: &str| {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_reference = match text.split_once(':') {
        Some(("env", variable)) => is_variable(variable),
        Some(("file", path)) => path.len() > 1 && path.starts_with('/'),
        _ => false,
    };
    let allowed = "where it is, and not itself: env:VARIABLE or file:/absolute/path";
    if is_reference { Ok(text.to_owned()) } else { Err(allowed.to_owned()) }
}

fn member(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || "_.-".contains(c);
    let is_name = (1..=40).contains(&text.chars().count()) && text.chars().all(plain);
    if is_name { Ok(text.to_owned()) } else { Err("names of robots, comma-separated".to_owned()) }
}

fn rate(text: &str) -> Result<String, String> {
    text.parse::<RobotRate>().map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_says_where_it_is() {
        for good in ["env:HR_WEBHOOK", "env:_x1", "file:/run/secrets/hr", "file:/a:b c"] {
            assert_eq!(reference(good), Ok(good.to_owned()));
        }
        for bad in
            ["", "env:", "env:1A", "env:A B", "env:A=x", "ENV:A", "file:", "file:/", "file:a", "https://h/?t=x", "SECx"]
        {
            assert!(reference(bad).unwrap_err().contains("env:VARIABLE or file:/absolute/path"), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_taken_as_it_is_written() {
        assert_eq!(rate("18/60s"), Ok("18/60s".to_owned()));
        assert_eq!(rate("off"), Ok("off".to_owned()));
        assert!(rate("18").unwrap_err().contains("18/60s, or off"));
    }
}
