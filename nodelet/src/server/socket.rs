//! WebSocket upgrades: the handshake, the choice of a subprotocol, and a socket once the connection is ours.

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
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

/// The reading half.
pub(super) type Incomings = SplitStream<WebSocketStream<TokioIo<Upgraded>>>;

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
            let (sink, incoming) = socket.split();
            let (queue, receiver) = mpsc::channel(MESSAGES_MAX);
            let writer = tokio::spawn(write(sink, receiver));
            work(incoming, Outgoing { queue }).await;
            // Every sender is gone now, so the writer ends after what is still queued.
            let _ = writer.await;
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

async fn write(
    mut sink: SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>,
    mut receiver: mpsc::Receiver<Message>,
) {
    while let Some(message) = receiver.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            return;
        }
    }
    let _ = sink.close().await;
}
