//! What a server tells of itself, and how it leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use corral_server::authn::{MASTERS, User};
use corral_server::serving::Serving;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Setup, config_map, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

fn admin() -> User {
    User::new("admin", &[MASTERS])
}

async fn code(fixture: &Fixture, path: &str) -> u16 {
    fixture.get(path).await.code
}

#[tokio::test]
async fn health_has_named_checks_that_can_be_asked_for_and_left_out() {
    let fixture = Fixture::start().await;
    let text = async |path: &str| fixture.text(admin(), path).await;
    assert_eq!(text("/livez").await, "ok");
    let page = text("/readyz?verbose&exclude=etcd&exclude=none").await;
    for line in [
        "[+]ping ok",
        "[+]etcd excluded: ok",
        "[+]etcd-readiness ok",
        "[+]informer-sync ok",
        "[+]poststarthook/rbac/bootstrap-roles ok",
        "[+]poststarthook/priority-and-fairness-config-consumer ok",
        "[+]poststarthook/start-apiextensions-controllers ok",
        "[+]shutdown ok",
        "warn: some health checks cannot be excluded: no matches for \"none\"",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} of {page}");
    }
    assert!(page.ends_with("\nreadyz check passed\n"), "{page}");
    assert!(!text("/livez?verbose").await.contains("shutdown"));
    assert_eq!(text("/readyz/shutdown").await, "ok");
    assert_eq!(
        text("/livez/poststarthook/rbac/bootstrap-roles").await,
        "ok"
    );
    assert_eq!(code(&fixture, "/livez/shutdown").await, 404);
    assert_eq!(code(&fixture, "/healthz/none").await, 404);
    let index = fixture.get("/").await.body;
    let paths = index["paths"].as_array().expect("paths");
    for path in [
        "/readyz/informer-sync",
        "/statusz",
        "/apis/apps/v1",
        "/healthz/etcd",
    ] {
        assert!(paths.iter().any(|found| found == path), "{path} of {index}");
    }
}

#[tokio::test]
async fn a_server_tells_what_it_is_and_how_it_was_started() {
    let flags = BTreeMap::from([("profiling".to_owned(), "true".to_owned())]);
    let fixture = Fixture::start_with(Setup {
        serving: Serving {
            flags,
            ..Serving::default()
        },
        ..Setup::default()
    })
    .await;
    let page = fixture.text(admin(), "/flagz").await;
    assert!(page.starts_with("\napiserver flagz\nWarning: "), "{page}");
    assert!(page.ends_with("\nprofiling=true\n"), "{page}");
    let page = fixture.text(admin(), "/statusz").await;
    assert!(page.contains("\nBinary version: 1.36."), "{page}");
    let nobody = User::new("nobody", &["system:authenticated"]);
    let refused = fixture.ask_as(nobody, "GET", "/flagz", "application/json", Value::Null);
    assert_eq!(refused.await.code, 403);
    let version = fixture.get("/version").await.body;
    assert_eq!(version["emulationMinor"], "36");
}

/// Lines of a watch up to its end.
async fn rest(mut body: Incoming) -> Vec<Value> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let text = String::from_utf8(text).expect("text");
    let events = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"));
    events.collect()
}

