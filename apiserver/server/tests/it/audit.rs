//! The audit log against what kube-apiserver v1.36.3 wrote of the same requests under the same policy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corral_server::audit::AuditConfig;
use corral_server::audit::log::LogConfig;
use corral_server::audit::webhook::WebhookConfig;
use corral_server::authn::User;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::fixture::{Fixture, Setup, body_of, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[derive(Deserialize)]
struct Case {
    method: String,
    path: String,
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    raw: Option<String>,
    #[serde(default)]
    anonymous: bool,
    code: u16,
    events: Vec<Value>,
}

fn log(folder: &tempfile::TempDir) -> LogConfig {
    LogConfig {
        path: folder.path().join("audit.log"),
        size_max: 100 * 1024 * 1024,
        backups_max: None,
        age_max: None,
        compress: false,
        strict: false,
    }
}

/// The value of a metric.
async fn metric(fixture: &Fixture, name: &str) -> u64 {
    let admin = User::new("admin", &[corral_server::authn::MASTERS]);
    let metrics = fixture.text(admin, "/metrics").await;
    let begins = format!("{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&*begins));
    value.expect("a metric").parse().expect("a number")
}

async fn start(audit: AuditConfig) -> Fixture {
    let setup = Setup {
        audit,
        ..Default::default()
    };
    Fixture::start_with(setup).await
}

#[tokio::test]
async fn without_a_policy_nothing_is_counted_but_what_is_counted_is_shown() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    for name in ["event_total", "requests_rejected_total"] {
        assert_eq!(
            metric(&fixture, &format!("apiserver_audit_{name}")).await,
            0
        );
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_if_the_log_is_strict() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("policy.yaml");
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Metadata, resources: [{resources: [configmaps]}]}\n- {level: None}\n";
    std::fs::write(&policy, rules).expect("written");
    for strict in [false, true] {
        let log = LogConfig {
            // It opens, and takes nothing.
            path: "/dev/full".into(),
            strict,
            ..log(&folder)
        };
        let audit = AuditConfig {
            policy: Some(policy.clone()),
            log: Some(log),
            webhook: None,
        };
        let fixture = start(audit).await;
        let mut connection = fixture.connect().await;
        let path = "/api/v1/namespaces/default/configmaps";
        let answer = send(&mut connection, "GET", path, &[], "").await;
        assert_eq!(answer.status(), if strict { 500 } else { 200 });
        let body = body_of(answer).await;
        let told = "Internal Server Error: \"/api/v1/namespaces/default/configmaps\": failed to store audit event\n";
        assert_eq!(body == told, strict, "{body:?}");
        let rejected = metric(&fixture, "apiserver_audit_requests_rejected_total").await;
        assert_eq!(rejected > 0, strict);
        let lost = metric(&fixture, "apiserver_audit_error_total{plugin=\"log\"}").await;
        assert_eq!(metric(&fixture, "apiserver_audit_event_total").await, lost);
        let recorded = "apiserver_audit_level_total{level=\"Metadata\"}";
        assert!(lost >= metric(&fixture, recorded).await);
        assert!(metric(&fixture, "apiserver_audit_level_total{level=\"None\"}").await > 0);
        assert_eq!(
            fixture.get("/api/v1/namespaces/default/secrets").await.code,
            200
        );
    }
}

fn policy() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/audit-policy.yaml"
    ))
}

/// Takes off what is never the same twice: times, uids, versions, generated names, and what Corral does not write.
fn normal(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        for key in [
            "requestReceivedTimestamp",
            "stageTimestamp",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "description",
            "remainingItemCount",
            "managedFields",
        ] {
            map.remove(key);
        }
        if map.contains_key("generateName") {
            map.remove("name");
        }
        let extra = map.get_mut("extra").and_then(Value::as_object_mut);
        if let Some(extra) = extra {
            extra.remove("authentication.kubernetes.io/credential-id");
        }
        if map.get("extra") == Some(&json!({})) {
            map.remove("extra");
        }
        let taken = std::mem::take(map);
        *map = taken.into_iter().map(|(k, v)| (k, normal(v))).collect();
    } else if let Value::Array(items) = &mut value {
        *items = std::mem::take(items).into_iter().map(normal).collect();
    }
    value
}

