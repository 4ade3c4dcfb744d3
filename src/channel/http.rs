//! One POST to a robot, bounded in time and size, and whether it can have arrived where there is no answer.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Connect;
use super::hosts::Hosts;
use crate::cli::BadConfiguration;

/// Most of an answer that is read, in bytes.
const MOST: usize = 64 * 1024;

/// Shorter than servers usually keep an idle connection, so that one is seldom closed just as it is written to.
const IDLE: Duration = Duration::from_secs(15);

const AGENT: &str = concat!("postbell/", env!("CARGO_PKG_VERSION"));

/// The connections to all robots.
pub(super) struct Http {
    client: Client<Connect, Full<Bytes>>,
    timeout: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// How long the platform asks to be left alone, from its clock.
    pub(super) retry_after: Option<Duration>,
    /// The body, or its beginning.
    pub(super) body: Bytes,
}

/// Why nothing came back, in words free of the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request never left.
    NotSent(String),
    /// The request left, or may have.
    PossiblySent(String),
}

impl Http {
    /// # Errors
    ///
    /// See [`Connect::new`].
    pub(super) fn new(hosts: &Hosts, proxy: Matcher, timeout: Duration) -> Result<Http, BadConfiguration> {
        let connect = Connect::new(hosts, proxy)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // As many are kept as there were sends at the same time: a connection for each would be made again and again.
            .pool_idle_timeout(IDLE)
            // A kept connection that the server closed in the meantime: where hyper still holds the unwritten request,
            // it takes another connection by itself.
            .retry_canceled_requests(true)
            .build(connect);
        Ok(Http { client, timeout })
    }

    /// The longest that one request takes, connecting and answer included.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Posts JSON and reads the answer; follows no redirect.
    ///
    /// # Errors
    ///
    /// No answer in time, or none at all.
    pub(super) async fn post(&self, url: &str, body: Bytes) -> Result<Answer, Failure> {
        let request = Request::post(url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header(USER_AGENT, AGENT)
            .body(Full::new(body));
        let mut request = request.map_err(|_| Failure::NotSent("the webhook URL cannot be requested".to_owned()))?;
        let connection = capture_connection(&mut request);
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(done) => done,
            // The connection is known just before the request is written to it.
            Err(_) if connection.connection_metadata().is_none() => {
                Err(Failure::NotSent(format!("not connected within {:?}", self.timeout)))
            }
            Err(_) => Err(Failure::PossiblySent(format!("no answer within {:?}", self.timeout))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let response = self.client.request(request).await.map_err(|error| {
            if never_sent(&error) { Failure::NotSent(words(&error)) } else { Failure::PossiblySent(words(&error)) }
        })?;
        let (head, body) = response.into_parts();
        let mut body = Limited::new(body, MOST);
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => read.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                // Too long: its beginning says what it is.
                Err(error) if error.is::<http_body_util::LengthLimitError>() => break,
                // Cut off: a status of failure stands by itself, success would have stood in the body.
                Err(_) if !head.status.is_success() => break,
                Err(error) => return Err(Failure::PossiblySent(words(error.as_ref()))),
            }
        }
        Ok(Answer { status: head.status.as_u16(), retry_after: retry_after(&head.headers), body: read.freeze() })
    }
}

/// Whether a failed request is certain not to have left: no connection came about, or hyper handed it back unwritten,
/// which is what a canceled request means in HTTP/1.
fn never_sent(error: &hyper_util::client::legacy::Error) -> bool {
    let canceled = || error.source()?.downcast_ref::<hyper::Error>().map(hyper::Error::is_canceled);
    error.is_connect() || canceled().unwrap_or(false)
}

