//! An answer's body as messages of a WebSocket, for clients such as browsers that read logs that way.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use corral_api::status::Status;
use futures::SinkExt;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::handlers::Call;
use crate::response::{self, Answer, Body};

/// Bytes are sent as they are.
const BINARY: &str = "binary.k8s.io";
/// Bytes are sent as base64 texts.
const BASE64: &str = "base64.binary.k8s.io";

/// Whether a request wants to go on as a WebSocket.
pub fn is_wanted(call: &Call) -> bool {
    let upgrade = call.parts.headers.get(UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Accepts the WebSocket and sends a body on it; closes it at the end.
///
/// # Errors
/// 400 for a handshake that is none, or without a protocol that there is.
pub fn send(call: &mut Call, body: Body) -> Result<Answer, Status> {
    let headers = &call.parts.headers;
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Status::bad_request("the request lacks Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let protocol = [BINARY, BASE64]
        .into_iter()
        .find(|known| offered.contains(known));
    if protocol.is_none() && !offered.is_empty() {
        return Err(Status::bad_request(format!(
            "unable to find a protocol among {offered:?}; there are {BINARY} and {BASE64}"
        )));
    }
    let client = call
        .parts
        .extensions
        .remove::<OnUpgrade>()
        .ok_or_else(|| Status::bad_request("Upgrade request required"))?;
    let stop = call.shared.stop.clone();
    tokio::spawn(async move {
        let Ok(client) = client.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None);
        let mut socket = socket.await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = pump(&mut socket, body, protocol == Some(BASE64)) => {}
        }
        // The client may have gone first.
        let _ = socket.close(None).await;
    });
    let mut answer = Response::new(response::full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(
        SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).map_err(Status::internal)?,
    );
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
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
