//! What is too large or too much is refused, and others are not affected.

use std::time::Duration;

use bytes::Bytes;
use corral_server::flow::Bounds;
use http_body_util::BodyExt;
use serde_json::Value;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_body_over_the_bound_is_refused() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let json = ("content-type", "application/json".to_owned());
    let body = Bytes::from(vec![b' '; corral_server::flow::BODY_BYTES_MAX + 1]);
    let answer = send(&mut connection, "POST", CMS, &[json], body).await;
    assert_eq!(answer.status(), 413);
    let status: Value = serde_json::from_slice(
        &answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
    )
    .expect("a Status");
    assert_eq!(status["reason"], "RequestEntityTooLarge");
    assert_eq!(fixture.config_map("other", "1").await.code, 201);
}

#[tokio::test]
async fn a_url_and_headers_over_the_bound_are_refused() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let long = format!(
        "{CMS}?labelSelector={}",
        "a".repeat(corral_server::request::URL_LENGTH_MAX)
    );
    assert_eq!(
        send(&mut connection, "GET", &long, &[], Bytes::new())
            .await
            .status(),
        414
    );

    let mut connection = fixture.connect().await;
    let large = (
        "x-large",
        "a".repeat(corral_server::serve::HEADER_BYTES_MAX),
    );
    assert_eq!(
        send(&mut connection, "GET", CMS, &[large], Bytes::new())
            .await
            .status(),
        431
    );
    assert_eq!(fixture.get(CMS).await.code, 200);
}

#[tokio::test]
async fn an_object_over_the_stores_bound_is_refused() {
    let fixture = Fixture::start().await;
    let value = "x".repeat(corral_storage::VALUE_BYTES_MAX);
    let refused = fixture
        .create(
            "/api/v1/namespaces",
            serde_json::json!({"metadata": {"name": "n", "annotations": {"a": value}}}),
        )
        .await;
    assert!(
        matches!(refused.code, 413 | 422),
        "{}",
        refused.body["message"]
    );
}

#[tokio::test]
async fn nesting_over_the_bound_is_refused() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let json = ("content-type", "application/json".to_owned());
    let answer = send(&mut connection, "POST", CMS, &[json], "[".repeat(100_000)).await;
    assert_eq!(answer.status(), 400);
}

/// A connection on which a body is announced that does not come.
async fn stalled_writer(fixture: &Fixture, sent: usize) -> TlsStream<TcpStream> {
    use tokio::io::AsyncWriteExt;
    let mut stream = fixture.connect_raw().await;
    let head = format!(
        "POST {CMS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&vec![b' '; sent]).await.expect("sent");
    stream.flush().await.expect("sent");
    stream
}

#[tokio::test]
async fn writers_that_stall_take_no_turn_and_are_told_off() {
    use tokio::io::AsyncReadExt;
    let bounds = Bounds {
        writes: 2,
        body_time: Duration::from_millis(500),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        stalled.push(stalled_writer(&fixture, 10).await);
    }
    // Four times as many as there are turns, and others write as if nobody else was there.
    for index in 0..20 {
        let answer = fixture.config_map(&format!("other-{index}"), "1").await;
        assert_eq!(answer.code, 201);
    }
    for mut stream in stalled {
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 504");
    }
}

#[tokio::test]
async fn bodies_over_the_bound_of_all_are_refused_and_given_back() {
    use tokio::io::AsyncReadExt;
    let bounds = Bounds {
        body_bytes: 100_000,
        body_time: Duration::from_millis(500),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let mut both = [
        stalled_writer(&fixture, 60_000).await,
        stalled_writer(&fixture, 60_000).await,
    ];
    // A small one fits beside them.
    assert_eq!(fixture.config_map("small", "1").await.code, 201);
    let mut answers = Vec::new();
    for stream in &mut both {
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        answers.push(String::from_utf8(answer).expect("text"));
    }
    // Whichever came second had no room; the other was waited for in vain.
    answers.sort();
    assert_eq!(answers, ["HTTP/1.1 429", "HTTP/1.1 504"]);
    let large = fixture.config_map("large", &"x".repeat(80_000)).await;
    assert_eq!(large.code, 201);
}

#[tokio::test]
async fn watches_over_the_bound_are_refused_until_others_end() {
    let bounds = Bounds {
        long_running: 3,
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let path = format!("{CMS}?watch=1&resourceVersion=0");
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = fixture.connect().await;
        let answer = send(&mut connection, "GET", &path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), 200);
        open.push((connection, answer));
    }
    let mut connection = fixture.connect().await;
    let refused = send(&mut connection, "GET", &path, &[], Bytes::new()).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let _ = refused.into_body().collect().await;
    // What does not last is not affected, and neither are the watches that are open.
    assert_eq!(fixture.config_map("seen", "1").await.code, 201);
    let event = open[0].1.frame().await.expect("an event").expect("a frame");
    let event = event.into_data().expect("data");
    assert!(event.starts_with(b"{\"type\":\"ADDED\""));
    open.pop();
    // The server notices the end of a connection in its own time.
    loop {
        let answer = send(&mut connection, "GET", &path, &[], Bytes::new()).await;
        if answer.status() == 200 {
            break;
        }
        let _ = answer.into_body().collect().await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_and_those_that_are_open_go_on() {
    use tokio::io::AsyncReadExt;
    let bounds = Bounds {
        connections: 3,
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let mut served = fixture.connect().await;
    let held = [fixture.connect_raw().await, fixture.connect_raw().await];
    for _ in 0..20 {
        let mut refused = TcpStream::connect(fixture.address())
            .await
            .expect("a queue");
        // The end comes without a handshake, as an end or as a reset.
        let mut nothing = Vec::new();
        let _ = refused.read_to_end(&mut nothing).await;
        assert_eq!(nothing, b"");
        served.ready().await.expect("it stays open");
        let answer = send(&mut served, "GET", CMS, &[], Bytes::new()).await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a whole body");
    }
    drop(held);
    // Those that have left make room, as soon as the server has noticed.
    loop {
        let mut next = TcpStream::connect(fixture.address())
            .await
            .expect("a queue");
        // Whoever is let in is waited for.
        let silence = Duration::from_millis(200);
        if tokio::time::timeout(silence, next.read_u8()).await.is_err() {
            break;
        }
    }
}
