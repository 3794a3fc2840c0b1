//! Clients that mean harm, spoken to byte by byte: they are cut off, and others are served.

use std::time::Duration;

use corral_server::flow::Bounds;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::fixture::Fixture;
use crate::neighbour::Neighbour;

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const INTERNAL_ERROR: [u8; 4] = 2_u32.to_be_bytes();
const ENHANCE_YOUR_CALM: [u8; 4] = 11_u32.to_be_bytes();
/// The code 431 as HPACK writes what is not in its table: in the code of Huffman.
const TOO_LARGE: &[u8] = &[0x69, 0x90, 0xff];

/// How long a server that is attacked by readers waits for them.
const PATIENCE: Duration = Duration::from_millis(500);
/// Silent connections of each sort at a time.
const N_SILENT: usize = 4;

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
    let mut stream = fixture.connect_raw_as_user("attacker").await;
    stream.write_all(PREFACE).await.expect("sent");
    let first = frame(SETTINGS, 0, 0, settings);
    stream.write_all(&first).await.expect("sent");
    stream
}

/// One frame: of what kind, its flags and what it holds.
async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

/// The first thing a server says of a stream or the connection, settings apart.
async fn verdict(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    loop {
        let (kind, _, payload) = next_frame(stream).await.expect("the server says why");
        if matches!(kind, HEADERS | RST_STREAM | GOAWAY) {
            return (kind, payload);
        }
    }
}

