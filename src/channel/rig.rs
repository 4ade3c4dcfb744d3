//! For tests of this module: a server that answers as told, and channels that may talk to it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::hosts::Hosts;
use super::http::Http;
use super::{Channels, Proxy};
use crate::cli::BadConfiguration;
use crate::config;

pub(super) const TOKEN: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
pub(super) const WEBHOOK: &str = "https://oapi.dingtalk.com/robot/send?access_token=c0ffee";
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    channel: config::Channel,
}

pub(super) fn try_channels(args: &[&str]) -> Result<Channels, BadConfiguration> {
    let args = ["test", "--send-timeout", "500ms"].iter().chain(args);
    Channels::new(&Config::parse_from(args).channel, Proxy::builder().build())
}

pub(super) fn channels(args: &[&str]) -> Channels {
    try_channels(args).unwrap()
}

pub(super) fn http(allowed: &str, timeout: Duration) -> Http {
    Http::new(&Hosts::new(&allowed.parse().unwrap()), Proxy::builder().build(), timeout).unwrap()
}

pub(super) fn proxied_http(proxy: &str) -> Http {
    Http::new(&Hosts::new(&Default::default()), Proxy::builder().https(proxy).build(), TIMEOUT).unwrap()
}

/// An address at which nobody listens.
pub(super) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// What the server does with a request, once it has read it.
pub(super) enum Reply {
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Answers with the request's own URL, over and over.
    Echo(u16),
    /// Closes the connection without a word.
    Drop,
    /// Closes it within the body.
    CutOff(u16),
    /// Says nothing.
    Hang,
    /// Says nothing more after the headers.
    HangInBody,
}

impl Reply {
    pub(super) fn ok() -> Reply {
        Reply::json(r#"{"errcode":0,"errmsg":"ok"}"#)
    }

    pub(super) fn json(body: &str) -> Reply {
        Reply::Answer(200, vec![], body.to_owned())
    }
}

/// A request that arrived.
#[derive(Clone)]
pub(super) struct Seen {
    head: Arc<http::request::Parts>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).unwrap().to_str().unwrap()
    }

    pub(super) fn query(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.head.uri.query().unwrap().as_bytes()).into_owned().collect()
    }
}

#[derive(Default)]
struct State {
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

/// A server on a port of its own, for as long as the test's runtime.
pub(super) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    pub(super) async fn start(replies: impl IntoIterator<Item = Reply>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { replies: Mutex::new(replies.into_iter().collect()), ..State::default() });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let state = shared.clone();
                let service = hyper::service::service_fn(move |request| answer(state.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Server { address, state }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/robot/send?access_token={TOKEN}", self.address)
    }

    pub(super) fn http(&self, timeout: Duration) -> Http {
        http(&self.address(), timeout)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let echo = head.uri.to_string();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    state.seen.lock().unwrap().push(Seen { head: Arc::new(head), body });
    let reply = state.replies.lock().unwrap().pop_front().unwrap();
    let full = |text: String| Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed();
    let begun = || futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"{\"errcode\":")))]);
    let (status, headers, body) = match reply {
        Reply::Answer(status, headers, body) => (status, headers, full(body)),
        Reply::Echo(status) => {
            let json = serde_json::json!({ "errcode": 310000, "errmsg": echo.repeat(20) });
            (status, vec![("location", echo)], full(json.to_string()))
        }
        Reply::Drop => return Err(io::Error::other("dropped, as told")),
        Reply::Hang => std::future::pending().await,
        Reply::HangInBody => {
            (200, vec![], BodyExt::boxed(StreamBody::new(begun().chain(futures_util::stream::pending()))))
        }
        Reply::CutOff(status) => {
            let cut = futures_util::stream::once(async {
                // Lets the beginning go out first.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut off, as told"))
            });
            (status, vec![], BodyExt::boxed(StreamBody::new(begun().chain(cut))))
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(body).unwrap())
}

/// A proxy that notes what it is asked, and refuses.
pub(super) struct RefusingProxy {
    pub(super) address: SocketAddr,
    pub(super) asked: oneshot::Receiver<String>,
}

impl RefusingProxy {
    pub(super) async fn start() -> RefusingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                read.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
            tell.send(String::from_utf8(read).unwrap()).unwrap();
        });
        RefusingProxy { address, asked }
    }
}

/// Everything that this process logs from the first capture on, at every level. It is the process's, not a thread's:
/// whether a log statement is wanted at all is decided for the whole process, by whichever thread comes first.
#[derive(Clone, Default)]
pub(super) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub(super) fn capture() -> Logs {
        static LOGS: OnceLock<Logs> = OnceLock::new();
        let capture = || {
            let logs = Logs::default();
            let writer = logs.clone();
            let subscriber =
                tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
            tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
            logs
        };
        LOGS.get_or_init(capture).clone()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
