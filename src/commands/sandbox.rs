//! `postbell sandbox`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::sandbox::{Sandbox, Settings};

/// Arguments of `postbell sandbox`.
///
/// Flags only: a stand-in must not pick up the settings of a real robot from the environment.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Bodies above 20,000 bytes are refused, as the platform does. Anyone who reaches the address can \
                        read the messages and script failures, so it listens on loopback unless told otherwise."
)]
pub struct Args {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8099", value_parser = parse_addr)]
    listen: SocketAddr,

    /// Requests allowed to each robot in any window of this length, or off
    #[arg(long, value_name = "COUNT/DURATION", default_value = "20/60s", value_parser = parse_rate)]
    rate: Rate,

    /// How long a robot refuses everything once its rate was exceeded
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    ban: Duration,

    /// Secret that requests must be signed with; make one up, such as SECsandbox
    #[arg(long, value_name = "SECRET", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    secret: Option<String>,

    /// Keyword that a message must contain; where it is repeated, one of them
    #[arg(long = "keyword", value_name = "WORD", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    keywords: Vec<String>,

    /// Access token that exists; repeatable. Without it, every token does
    #[arg(long = "token", value_name = "TOKEN", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    tokens: Vec<String>,
}

/// A rate limit, or none.
type Limit = Option<(u32, Duration)>;

/// A type of its own: to clap, an `Option` is an argument that may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Limit);

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    super::block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another address with --listen", args.listen))?;
    // Before anything is printed: who waits for the URL may signal at once.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = args.tokens.first().cloned().unwrap_or_else(|| "sandbox".to_owned());
    let signs = args.secret.is_some();
    let settings = Settings {
        rate: args.rate.0,
        ban: args.ban,
        secret: args.secret,
        keywords: args.keywords,
        tokens: (!args.tokens.is_empty()).then_some(args.tokens),
        ..Settings::default()
    };
    let sandbox = Sandbox::start(listener, settings)?;
    if !sandbox.addr().ip().is_loopback() {
        tracing::warn!(addr = %sandbox.addr(), "sandbox: not only this machine can read the messages and script failures");
    }
    introduce(&sandbox, &token, signs)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    sandbox.shutdown().await;
    Ok(())
}

/// Says where it is, and what to give postbell.
fn introduce(sandbox: &Sandbox, token: &str, signs: bool) -> std::io::Result<()> {
    let (bound, here) = (sandbox.addr(), reachable(sandbox.addr()));
    let webhook = sandbox.webhook(token).replacen(&bound.to_string(), &here.to_string(), 1);
    let mut out = std::io::stdout().lock();
    writeln!(out, "DingTalk stand-in on http://{here}/  (the page shows the group; Ctrl-C stops it)\n")?;
    writeln!(out, "Give postbell:\n")?;
    writeln!(out, "DINGTALK_NOTIFICATION_WEBHOOK='{webhook}' NOTIFICATION_ALLOWED_HOSTS={here}\n")?;
    if signs {
        writeln!(out, "and as DINGTALK_NOTIFICATION_SECRET the secret given here.\n")?;
    }
    out.flush()
}

/// The address as a client on this machine writes it.
fn reachable(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() { SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), addr.port()) } else { addr }
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address and port such as 127.0.0.1:8099 or [::1]:8099".to_owned())
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "off" {
        return Ok(Rate(None));
    }
    let rate = text.split_once('/').and_then(|(count, window)| {
        let count = count.parse().ok().filter(|count| *count > 0)?;
        let window = parse_duration(window).ok().filter(|window| !window.is_zero())?;
        Some(Rate(Some((count, window))))
    });
    rate.ok_or_else(|| "a count and a duration such as 20/60s, or off".to_owned())
}

/// At most a year: far enough for a stand-in, and safe to add to any clock.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .filter(|duration| duration.as_secs() <= 365 * 86_400)
        .ok_or_else(|| "a duration of at most a year, such as 45s or 10m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_window_or_off() {
        assert_eq!(parse_rate("20/60s"), Ok(Rate(Some((20, Duration::from_secs(60))))));
        assert_eq!(parse_rate("off"), Ok(Rate(None)));
        for refused in ["", "20", "0/60s", "20/0s", "20/-1s", "x/60s", "20/soon"] {
            assert!(parse_rate(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn an_address_that_is_everywhere_is_shown_as_loopback() {
        let shown = |addr: &str| reachable(addr.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:8099"), "127.0.0.1:8099");
        assert_eq!(shown("127.0.0.2:1"), "127.0.0.2:1");
    }
}
