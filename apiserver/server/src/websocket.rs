//! The handshake of a WebSocket, which streams of pods and watches share.

use bytes::Bytes;
use corral_api::status::Status;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::flow::Turn;
use crate::handlers::Call;
use crate::response::{self, Answer};

/// A connection that goes on as a WebSocket.
pub struct Upgraded {
    /// The connection, once the answer is out.
    pub client: OnUpgrade,
    /// The request's turn, which lasts as long as the connection.
    pub turn: Option<Turn>,
}

/// Whether a request wants to go on as a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The protocols that a client offers.
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|protocol| !protocol.is_empty())
        .collect()
}

/// Accepts the WebSocket.
///
/// # Errors
/// 400 for a handshake that is none.
pub fn accept(call: &Call, protocol: Option<&str>) -> Result<(Answer, Upgraded), Status> {
    let headers = &call.parts.headers;
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Status::bad_request("the request lacks Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let client = call.parts.extensions.get::<OnUpgrade>().cloned();
    let upgraded = Upgraded {
        client: client.ok_or_else(|| Status::bad_request("Upgrade request required"))?,
        turn: Turn::of(&call.parts.extensions),
    };
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
        let protocol = HeaderValue::from_str(protocol).map_err(Status::internal)?;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok((answer, upgraded))
}
