//! Upgrades, to WebSocket or to SPDY/3.1: the handshake, the choice of a subprotocol, and a connection once it is ours.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, SplitSink};
use futures::{SinkExt, Stream, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode,
};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_util::io::ReaderStream;

use super::{Answer, Refusal};

/// The longest message: clients send input in pieces of at most 32 KiB, tunnels somewhat more.
const MESSAGE_LEN_MAX: usize = 1 << 20;

/// How many messages wait for a slow client before its source is no longer read.
const MESSAGES_MAX: usize = 32;

/// How much is read at once from a connection that is no WebSocket.
const PIECE_LEN: usize = 32 << 10;

/// The name that SPDY/3.1 has in `Upgrade`.
const SPDY: &str = "SPDY/3.1";

/// Where a client that speaks SPDY/3.1 names the subprotocols that it knows, and is told the one that was chosen.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What a connection becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// Messages.
    WebSocket,
    /// Bytes, which are frames; a message here is as many of them as came at once.
    Spdy,
}

/// A connection that is about to become something else.
pub(super) struct Handshake {
    upgrade: OnUpgrade,
    /// What it becomes.
    pub carrier: Carrier,
    /// The subprotocol that was agreed on, if the client named any.
    pub protocol: Option<&'static str>,
    answer: Answer,
}

/// The subprotocols of a path, the best first.
pub(super) struct Protocols<'a> {
    /// Over WebSocket.
    pub websocket: &'a [&'static str],
    /// Over SPDY/3.1.
    pub spdy: &'a [&'static str],
}

/// How long a client may take to answer a good-bye.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

type Half = BoxStream<'static, tungstenite::Result<Message>>;

/// The reading half. Whoever has read enough drops it, and the rest is read until the client has said good-bye as well: a
/// connection that is closed with something unread is torn down, and what the client has not read yet is lost with it.
pub(super) struct Incomings {
    half: Option<Half>,
    rest: Option<oneshot::Sender<Half>>,
}

impl Stream for Incomings {
    type Item = <Half as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.half {
            Some(half) => half.poll_next_unpin(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Incomings {
    fn drop(&mut self) {
        if let (Some(half), Some(rest)) = (self.half.take(), self.rest.take()) {
            let _ = rest.send(half);
        }
    }
}

/// The writing half, behind a bounded queue.
#[derive(Clone)]
pub(super) struct Outgoing {
    queue: mpsc::Sender<Message>,
}

/// Checks the request and chooses a subprotocol.
pub(super) fn handshake(
    request: &mut Request<Incoming>,
    protocols: &Protocols<'_>,
) -> Result<Handshake, Refusal> {
    let headers = request.headers();
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    let (carrier, protocol, answered) = match upgrade {
        Some(to) if to.eq_ignore_ascii_case("websocket") => websocket(headers, protocols)?,
        Some(to) if to.eq_ignore_ascii_case(SPDY) => spdy(headers, protocols)?,
        _ => {
            return Err(Refusal::bad_request(
                "unable to upgrade: missing upgrade headers in request",
            ));
        }
    };
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = answered;
    let connection = HeaderValue::from_static("Upgrade");
    answer.headers_mut().insert(CONNECTION, connection);
    Ok(Handshake {
        upgrade: hyper::upgrade::on(request),
        carrier,
        protocol,
        answer,
    })
}

/// What was agreed on, and the headers that tell it.
type Agreed = (Carrier, Option<&'static str>, HeaderMap);

fn offered(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .collect()
}

fn websocket(headers: &HeaderMap, protocols: &Protocols<'_>) -> Result<Agreed, Refusal> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| {
        Refusal::bad_request("unable to upgrade: the request lacks Sec-WebSocket-Key")
    })?;
    let accept = derive_accept_key(key.as_bytes());
    let offered = offered(headers, SEC_WEBSOCKET_PROTOCOL);
    let mut supported = protocols.websocket.iter().copied();
    let protocol = supported.find(|known| offered.contains(known));
    if protocol.is_none() && !offered.is_empty() {
        return Err(Refusal::bad_request(format!(
            "unable to upgrade: none of the protocols {offered:?} is known"
        )));
    }
    let mut answered = HeaderMap::new();
    answered.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept =
        HeaderValue::from_str(&accept).map_err(|_| Refusal::bad_request("malformed key"))?;
    answered.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        answered.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((Carrier::WebSocket, protocol, answered))
}

/// Here the client's order decides, and no agreement is none: a kubelet does the same.
fn spdy(headers: &HeaderMap, protocols: &Protocols<'_>) -> Result<Agreed, Refusal> {
    let offered = offered(headers, STREAM_PROTOCOL);
    if offered.is_empty() {
        let message =
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request";
        return Err(Refusal::bad_request(message));
    }
    let supported = protocols.spdy;
    let chosen = offered
        .iter()
        .find_map(|offer| supported.iter().copied().find(|known| known == offer));
    let protocol = chosen.ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            supported.join(" ")
        );
        Refusal::new(StatusCode::FORBIDDEN, message)
    })?;
    let mut answered = HeaderMap::new();
    answered.insert(UPGRADE, HeaderValue::from_static(SPDY));
    answered.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((Carrier::Spdy, Some(protocol), answered))
}

impl Handshake {
    /// Answers, and runs `work` with the two halves once the client has seen the answer.
    pub(super) fn accept<F>(
        self,
        work: impl FnOnce(Incomings, Outgoing) -> F + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = ()> + Send,
    {
        let (upgrade, carrier) = (self.upgrade, self.carrier);
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let upgraded = TokioIo::new(upgraded);
            match carrier {
                Carrier::WebSocket => over_websocket(upgraded, work).await,
                Carrier::Spdy => over_bytes(upgraded, work).await,
            }
        });
        self.answer
    }
}

