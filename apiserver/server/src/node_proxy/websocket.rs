//! An answer's body as messages of a WebSocket, for clients such as browsers that read logs that way.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_api::status::Status;
use futures::SinkExt;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::handlers::Call;
use crate::response::{Answer, Body};
use crate::websocket;

/// Bytes are sent as they are.
const BINARY: &str = "binary.k8s.io";
/// Bytes are sent as base64 texts.
const BASE64: &str = "base64.binary.k8s.io";

/// Accepts the WebSocket and sends a body on it; closes it at the end.
///
/// # Errors
/// 400 for a handshake that is none, or without a protocol that there is.
pub fn send(call: &Call, body: Body) -> Result<Answer, Status> {
    let offered = websocket::offered(call.headers());
    let protocol = [BINARY, BASE64]
        .into_iter()
        .find(|known| offered.contains(known));
    if protocol.is_none() && !offered.is_empty() {
        return Err(Status::bad_request(format!(
            "unable to find a protocol among {offered:?}; there are {BINARY} and {BASE64}"
        )));
    }
    let (answer, upgraded) = websocket::accept(call, protocol)?;
    let stop = call.shared.stop.clone();
    tokio::spawn(async move {
        let _turn = upgraded.turn;
        let Ok(client) = upgraded.client.await else {
            return;
        };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None);
        let mut socket = socket.await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = pump(&mut socket, body, protocol == Some(BASE64)) => {}
        }
        // The client may have gone first.
        let _ = socket.close(None).await;
    });
    Ok(answer)
}

async fn pump<S>(socket: &mut WebSocketStream<S>, mut body: Body, as_text: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Sending waits until the client has read, so nothing piles up.
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let message = if as_text {
            Message::text(STANDARD.encode(&piece))
        } else {
            Message::binary(piece)
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
}