/// Whether a connection was ended for being too busy.
fn is_told_to_calm_down(told: &[u8]) -> bool {
    let code = |frame: &[u8]| frame[3] == GOAWAY && frame[13..17] == ENHANCE_YOUR_CALM;
    told.windows(17).any(code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let fixture = Fixture::start().await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let head = get(CMS);
    let mut flood = Vec::new();
    for index in 0..10_000_u32 {
        let stream = 2 * index + 1;
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            let (mut reader, mut writer) = tokio::io::split(h2(&fixture, &[]).await);
            let mut told = Vec::new();
            // Writing fails once the server has gone, which is what is looked for.
            let (_, _) = tokio::join!(writer.write_all(&flood), reader.read_to_end(&mut told));
            assert!(
                is_told_to_calm_down(&told),
                "the connection ended without a word"
            );
        }
    };
    neighbour.beside_work("rapid resets", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end_end_the_connection() {
    let fixture = Fixture::start().await;
    let mut neighbour = Neighbour::of(&fixture).await;
    // A literal of a name and value of one byte each, over and over.
    let more = frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y'].repeat(3000));
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            let (mut reader, mut writer) = tokio::io::split(h2(&fixture, &[]).await);
            let begun = frame(HEADERS, END_STREAM, 1, &get(CMS));
            writer.write_all(&begun).await.expect("sent");
            let flood = async {
                // Were they taken without an end, this would not come to one.
                while writer.write_all(&more).await.is_ok() {}
            };
            let mut told = Vec::new();
            let (_, _) = tokio::join!(flood, reader.read_to_end(&mut told));
            assert!(
                is_told_to_calm_down(&told),
                "the connection ended without a word"
            );
        }
    };
    neighbour
        .beside_work("headers without an end", attack)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_list_over_the_bound_is_refused() {
    let fixture = Fixture::start().await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let line: Vec<u8> = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let mut long = frame(HEADERS, END_STREAM, 1, &get(CMS));
    for round in 0..5 {
        let flags = if round == 4 { END_HEADERS } else { 0 };
        long.extend(frame(CONTINUATION, flags, 1, &line.repeat(150)));
    }
    // One that is put in the table of the connection, and named by a byte each time: thousands of times as large as it is
    // sent.
    let mut packed = get(CMS);
    packed.extend([&[0x40, 1, b'x', 100][..], &[b'y'; 100]].concat());
    packed.extend([0xbe].repeat(16_000));
    let packed = frame(HEADERS, END_HEADERS | END_STREAM, 1, &packed);
    let attacks = [
        ("a long list of headers", long, HEADERS, TOO_LARGE),
        ("a packed one", packed, GOAWAY, &ENHANCE_YOUR_CALM),
    ];
    for (what, flood, kind, words) in attacks {
        let attack = async |enough: CancellationToken| {
            while !enough.is_cancelled() {
                let mut attacker = h2(&fixture, &[]).await;
                attacker.write_all(&flood).await.expect("sent");
                let (told, payload) = verdict(&mut attacker).await;
                assert_eq!(told, kind, "{payload:?}");
                let has_words = payload.windows(words.len()).any(|w| w == words);
                assert!(has_words, "{payload:?}");
            }
        };
        neighbour.beside_work(what, attack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_headers_are_refused() {
    let fixture = Fixture::start().await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let mut head = format!("GET {CMS} HTTP/1.1\r\nhost: localhost\r\n");
    for index in 0..2000 {
        head.push_str(&format!("x{index}: y\r\n"));
    }
    head.push_str("\r\n");
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            let mut attacker = fixture.connect_raw_as_user("attacker").await;
            attacker.write_all(head.as_bytes()).await.expect("sent");
            let mut answer = vec![0; 12];
            attacker.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 431");
        }
    };
    neighbour.beside_work("many headers", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_or_half_of_it_are_closed() {
    let bounds = Bounds {
        // The neighbour, too, has so long between two requests, on whatever machine.
        head_time: Duration::from_secs(2),
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let mut neighbour = Neighbour::of(&fixture).await;
    let beginnings: [&[u8]; 5] = [b"", b"PRI * HT", PREFACE, b"GET / HTTP/1.1\r\nhost: ", b"G"];
    let attack = async |enough: CancellationToken| {
        while !enough.is_cancelled() {
            let mut open = Vec::new();
            for beginning in beginnings.repeat(N_SILENT) {
                let mut stream = fixture.connect_raw_as_user("attacker").await;
                stream.write_all(beginning).await.expect("sent");
                open.push(stream);
            }
            for mut stream in open {
                // The end comes, and before it no answer, as nothing was asked; a server of HTTP/2 says first what it takes.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                assert!(rest.is_empty() || rest[3] == SETTINGS, "{rest:?}");
                assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
            }
        }
    };
    neighbour.beside("silent connections", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_are_cut_off() {
    let bounds = Bounds {
        patience: PATIENCE,
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    for index in 0..20 {
        let large = fixture
            .config_map(&format!("large-{index}"), &"x".repeat(900_000))
            .await;
        assert_eq!(large.code, 201);
    }
    let mut neighbour = Neighbour::of(&fixture).await;
    let request = format!("GET {CMS} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let no_window = [0, 4, 0, 0, 0, 0];
    let ask = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(CMS));
    let window = (64 * 1024 * 1024_u32).to_be_bytes();
    let mut open = frame(WINDOW_UPDATE, 0, 1, &window);
    open.extend(frame(WINDOW_UPDATE, 0, 0, &window));
    let attack = async |_| {
        // HTTP/1.1: more than the buffers of a connection hold is asked for and not read.
        let mut stalled = fixture.connect_raw_as_user("attacker").await;
        // HTTP/2: no window for any stream, so that nothing of a body may be sent, while the connection is alive.
        let mut windowless = h2(&fixture, &no_window).await;
        stalled.write_all(request.as_bytes()).await.expect("sent");
        windowless.write_all(&ask).await.expect("sent");
        // The server hangs up before it has sent everything, once its patience is over.
        tokio::time::sleep(3 * PATIENCE).await;
        let mut rest = Vec::new();
        let _ = stalled.read_to_end(&mut rest).await;
        assert!(rest.len() < 18_000_000, "{}", rest.len());
        // With a window at last, the stream is found to be broken off.
        windowless.write_all(&open).await.expect("sent");
        let mut received = 0;
        loop {
            let (kind, flags, payload) = next_frame(&mut windowless).await.expect("frames");
            received += payload.len();
            if kind == RST_STREAM {
                assert_eq!(payload, INTERNAL_ERROR);
                break;
            }
            let is_end = kind == DATA && flags & END_STREAM != 0;
            assert!(!is_end, "the list came whole");
        }
        assert!(received < 1_000_000, "{received}");
    };
    neighbour.beside("readers that stall", attack).await;
}
