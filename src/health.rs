//! Health and metrics over HTTP. Readiness is about progress: a part that is stuck says so and why.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// A fault makes a part not ready once it has lasted this long: a reconnect is not an outage.
const FAULT_PATIENCE: Duration = Duration::from_secs(5);

/// How long a scrape waits for fresh values; Prometheus waits 10 s for the scrape, unless told otherwise.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// The state of the parts of one process.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<BTreeMap<&'static str, Part>>,
    notes: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Part {
    /// A part that has not been round its loop for this long is stuck.
    stale_after: Duration,
    /// None: it has not started yet.
    moved_at: Option<Instant>,
    fault: Option<(Instant, String)>,
}

impl Health {
    fn parts(&self) -> MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part will start, and then go round its loop at least this often.
    pub fn expect(&self, part: &'static str, stale_after: Duration) {
        self.parts().insert(part, Part { stale_after, moved_at: None, fault: None });
    }

    /// A part went round its loop.
    pub fn moved(&self, part: &'static str) {
        if let Some(part) = self.parts().get_mut(part) {
            part.moved_at = Some(Instant::now());
            part.fault = None;
        }
    }

    /// A part cannot go on. Returns whether this is news: the fault is another than the last one, or the first.
    pub fn stuck(&self, part: &'static str, why: &str) -> bool {
        let mut parts = self.parts();
        let Some(part) = parts.get_mut(part) else { return true };
        match &mut part.fault {
            Some((_, known)) if known == why => false,
            Some((_, known)) => {
                why.clone_into(known);
                true
            }
            None => {
                part.fault = Some((Instant::now(), why.to_owned()));
                true
            }
        }
    }

    /// What people should know although the process is ready, a line each; in the place of what was known before.
    pub fn note(&self, notes: Vec<String>) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }

    /// What people should know although the process is ready.
    fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the process is not ready, a line a part; empty when it is.
    pub fn complaints(&self) -> Vec<String> {
        let complain = |(name, part): (&&'static str, &Part)| Some(format!("{name}: {}", part.complaint()?));
        self.parts().iter().filter_map(complain).collect()
    }

    /// Each part, and whether it is ready.
    pub fn states(&self) -> Vec<(&'static str, bool)> {
        self.parts().iter().map(|(name, part)| (*name, part.complaint().is_none())).collect()
    }
}

impl Part {
    /// Why it is not ready.
    fn complaint(&self) -> Option<String> {
        match &self.fault {
            Some((since, why)) if since.elapsed() >= FAULT_PATIENCE => {
                Some(format!("{why} (for {} s)", since.elapsed().as_secs()))
            }
            fault => match self.moved_at {
                None => Some(fault.as_ref().map_or("starting", |(_, why)| why).to_owned()),
                Some(moved_at) if moved_at.elapsed() >= self.stale_after => {
                    Some(format!("no progress for {} s", moved_at.elapsed().as_secs()))
                }
                Some(_) => None,
            },
        }
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` for as long as it is polled; `refresh` runs before each scrape.
pub async fn serve<R, F>(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>, refresh: R)
where
    R: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would spin.
                tracing::warn!(%error, "accepting a health connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (health, metrics, refresh) = (health.clone(), metrics.clone(), refresh.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (health, metrics, refresh) = (health.clone(), metrics.clone(), refresh.clone());
            async move { Ok::<_, Infallible>(answer(&request, &health, &metrics, refresh).await) }
        });
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a health connection ended early");
            }
        });
    }
}

async fn answer<R, F>(
    request: &Request<Incoming>,
    health: &Health,
    metrics: &Metrics,
    refresh: R,
) -> Response<Full<Bytes>>
where
    R: Fn() -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (status, content_type, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "text/plain", "alive\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            let (complaints, notes) = (health.complaints(), health.notes());
            let (status, mut lines) = match complaints.is_empty() {
                true => (StatusCode::OK, vec!["ready".to_owned()]),
                false => (StatusCode::SERVICE_UNAVAILABLE, complaints),
            };
            lines.extend(notes);
            (status, "text/plain", lines.join("\n") + "\n")
        }
        (&Method::GET | &Method::HEAD, "/metrics") => {
            // Who does not answer must not make it look as if this process were gone: then there are the last values.
            let _ = tokio::time::timeout(REFRESH_TIMEOUT, tokio::spawn(refresh())).await;
            metrics.saw_parts(&health.states());
            match metrics.encode() {
                Ok(text) => (StatusCode::OK, CONTENT_TYPE, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
            }
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "here are /livez, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_goes_round_its_loop_is_ready_and_one_that_does_not_is_named() {
        let health = Health::default();
        health.expect("relay", Duration::from_secs(60));
        health.expect("consumer", Duration::ZERO);
        assert_eq!(health.complaints(), ["consumer: starting", "relay: starting"]);
        health.moved("relay");
        health.moved("consumer");
        assert_eq!(health.complaints(), ["consumer: no progress for 0 s"]);
    }

    #[test]
    fn a_fault_is_news_once_and_forgotten_when_the_part_moves() {
        let health = Health::default();
        health.expect("relay", Duration::from_secs(60));
        health.moved("relay");
        assert!(health.stuck("relay", "Redis is away"));
        assert!(!health.stuck("relay", "Redis is away"));
        assert!(health.stuck("relay", "Redis is full"));
        assert!(health.complaints().is_empty(), "a fault is given a few seconds");
        health.moved("relay");
        assert!(health.stuck("relay", "Redis is full"));
    }
}