#[tokio::test]
async fn a_server_that_leaves_is_unready_first_answers_what_is_open_and_ends_watches_with_a_bookmark()
 {
    let fixture = Arc::new(Fixture::start().await);
    // A webhook that takes connections and says nothing holds a write up.
    let hook = fixture.silent_webhook("secrets").await;
    let mut watching = fixture.connect().await;
    let path = format!("{CMS}?watch=1&allowWatchBookmarks=true&resourceVersion=0");
    let watch = send(&mut watching, "GET", &path, &[], Bytes::new()).await;
    let watch = tokio::spawn(rest(watch.into_body()));
    let mut writing = fixture.connect().await;
    let write = tokio::spawn(async move {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "slow"}});
        let headers = [("content-type", "application/json".to_owned())];
        let path = "/api/v1/namespaces/default/secrets";
        let answer = send(&mut writing, "POST", path, &headers, secret.to_string()).await;
        answer.status().as_u16()
    });
    let asked = hook.accept().await.expect("the webhook is asked");

    fixture.server.leave().await;
    assert_eq!(code(&fixture, "/readyz").await, 500);
    let page = fixture.text(admin(), "/readyz").await;
    assert!(
        page.contains("[-]shutdown failed: reason withheld\n"),
        "{page}"
    );
    assert_eq!(code(&fixture, "/livez").await, 200);
    let last = fixture.create(CMS, config_map("last", "1")).await;
    assert_eq!(last.code, 201, "it still serves");
    // A list is no older than this, and neither is what watches tell of from here on.
    assert_eq!(code(&fixture, CMS).await, 200);

    let stopping = fixture.clone();
    let stopping = tokio::spawn(async move { stopping.stop().await });
    let events = watch.await.expect("it ends");
    let version = last.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version");
    let version = |event: &Value| {
        assert_eq!(event["type"], "BOOKMARK", "{event}");
        let told = event["object"]["metadata"]["resourceVersion"].as_str();
        told.expect("a version").parse::<u64>().expect("a number")
            >= version.parse().expect("a number")
    };
    let [.., before, bookmark] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        before["object"]["metadata"]["name"], "last",
        "all is told before the end"
    );
    assert!(version(bookmark), "{bookmark}");
    assert!(!write.is_finished() && !stopping.is_finished());
    drop((asked, hook));
    assert_eq!(
        write.await.expect("it ends"),
        201,
        "it was open and is answered"
    );
    stopping.await.expect("it stops");
}

/// What a profile shall show.
#[inline(never)]
fn the_work_of_this_test(stop: &std::sync::atomic::AtomicBool) -> u64 {
    let mut n = 0_u64;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        for step in 0..10_000_u64 {
            n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(step));
        }
    }
    n
}

/// A server that makes profiles.
async fn profiled() -> Fixture {
    Fixture::start_with(Setup {
        serving: Serving {
            profiling: true,
            ..Serving::default()
        },
        ..Setup::default()
    })
    .await
}

/// A profile, with the names in it.
async fn profile(fixture: &Fixture, path: &str) -> String {
    use std::io::Read;
    let mut connection = fixture.connect().await;
    let answer = send(&mut connection, "GET", path, &[], Bytes::new()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    let bytes = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let mut profile = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_end(&mut profile)
        .expect("gzip");
    String::from_utf8_lossy(&profile).into_owned()
}

/// What a profile of the heap shall show: each piece is large enough to be sampled for sure, or nearly.
#[inline(never)]
fn the_memory_of_this_test() -> Vec<Vec<u8>> {
    (0..8_u8).map(|n| vec![n; 8 << 20]).collect()
}

#[tokio::test]
async fn a_profile_tells_who_holds_memory() {
    let fixture = profiled().await;
    let held = the_memory_of_this_test();
    let text = profile(&fixture, "/debug/pprof/heap").await;
    assert!(text.contains("the_memory_of_this_test") && text.contains("inuse_space"));
    assert!(!text.contains("corral_heap::"));
    let text = profile(&fixture, "/debug/pprof/allocs").await;
    assert!(text.contains("the_memory_of_this_test"));
    // Nothing of it has changed within a second.
    let text = profile(&fixture, "/debug/pprof/heap?seconds=1").await;
    assert!(!text.contains("the_memory_of_this_test"));
    drop(held);
    let answer = fixture.text(admin(), "/debug/pprof/heap?debug=1").await;
    assert!(answer.starts_with("only the compressed form"), "{answer}");
}

#[tokio::test]
async fn a_profile_tells_where_time_goes_to_those_who_may_ask() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let off = Fixture::start().await;
    assert_eq!(code(&off, "/debug/pprof/profile?seconds=1").await, 404);
    let fixture = profiled().await;
    let nobody = User::new("nobody", &["system:authenticated"]);
    let path = "/debug/pprof/profile?seconds=1";
    let refused = fixture.ask_as(nobody, "GET", path, "application/json", Value::Null);
    assert_eq!(refused.await.code, 403);
    assert_eq!(
        fixture.text(admin(), "/debug/pprof/goroutine").await,
        "Unknown profile\n"
    );
    let stop = Arc::new(AtomicBool::new(false));
    let until = stop.clone();
    let worker = std::thread::spawn(move || the_work_of_this_test(&until));
    let text = profile(&fixture, path).await;
    stop.store(true, Ordering::Relaxed);
    worker.join().expect("it ends");
    assert!(text.contains("the_work_of_this_test") && text.contains("nanoseconds"));
}
