//! `postbell health`: what the process that runs here says of itself, as an exit code.
//!
//! An image without a shell has no other program that could ask.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::block_on;
use crate::cli::BadConfiguration;
use crate::config::{self, HttpAddr};

/// Who asks has mostly less patience, and kills this process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most of an answer: more is not postbell's.
const MOST: usize = 64 * 1024;

/// Arguments of `postbell health`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 ready (with --live: alive), 1 not, or no answer, and why; 64 there is nobody to \
                        ask, for NOTIFICATION_HTTP_ADDR is off or has port 0."
)]
pub struct Args {
    /// Whether it is alive, rather than ready: what a restart could mend
    #[arg(long)]
    live: bool,

    #[command(flatten)]
    http: config::Http,
}

/// Asks, prints the answer, and fails where it is no yes.
pub fn run(args: Args) -> anyhow::Result<()> {
    let addr = asked_at(args.http.http_addr)?;
    let path = if args.live { "/livez" } else { "/readyz" };
    let (status, answer) = block_on(async {
        let answer = tokio::time::timeout(PATIENCE, get(addr, path)).await;
        answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {}", config::show(PATIENCE))))
    })
    .with_context(|| format!("http://{addr}{path}"))?;
    let answer = answer.trim_end();
    match status {
        StatusCode::OK => Ok(writeln!(std::io::stdout(), "{answer}")?),
        StatusCode::SERVICE_UNAVAILABLE => anyhow::bail!("not ready: {answer}"),
        other => anyhow::bail!("http://{addr}{path} answers {other}: it is not postbell that listens there"),
    }
}

/// Where a process that listens at this address is reached from its own host.
fn asked_at(listens: HttpAddr) -> Result<SocketAddr, BadConfiguration> {
    let bad = |given: &str| {
        let allowed = "allowed: the address that the running postbell has, with its port";
        BadConfiguration(format!("NOTIFICATION_HTTP_ADDR (--http-addr): given {given}; {allowed}"))
    };
    let HttpAddr::At(addr) = listens else { return Err(bad("off, where nobody answers")) };
    if addr.port() == 0 {
        return Err(bad("port 0, which is another one each time"));
    }
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, addr.port()))
}

async fn get(addr: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong with it is told to the request.
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, addr.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_listens_everywhere_is_asked_at_home_and_one_that_listens_nowhere_is_not_asked() {
        let asked = |text: &str| asked_at(HttpAddr::At(text.parse().unwrap())).map(|addr| addr.to_string());
        for (listens, is_asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("10.0.0.7:80", "10.0.0.7:80"),
        ] {
            assert_eq!(asked(listens).unwrap(), is_asked);
        }
        assert!(asked("127.0.0.1:0").unwrap_err().0.contains("given port 0"));
        assert!(asked_at(HttpAddr::Off).unwrap_err().0.contains("given off"));
    }
}
