//! `/metrics`, as dashboards for kube-apiserver read it.

use std::collections::BTreeMap;

use bytes::Bytes;
use corral_server::authn::{MASTERS, User};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// The values of a page, by name and labels.
async fn page(fixture: &Fixture) -> BTreeMap<String, f64> {
    let text = fixture
        .text(User::new("admin", &[MASTERS]), "/metrics")
        .await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    values.collect()
}

#[tokio::test]
async fn what_dashboards_read_is_there_and_moves() {
    let fixture = Fixture::start().await;
    // A list is as new as the store: what the server has made for itself is counted from here on.
    assert_eq!(fixture.get("/api/v1/configmaps").await.code, 200);
    let before = page(&fixture).await;
    assert_eq!(fixture.config_map("one", "1").await.code, 201);
    assert_eq!(fixture.config_map("one", "1").await.code, 409);
    let mut watching = fixture.connect().await;
    let path = format!("{CMS}?watch=1&resourceVersion=0");
    let mut watch = send(&mut watching, "GET", &path, &[], Bytes::new()).await;
    watch
        .body_mut()
        .frame()
        .await
        .expect("an event")
        .expect("a frame");
    let mut asking = fixture.connect().await;
    for path in [CMS, "/livez"] {
        let answer = send(&mut asking, "GET", path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), 200);
        let _ = answer.into_body().collect().await;
    }
    let bad = [("authorization", "Bearer no-such-token".to_owned())];
    let stranger = fixture.connect_as(None).await;
    let io = hyper_util::rt::TokioIo::new(stranger);
    let (mut stranger, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .expect("HTTP");
    tokio::spawn(connection);
    let refused = send(&mut stranger, "GET", CMS, &bad, Bytes::new()).await;
    assert_eq!(refused.status(), 401);
    let _ = refused.into_body().collect().await;
    let nobody = send(&mut stranger, "GET", CMS, &[], Bytes::new()).await;
    assert_eq!(nobody.status(), 403);
    let after = page(&fixture).await;
    let at = |page: &BTreeMap<String, f64>, name: &str| page.get(name).copied().unwrap_or(0.0);
    let of = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\"";
    let short = "component=\"apiserver\",group=\"\",resource=\"configmaps\"";
    let post = "scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"";
    let list = "scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"";
    let watch_labels = "scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"";
    for (name, more) in [
        (format!("apiserver_request_total{{code=\"201\",{of},{post}}}"), 1.0),
        (format!("apiserver_request_total{{code=\"409\",{of},{post}}}"), 1.0),
        (format!("apiserver_request_total{{code=\"200\",{of},{list}}}"), 1.0),
        (format!("apiserver_request_duration_seconds_count{{{of},{post}}}"), 2.0),
        (format!("apiserver_request_sli_duration_seconds_count{{{short},{post}}}"), 2.0),
        (format!("apiserver_response_sizes_count{{{short},{list}}}"), 3.0),
        (format!("apiserver_longrunning_requests{{{short},{watch_labels}}}"), 1.0),
        ("apiserver_resource_objects{group=\"\",resource=\"configmaps\"}".to_owned(), 1.0),
        ("apiserver_storage_objects{resource=\"configmaps\"}".to_owned(), 1.0),
        ("apiserver_watch_events_total{group=\"\",resource=\"configmaps\",version=\"v1\"}".to_owned(), 1.0),
        ("etcd_requests_total{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 2.0),
        ("etcd_request_errors_total{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 1.0),
        ("etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 2.0),
        ("apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"}".to_owned(), 2.0),
        ("apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"}".to_owned(), 2.0),
        ("authentication_attempts{result=\"success\"}".to_owned(), 4.0),
        ("authentication_attempts{result=\"failure\"}".to_owned(), 1.0),
        ("authenticated_user_requests{username=\"admin\"}".to_owned(), 3.0),
        ("authorization_attempts_total{result=\"no-opinion\"}".to_owned(), 1.0),
        ("authorization_duration_seconds_count{result=\"no-opinion\"}".to_owned(), 1.0),
        ("rest_client_requests_total{code=\"201\",host=\"in-process\",method=\"POST\"}".to_owned(), 1.0),
    ] {
        let (was, is) = (at(&before, &name), at(&after, &name));
        assert_eq!(is - was, more, "{name}");
    }
    let own = "apiserver_current_inflight_requests{request_kind=\"readOnly\"}";
    assert!(at(&after, own) >= 1.0, "who asks is answered");
    for name in ["process_resident_memory_bytes", "process_open_fds"] {
        assert!(at(&after, name) > 0.0, "{name}");
    }
    let cpu = "process_cpu_seconds_total";
    assert!(at(&after, cpu) > at(&before, cpu), "it has just worked");
    // What is refused by a plugin is told of the plugin.
    let gone = "/api/v1/namespaces/none/configmaps";
    let refused = fixture
        .create(gone, crate::fixture::config_map("x", "1"))
        .await;
    assert_eq!(refused.code, 404);
    let rejected = page(&fixture).await;
    let name = "apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"}";
    assert_eq!(at(&rejected, name), 1.0);
}

#[tokio::test]
async fn strange_requests_make_no_series() {
    let fixture = Fixture::start().await;
    let ask = async |n: usize| {
        for path in [
            format!("/apis/none-{n}.example.com/v1/things"),
            format!("/api/v1/namespaces/default/pods/p/none-{n}"),
            format!("/livez/none-{n}"),
            format!("/none-{n}"),
        ] {
            fixture.ask("GET", &path, Value::Null).await;
        }
    };
    // The server does things of its own meanwhile, which are measured elsewhere.
    let n_series = async || {
        let page = page(&fixture).await;
        let of_requests = |name: &&String| {
            let beginnings = ["apiserver_request_", "apiserver_response_"];
            beginnings.iter().any(|begin| name.starts_with(begin))
        };
        page.keys().filter(of_requests).count()
    };
    ask(0).await;
    // The page is told of by the next one.
    n_series().await;
    let before = n_series().await;
    for n in 1..20 {
        ask(n).await;
    }
    assert_eq!(n_series().await, before);
}
