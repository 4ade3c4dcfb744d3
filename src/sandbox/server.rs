//! HTTP: the robots, the script, what was received, and the page for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::journal::{Arrival, Journal};
use super::page::{self, Lang, View};
use super::record::Request;
use super::rules;
use super::script::{Do, Rule};
use super::{Shared, tap};

/// Most bytes that are read of a request: far more than any message may have, so that a long one gets its errcode.
const READ_LIMIT: usize = 1 << 20;
/// How long one request of the page waits for something new.
const FEED_WAIT: Duration = Duration::from_secs(25);
/// How long connections may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

type Reply = Response<Full<Bytes>>;

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct Dropped;

/// Serves until the sandbox is stopped.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(connection(stream, Arc::clone(&shared))); }
                Err(error) => {
                    tracing::warn!(%error, "sandbox: cannot accept a connection");
                    // Out of file descriptors, as a rule: trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    // What does not close in time is cut off when the set is dropped.
    let _ = tokio::time::timeout(CLOSE_WAIT, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // The request whose answer is being written; 0 for none. HTTP/1 answers one at a time.
    let answering = Arc::new(AtomicU64::new(0));
    let (told, watched) = (Arc::clone(&shared), Arc::clone(&answering));
    let io = tap::Tap::new(stream, move || match watched.swap(0, Ordering::AcqRel) {
        0 => {}
        seq => told.answered(seq),
    });
    let service = service_fn(|request| {
        let (shared, answering) = (Arc::clone(&shared), Arc::clone(&answering));
        async move { handle(&shared, &answering, request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "sandbox: connection ended");
    }
}

async fn handle(shared: &Shared, answering: &AtomicU64, request: http::Request<Incoming>) -> Result<Reply, Dropped> {
    let path = request.uri().path().to_owned();
    if path == "/robot/send" {
        return robot(shared, answering, request).await;
    }
    let since = number(&request, "since");
    let reply = match (request.method(), path.as_str()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "text/plain", "ok\n"),
        (&Method::GET, "/") => page(shared, &request),
        (&Method::GET, "/page.css") => text(StatusCode::OK, "text/css", page::CSS),
        (&Method::GET, "/page.js") => text(StatusCode::OK, "text/javascript", page::JS),
        (&Method::GET, "/icon.svg") => text(StatusCode::OK, "image/svg+xml", page::ICON),
        (&Method::GET, "/feed") => feed(shared, &request).await?,
        (&Method::GET, "/messages") => json(StatusCode::OK, &shared.journal().messages(since)),
        (&Method::GET, "/requests") => json(StatusCode::OK, &shared.journal().requests(since)),
        (&Method::DELETE, "/messages") => {
            shared.change(Journal::clear);
            text(StatusCode::NO_CONTENT, "text/plain", "")
        }
        (&Method::GET, "/script") => json(StatusCode::OK, &shared.journal().script.rules()),
        (&Method::POST, "/script") => script(shared, request).await,
        (&Method::DELETE, "/script") => {
            shared.journal().script.clear();
            text(StatusCode::NO_CONTENT, "text/plain", "")
        }
        _ => refuse(
            StatusCode::NOT_FOUND,
            "there is POST /robot/send; GET /, /messages, /requests, /healthz; DELETE /messages; GET, POST, DELETE /script",
        ),
    };
    Ok(reply)
}

/// A request to a robot: read, judge, tell, then answer, if the script lets it.
async fn robot(shared: &Shared, answering: &AtomicU64, request: http::Request<Incoming>) -> Result<Reply, Dropped> {
    let (head, body) = request.into_parts();
    let content_type =
        head.headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let query = head.uri.query().unwrap_or_default().to_owned();
    let mut arrival = Arrival { method: head.method, query, content_type, body: Bytes::new(), endless: false };
    if let Some(request) = shared.change(|journal| journal.drop_unread(&arrival)) {
        log(&request);
        return Err(Dropped);
    }
    match Limited::new(body, READ_LIMIT).collect().await {
        Ok(body) => arrival.body = body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => arrival.endless = true,
        // The sender went away while writing: there was no request.
        Err(_) => return Err(Dropped),
    }
    let (request, action) = shared.change(|journal| journal.receive(&arrival, &shared.settings));
    log(&request);
    if let Some(hook) = &shared.settings.on_request {
        hook(&request);
    }
    let reply = match action {
        None => verdict(&request),
        Some(Do::DelayMs(delay_ms)) => {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(delay_ms)) => verdict(&request),
                () = shared.stop.cancelled() => return Err(Dropped),
            }
        }
        Some(Do::Hang) => {
            shared.stop.cancelled().await;
            return Err(Dropped);
        }
        Some(Do::DropBeforeReading | Do::DropAfterReading) => return Err(Dropped),
        Some(Do::Html) => text(StatusCode::OK, "text/html", GATEWAY_PAGE),
        Some(Do::Errcode { code, msg }) => answer(code, &msg),
        Some(Do::Reply { status, body, headers }) => {
            let mut reply = Response::new(Full::from(body));
            *reply.status_mut() = StatusCode::from_u16(status).map_err(|_| Dropped)?;
            for (name, value) in headers {
                let name = HeaderName::try_from(name).map_err(|_| Dropped)?;
                reply.headers_mut().insert(name, HeaderValue::try_from(value).map_err(|_| Dropped)?);
            }
            reply
        }
    };
    answering.store(request.seq, Ordering::Release);
    Ok(reply)
}

