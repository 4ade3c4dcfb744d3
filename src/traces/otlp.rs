//! Spans go to a collector in batches, by OTLP over HTTP, from a thread of the SDK's own.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::Step;
use crate::cli::BadConfiguration;
use crate::config;

/// One request to the collector.
const PATIENCE: Duration = Duration::from_secs(10);

/// For what is left when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Most of a collector's answer.
const MOST: usize = 1024 * 1024;

/// Tells an OpenTelemetry collector of each step, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<(SdkTracerProvider, SdkTracer)>);

impl Traces {
    /// Tells the collector that the environment names; nobody where it names none.
    ///
    /// # Errors
    ///
    /// An address that is none.
    pub fn start() -> anyhow::Result<Traces> {
        let Some(collector) = config::collector() else { return Ok(Traces(None)) };
        let exporter = SpanExporter::builder().with_http().with_http_client(Collector::new()?).build();
        // The SDK's own words would show the address, and what stands in it before the host.
        let refused = "OTEL_EXPORTER_OTLP_ENDPOINT (or another OTEL_EXPORTER_OTLP_… variable): given a value that is not shown \
                       here; allowed: a URL such as http://collector:4318";
        let exporter = exporter.map_err(|_| BadConfiguration(refused.to_owned()))?;
        // What comes later wins: OTEL_RESOURCE_ATTRIBUTES over ours, OTEL_SERVICE_NAME over that.
        let resource = Resource::builder_empty()
            .with_service_name("postbell")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_detector(Box::new(EnvResourceDetector::new()));
        let resource = match collector.service_name {
            Some(name) => resource.with_service_name(name),
            None => resource,
        };
        let resource = resource.build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_id_generator(Ids::default())
            .with_batch_exporter(exporter)
            .build();
        let tracer = provider.tracer("postbell");
        Ok(Traces(Some((provider, tracer))))
    }

    /// Makes the span of a step that is over.
    pub fn tell<'a>(&self, step: impl FnOnce() -> Step<'a>) {
        let Some((_, tracer)) = &self.0 else { return };
        let step = step();
        let now = SystemTime::from(jiff::Timestamp::now());
        let began = now - step.began.map_or(Duration::ZERO, |began| Instant::now() - began);
        let mut attributes = vec![
            KeyValue::new("postbell.event_id", step.event_id.to_string()),
            KeyValue::new("postbell.event_type", step.event_type.to_owned()),
            KeyValue::new("postbell.template_id", step.template_id.to_owned()),
            KeyValue::new("postbell.attempt", i64::from(step.attempt)),
        ];
        if let Some(sent) = &step.sent {
            attributes.extend([
                KeyValue::new("postbell.outcome", sent.outcome),
                KeyValue::new("postbell.class", sent.class),
                KeyValue::new("postbell.robot", sent.robot.to_owned()),
                KeyValue::new("postbell.tries", i64::from(sent.tries)),
            ]);
        }
        let kind = if step.sent.is_some() { SpanKind::Client } else { SpanKind::Producer };
        let builder =
            SpanBuilder::from_name(step.name).with_kind(kind).with_start_time(began).with_attributes(attributes);
        let mut span = match Place::of(step.trace_id, step.event_id) {
            Place::Under(parent) => {
                builder.start_with_context(tracer, &Context::new().with_remote_span_context(parent))
            }
            Place::In(trace_id) => {
                Ids::JOINED.set(Some(trace_id));
                let span = builder.start_with_context(tracer, &Context::new());
                Ids::JOINED.set(None);
                span
            }
        };
        if let Some(error) = step.sent.and_then(|sent| sent.error) {
            span.set_status(Status::error(error.to_owned()));
        }
        span.end_with_timestamp(began + step.took);
    }

    /// Sends what is left, for a moment.
    pub async fn flush(self) {
        let Some((provider, tracer)) = self.0 else { return };
        drop(tracer);
        // It blocks, while its requests need this thread.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_WORDS)).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be sent to the collector");
        }
    }
}

/// Where the spans of an event belong.
#[derive(Debug, PartialEq)]
enum Place {
    /// Under the caller's span.
    Under(SpanContext),
    /// In this trace, on their own.
    In(TraceId),
}

