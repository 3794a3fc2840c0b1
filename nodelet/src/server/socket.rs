//! WebSocket upgrades: the handshake, the choice of a subprotocol, and a socket once the connection is ours.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode,
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{Answer, Refusal};

/// The longest message: clients send input in pieces of at most 32 KiB, tunnels somewhat more.
const MESSAGE_LEN_MAX: usize = 1 << 20;

/// How many messages wait for a slow client before its source is no longer read.
const MESSAGES_MAX: usize = 32;

/// A connection that is about to become a WebSocket.
pub(super) struct Handshake {
    upgrade: OnUpgrade,
    /// The subprotocol that was agreed on, if the client named any.
    pub protocol: Option<&'static str>,
    answer: Answer,
}

/// How long a client may take to answer a good-bye.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

type Half = SplitStream<WebSocketStream<TokioIo<Upgraded>>>;

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

/// Checks the request and chooses the first subprotocol of `supported` that the client knows.
pub(super) fn handshake(
    request: &mut Request<Incoming>,
    supported: &[&'static str],
) -> Result<Handshake, Refusal> {
    let header = |name: http::HeaderName| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let wants = header(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let Some(key) = header(SEC_WEBSOCKET_KEY).filter(|_| wants) else {
        return Err(Refusal::bad_request(
            "unable to upgrade: only WebSocket connections are served",
        ));
    };
    let accept = derive_accept_key(key.as_bytes());
    let offered: Vec<String> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .collect();
    let protocol = supported
        .iter()
        .copied()
        .find(|known| offered.iter().any(|offer| offer == known));
    if protocol.is_none() && !offered.is_empty() {
        return Err(Refusal::bad_request(format!(
            "unable to upgrade: none of the protocols {offered:?} is known"
        )));
    }
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept =
        HeaderValue::from_str(&accept).map_err(|_| Refusal::bad_request("malformed key"))?;
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(Handshake {
        upgrade: hyper::upgrade::on(request),
        protocol,
        answer,
    })
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
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let config = WebSocketConfig::default()
                .max_message_size(Some(MESSAGE_LEN_MAX))
                .max_frame_size(Some(MESSAGE_LEN_MAX));
            let socket = WebSocketStream::from_raw_socket(
                TokioIo::new(upgraded),
                Role::Server,
                Some(config),
            )
            .await;
            let (sink, half) = socket.split();
            let (rest, left) = oneshot::channel();
            let incoming = Incomings {
                half: Some(half),
                rest: Some(rest),
            };
            let (queue, receiver) = mpsc::channel(MESSAGES_MAX);
            let writer = tokio::spawn(write(sink, receiver));
            work(incoming, Outgoing { queue }).await;
            // Every sender is gone now, so the writer ends after what is still queued.
            let said = writer.await.unwrap_or(false);
            if let (true, Ok(mut left)) = (said, left.await) {
                let farewell = async { while let Some(Ok(_)) = left.next().await {} };
                let _ = tokio::time::timeout(FAREWELL_MAX, farewell).await;
            }
        });
        self.answer
    }
}

impl Outgoing {
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
