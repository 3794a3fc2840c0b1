//! The client's side of a session: channels of a WebSocket's messages, or streams of SPDY/3.1.
//!
//! Over WebSocket every message begins with its channel, and with `v5.channel.k8s.io` channel 255 names one that the
//! client closes. Over SPDY/3.1 the client opens a stream for each channel, with its name in the header `streamtype`,
//! and closes one with a last frame. Kubernetes' clients and kubelets ignore the windows of SPDY/3.1; so do we.

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use super::super::socket::Outgoing;
use super::super::spdy::{Decoder, Encoder, Frame};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const STATUS: u8 = 3;
pub(super) const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The channels' names, in order.
const NAMES: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];

/// For each channel, the stream that carries it.
pub(super) type Streams = [Option<u32>; NAMES.len()];

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Bytes for stdin.
    Input(Bytes),
    /// There will be no more of them.
    InputEnd,
    /// A piece of the sizes of its terminal.
    Resize(Bytes),
}

/// Where output and status go.
#[derive(Clone)]
pub(super) struct Client {
    outgoing: Outgoing,
    /// None over WebSocket.
    streams: Option<Streams>,
}

impl Client {
    pub(super) fn new(outgoing: Outgoing, streams: Option<Streams>) -> Self {
        Self { outgoing, streams }
    }

    /// Queues a piece of a channel; false when the client is gone.
    pub(super) async fn tell(&self, channel: u8, bytes: &[u8]) -> bool {
        match self.stream(channel) {
            None => self.outgoing.channel(channel, bytes).await,
            // The client did not ask for it.
            Some(None) => true,
            Some(Some(stream)) => {
                self.outgoing
                    .send(Encoder::data(stream, bytes, false))
                    .await
            }
        }
    }

    /// Says that a channel has ended, where that can be said.
    pub(super) async fn end(&self, channel: u8) {
        if let Some(Some(stream)) = self.stream(channel) {
            // A client that has gone needs no word.
            let _ = self.outgoing.send(Encoder::data(stream, &[], true)).await;
        }
    }

    /// Says good-bye.
    pub(super) async fn close(&self) {
        match self.streams {
            None => self.outgoing.close().await,
            Some(_) => self.end(STATUS).await,
        }
    }

    /// Resolves when the client is gone.
    pub(super) async fn closed(&self) {
        self.outgoing.closed().await;
    }

    /// None over WebSocket.
    fn stream(&self, channel: u8) -> Option<Option<u32>> {
        self.streams
            .map(|streams| streams.get(usize::from(channel)).copied().flatten())
    }
}

/// Hears messages of a WebSocket until the client is gone.
pub(super) async fn hear_messages(
    mut incoming: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    said: mpsc::Sender<Said>,
) {
    while let Some(Ok(message)) = incoming.next().await {
        let mut payload: Bytes = match message {
            Message::Binary(bytes) => bytes,
            // Browsers and some clients send text; the channel is then the first character's byte.
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        if payload.is_empty() {
            continue;
        }
        let what = match payload.split_to(1)[0] {
            STDIN => Said::Input(payload),
            RESIZE => Said::Resize(payload),
            CLOSE if *payload == [STDIN] => Said::InputEnd,
            _ => continue,
        };
        if said.send(what).await.is_err() {
            return;
        }
    }
}

/// Hears frames of SPDY/3.1.
pub(super) struct Listener {
    outgoing: Outgoing,
    encoder: Encoder,
    streams: Streams,
    /// The channels without which there is no session.
    wanted: Vec<u8>,
    /// Takes the streams when all that are wanted are open.
    opened: Option<oneshot::Sender<Streams>>,
    said: mpsc::Sender<Said>,
}

impl Listener {
    pub(super) fn new(
        outgoing: Outgoing,
        wanted: Vec<u8>,
        opened: oneshot::Sender<Streams>,
        said: mpsc::Sender<Said>,
    ) -> Self {
        Self {
            outgoing,
            encoder: Encoder::default(),
            streams: Streams::default(),
            wanted,
            opened: Some(opened),
            said,
        }
    }

    /// Hears until the client is gone.
    pub(super) async fn hear(
        mut self,
        mut incoming: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    ) {
        let mut decoder = Decoder::default();
        while let Some(Ok(message)) = incoming.next().await {
            decoder.push(&message.into_data());
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        if !self.take(frame).await {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a client of a session broke the protocol");
                        return;
                    }
                }
            }
        }
    }

    /// Handles a frame; false when the client is done.
    async fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Open {
                stream,
                headers,
                fin,
            } => {
                let kind = headers.get("streamtype").map_or("", String::as_str);
                self.open(stream, kind).await && (!fin || self.ended(stream).await)
            }
            Frame::Data { stream, bytes, fin } => {
                let bytes = Bytes::from(bytes);
                let what = match self.channel_of(stream) {
                    Some(STDIN) => Some(Said::Input(bytes)),
                    Some(RESIZE) => Some(Said::Resize(bytes)),
                    // Nothing is expected on the others but their end.
                    _ => None,
                };
                let heard = match what {
                    // Waiting here is what slows a client down that sends faster than the process reads.
                    Some(what) => self.said.send(what).await.is_ok(),
                    None => true,
                };
                heard && (!fin || self.ended(stream).await)
            }
            Frame::Reset(stream) => self.ended(stream).await,
            Frame::Ping(id) => self.outgoing.send(Encoder::pong(id)).await,
            Frame::GoAway => false,
            Frame::Ignored => true,
        }
    }

    /// Accepts a stream of a kind that there is, once.
    async fn open(&mut self, stream: u32, kind: &str) -> bool {
        let at = NAMES.iter().position(|name| *name == kind);
        let place = at.and_then(|at| self.streams.get_mut(at));
        let Some(place) = place.filter(|place| place.is_none()) else {
            return self.outgoing.send(Encoder::reset(stream)).await;
        };
        *place = Some(stream);
        if !self.outgoing.send(self.encoder.reply(stream)).await {
            return false;
        }
        let is_open = |channel: &u8| self.streams[usize::from(*channel)].is_some();
        if self.wanted.iter().all(is_open)
            && let Some(opened) = self.opened.take()
        {
            return opened.send(self.streams).is_ok();
        }
        true
    }

    async fn ended(&mut self, stream: u32) -> bool {
        self.channel_of(stream) != Some(STDIN) || self.said.send(Said::InputEnd).await.is_ok()
    }

    fn channel_of(&self, stream: u32) -> Option<u8> {
        let at = self.streams.iter().position(|open| *open == Some(stream))?;
        u8::try_from(at).ok()
    }
}