/// The causes of an error, outermost first, each once.
fn words(error: &(dyn Error + 'static)) -> String {
    // The outermost says no more than that the client failed.
    let mut cause = error.source().or(Some(error));
    let mut words: Vec<String> = Vec::new();
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    words.dedup_by(|inner, outer| outer.contains(inner.as_str()));
    words.join(": ")
}

/// Seconds, or a date, which counts from the answer's own.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp());
    let wanted = text(RETRY_AFTER)?.trim();
    match wanted.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => date(wanted)?.duration_since(date(text(DATE)?)?).try_into().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rig::{self, Reply, Server};
    use super::*;

    async fn post(server: &Server, body: &'static str) -> Result<Answer, Failure> {
        server.http(Duration::from_millis(300)).post(&server.url(), Bytes::from_static(body.as_bytes())).await
    }

    #[tokio::test]
    async fn an_answer_is_read_with_its_status_and_body() {
        let server = Server::start([Reply::ok()]).await;
        let answer = post(&server, "{}").await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"errcode\":0,\"errmsg\":\"ok\"}"[..]));
        let seen = server.seen();
        assert_eq!(seen[0].header("content-type"), "application/json; charset=utf-8");
        assert_eq!(seen[0].header("user-agent"), AGENT);
        assert_eq!(seen[0].body, "{}");
    }

    #[tokio::test]
    async fn a_request_that_was_read_and_dropped_is_possibly_sent() {
        let server = Server::start([Reply::Drop]).await;
        assert!(matches!(post(&server, "{}").await, Err(Failure::PossiblySent(_))));
    }

    #[tokio::test]
    async fn a_slow_answer_is_possibly_sent() {
        let server = Server::start([Reply::Hang]).await;
        assert!(matches!(post(&server, "{}").await, Err(Failure::PossiblySent(_))));
        let server = Server::start([Reply::HangInBody]).await;
        assert!(matches!(post(&server, "{}").await, Err(Failure::PossiblySent(_))), "the body is bounded too");
    }

    #[tokio::test]
    async fn what_never_connected_was_not_sent() {
        let address = rig::closed_port().await;
        let http = rig::http(&address.to_string(), Duration::from_millis(300));
        let refused = http.post(&format!("http://{address}/"), Bytes::new()).await;
        assert!(matches!(&refused, Err(Failure::NotSent(why)) if why.contains("refused")), "{refused:?}");

        let server = Server::start([Reply::ok()]).await;
        let http = server.http(Duration::from_millis(300));
        let no_tls = http.post(&server.url().replace("http:", "https:"), Bytes::new()).await;
        assert!(matches!(no_tls, Err(Failure::NotSent(_))), "{no_tls:?}");

        // Accepted by the kernel, but nobody answers the handshake.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let http = rig::http(&address.to_string(), Duration::from_millis(100));
        let slow = http.post(&format!("https://{address}/"), Bytes::new()).await;
        assert_eq!(slow, Err(Failure::NotSent("not connected within 100ms".to_owned())));
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_connected_to_only_where_the_operator_listed_it() {
        let server = Server::start([Reply::ok()]).await;
        let inside = server.url().replace("127.0.0.1", "localhost");
        for allowed in ["", "other.example", &server.address()] {
            let refused = rig::http(allowed, Duration::from_millis(300)).post(&inside, Bytes::new()).await;
            let Err(Failure::NotSent(why)) = refused else { panic!("with {allowed:?}: {refused:?}") };
            assert!(why.contains("localhost resolves to") && why.contains("NOTIFICATION_ALLOWED_HOSTS"), "{why}");
        }
        assert_eq!(server.connections(), 0);
        let listed = server.address().replace("127.0.0.1", "localhost");
        let answer = rig::http(&listed, Duration::from_millis(300)).post(&inside, Bytes::new()).await.unwrap();
        assert_eq!((answer.status, server.connections()), (200, 1));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let server = Server::start([Reply::Answer(302, vec![("location", "/elsewhere".to_owned())], "".into())]).await;
        assert_eq!(post(&server, "{}").await.unwrap().status, 302);
        assert_eq!(server.seen().len(), 1);
    }

    #[tokio::test]
    async fn a_huge_answer_is_read_up_to_its_bound() {
        let server = Server::start([Reply::Answer(200, vec![], "x".repeat(4 << 20))]).await;
        let answer = post(&server, "{}").await.unwrap();
        assert!(answer.body.len() <= MOST);
    }

    #[tokio::test]
    async fn a_cut_off_answer_is_known_only_where_its_status_says_enough() {
        let server = Server::start([Reply::CutOff(200), Reply::CutOff(403)]).await;
        assert!(matches!(post(&server, "{}").await, Err(Failure::PossiblySent(_))));
        assert_eq!(post(&server, "{}").await.unwrap().status, 403);
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_its_loss_after_a_write_is_possibly_sent() {
        let server = Server::start([Reply::ok(), Reply::ok(), Reply::Drop]).await;
        let http = server.http(Duration::from_millis(300));
        for _ in 0..2 {
            http.post(&server.url(), Bytes::from_static(b"{}")).await.unwrap();
        }
        let lost = http.post(&server.url(), Bytes::from_static(b"{}")).await;
        assert!(matches!(lost, Err(Failure::PossiblySent(_))), "{lost:?}");
        assert_eq!((server.connections(), server.seen().len()), (1, 3));
    }

    #[tokio::test]
    async fn https_goes_through_the_proxys_tunnel() {
        let proxy = rig::RefusingProxy::start().await;
        let http = rig::proxied_http(&format!("http://user:hunter2@{}", proxy.address));
        let refused = http.post("https://oapi.dingtalk.com/robot/send?access_token=x", Bytes::new()).await;
        assert!(matches!(&refused, Err(Failure::NotSent(why)) if why.contains("proxy")), "{refused:?}");
        let asked = proxy.asked.await.unwrap();
        assert!(asked.starts_with("CONNECT oapi.dingtalk.com:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n") && !asked.contains("access_token"));
    }

    #[test]
    fn a_wish_to_be_left_alone_is_read_as_seconds_or_as_a_date() {
        let headers = |pairs: &[(http::HeaderName, &str)]| {
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let read = |pairs: &[_]| retry_after(&headers(pairs)).map(|wish| wish.as_secs());
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[(RETRY_AFTER, "90")]), Some(90));
        assert_eq!(read(&[(RETRY_AFTER, "soon")]), None);
        let later = (RETRY_AFTER, "Sun, 06 Nov 1994 08:51:37 GMT");
        assert_eq!(read(std::slice::from_ref(&later)), None);
        assert_eq!(read(&[later, (DATE, "Sun, 06 Nov 1994 08:49:37 GMT")]), Some(120));
    }
}
