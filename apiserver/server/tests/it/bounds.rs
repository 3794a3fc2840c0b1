//! What is too large or too much is refused, and others are not affected.

use std::time::Duration;

use bytes::Bytes;
use corral_server::authn::User;
use corral_server::flow::Bounds;
use http_body_util::BodyExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, config_map, send};
use crate::neighbour::Neighbour;

const CMS: &str = "/api/v1/namespaces/default/configmaps";
/// How long a connection over the bound may stay open: less than the server waits for a handshake.
const REFUSED_MAX: Duration = Duration::from_secs(8);

/// A connection on which a body is announced that does not come.
async fn stalled_writer(fixture: &Fixture, sent: usize) -> TlsStream<TcpStream> {
    let mut stream = fixture.connect_raw_as_user("attacker").await;
    let head = format!(
        "POST {CMS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&vec![b' '; sent]).await.expect("sent");
    stream.flush().await.expect("sent");
    stream
}

/// The status line of what a server answers, as far as the code.
async fn told(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_stall_take_no_turn_and_are_told_off() {
    for fair in [true, false] {
        let bounds = Bounds {
            fair,
            // Four seats for those who are nobody in particular, where requests are told apart.
            reads: 38,
            writes: 2,
            body_time: Duration::from_millis(500),
            ..Default::default()
        };
        let fixture = Fixture::start_within(bounds).await;
        let mut neighbour = Neighbour::of(&fixture).await;
        let mut n_written = 0;
        let attack = async |enough: CancellationToken| {
            while !enough.is_cancelled() {
                let mut stalled = Vec::new();
                for _ in 0..8 {
                    stalled.push(stalled_writer(&fixture, 10).await);
                }
                // More than there are turns, and others write as if nobody else was there.
                for _ in 0..5 {
                    n_written += 1;
                    let object = config_map(&format!("other-{n_written}"), "1");
                    let user = User::new("writer", &["system:authenticated"]);
                    let written = fixture.ask_as(user, "POST", CMS, "application/json", object);
                    assert_eq!(written.await.code, 201);
                }
                for mut stream in stalled {
                    assert_eq!(told(&mut stream).await, "HTTP/1.1 504");
                }
            }
        };
        neighbour.beside("writers that stall", attack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_over_the_bound_of_all_are_refused_and_given_back() {
    let bounds = Bounds {
        body_bytes: 100_000,
        body_time: Duration::from_millis(500),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let mut n_rounds = 0;
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            n_rounds += 1;
            let mut both = [
                stalled_writer(&fixture, 60_000).await,
                stalled_writer(&fixture, 60_000).await,
            ];
            // A small one fits beside them.
            let small = fixture.config_map(&format!("small-{n_rounds}"), "1").await;
            assert_eq!(small.code, 201);
            let mut answers = Vec::new();
            for stream in &mut both {
                answers.push(told(stream).await);
            }
            // Whichever came second had no room; the other was waited for in vain.
            answers.sort();
            assert_eq!(answers, ["HTTP/1.1 429", "HTTP/1.1 504"]);
        }
    };
    neighbour
        .beside("bodies over the bound of all", attack)
        .await;
    let large = fixture.config_map("large", &"x".repeat(80_000)).await;
    assert_eq!(large.code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
    // What does not last is not affected, and neither are the watches that are open.
    let mut neighbour = Neighbour::of(&fixture).await;
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            connection.ready().await.expect("the last answer was read");
            let refused = send(&mut connection, "GET", &path, &[], Bytes::new()).await;
            assert_eq!(refused.status(), 429);
            assert_eq!(refused.headers()["retry-after"], "1");
            let words = refused.into_body().collect().await.expect("a body");
            let words = words.to_bytes();
            assert!(words.starts_with(b"Too many requests, please try again later."));
        }
    };
    neighbour
        .beside_work("watches over the bound", attack)
        .await;
    let event = open[0].1.frame().await.expect("an event").expect("a frame");
    let event = event.into_data().expect("data");
    assert!(event.starts_with(b"{\"type\":\"ADDED\""));
    open.pop();
    // The server notices the end of a connection in its own time.
    loop {
        connection.ready().await.expect("the last answer was read");
        let answer = send(&mut connection, "GET", &path, &[], Bytes::new()).await;
        if answer.status() == 200 {
            break;
        }
        let _ = answer.into_body().collect().await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_bound_are_closed_and_those_that_are_open_go_on() {
    let bounds = Bounds {
        connections: 3,
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let held = [fixture.connect_raw().await, fixture.connect_raw().await];
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            let mut refused = TcpStream::connect(fixture.address())
                .await
                .expect("a queue");
            // The end comes at once and without a handshake, as an end or as a reset. Whoever is let in is waited for.
            let mut nothing = Vec::new();
            let end = refused.read_to_end(&mut nothing);
            let end = tokio::time::timeout(REFUSED_MAX, end).await;
            assert!(end.is_ok(), "the connection was taken");
            assert_eq!(nothing, b"");
        }
    };
    neighbour
        .beside_work("connections over the bound", attack)
        .await;
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
