//! `/portForward`: connections to ports inside a pod, made from within its network namespace so that what listens on
//! its loopback interface is reached too.
//!
//! Two ways of carrying them: SPDY/3.1 frames, where each connection is a pair of streams (`error` and `data`), as they
//! are or, kubectl's way, in binary messages of a WebSocket; and channels of a WebSocket, where the ports are named in
//! the query and have two each.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use super::socket::{Carrier, Incomings, Outgoing, Protocols, handshake};
use super::spdy::{Decoder, Encoder, Frame};
use super::{Answer, Query, Refusal, Server};
use crate::node::uid;
use crate::pod::Sandbox;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOLS: Protocols<'_> = Protocols {
    websocket: &[TUNNEL, "v4.channel.k8s.io", "portforward.k8s.io"],
    spdy: &["portforward.k8s.io"],
};

/// The most streams of one tunnel at a time.
const STREAMS_MAX: usize = 1024;

/// The most ports of one channel socket.
const PORTS_MAX: usize = 64;

/// How many pieces wait for a connection inside the pod; the socket is not read on while they do.
const PIECES_MAX: usize = 16;

/// How long a pod may take for what a client that has gone said last.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// How much is read from a connection at once.
const PIECE_LEN: usize = 32 << 10;

pub(super) fn serve(
    server: &Server,
    request: &mut Request<Incoming>,
    namespace: &str,
    pod: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let view = server.pod(namespace, pod)?;
    if !matches!(view.state.sandbox, Sandbox::Ready(_)) {
        return Err(Refusal::bad_request(
            "unable to forward port because pod is not running",
        ));
    }
    let host = view
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or(false);
    let netns = (!host).then(|| server.node.runtime.namespace(&uid(&view.pod), "net"));
    let handshake = handshake(request, &PROTOCOLS)?;
    if handshake.carrier == Carrier::Spdy || handshake.protocol == Some(TUNNEL) {
        return Ok(handshake.accept(move |incoming, outgoing| tunnel(incoming, outgoing, netns)));
    }
    let ports: Result<Vec<u16>, _> = query
        .all("ports")
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::parse)
        .collect();
    let ports = ports.map_err(|_| Refusal::bad_request("a port is not a number"))?;
    if ports.is_empty() || ports.len() > PORTS_MAX {
        return Err(Refusal::bad_request(
            "query parameter \"ports\" is required",
        ));
    }
    Ok(handshake.accept(move |incoming, outgoing| channels(incoming, outgoing, netns, ports)))
}

/// Connects to a port of the pod. The thread that enters the namespace is used for nothing else.
async fn connect(netns: Option<PathBuf>, port: u16) -> std::io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("port-forward".into())
        .spawn(move || {
            let _ = sender.send(connect_blocking(netns, port));
        })?;
    let stream = receiver
        .await
        .map_err(|_| std::io::Error::other("the connecting thread died"))??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connect_blocking(netns: Option<PathBuf>, port: u16) -> std::io::Result<std::net::TcpStream> {
    if let Some(path) = netns {
        let namespace = std::fs::File::open(path)?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    let loopback: [std::net::SocketAddr; 2] = [
        ([127, 0, 0, 1], port).into(),
        (std::net::Ipv6Addr::LOCALHOST, port).into(),
    ];
    let stream = std::net::TcpStream::connect(&loopback[..])?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a client sends towards one connection.
type Inlet = mpsc::Sender<Bytes>;

/// Streams of a tunnel.
struct Tunnel {
    outgoing: Outgoing,
    netns: Option<PathBuf>,
    encoder: Encoder,
    /// Error streams by request id, waiting for their data stream.
    errors: HashMap<String, u32>,
    /// Where the bytes of open data streams go.
    inlets: HashMap<u32, Inlet>,
    connections: JoinSet<u32>,
}

async fn tunnel(
    mut incoming: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    outgoing: Outgoing,
    netns: Option<PathBuf>,
) {
    let mut decoder = Decoder::default();
    let mut tunnel = Tunnel {
        outgoing,
        netns,
        encoder: Encoder::default(),
        errors: HashMap::new(),
        inlets: HashMap::new(),
        connections: JoinSet::new(),
    };
    'client: loop {
        let message = tokio::select! {
            message = incoming.next() => message,
            Some(ended) = tunnel.connections.join_next() => {
                if let Ok(stream) = ended {
                    tunnel.inlets.remove(&stream);
                }
                continue;
            }
        };
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(
                Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_),
            )) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => break,
        };
        decoder.push(&bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if !tunnel.take(frame).await {
                        break 'client;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a port-forward client broke the protocol");
                    return;
                }
            }
        }
    }
    tunnel.end().await;
}

