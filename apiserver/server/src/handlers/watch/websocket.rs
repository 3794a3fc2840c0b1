//! A watch over a WebSocket, as browsers and old clients ask for it: one message for each event.

use bytes::Bytes;
use corral_api::status::Status;
use futures::{SinkExt, Stream, StreamExt};
use http::header::ORIGIN;
use http::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::handlers::Call;
use crate::response::{self, Answer};
use crate::websocket;

/// Bytes of a message from the client. It has nothing to say, and what it says is passed over.
const INCOMING_MAX: usize = 64 * 1024;

/// Sends messages until there are none, or the client goes.
///
/// # Errors
/// 400 for a handshake that is none.
pub(super) fn send(
    call: &Call,
    messages: impl Stream<Item = Message> + Send + Unpin + 'static,
) -> Result<Answer, Status> {
    let headers = call.headers();
    // Kubernetes wants to know where the page is from, whatever that is, and echoes the only protocol that is offered.
    if !headers.contains_key(ORIGIN) {
        return Ok(refused(StatusCode::FORBIDDEN));
    }
    let offered = websocket::offered(headers);
    if offered.len() > 1 {
        return Ok(refused(StatusCode::BAD_REQUEST));
    }
    let (answer, upgraded) = websocket::accept(call, offered.first().copied())?;
    tokio::spawn(async move {
        let _turn = upgraded.turn;
        let Ok(client) = upgraded.client.await else {
            return;
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(INCOMING_MAX))
            .max_frame_size(Some(INCOMING_MAX));
        let client = TokioIo::new(client);
        let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(config));
        pump(socket.await, messages).await;
    });
    Ok(answer)
}

fn refused(code: StatusCode) -> Answer {
    let mut answer = Response::new(response::full(Bytes::new()));
    *answer.status_mut() = code;
    answer
}

async fn pump<S>(
    mut socket: WebSocketStream<S>,
    mut messages: impl Stream<Item = Message> + Send + Unpin,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        tokio::select! {
            // Reading answers pings, and tells when the client goes.
            incoming = socket.next() => match incoming {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            message = messages.next() => {
                let Some(message) = message else { break };
                // Sending waits until the client has read, so nothing piles up.
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
    let end = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    // The client may have gone first.
    let _ = socket.close(Some(end)).await;
}
