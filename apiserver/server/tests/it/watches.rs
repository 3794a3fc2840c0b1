//! Watches: order, bookmarks, resuming, and what happens to a slow one.

use std::time::Duration;

use bytes::Bytes;
use corral_server::authn::User;
use corral_server::flow::Bounds;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, send};
use crate::neighbour::Neighbour;

/// How long something may take that is about to happen.
const WAIT_MAX: Duration = Duration::from_secs(30);
const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// The lines of a watch.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    pub async fn open(fixture: &Fixture, path: &str) -> Self {
        Self::open_with(fixture, path, &[]).await
    }

    async fn open_with(fixture: &Fixture, path: &str, headers: &[(&str, String)]) -> Self {
        let mut connection = fixture.connect().await;
        let answer = send(&mut connection, "GET", path, headers, Bytes::new()).await;
        assert_eq!(answer.status(), 200, "{path}");
        Self::of(answer)
    }

    fn of(answer: Response<Incoming>) -> Self {
        Self {
            body: answer.into_body(),
            rest: Vec::new(),
        }
    }

    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

fn told(event: &Value) -> (&str, &str) {
    (
        event["type"].as_str().unwrap_or(""),
        event["object"]["metadata"]["name"].as_str().unwrap_or(""),
    )
}

#[tokio::test]
async fn a_watch_tells_what_happens_in_order_and_resumes() {
    let fixture = Fixture::start().await;
    let start = fixture.config_map("a", "1").await.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    fixture
        .patch(
            &format!("{CMS}/a"),
            "merge-patch+json",
            json!({"data": {"key": "2"}}),
        )
        .await;
    fixture.config_map("b", "1").await;
    fixture.ask("DELETE", &format!("{CMS}/a"), json!({})).await;
    let mut watch = Lines::open(&fixture, &format!("{CMS}?watch=1&resourceVersion={start}")).await;
    for expected in [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")] {
        let event = watch.next().await.expect("an event");
        assert_eq!(told(&event), expected);
    }
    fixture.config_map("c", "1").await;
    assert_eq!(told(&watch.next().await.expect("an event")), ("ADDED", "c"));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let path = format!(
        "{CMS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = Lines::open(&fixture, &path).await;
    assert_eq!(told(&watch.next().await.expect("an event")), ("ADDED", "a"));
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let refused = fixture
        .get(&format!("{CMS}?watch=1&sendInitialEvents=true"))
        .await;
    assert_eq!(refused.code, 422);
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn a_bookmark_in_a_table_is_a_row_of_nothing() {
    let table = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io".to_owned(),
    )];
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let pods = json!([
        "",
        "0/0",
        "",
        "0",
        "<unknown>",
        "<none>",
        "<none>",
        "<none>",
        "<none>"
    ]);
    for (resource, n_objects, cells) in [
        ("configmaps", 1, json!(["", 0, "<unknown>"])),
        ("pods", 0, pods),
    ] {
        for (included, kind) in [("None", "PartialObjectMetadata"), ("Object", "own")] {
            let path = format!(
                "/api/v1/namespaces/default/{resource}?watch=1&sendInitialEvents=true&includeObject={included}\
                 &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            );
            let mut watch = Lines::open_with(&fixture, &path, &table).await;
            for _ in 0..n_objects {
                let event = watch.next().await.expect("an event");
                assert_eq!(event["type"], "ADDED");
                assert!(event["object"]["columnDefinitions"].is_array());
            }
            let bookmark = watch.next().await.expect("a bookmark");
            assert_eq!(bookmark["type"], "BOOKMARK");
            let table = &bookmark["object"];
            // The first event has the heading, whatever it is.
            assert_eq!(table["columnDefinitions"].is_array(), n_objects == 0);
            let row = &table["rows"][0];
            assert_eq!(row["cells"], cells, "{resource}");
            let object = &row["object"];
            assert_eq!(object["kind"] == "PartialObjectMetadata", kind != "own");
            let metadata = &object["metadata"];
            assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
            assert_eq!(
                metadata["resourceVersion"],
                table["metadata"]["resourceVersion"]
            );
        }
    }
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_selection() {
    let fixture = Fixture::start().await;
    let start = fixture.config_map("a", "1").await.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let mut watch = Lines::open(
        &fixture,
        &format!("{CMS}?watch=1&labelSelector=in&resourceVersion={start}"),
    )
    .await;
    let label = |value: Value| json!({"metadata": {"labels": {"in": value}}});
    fixture
        .patch(&format!("{CMS}/a"), "merge-patch+json", label("x".into()))
        .await;
    fixture
        .patch(&format!("{CMS}/a"), "merge-patch+json", label(Value::Null))
        .await;
    assert_eq!(told(&watch.next().await.expect("an event")), ("ADDED", "a"));
    assert_eq!(
        told(&watch.next().await.expect("an event")),
        ("DELETED", "a")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_told_to_list_again_and_others_see_everything() {
    // However slow the machine is: whoever reads nothing for so long is cut off without a word.
    let bounds = Bounds {
        patience: Duration::from_secs(3600),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let start = fixture.config_map("a", "0").await.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let path = format!("{CMS}?watch=1&resourceVersion={start}");
    let mut slow = Lines::open(&fixture, &path).await;
    let mut quick = Lines::open(&fixture, &path).await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let seen = quick.next().await.expect("an event");
    assert_eq!(told(&seen), ("ADDED", "other"));
    let large = "x".repeat(900_000);
    let mut n_written = 0;
    let attack = async |enough: CancellationToken| {
        // More than the ring and the buffers of a connection hold together.
        while n_written < 40 || !enough.is_cancelled() {
            let patch = json!({"data": {"key": format!("{n_written}{large}")}});
            let path = format!("{CMS}/a");
            let written = fixture.patch(&path, "merge-patch+json", patch).await;
            assert_eq!(written.code, 200);
            let event = tokio::time::timeout(WAIT_MAX, quick.next()).await;
            let event = event.expect("a quick one is told at once");
            let event = event.expect("an event");
            assert_eq!(told(&event), ("MODIFIED", "a"));
            n_written += 1;
        }
    };
    neighbour.beside_work("a slow watcher", attack).await;
    let mut last = Value::Null;
    while let Some(event) = slow.next().await {
        last = event;
    }
    assert_eq!(
        (last["type"].as_str(), last["object"]["code"].as_i64()),
        (Some("ERROR"), Some(410))
    );
    assert_eq!(last["object"]["reason"], "Expired");
}

/// Watches of one HTTP/2 connection.
struct Multiplexed(http2::SendRequest<Empty<Bytes>>);

impl Multiplexed {
    async fn connect(fixture: &Fixture) -> Self {
        let tls = TokioIo::new(fixture.connect_raw().await);
        let handshake = http2::handshake(TokioExecutor::new(), tls);
        let (sender, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn open(&mut self, path: &str) -> Lines {
        let request = Request::get(format!("https://localhost{path}")).body(Empty::new());
        let answer = self.0.send_request(request.expect("a request"));
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        Lines::of(answer)
    }
}

/// Until so many watches are open; their ends come as frames of the connection.
async fn until_open(fixture: &Fixture, n: usize) {
    let open = async || {
        let user = User::new("admin", &[corral_server::authn::MASTERS]);
        let metrics = fixture.text(user, "/metrics").await;
        let ours = |line: &&str| {
            line.starts_with("apiserver_longrunning_requests{") && line.contains("\"configmaps\"")
        };
        let values = metrics.lines().filter(ours);
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>()
    };
    let settled = tokio::time::timeout(WAIT_MAX, async {
        while open().await != n as f64 {
            tokio::task::yield_now().await;
        }
    });
    settled.await.expect("as many as are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_one_connection_are_told_all_alike_and_end_each_by_itself() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "0").await;
    let mut connection = Multiplexed::connect(&fixture).await;
    let mut watches = Vec::new();
    for index in 0..40 {
        // Some have told what there was before the others begin; some tell only what they select.
        let path = match index % 4 {
            0 => format!("{CMS}?watch=1&fieldSelector=metadata.name=b"),
            1 => format!("{CMS}?watch=1&timeoutSeconds=600&allowWatchBookmarks=true"),
            _ => format!("{CMS}?watch=1"),
        };
        let mut watch = connection.open(&path).await;
        if index % 4 != 0 {
            assert_eq!(told(&watch.next().await.expect("an event")), ("ADDED", "a"));
        }
        watches.push((index % 4, watch));
    }
    let mut secrets = connection
        .open("/api/v1/namespaces/default/secrets?watch=1")
        .await;
    for name in ["b", "c", "d"] {
        fixture.config_map(name, "1").await;
        for (kind, watch) in &mut watches {
            if *kind != 0 || name == "b" {
                let event = watch.next().await.expect("an event");
                assert_eq!(told(&event), ("ADDED", name));
            }
        }
        // Each time some of them go.
        watches.truncate(watches.len() - 10);
        until_open(&fixture, watches.len()).await;
    }
    let metadata = json!({"name": "s"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata});
    let path = "/api/v1/namespaces/default/secrets";
    assert_eq!(fixture.create(path, secret).await.code, 201);
    assert_eq!(
        told(&secrets.next().await.expect("an event")),
        ("ADDED", "s")
    );
    drop(connection);
    drop(watches);
    drop(secrets);
    until_open(&fixture, 0).await;
}

#[tokio::test]
async fn a_watch_among_others_ends_when_its_time_is_up() {
    let fixture = Fixture::start().await;
    let mut connection = Multiplexed::connect(&fixture).await;
    let mut goes_on = connection.open(&format!("{CMS}?watch=1")).await;
    let path = format!("{CMS}?watch=1&timeoutSeconds=1");
    let mut ends = connection.open(&path).await;
    let end = tokio::time::timeout(WAIT_MAX, ends.next()).await;
    assert_eq!(end.expect("it ends in time"), None);
    fixture.config_map("a", "0").await;
    assert_eq!(
        told(&goes_on.next().await.expect("an event")),
        ("ADDED", "a")
    );
}