impl Place {
    fn of(trace_id: Option<&str>, event_id: Uuid) -> Place {
        let given = trace_id.map(str::trim).unwrap_or_default();
        if let Some(parent) = parent(given).filter(SpanContext::is_valid) {
            return Place::Under(parent);
        }
        let given = trace(given).filter(|id| *id != TraceId::INVALID);
        Place::In(given.unwrap_or_else(|| TraceId::from_bytes(event_id.into_bytes())))
    }
}

/// `00-<trace>-<span>-<flags>`; a later version may have more behind it.
fn parent(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2)?;
    let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, hex(parts.next()?, 2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let span_id = SpanId::from_hex(hex(span_id, 16)?).ok()?;
    Some(SpanContext::new(trace(trace_id)?, span_id, flags, true, TraceState::NONE))
}

fn trace(text: &str) -> Option<TraceId> {
    TraceId::from_hex(hex(text, 32)?).ok()
}

fn hex(text: &str, digits: usize) -> Option<&str> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

/// Random ids, but for a trace that is joined without a parent in it: the SDK asks for its id on the same thread.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl Ids {
    thread_local! {
        static JOINED: Cell<Option<TraceId>> = const { Cell::new(None) };
    }
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        let joined = Ids::JOINED.take().filter(|id| *id != TraceId::INVALID);
        joined.unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// The way to the collector, by the runtime of the process: the SDK's thread has none.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    is_away: AtomicBool,
}

impl Collector {
    fn new() -> anyhow::Result<Collector> {
        let provider = rustls::crypto::ring::default_provider;
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(provider())
            .or_else(|_| HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider()))?;
        let client = Client::builder(TokioExecutor::new()).build(https.https_or_http().enable_http1().build());
        Ok(Collector { client, runtime: Handle::current(), is_away: AtomicBool::new(false) })
    }

    /// One line when it goes, one when it is back.
    fn note(&self, why: Option<&str>) {
        match (why, self.is_away.swap(why.is_some(), Ordering::Relaxed)) {
            (Some(why), false) => {
                tracing::warn!(why, "the collector takes no spans; they are dropped until it does");
            }
            (None, true) => tracing::info!("the collector takes spans again"),
            (Some(_), true) | (None, false) => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let asked = self.client.request(request.map(Full::new));
        let answered = async {
            let (head, body) = asked.await?.into_parts();
            let body = Limited::new(body, MOST).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        // All of it there, the clock included.
        let ended = self.runtime.spawn(async move { tokio::time::timeout(PATIENCE, answered).await }).await?;
        let response = ended.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into()));
        match &response {
            Ok(response) if response.status().is_success() => self.note(None),
            Ok(response) => self.note(Some(&format!("it answers {}", response.status()))),
            Err(error) => {
                let (mut why, mut cause) = (error.to_string(), error.source());
                while let Some(error) = cause {
                    why = format!("{why}: {error}");
                    cause = error.source();
                }
                self.note(Some(&why));
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_the_parent_a_trace_id_is_joined_and_anything_else_gives_the_event_its_own_trace() {
        let event = Uuid::from_u128(7);
        let given = TraceId::from_hex(TRACE).unwrap();
        let parent = |flags| {
            let span_id = SpanId::from_hex("00f067aa0ba902b7").unwrap();
            Place::Under(SpanContext::new(given, span_id, flags, true, TraceState::NONE))
        };
        let of = |text: &str| Place::of(Some(text), event);
        assert_eq!(of(&format!("00-{TRACE}-00f067aa0ba902b7-01")), parent(TraceFlags::SAMPLED));
        assert_eq!(of(&format!("00-{TRACE}-00f067aa0ba902b7-00")), parent(TraceFlags::NOT_SAMPLED));
        assert_eq!(of(&format!("cc-{TRACE}-00f067aa0ba902b7-01-later")), parent(TraceFlags::SAMPLED));
        assert_eq!(of(TRACE), Place::In(given));
        let own = Place::In(TraceId::from(7));
        assert_eq!(Place::of(None, event), own);
        for text in [
            String::new(),
            "a request".into(),
            "0".repeat(32),
            format!("+{}", &TRACE[1..]),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-00f067aa0ba902b7"),
        ] {
            assert_eq!(of(&text), own, "{text}");
        }
    }
}