impl Tunnel {
    /// Writes what a client that has gone said last.
    async fn end(self) {
        let Self {
            inlets,
            mut connections,
            ..
        } = self;
        drop(inlets);
        let written = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS_MAX, written).await.is_err() {
            tracing::debug!("a pod did not take what a port-forward client said last");
        }
    }

    /// Handles a frame; false when the tunnel is over.
    async fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Open {
                stream, headers, ..
            } => self.open(stream, &headers).await,
            Frame::Data { stream, bytes, fin } => {
                if let Some(inlet) = self.inlets.get(&stream) {
                    // Waiting here is what slows a client down that sends faster than the pod reads.
                    if !bytes.is_empty() && inlet.send(bytes.into()).await.is_err() {
                        self.inlets.remove(&stream);
                    }
                }
                if fin {
                    self.inlets.remove(&stream);
                }
                true
            }
            Frame::Reset(stream) => {
                self.inlets.remove(&stream);
                true
            }
            Frame::Ping(id) => self.outgoing.send(Encoder::pong(id)).await,
            Frame::GoAway => false,
            Frame::Ignored => true,
        }
    }

    async fn open(&mut self, stream: u32, headers: &HashMap<String, String>) -> bool {
        let of = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let request = of("requestid");
        let busy = self.inlets.len() + self.errors.len() >= STREAMS_MAX;
        let reply = if busy {
            Encoder::reset(stream)
        } else {
            self.encoder.reply(stream)
        };
        if !self.outgoing.send(reply).await {
            return false;
        }
        if busy {
            return true;
        }
        if of("streamtype") == "error" {
            self.errors.insert(request, stream);
            return true;
        }
        let error_stream = self.errors.remove(&request);
        let Ok(port) = of("port").parse::<u16>() else {
            return self.outgoing.send(Encoder::reset(stream)).await;
        };
        let (inlet, pieces) = mpsc::channel(PIECES_MAX);
        self.inlets.insert(stream, inlet);
        let (outgoing, netns) = (self.outgoing.clone(), self.netns.clone());
        self.connections.spawn(async move {
            let pack = move |bytes: &[u8]| Encoder::data(stream, bytes, false);
            let outcome = forward(netns, port, pieces, &outgoing, pack).await;
            if let (Err(error), Some(error_stream)) = (&outcome, error_stream) {
                let message = format!("error forwarding port {port} to pod: {error}");
                outgoing
                    .send(Encoder::data(error_stream, message.as_bytes(), false))
                    .await;
            }
            outgoing.send(Encoder::data(stream, &[], true)).await;
            if let Some(error_stream) = error_stream {
                outgoing.send(Encoder::data(error_stream, &[], true)).await;
            }
            stream
        });
        true
    }
}

/// Carries bytes both ways until the pod's side ends (or the client's side goes away).
async fn forward(
    netns: Option<PathBuf>,
    port: u16,
    mut pieces: mpsc::Receiver<Bytes>,
    outgoing: &Outgoing,
    pack: impl Fn(&[u8]) -> Vec<u8>,
) -> std::io::Result<()> {
    let (mut reading, mut writing) = connect(netns, port).await?.into_split();
    let writer = async {
        while let Some(piece) = pieces.recv().await {
            writing.write_all(&piece).await?;
        }
        writing.shutdown().await
    };
    let reader = async {
        let mut buffer = vec![0; PIECE_LEN];
        loop {
            let n = reading.read(&mut buffer).await?;
            if n == 0 {
                return Ok(true);
            }
            if !outgoing.send(pack(&buffer[..n])).await {
                return Ok(false);
            }
        }
    };
    tokio::pin!(reader, writer);
    tokio::select! {
        outcome = &mut reader => match outcome {
            // The client is gone; the pod may still be reading what it said.
            Ok(false) => writer.await,
            outcome => outcome.map(|_: bool| ()),
        },
        written = &mut writer => {
            written?;
            // The client has said everything; the answer may still be coming.
            reader.await.map(|_: bool| ())
        }
    }
}

