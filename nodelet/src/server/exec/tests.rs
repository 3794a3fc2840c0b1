use std::io::{Read, Write};

use nix::unistd::pipe;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::server::socket::over_bytes;
use crate::server::spdy::testing;
use crate::server::spdy::{Decoder, Encoder, Frame};

/// More than all queues and buffers on the way hold.
const LEN: usize = 8 << 20;

/// How much the connection of a test holds.
const CONNECTION_LEN: usize = 64 << 10;

/// A client that speaks SPDY/3.1.
struct Peer {
    connection: DuplexStream,
    spdy: testing::Client,
    decoder: Decoder,
}

impl Peer {
    async fn say(&mut self, bytes: &[u8]) {
        let said = self.connection.write_all(bytes).await;
        said.expect("the node listens");
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let frame = self.spdy.open(stream, &[("streamtype", kind)]);
        self.say(&frame).await;
    }

    /// The next frame that says something; none when the node has closed the connection.
    async fn hear(&mut self) -> Option<Frame> {
        let mut piece = vec![0; CONNECTION_LEN];
        loop {
            match self.decoder.next_frame().expect("well-formed") {
                Some(Frame::Ignored) => {}
                Some(frame) => return Some(frame),
                None => {
                    let read = self.connection.read(&mut piece).await;
                    match read.expect("a connection") {
                        0 => return None,
                        n => self.decoder.push(&piece[..n]),
                    }
                }
            }
        }
    }
}

/// The ends that a process has.
struct Process {
    stdin: std::fs::File,
    stdout: std::fs::File,
    stderr: std::fs::File,
    exit: oneshot::Sender<ExitRecord>,
}

fn process() -> (Process, Session) {
    let [stdin, stdout, stderr] = [(); 3].map(|()| pipe().expect("a pipe"));
    let (exit, exited) = oneshot::channel();
    let process = Process {
        stdin: stdin.0.into(),
        stdout: stdout.1.into(),
        stderr: stderr.1.into(),
        exit,
    };
    let session = Session {
        stdin: Some(stdin.1),
        stdout: Some(stdout.0),
        stderr: Some(stderr.0),
        terminal: None,
        pid: None,
        exit: exited,
    };
    (process, session)
}

fn exited(code: i32) -> ExitRecord {
    ExitRecord {
        code,
        signal: None,
        oom_killed: false,
        started_at: String::new(),
        finished_at: String::new(),
    }
}

fn serve_over_spdy(session: Session, resize: Resize) -> (Peer, JoinHandle<()>) {
    serve_patiently(session, resize, STREAMS_TIMEOUT)
}

fn serve_patiently(
    session: Session,
    resize: Resize,
    opening_max: Duration,
) -> (Peer, JoinHandle<()>) {
    let (connection, theirs) = duplex(CONNECTION_LEN);
    let terms = Terms {
        carrier: Carrier::Spdy,
        wanted: vec![STATUS, STDIN, STDOUT, STDERR],
        opening_max,
        ending: Ending {
            code: true,
            plain: false,
            drain_max: Duration::ZERO,
        },
    };
    let served = tokio::spawn(over_bytes(theirs, move |incoming, outgoing| {
        converse(
            incoming,
            outgoing,
            terms,
            async move { Ok((session, resize)) },
        )
    }));
    let peer = Peer {
        connection,
        spdy: testing::Client::default(),
        decoder: Decoder::default(),
    };
    (peer, served)
}

fn no_terminal() -> Resize {
    Box::new(|_| Box::pin(async {}))
}

async fn open_all(peer: &mut Peer) {
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        peer.open(stream, kind).await;
    }
}

