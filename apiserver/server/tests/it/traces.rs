//! Traces, as a collector gets them.

use std::time::Duration;

use bytes::Bytes;
use corral_server::serving::Serving;
use corral_server::traces::TracingConfig;
use corral_server::traces::otlp::{EXPORT_PATH, ExportRequest, Span};
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::fixture::{Fixture, Setup, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";
/// gRPC puts a flag and a length before each message.
const HEAD: usize = 5;

/// A collector: answers its address, and what it is sent.
async fn collector() -> (String, mpsc::UnboundedReceiver<Span>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (told, spans) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let told = told.clone();
            let service = hyper::service::service_fn(move |request| take(request, told.clone()));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(tcp), service));
        }
    });
    (address, spans)
}

async fn take(
    request: Request<Incoming>,
    told: mpsc::UnboundedSender<Span>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = std::io::Error>>, hyper::Error> {
    assert_eq!(request.uri().path(), EXPORT_PATH);
    let body = request.into_body().collect().await?.to_bytes();
    let message = ExportRequest::decode(body.slice(HEAD..)).expect("a message");
    let scopes = message
        .resource_spans
        .into_iter()
        .flat_map(|spans| spans.scope_spans);
    for span in scopes.flat_map(|scope| scope.spans) {
        let _ = told.send(span);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Frame::data(Bytes::from_static(&[0; HEAD])),
        Frame::trailers(trailers),
    ];
    let mut answer = Response::new(StreamBody::new(stream::iter(frames.map(Ok))));
    let media_type = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert("content-type", media_type);
    Ok(answer)
}

#[tokio::test]
async fn a_request_goes_on_with_the_trace_that_it_comes_with() {
    let (endpoint, mut spans) = collector().await;
    let fixture = Fixture::start_with(Setup {
        serving: Serving {
            tracing: Some(TracingConfig {
                endpoint,
                per_million: 0,
            }),
            ..Serving::default()
        },
        ..Setup::default()
    })
    .await;
    let mut connection = fixture.connect().await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let of = |trace: &str, flags: &str| format!("00-{trace}-{parent}-{flags}");
    let mut ask = async |method: &str, path: &str, traceparent: String, body: String| {
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("traceparent", traceparent),
        ];
        let answer = send(&mut connection, method, path, &headers, body).await;
        let code = answer.status().as_u16();
        let _ = answer.into_body().collect().await;
        code
    };
    // One that is not chosen, one that comes without a trace, and one that is.
    let other = "1af7651916cd43dd8448eb211c80319c";
    assert_eq!(ask("GET", CMS, of(other, "00"), String::new()).await, 200);
    assert_eq!(fixture.get(CMS).await.code, 200);
    let body = crate::fixture::config_map("traced", "1").to_string();
    assert_eq!(ask("POST", CMS, of(trace, "01"), body).await, 201);
    fixture.stop().await;
    let mut all = Vec::new();
    let read = async {
        while !all.iter().any(|span: &Span| span.kind == 2) {
            all.push(spans.recv().await.expect("the collector goes on"));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .expect("a span");
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert!(
        all.iter().all(|span| hex(&span.trace_id) == trace),
        "{all:?}"
    );
    let server = all.iter().find(|span| span.kind == 2).expect("the request");
    assert_eq!(hex(&server.parent_span_id), parent);
    assert_eq!(
        server.name,
        "POST /api/v1/namespaces/{:namespace}/configmaps"
    );
    assert!(server.end_time_unix_nano > server.start_time_unix_nano);
    let store = all
        .iter()
        .find(|span| span.name == "store create")
        .expect("the store");
    assert_eq!(store.parent_span_id, server.span_id);
    assert!(store.start_time_unix_nano >= server.start_time_unix_nano);
}

#[tokio::test]
async fn requests_do_not_wait_for_a_collector_that_is_not_there() {
    let fixture = Fixture::start_with(Setup {
        serving: Serving {
            tracing: Some(TracingConfig {
                // A port that nobody listens on.
                endpoint: "127.0.0.1:1".to_owned(),
                per_million: 1_000_000,
            }),
            ..Serving::default()
        },
        ..Setup::default()
    })
    .await;
    assert_eq!(fixture.config_map("one", "1").await.code, 201);
    fixture.stop().await;
}
