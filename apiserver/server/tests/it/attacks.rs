//! Clients that mean harm, spoken to byte by byte: they are cut off, and others are served.

use std::time::Duration;

use corral_server::flow::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let mut out = length.to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The head of a GET, in names and values that HPACK has no shorter form for but those of its table.
fn get(path: &str) -> Vec<u8> {
    let mut out = vec![0x82, 0x87];
    for (index, value) in [(0x04, path), (0x01, "localhost")] {
        out.push(index);
        out.push(u8::try_from(value.len()).expect("shorter than 127"));
        out.extend_from_slice(value.as_bytes());
    }
    out
}

/// An HTTP/2 connection with its first frames sent.
async fn h2(fixture: &Fixture, settings: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = fixture.connect_raw().await;
    stream.write_all(PREFACE).await.expect("sent");
    let first = frame(SETTINGS, 0, 0, settings);
    stream.write_all(&first).await.expect("sent");
    stream
}

async fn others_are_served(fixture: &Fixture) {
    let mut connection = fixture.connect().await;
    let answer = send(&mut connection, "GET", CMS, &[], "").await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let fixture = Fixture::start().await;
    let mut attacker = h2(&fixture, &[]).await;
    let head = get(CMS);
    let mut flood = Vec::new();
    for index in 0..10_000_u32 {
        let stream = 2 * index + 1;
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = tokio::io::split(attacker);
    let flooding = tokio::spawn(async move {
        // It fails once the server has gone, which is what is looked for.
        let _ = writer.write_all(&flood).await;
        writer
    });
    others_are_served(&fixture).await;
    let mut told = Vec::new();
    let _ = reader.read_to_end(&mut told).await;
    attacker = reader.unsplit(flooding.await.expect("no panic"));
    drop(attacker);
    let goaway = told.windows(9).any(|head| head[3] == GOAWAY);
    assert!(goaway, "the connection ended without a word");
    others_are_served(&fixture).await;
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let fixture = Fixture::start().await;
    let mut attacker = h2(&fixture, &[]).await;
    attacker
        .write_all(&frame(HEADERS, END_STREAM, 1, &get(CMS)))
        .await
        .expect("sent");
    // A literal of a name and value of one byte each, over and over.
    let more = [0, 1, b'x', 1, b'y'].repeat(3000);
    let sent = async {
        loop {
            let more = frame(CONTINUATION, 0, 1, &more);
            if attacker.write_all(&more).await.is_err() {
                return;
            }
        }
    };
    // Were they taken without an end, this would not come to one.
    sent.await;
    others_are_served(&fixture).await;
}

#[tokio::test]
async fn a_header_list_over_the_bound_is_refused() {
    let fixture = Fixture::start().await;
    let mut attacker = h2(&fixture, &[]).await;
    let line = [0, 1, b'x', 100].iter().copied().chain([b'y'; 100]);
    let line: Vec<u8> = line.collect();
    let mut flood = frame(HEADERS, END_STREAM, 1, &get(CMS));
    for round in 0..10 {
        let flags = if round == 9 { END_HEADERS } else { 0 };
        flood.extend(frame(CONTINUATION, flags, 1, &line.repeat(150)));
    }
    attacker.write_all(&flood).await.expect("sent");
    let mut answered = false;
    loop {
        let mut head = [0; 9];
        if attacker.read_exact(&mut head).await.is_err() {
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        attacker.read_exact(&mut payload).await.expect("whole");
        if head[3] == HEADERS {
            // 431, as HPACK writes what is not in its table.
            assert!(payload.windows(3).any(|w| w == b"431") || payload.len() < 40);
            answered = true;
            break;
        }
        if matches!(head[3], GOAWAY | RST_STREAM) {
            answered = true;
            break;
        }
    }
    assert!(answered);
    others_are_served(&fixture).await;
}

#[tokio::test]
async fn many_headers_are_refused() {
    let fixture = Fixture::start().await;
    let mut attacker = fixture.connect_raw().await;
    let mut head = format!("GET {CMS} HTTP/1.1\r\nhost: localhost\r\n");
    for index in 0..2000 {
        head.push_str(&format!("x{index}: y\r\n"));
    }
    head.push_str("\r\n");
    attacker.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 12];
    attacker.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
    others_are_served(&fixture).await;
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_of_it_are_closed() {
    let bounds = Bounds {
        head_time: Duration::from_millis(300),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let beginnings: [&[u8]; 5] = [b"", b"PRI * HT", PREFACE, b"GET / HTTP/1.1\r\nhost: ", b"G"];
    let mut open = Vec::new();
    for beginning in beginnings {
        let mut stream = fixture.connect_raw().await;
        stream.write_all(beginning).await.expect("sent");
        open.push(stream);
    }
    others_are_served(&fixture).await;
    for mut stream in open {
        // The end comes, with or without an answer.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    others_are_served(&fixture).await;
}

#[tokio::test]
async fn readers_that_stall_are_cut_off() {
    let bounds = Bounds {
        patience: Duration::from_millis(500),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    for index in 0..20 {
        let large = fixture
            .config_map(&format!("large-{index}"), &"x".repeat(900_000))
            .await;
        assert_eq!(large.code, 201);
    }
    // HTTP/1.1: more than the buffers of a connection hold is asked for and not read.
    let mut stalled = fixture.connect_raw().await;
    let request = format!("GET {CMS} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stalled.write_all(request.as_bytes()).await.expect("sent");
    // HTTP/2: no window for any stream, so that nothing of a body may be sent, while the connection is alive.
    let no_window = [0, 4, 0, 0, 0, 0];
    let mut windowless = h2(&fixture, &no_window).await;
    let ask = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(CMS));
    windowless.write_all(&ask).await.expect("sent");
    others_are_served(&fixture).await;
    // The server hangs up before it has sent everything.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest).await;
    assert!(rest.len() < 18_000_000, "{}", rest.len());
    // With a window at last, the stream is found to be broken off.
    const WINDOW_UPDATE: u8 = 8;
    let window = (64 * 1024 * 1024_u32).to_be_bytes();
    let mut open = frame(WINDOW_UPDATE, 0, 1, &window);
    open.extend(frame(WINDOW_UPDATE, 0, 0, &window));
    windowless.write_all(&open).await.expect("sent");
    let mut received = 0;
    loop {
        let mut head = [0; 9];
        windowless.read_exact(&mut head).await.expect("frames");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        windowless.read_exact(&mut payload).await.expect("whole");
        received += payload.len();
        if head[3] == RST_STREAM {
            break;
        }
        assert!(
            head[3] != 0 || head[4] & END_STREAM == 0,
            "the list came whole"
        );
    }
    assert!(received < 1_000_000, "{received}");
    others_are_served(&fixture).await;
}