#[tokio::test]
async fn all_output_and_then_the_status_arrive_over_spdy() {
    let (mut process, session) = process();
    let (mut peer, served) = serve_over_spdy(session, no_terminal());
    open_all(&mut peer).await;
    peer.say(&Encoder::data(3, b"hel", false)).await;
    peer.say(&Encoder::pong(9)).await;
    peer.say(&Encoder::data(3, b"lo", true)).await;
    let ran = tokio::task::spawn_blocking(move || {
        let mut input = String::new();
        process.stdin.read_to_string(&mut input).expect("input");
        process.stderr.write_all(b"warned").expect("it is taken");
        process
            .stdout
            .write_all(&vec![b'x'; LEN])
            .expect("it is taken");
        let Process { exit, stdout, .. } = process;
        exit.send(exited(7)).expect("the session stands");
        // What runs on in the background has it for ever.
        (input, stdout)
    });
    let (mut heard, mut ends, mut pings) = ([0_usize; 3], Vec::new(), Vec::new());
    let mut status = Vec::new();
    while ends.len() < 3 {
        match peer.hear().await.expect("the end has not come yet") {
            Frame::Data { stream, bytes, fin } => {
                heard[(stream as usize - 1) / 3] += bytes.len();
                if stream == 1 {
                    status.extend(bytes);
                }
                if fin {
                    ends.push(stream);
                }
            }
            Frame::Ping(id) => pings.push(id),
            other => panic!("{other:?} is not expected"),
        }
    }
    let (input, _stdout) = ran.await.expect("no panic");
    assert_eq!(input, "hello");
    assert_eq!((&heard[1..], pings), (&[LEN, 6][..], vec![9]));
    assert_eq!(ends, [5, 7, 1]);
    let status: serde_json::Value = serde_json::from_slice(&status).expect("a Status");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    assert!(!served.is_finished(), "the client says when it has all");
    drop(peer);
    served.await.expect("no panic");
}

#[tokio::test]
async fn a_client_that_goes_ends_its_session() {
    let (mut process, session) = process();
    let (mut peer, served) = serve_over_spdy(session, no_terminal());
    open_all(&mut peer).await;
    peer.say(&Encoder::pong(1)).await;
    assert_eq!(peer.hear().await, Some(Frame::Ping(1)));
    peer.say(&Encoder::data(3, b"last words", false)).await;
    drop(peer);
    let mut input = String::new();
    let reading = tokio::task::spawn_blocking(move || {
        process.stdin.read_to_string(&mut input).expect("input");
        (process, input)
    });
    let (_process, input) = reading.await.expect("no panic");
    assert_eq!(input, "last words");
    served.await.expect("no panic");
}

#[tokio::test]
async fn a_client_that_opens_too_few_streams_is_let_go() {
    let (process, session) = process();
    let (peer, served) = serve_patiently(session, no_terminal(), Duration::from_millis(1));
    // It has opened none, and the session, which has not begun, goes with it.
    while !process.exit.is_closed() {
        tokio::task::yield_now().await;
    }
    drop(peer);
    served.await.expect("no panic");
}

#[tokio::test]
async fn streams_that_mean_nothing_are_refused() {
    let (_process, session) = process();
    let (mut peer, _served) = serve_over_spdy(session, no_terminal());
    for (stream, kind) in [(1, "stdin"), (3, "stdin"), (5, "other"), (7, "")] {
        peer.open(stream, kind).await;
    }
    for stream in [3, 5, 7] {
        assert_eq!(peer.hear().await, Some(Frame::Reset(stream)));
    }
}

#[tokio::test]
async fn sizes_of_a_terminal_are_heard() {
    let (_process, session) = process();
    let (told, mut sizes) = mpsc::unbounded_channel();
    let resize: Resize = Box::new(move |size| {
        told.send(size).expect("the test listens");
        Box::pin(async {})
    });
    let (mut peer, _served) = serve_over_spdy(session, resize);
    open_all(&mut peer).await;
    peer.open(9, "resize").await;
    for piece in [
        "{\"Width\":80,\"Height\":24}\n{\"Wid",
        "th\":81,\"Height\":25}\n",
        "nonsense",
        "{\"Width\":82,\"Height\":26}",
    ] {
        peer.say(&Encoder::data(9, piece.as_bytes(), false)).await;
    }
    for (width, height) in [(80, 24), (81, 25), (82, 26)] {
        assert_eq!(sizes.recv().await, Some(Size { width, height }));
    }
}
