//! How a node comes to its certificate: `POST /corral/v1/node-certificates`.
//!
//! Whoever holds a bootstrap token may add a node, and may do no more with it: not take the place of a node that is
//! there, and not get a certificate for a name or an address that is not the new node's own. A node renews its
//! certificate with the one that it has.

use std::net::IpAddr;

use corral_api::status::Status;
use serde_json::json;

use crate::authn::{MASTERS, bootstrap};
use crate::authz::node;
use crate::handlers::Call;
use crate::negotiate;
use crate::response::{self, Answer};
use crate::serve::Ends;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    node_name: String,
    certificate_request: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

/// Signs the certificate of a node that joins with a bootstrap token, or renews its own.
///
/// # Errors
/// 403 for somebody else's certificate, 409 for a token and a node that is there already.
pub async fn node_certificate(call: &Call) -> Result<Answer, Status> {
    let request: Request = serde_json::from_slice(&call.body).map_err(|e| {
        Status::bad_request(format!(
            "the request for a node's certificate cannot be read: {e}"
        ))
    })?;
    let name = request.node_name.as_str();
    if let Some(why) = corral_api::names::dns1123_subdomain(name).first() {
        return Err(Status::bad_request(format!("nodeName: {why}")));
    }
    let user = &call.user;
    if user.is_in(bootstrap::GROUP) {
        let nodes = call.shared.api.core("nodes");
        if nodes.fetch(&nodes.key("", name)).await?.is_some() {
            return Err(Status::conflict(
                "",
                "nodes",
                name,
                "a node of this name is there already, and only it may renew its certificate; delete the Node \
                 first if it is to be replaced, or name the new one with --node-name",
            ));
        }
    } else if node::name_of(user) != Some(name) && !user.is_in(MASTERS) {
        return Err(Status::forbidden(
            "",
            "",
            "",
            "only a node itself, or a bootstrap token, gets its certificate",
        ));
    }
    let certificate = call
        .shared
        .pki
        .sign_node(&request.certificate_request, name, &proved(call, &request))
        .map_err(|e| Status::bad_request(e.to_string()))?;
    let answer = json!({"certificate": certificate, "ca": call.shared.pki.ca()});
    Ok(response::object(
        201,
        negotiate::Representation::default(),
        &answer,
    ))
}

/// The addresses asked for that the request shows to be the node's: the one it comes from, unless that is also the
/// server's, whose name nobody else may bear.
fn proved(call: &Call, request: &Request) -> Vec<IpAddr> {
    let Some(ends) = call.parts.extensions.get::<Ends>() else {
        return Vec::new();
    };
    let own = |address: &&IpAddr| **address == ends.client && ends.client != ends.server;
    request.addresses.iter().filter(own).copied().collect()
}
