//! Spans as a collector receives them: a real one would do the same with the request.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use postbell::sandbox::{Do, Rule};
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::harness::process::{Env, Postbell};
use crate::harness::servers::free_port;
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector, and what it has received.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    services: Vec<String>,
    /// All of it, as it came.
    bytes: Vec<u8>,
}

impl Received {
    /// Listens, and keeps what comes.
    async fn start() -> (Received, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Received::default();
        let kept = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let service = service_fn(move |request| {
                    let kept = kept.clone();
                    async move { Ok::<_, hyper::Error>(kept.keep(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (received, url)
    }

    async fn keep(&self, request: http::Request<Incoming>) -> http::Response<Full<Bytes>> {
        assert_eq!((request.method(), request.uri().path()), (&http::Method::POST, "/v1/traces"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let export = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        let mut kept = self.0.lock().unwrap();
        kept.bytes.extend_from_slice(&body);
        for of_one in export.resource_spans {
            let resource = of_one.resource.unwrap_or_default();
            kept.services.extend(resource.attributes.iter().filter(|one| one.key == "service.name").map(|one| {
                match one.value.as_ref().and_then(|value| value.value.as_ref()) {
                    Some(Value::StringValue(name)) => name.clone(),
                    other => format!("{other:?}"),
                }
            }));
            kept.spans.extend(of_one.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        http::Response::new(Full::default())
    }

    /// The spans of an event that was hinted and sent: hints, of which there may be more than are needed, and the one send.
    async fn of(&self, event: Uuid) -> (Vec<Span>, Span) {
        eventually(SOON, &format!("the spans of {event}"), async || {
            let kept = self.0.lock().unwrap();
            let spans = kept.spans.iter().filter(|span| text(span, "postbell.event_id") == event.to_string());
            let (hints, mut rest): (Vec<Span>, Vec<Span>) = spans.cloned().partition(|span| span.name == "hint");
            let send = rest.pop().filter(|_| !hints.is_empty())?;
            assert!(send.name == "send" && rest.is_empty(), "{rest:?}");
            Some((hints, send))
        })
        .await
    }
}

fn text(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match found.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn env(stage: &Stage, url: &str) -> Env {
    stage.env.clone().with("OTEL_EXPORTER_OTLP_ENDPOINT", url).with("OTEL_BSP_SCHEDULE_DELAY", "100")
}

async fn publish(stage: &Stage, trace_id: Option<&str>) -> Uuid {
    let insert =
        "insert into notification_events (event_type, payload, trace_id) values ('plain', $1, $2) returning id";
    let payload = json!({ "text": "payl0ad-of-somebody" });
    stage.world.client().query_one(insert, &[&payload, &trace_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn insert_hint_and_send_are_one_trace_by_the_callers_traceparent_and_show_no_payload_and_no_token() {
    let stage = Stage::new().await;
    let (received, url) = Received::start().await;
    let env = env(&stage, &url);
    // Apart, so that nothing is carried from one to the other but by the row.
    let env = env.with("OTEL_RESOURCE_ATTRIBUTES", "service.name=hire-postbell");
    let relay = Postbell::start(&["relay"], &env);
    let mut consumer = Postbell::start(&["consume"], &env.clone().with("OTEL_SERVICE_NAME", "postbell-consumer"));
    let traced = publish(&stage, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    let joined = publish(&stage, Some(TRACE)).await;
    let alone = publish(&stage, Some("a request")).await;
    let unsampled = publish(&stage, Some(&format!("00-{TRACE}-{CALLER}-00"))).await;
    stage.settled().await;

    for (event, trace, parent) in
        [(traced, TRACE.to_owned(), CALLER), (joined, TRACE.to_owned(), ""), (alone, alone.simple().to_string(), "")]
    {
        let (hints, send) = received.of(event).await;
        for span in hints.iter().chain([&send]) {
            assert_eq!(
                (hex(&span.trace_id), hex(&span.parent_span_id)),
                (trace.clone(), parent.to_owned()),
                "{span:?}"
            );
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
            assert_eq!(text(span, "postbell.template_id"), "plain");
        }
        assert!(hints.iter().all(|hint| hint.span_id != send.span_id));
        assert!(hints[0].start_time_unix_nano < send.start_time_unix_nano, "it was hinted before it was sent");
        assert!(send.end_time_unix_nano > send.start_time_unix_nano, "a send takes time");
        assert_eq!(text(&send, "postbell.outcome"), "delivered");
        assert_eq!(text(&send, "postbell.robot"), "default");
    }

    // What is left is sent before the process ends, and a failure says why.
    stage.robot.script([Rule::new(Do::Errcode { code: 40_035, msg: "refused".into() }).forever()]);
    let failed = publish(&stage, None).await;
    stage.settled().await;
    consumer.sigterm();
    assert!(consumer.exit_status(SOON).await.success());
    let (_, send) = received.of(failed).await;
    let status = send.status.clone().unwrap();
    assert_eq!((status.code(), text(&send, "postbell.outcome")), (StatusCode::Error, "failed".to_owned()), "{send:?}");
    assert!(!status.message.is_empty());

    let kept = received.0.lock().unwrap();
    assert!(!kept.spans.iter().any(|span| text(span, "postbell.event_id") == unsampled.to_string()));
    for name in ["hire-postbell", "postbell-consumer"] {
        assert!(kept.services.iter().any(|one| one == name), "{:?}", kept.services);
    }
    let bytes = String::from_utf8_lossy(&kept.bytes);
    for hidden in ["payl0ad-of-somebody", "access_token"] {
        assert!(!bytes.contains(hidden), "a span shows {hidden}");
    }
    drop(relay);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_one_line_of_the_log_and_no_event() {
    let stage = Stage::new().await;
    let env = env(&stage, &format!("http://127.0.0.1:{}", free_port()));
    let mut postbell = Postbell::start(&["run"], &env);
    let ids = stage.publish(3).await;
    stage.settled().await;
    stage.assert_arrived_once(&ids, 0);
    let line = postbell.wait_for_line("the collector takes no spans", SOON).await;
    assert!(line.contains("refused"), "{line}");
    stage.publish(3).await;
    stage.settled().await;
    postbell.sigterm();
    assert!(postbell.exit_status(SOON).await.success());
    let lines = postbell.stderr();
    assert_eq!(lines.iter().filter(|line| line.contains("the collector takes no spans")).count(), 1, "{lines:?}");
}

#[tokio::test]
async fn a_collectors_address_that_cannot_be_one_is_refused_and_not_shown() {
    let stage = Stage::new().await;
    let mut postbell = Postbell::start(&["run"], &env(&stage, "https://user:t0ken@collector example:4318"));
    assert_eq!(postbell.exit_status(SOON).await.code(), Some(64));
    let said = postbell.stderr().join("\n");
    assert!(said.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && said.contains("allowed: a URL such as"), "{said}");
    assert!(!said.contains("t0ken"), "{said}");
}