/// The older way: channel `2i` carries port `i`, channel `2i + 1` its errors; both begin with the port's number.
async fn channels(
    mut incoming: Incomings,
    outgoing: Outgoing,
    netns: Option<PathBuf>,
    ports: Vec<u16>,
) {
    let mut inlets: Vec<Option<Inlet>> = Vec::new();
    let mut connections = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(2 * index).unwrap_or(u8::MAX);
        for channel in [channel, channel + 1] {
            if !outgoing.channel(channel, &port.to_le_bytes()).await {
                return;
            }
        }
        let (inlet, pieces) = mpsc::channel(PIECES_MAX);
        inlets.push(Some(inlet));
        let (outgoing, netns) = (outgoing.clone(), netns.clone());
        connections.spawn(async move {
            let pack = move |bytes: &[u8]| [&[channel], bytes].concat();
            if let Err(error) = forward(netns, port, pieces, &outgoing, pack).await {
                let message = format!("error forwarding port {port} to pod: {error}");
                outgoing.channel(channel + 1, message.as_bytes()).await;
            }
        });
    }
    loop {
        let message = tokio::select! {
            message = incoming.next() => message,
            ended = connections.join_next() => match ended {
                Some(_) if connections.is_empty() => break,
                Some(_) => continue,
                None => break,
            },
        };
        match message {
            Some(Ok(Message::Binary(bytes))) => {
                let Some(channel) = bytes.first() else {
                    continue;
                };
                let inlet = inlets
                    .get_mut(usize::from(*channel) / 2)
                    .filter(|_| channel % 2 == 0);
                if let Some(Some(inlet)) = inlet {
                    let _ = inlet.send(bytes.slice(1..)).await;
                }
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            Some(Ok(_)) => {}
        }
    }
    outgoing.close().await;
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::server::socket::over_bytes;
    use crate::server::spdy::testing::Client;

    /// More than all queues and buffers on the way hold.
    const LEN: usize = 8 << 20;

    fn text() -> Vec<u8> {
        (0..LEN).map(|at| (at % 251) as u8).collect()
    }

    async fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port.to_string())
    }

    /// What a client says first: the two streams of a connection.
    fn opening(client: &mut Client, port: &str) -> Vec<u8> {
        let streams = [(1, "error"), (3, "data")];
        let open = |(stream, kind)| {
            let headers = [("streamtype", kind), ("port", port), ("requestid", "0")];
            client.open(stream, &headers)
        };
        streams.map(open).concat()
    }

    fn said(bytes: Vec<u8>) -> tungstenite::Result<Message> {
        Ok(Message::Binary(bytes.into()))
    }

    #[tokio::test]
    async fn all_that_a_pod_says_before_it_closes_arrives() {
        let (listener, port) = listen().await;
        let pod = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(&text()).await.expect("it is taken");
        });
        let opening = said(opening(&mut Client::default(), &port));
        let incoming = futures::stream::iter([opening]).chain(futures::stream::pending());
        let (outgoing, mut told) = Outgoing::pair();
        let served = tokio::spawn(tunnel(incoming, outgoing, None));
        let (mut decoder, mut heard, mut is_over) = (Decoder::default(), Vec::new(), false);
        while !is_over {
            let message = told.recv().await.expect("the tunnel stands");
            decoder.push(&message.into_data());
            while let Some(frame) = decoder.next_frame().expect("well-formed") {
                if let Frame::Data {
                    stream: 3,
                    bytes,
                    fin,
                } = frame
                {
                    heard.extend(bytes);
                    is_over = fin;
                }
            }
        }
        assert!(heard == text(), "{} bytes", heard.len());
        pod.await.expect("no panic");
        served.abort();
    }

    #[tokio::test]
    async fn several_connections_share_one_of_spdy() {
        let (listener, port) = listen().await;
        let (connection, theirs) = tokio::io::duplex(PIECE_LEN);
        let served = tokio::spawn(over_bytes(theirs, |incoming, outgoing| {
            tunnel(incoming, outgoing, None)
        }));
        let (mut hearing, mut saying) = tokio::io::split(connection);
        let (mut client, mut decoder) = (Client::default(), Decoder::default());
        let mut said = Vec::new();
        for (stream, id) in [(1, "0"), (5, "1"), (9, "2")] {
            for (stream, kind) in [(stream, "error"), (stream + 2, "data")] {
                let headers = [("streamtype", kind), ("port", &port), ("requestid", id)];
                said.extend(client.open(stream, &headers));
            }
        }
        for stream in [11, 7, 3] {
            said.extend(Encoder::data(
                stream,
                format!("of {stream}").as_bytes(),
                true,
            ));
        }
        saying.write_all(&said).await.expect("it is taken");
        // A program that answers with what it is told.
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.expect("a text");
                stream.write_all(&heard).await.expect("it is taken");
            });
        }
        let (mut heard, mut ends) = (HashMap::<u32, Vec<u8>>::new(), 0);
        let mut piece = vec![0; PIECE_LEN];
        while ends < 6 {
            let n = hearing.read(&mut piece).await.expect("a connection");
            assert!(n > 0, "the tunnel stands");
            decoder.push(&piece[..n]);
            while let Some(frame) = decoder.next_frame().expect("well-formed") {
                if let Frame::Data { stream, bytes, fin } = frame {
                    heard.entry(stream).or_default().extend(bytes);
                    ends += u8::from(fin);
                }
            }
        }
        for stream in [3, 7, 11] {
            assert_eq!(heard[&stream], format!("of {stream}").as_bytes());
            assert!(heard[&(stream - 2)].is_empty(), "no error is told");
        }
        drop((hearing, saying));
        served.await.expect("no panic");
    }

    #[tokio::test]
    async fn all_that_a_client_says_before_it_goes_arrives() {
        let (listener, port) = listen().await;
        let mut messages = vec![said(opening(&mut Client::default(), &port))];
        let text = text();
        for piece in text.chunks(PIECE_LEN) {
            messages.push(said(Encoder::data(3, piece, false)));
        }
        messages.push(Ok(Message::Close(None)));
        let (outgoing, mut told) = Outgoing::pair();
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        let incoming = futures::stream::iter(messages);
        let served = tokio::spawn(tunnel(incoming, outgoing, None));
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut heard = Vec::new();
        let read = stream.read_to_end(&mut heard).await;
        assert!(read.is_ok() && heard == text, "{} bytes", heard.len());
        served.await.expect("no panic");
    }
}
