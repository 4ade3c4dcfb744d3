//! The other end: answers every request as a robot does that took the message, and remembers when each came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// An HTTP server on a thread of its own.
pub(crate) struct Receiver {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    count: AtomicUsize,
    /// When the message with this number came, where that is wanted.
    times: Mutex<Option<HashMap<u64, Instant>>>,
}

impl Receiver {
    pub(crate) fn start() -> Receiver {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        std::thread::spawn({
            let seen = seen.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(serve(listener, seen));
            }
        });
        Receiver { address, seen }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn webhook(&self) -> String {
        format!("http://{}/robot/send?access_token=bench", self.address)
    }

    /// Forgets all; from now on it remembers when messages came, if so wanted.
    pub(crate) fn reset(&self, with_times: bool) {
        *self.seen.times.lock().unwrap() = with_times.then(HashMap::new);
        self.seen.count.store(0, Ordering::Relaxed);
    }

    /// How many messages came since.
    pub(crate) fn count(&self) -> usize {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// When each came, by the number in its text.
    pub(crate) fn times(&self) -> HashMap<u64, Instant> {
        self.seen.times.lock().unwrap().clone().unwrap_or_default()
    }
}

async fn serve(listener: std::net::TcpListener, seen: Arc<Seen>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let seen = seen.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    seen.note(&body);
                    let answer = Bytes::from_static(br#"{"errcode":0,"errmsg":"ok"}"#);
                    let answer = Response::builder().header("content-type", "application/json").body(Full::new(answer));
                    Ok::<_, hyper::Error>(answer.unwrap())
                }
            });
            // A connection that is cut off is its client's business.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl Seen {
    fn note(&self, body: &[u8]) {
        if let Some(times) = &mut *self.times.lock().unwrap() {
            let text = String::from_utf8_lossy(body);
            if let Some(number) = text.split('#').find_map(|part| part.parse().ok()) {
                times.entry(number).or_insert_with(Instant::now);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}