fn events(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect()
}

#[tokio::test]
async fn events_are_those_of_kube_apiserver() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(&folder);
    let path = log.path.clone();
    let audit = AuditConfig {
        policy: Some(policy()),
        log: Some(log),
        webhook: None,
    };
    let fixture = start(audit).await;
    let cases = include_str!("../data/audit.jsonl").lines();
    let cases: Vec<Case> = cases
        .map(|c| serde_json::from_str(c).expect("a case"))
        .collect();
    for case in &cases {
        let identity = fixture.server.client_identity("super", "system:masters");
        let identity = Some(identity.expect("an identity")).filter(|_| !case.anonymous);
        let stream = fixture.connect_as(identity).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP");
        tokio::spawn(connection);
        let body = match (&case.raw, &case.body) {
            (Some(raw), _) => raw.clone(),
            (None, Some(body)) => body.to_string(),
            (None, None) => String::new(),
        };
        let headers = case.headers.iter().filter(|(name, _)| *name != "host");
        let headers: Vec<_> = headers.map(|(k, v)| (k.as_str(), v.clone())).collect();
        let answer = send(&mut sender, &case.method, &case.path, &headers, body).await;
        assert_eq!(answer.status(), case.code, "{} {}", case.method, case.path);
        let id = &case.headers["audit-id"];
        assert_eq!(answer.headers()["audit-id"], id.as_str());
        answer.into_body().collect().await.expect("a whole body");
    }
    fixture.stop().await;
    let found = events(&path);
    let mut differences = Vec::new();
    for case in &cases {
        let id = case.headers["audit-id"].as_str();
        let ours: Vec<Value> = found
            .iter()
            .filter(|event| event["auditID"] == id)
            .cloned()
            .map(normal)
            .collect();
        let theirs: Vec<Value> = case.events.iter().cloned().map(normal).collect();
        if ours != theirs {
            let both = json!({"ours": ours, "theirs": theirs});
            differences.push(format!("{} {}\n{both:#}", case.method, case.path));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let text = std::fs::read_to_string(&path).expect("a log");
    assert!(!text.contains("hidden"), "a Secret's body is in the log");
}

/// A service that takes lists of events, or refuses the first few, and tells what it took.
async fn sink(refusals: usize) -> (String, mpsc::UnboundedReceiver<Value>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = mpsc::unbounded_channel();
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(refusals));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (sender, left) = (sender.clone(), left.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (sender, left) = (sender.clone(), left.clone());
                async move {
                    use std::sync::atomic::Ordering;
                    let path = request.uri().to_string();
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .expect("a body")
                        .to_bytes();
                    let refuses = left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                    let code = if refuses.is_ok() { 503 } else { 200 };
                    if code == 200 {
                        let list: Value = serde_json::from_slice(&body).expect("JSON");
                        assert_eq!(path, "/audit/events?a=b");
                        let _ = sender.send(list);
                    }
                    http::Response::builder()
                        .status(code)
                        .body(Full::new(Bytes::new()))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (format!("http://{address}/audit/events?a=b"), receiver)
}

fn webhook(folder: &tempfile::TempDir, url: &str) -> WebhookConfig {
    let path = folder.path().join("webhook.kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&path, config.to_string()).expect("written");
    WebhookConfig {
        batch_wait_max: Duration::from_millis(50),
        initial_backoff: Duration::from_millis(10),
        ..WebhookConfig::new(path)
    }
}

fn metadata_of_everything(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("policy.yaml");
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                - level: Metadata\n  resources: [{group: \"\", resources: [configmaps]}]\n";
    std::fs::write(&path, text).expect("written");
    path
}

#[tokio::test]
async fn a_webhook_gets_batches_and_refusals_are_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, mut taken) = sink(2).await;
    let config = WebhookConfig {
        batch_events_max: 4,
        ..webhook(&folder, &url)
    };
    let audit = AuditConfig {
        policy: Some(metadata_of_everything(&folder)),
        log: None,
        webhook: Some(config),
    };
    let fixture = start(audit).await;
    for index in 0..10 {
        fixture.config_map(&format!("a-{index}"), "1").await;
    }
    let mut items = Vec::new();
    while items.len() < 10 {
        let list = taken.recv().await.expect("a list");
        assert_eq!(
            (&list["kind"], &list["apiVersion"]),
            (&json!("EventList"), &json!("audit.k8s.io/v1"))
        );
        let batch = list["items"].as_array().expect("items").clone();
        assert!((1..=4).contains(&batch.len()));
        items.extend(batch);
    }
    let mut names: Vec<&str> = items
        .iter()
        .map(|event| event["objectRef"]["name"].as_str().expect("a name"))
        .collect();
    names.sort_unstable();
    assert_eq!(names.first().zip(names.last()), Some((&"a-0", &"a-9")));
    assert!(
        items
            .iter()
            .all(|event| event["stage"] == "ResponseComplete"
                && event.get("requestObject").is_none())
    );
    // What waits when the server stops is sent.
    fixture.config_map("last", "1").await;
    fixture.stop().await;
    let list = taken.recv().await.expect("a list");
    assert_eq!(list["items"][0]["objectRef"]["name"], "last");
}

#[tokio::test]
async fn a_webhook_that_is_down_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, mut taken) = sink(usize::MAX).await;
    let config = WebhookConfig {
        buffer_events_max: 5,
        batch_events_max: 2,
        ..webhook(&folder, &url)
    };
    let audit = AuditConfig {
        policy: Some(metadata_of_everything(&folder)),
        log: None,
        webhook: Some(config),
    };
    let fixture = start(audit).await;
    for index in 0..100 {
        assert_eq!(
            fixture.config_map(&format!("a-{index}"), "1").await.code,
            201
        );
    }
    let mut connection = fixture.connect().await;
    let metrics = send(&mut connection, "GET", "/metrics", &[], "").await;
    let metrics = metrics
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let metrics = String::from_utf8_lossy(&metrics);
    let lost = metrics
        .lines()
        .find_map(|line| line.strip_prefix("apiserver_audit_error_total{plugin=\"webhook\"} "));
    let lost: u64 = lost.expect("a metric").parse().expect("a number");
    assert!(lost > 0, "{lost}");
    assert!(taken.try_recv().is_err());
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_stops_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, "apiVersion: v1\nkind: Policy\nrules: []\n").expect("written");
    let audit = AuditConfig {
        policy: Some(path),
        log: Some(log(&folder)),
        webhook: None,
    };
    let failed = Fixture::try_start(Setup {
        audit,
        ..Default::default()
    })
    .await;
    let error = failed.err().expect("refused").to_string();
    assert!(error.contains("no audit.k8s.io/v1 Policy"), "{error}");
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(&folder);
    let path = log.path.clone();
    let audit = AuditConfig {
        policy: Some(metadata_of_everything(&folder)),
        log: Some(log),
        webhook: None,
    };
    let fixture = start(audit).await;
    let mut connection = fixture.connect().await;
    let watch = format!("{CMS}?watch=1&resourceVersion=0");
    let answer = send(&mut connection, "GET", &watch, &[], "").await;
    assert_eq!(answer.status(), 200);
    let stages = || -> Vec<String> {
        let found = events(&path).into_iter();
        found
            .map(|event| event["stage"].as_str().expect("a stage").to_owned())
            .collect()
    };
    assert_eq!(stages(), ["ResponseStarted"]);
    drop((answer, connection));
    // The server notices the end of a connection in its own time.
    while stages().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stages(), ["ResponseStarted", "ResponseComplete"]);
}
