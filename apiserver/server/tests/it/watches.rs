//! Watches: order, bookmarks, resuming, and what happens to a slow one.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// The lines of a watch.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    pub async fn open(fixture: &Fixture, path: &str) -> Self {
        let mut connection = fixture.connect().await;
        let answer = send(&mut connection, "GET", path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), 200, "{path}");
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

#[tokio::test]
async fn a_slow_watcher_is_told_to_list_again_and_others_see_everything() {
    let fixture = Fixture::start().await;
    let start = fixture.config_map("a", "0").await.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let path = format!("{CMS}?watch=1&resourceVersion={start}");
    let mut slow = Lines::open(&fixture, &path).await;
    let mut quick = Lines::open(&fixture, &path).await;
    // More than the ring and the buffers of a connection hold together.
    let n = 40;
    let large = "x".repeat(900_000);
    for index in 0..n {
        let patch = json!({"data": {"key": format!("{index}{large}")}});
        assert_eq!(
            fixture
                .patch(&format!("{CMS}/a"), "merge-patch+json", patch)
                .await
                .code,
            200
        );
        assert_eq!(
            told(&quick.next().await.expect("an event")),
            ("MODIFIED", "a")
        );
    }
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