const GATEWAY_PAGE: &str = "<!doctype html><html><head><title>Gateway</title></head><body><h1>Service temporarily unavailable</h1></body></html>\n";

fn verdict(request: &Request) -> Reply {
    answer(request.errcode.unwrap_or(-1), &request.errmsg)
}

/// Business errors come with status 200 as well.
fn answer(code: i64, msg: &str) -> Reply {
    json(StatusCode::OK, &serde_json::json!({ "errcode": code, "errmsg": msg }))
}

/// The token never reaches the log; its mask tells robots apart.
fn log(request: &Request) {
    tracing::info!(
        request = request.seq,
        robot = request.robot.as_deref().unwrap_or("-"),
        verdict = ?request.verdict,
        errcode = request.errcode,
        errmsg = request.errmsg,
        script = request.script,
        bytes = request.body.len(),
        "sandbox: request"
    );
}

async fn script(shared: &Shared, request: http::Request<Incoming>) -> Reply {
    // A page of another origin cannot send this type unasked: the script is not theirs to write.
    let is_json =
        request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json");
    }
    let Ok(body) = Limited::new(request.into_body(), READ_LIMIT).collect().await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "a script has at most 1 MiB");
    };
    let rules: Vec<Rule> = match serde_json::from_slice(&body.to_bytes()) {
        Ok(rules) => rules,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("a script is a JSON array of rules: {error}")),
    };
    if let Some(error) = rules.iter().find_map(|rule| rule.check().err()) {
        return refuse(StatusCode::BAD_REQUEST, &error);
    }
    let mut journal = shared.journal();
    journal.script.add(rules);
    json(StatusCode::OK, &journal.script.rules())
}

fn page(shared: &Shared, request: &http::Request<Incoming>) -> Reply {
    let lang = lang(request);
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.map_or_else(|| shared.addr.to_string(), str::to_owned);
    text(StatusCode::OK, "text/html", page::html(&shared.journal(), &shared.settings, lang, &host))
}

/// What is new for the page since a revision; waits until something is.
async fn feed(shared: &Shared, request: &http::Request<Incoming>) -> Result<Reply, Dropped> {
    let (lang, since, clears) = (lang(request), number(request, "since"), number(request, "clears"));
    let mut changed = shared.changed.subscribe();
    let until = tokio::time::Instant::now() + FEED_WAIT;
    loop {
        changed.mark_unchanged();
        {
            let journal = shared.journal();
            // Another count of clears, or a revision from before a restart: the page starts afresh.
            let afresh = journal.clears() != clears || journal.revision() < since;
            let view = View::new(&journal, if afresh { 0 } else { since }, lang);
            if afresh || !view.items.is_empty() {
                return Ok(json(
                    StatusCode::OK,
                    &serde_json::json!({
                        "revision": journal.revision(), "clears": journal.clears(), "afresh": afresh, "items": view.items,
                    }),
                ));
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(until) => return Ok(text(StatusCode::NO_CONTENT, "text/plain", "")),
            () = shared.stop.cancelled() => return Err(Dropped),
        }
    }
}

fn lang(request: &http::Request<Incoming>) -> Lang {
    let asked = request.uri().query().and_then(|query| rules::parameter(query, "lang"));
    let accepted = request.headers().get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Lang::of(asked.as_deref().or(accepted).unwrap_or_default())
}

fn number(request: &http::Request<Incoming>, name: &str) -> u64 {
    let value = request.uri().query().and_then(|query| rules::parameter(query, name));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn refuse(status: StatusCode, error: &str) -> Reply {
    json(status, &serde_json::json!({ "error": error }))
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => text(status, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let content_type = match kind {
        "application/json" => "application/json; charset=utf-8",
        "text/html" => "text/html; charset=utf-8",
        "text/css" => "text/css; charset=utf-8",
        "text/javascript" => "text/javascript; charset=utf-8",
        "image/svg+xml" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}