async fn over_websocket<F>(upgraded: TokioIo<Upgraded>, work: impl FnOnce(Incomings, Outgoing) -> F)
where
    F: Future<Output = ()>,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_MAX))
        .max_frame_size(Some(MESSAGE_LEN_MAX));
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
    let (sink, half) = socket.split();
    let (incoming, left) = Incomings::new(half.boxed());
    let (queue, receiver) = mpsc::channel(MESSAGES_MAX);
    let writer = tokio::spawn(write(sink, receiver));
    work(incoming, Outgoing { queue }).await;
    // Every sender is gone now, so the writer ends after what is still queued.
    if writer.await.unwrap_or(false) {
        hear_farewell(left).await;
    }
}

/// Nobody says good-bye in bytes: the client goes when it has all, and only then is the connection closed.
pub(super) async fn over_bytes<S, F>(stream: S, work: impl FnOnce(Incomings, Outgoing) -> F)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    F: Future<Output = ()>,
{
    let (reading, writing) = tokio::io::split(stream);
    let pieces = ReaderStream::with_capacity(reading, PIECE_LEN);
    let half = pieces.map(|piece| piece.map(Message::Binary).map_err(tungstenite::Error::Io));
    let (incoming, left) = Incomings::new(half.boxed());
    let (queue, receiver) = mpsc::channel(MESSAGES_MAX);
    let writer = tokio::spawn(write_bytes(writing, receiver));
    work(incoming, Outgoing { queue }).await;
    if let Ok(Some(mut writing)) = writer.await {
        hear_farewell(left).await;
        let _ = tokio::time::timeout(FAREWELL_MAX, writing.shutdown()).await;
    }
}

/// Reads what is left until the client goes.
async fn hear_farewell(left: oneshot::Receiver<Half>) {
    if let Ok(mut left) = left.await {
        let farewell = async { while let Some(Ok(_)) = left.next().await {} };
        let _ = tokio::time::timeout(FAREWELL_MAX, farewell).await;
    }
}

impl Incomings {
    fn new(half: Half) -> (Self, oneshot::Receiver<Half>) {
        let (rest, left) = oneshot::channel();
        let incoming = Self {
            half: Some(half),
            rest: Some(rest),
        };
        (incoming, left)
    }
}

impl Outgoing {
    /// One whose messages go to a test.
    #[cfg(test)]
    pub(super) fn pair() -> (Self, mpsc::Receiver<Message>) {
        let (queue, receiver) = mpsc::channel(MESSAGES_MAX);
        (Self { queue }, receiver)
    }

    /// Queues a binary message; false when the client is gone.
    pub(super) async fn send(&self, bytes: Vec<u8>) -> bool {
        self.queue
            .send(Message::Binary(Bytes::from(bytes)))
            .await
            .is_ok()
    }

    /// Queues a piece of a channel.
    pub(super) async fn channel(&self, channel: u8, bytes: &[u8]) -> bool {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        self.send(message).await
    }

    /// Says good-bye.
    pub(super) async fn close(&self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = self.queue.send(Message::Close(Some(frame))).await;
    }

    /// Resolves when the client is gone.
    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Whether everything was said, good-bye included.
async fn write(
    mut sink: SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>,
    mut receiver: mpsc::Receiver<Message>,
) -> bool {
    while let Some(message) = receiver.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() {
            return false;
        }
        if last {
            return true;
        }
    }
    sink.close().await.is_ok()
}

/// Gives the connection back if everything was said.
async fn write_bytes<S: tokio::io::AsyncWrite>(
    mut writing: WriteHalf<S>,
    mut receiver: mpsc::Receiver<Message>,
) -> Option<WriteHalf<S>> {
    while let Some(message) = receiver.recv().await {
        if let Message::Binary(bytes) = message {
            writing.write_all(&bytes).await.ok()?;
            writing.flush().await.ok()?;
        }
    }
    Some(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: Protocols<'_> = Protocols {
        websocket: &[],
        spdy: &["v4.channel.k8s.io", "channel.k8s.io"],
    };

    fn asked(offers: &[&'static str]) -> Result<Agreed, (u16, String)> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(STREAM_PROTOCOL, HeaderValue::from_static(offer));
        }
        spdy(&headers, &PROTOCOLS).map_err(|refusal| (refusal.code.as_u16(), refusal.message))
    }

    #[test]
    fn the_first_protocol_of_a_client_that_is_known_is_chosen_for_spdy() {
        for offers in [
            &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"][..],
            &["v5.channel.k8s.io, v4.channel.k8s.io,channel.k8s.io"],
        ] {
            let (carrier, protocol, headers) = asked(offers).expect("agreed");
            assert_eq!(
                (carrier, protocol),
                (Carrier::Spdy, Some("v4.channel.k8s.io"))
            );
            assert_eq!(headers[UPGRADE], "SPDY/3.1");
            assert_eq!(headers[STREAM_PROTOCOL], "v4.channel.k8s.io");
        }
    }

    #[test]
    fn no_agreement_on_a_protocol_is_refused_for_spdy() {
        let message = "unable to upgrade: unable to negotiate protocol: client supports [a b], \
            server accepts [v4.channel.k8s.io channel.k8s.io]";
        let refusal = asked(&["a", "b"]).expect_err("unknown");
        assert_eq!(refusal, (403, message.to_owned()));
        let (code, message) = asked(&[]).expect_err("none");
        assert_eq!(code, 400, "{message}");
    }
}
