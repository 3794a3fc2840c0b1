//! A request goes on to whoever serves its version, in the name of the user who asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use corral_api::status::Status;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;

use super::{Aggregation, Remote, links};
use crate::Shared;
use crate::admission::webhooks::target::{self, Place};
use crate::api::Api;
use crate::authn::User;
use crate::chain::REQUEST_TIMEOUT;
use crate::flow::Turn;
use crate::proxy::OWN_HEADERS;
use crate::response::{self, Answer, Body};
use crate::serve::patience;

/// Beginnings of headers that name a user: nobody but this server says who asks.
const USER_PREFIXES: [&str; 2] = ["x-remote-", "impersonate-"];
/// What a client is told when nobody is there, as in Kubernetes.
const UNAVAILABLE: &str = "service unavailable\n";

/// A request that goes on.
pub struct Passed<B> {
    /// Who asks.
    pub user: Arc<User>,
    /// Method, URL, headers, extensions.
    pub parts: Parts,
    /// The body, as it comes.
    pub body: B,
    /// Its turn here, if it lasts as long as the client wants.
    pub turn: Option<Turn>,
}

/// Passes a request on. Whatever goes wrong with the other server is an answer in text, as in Kubernetes.
///
/// # Errors
/// 429 when too many requests wait for that server, 504 when it takes too long.
pub async fn pass<B>(
    shared: &Arc<Shared>,
    remote: &Remote,
    passed: Passed<B>,
) -> Result<Answer, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let aggregation = &shared.aggregation;
    if !remote.available {
        return Ok(response::text(503, UNAVAILABLE));
    }
    let Passed {
        user,
        mut parts,
        body,
        turn,
    } = passed;
    let is_long = turn.is_some();
    let place = match is_long {
        true => None,
        false => Some(
            aggregation
                .turns(&remote.name)
                .try_acquire_owned()
                .map_err(|_| {
                    Status::too_many_requests("too many requests, please try again later", 1)
                })?,
        ),
    };
    let Ok(address) = address(&shared.api, remote).await else {
        return Ok(response::text(503, UNAVAILABLE));
    };
    let client = parts.extensions.remove::<OnUpgrade>();
    let client = client.filter(|_| parts.headers.contains_key(header::UPGRADE));
    let body = body
        .map_err(|e| Box::new(e) as response::BodyError)
        .boxed_unsync();
    let request = request(remote, address, &user, &parts, body, client.is_some())?;
    if let Some(client) = client {
        return Ok(upgrade(shared, remote, address, request, client, turn).await);
    }
    let sending = aggregation.links.send(remote, request);
    let answer = match is_long {
        true => sending.await,
        false => tokio::time::timeout(REQUEST_TIMEOUT, sending)
            .await
            .map_err(|_| Status::timeout("request did not complete within the allotted timeout"))?,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return Ok(unreachable(&why)),
    };
    let (mut parts, body) = answer.into_parts();
    for name in &OWN_HEADERS {
        parts.headers.remove(name);
    }
    let body = body
        .map_err(|e| Box::new(e) as response::BodyError)
        .boxed_unsync();
    let body = match is_long {
        true => body,
        false => patience::watched(body, shared.flow.bounds().patience),
    };
    Ok(Response::from_parts(
        parts,
        response::holding(body, (turn, place)),
    ))
}

fn unreachable(why: &str) -> Answer {
    response::text(503, format!("error trying to reach service: {why}\n"))
}

/// An address behind the Service of a server.
pub async fn address(api: &Api, remote: &Remote) -> Result<SocketAddr, String> {
    let (namespace, name, port) = remote.service.clone();
    let place = Place::Service(namespace, name, port);
    let addresses = target::addresses(api, &place).await?;
    addresses
        .first()
        .copied()
        .ok_or_else(|| "no address".to_owned())
}

fn request(
    remote: &Remote,
    address: SocketAddr,
    user: &User,
    parts: &Parts,
    body: Body,
    upgrade: bool,
) -> Result<Request<Body>, Status> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // A connection that may become something else is told the path alone.
    let uri = match upgrade {
        true => path.to_owned(),
        false => format!("https://{address}{path}"),
    };
    let uri: Uri = uri.parse().map_err(Status::internal)?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    for (name, value) in &parts.headers {
        let names_user = USER_PREFIXES
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix));
        let own = OWN_HEADERS.contains(name) || names_user;
        let of_upgrade = upgrade && (name == header::UPGRADE || name == header::CONNECTION);
        if !own || of_upgrade {
            headers.append(name.clone(), value.clone());
        }
    }
    let host = HeaderValue::from_str(&links::server_name(remote)).map_err(Status::internal)?;
    headers.insert(header::HOST, host);
    name_user(headers, user)?;
    Ok(request)
}

/// Tells who asks, in the headers that the configuration for extension servers names.
pub fn name_user(headers: &mut HeaderMap, user: &User) -> Result<(), Status> {
    let text = |text: &str| HeaderValue::from_str(text).map_err(Status::internal);
    headers.insert("x-remote-user", text(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", text(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", text(group)?);
    }
    let extra: &BTreeMap<String, Vec<String>> = &user.extra;
    for (key, values) in extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        let name: HeaderName = name.parse().map_err(Status::internal)?;
        for value in values {
            headers.append(name.clone(), text(value)?);
        }
    }
    Ok(())
}

/// A key as a part of a header's name: what cannot be in one is escaped as in a URL.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte.to_ascii_lowercase())),
            byte => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// Joins a client's connection with one of the other server's.
async fn upgrade(
    shared: &Arc<Shared>,
    remote: &Remote,
    address: SocketAddr,
    request: Request<Body>,
    client: OnUpgrade,
    turn: Option<Turn>,
) -> Answer {
    let links = &shared.aggregation.links;
    let answer = links.send_upgrade(remote, address, request).await;
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(why) => return unreachable(&why),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let body = body
            .map_err(|e| Box::new(e) as response::BodyError)
            .boxed_unsync();
        return Response::from_parts(parts, response::holding(body, turn));
    }
    let behind = hyper::upgrade::on(&mut answer);
    crate::node_proxy::join(client, behind, turn, shared.stop.clone());
    let mut out = Response::new(response::full(""));
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = answer.headers().clone();
    out
}

impl Aggregation {
    /// Asks another server as this one itself, and reads a bounded answer.
    ///
    /// # Errors
    /// What went wrong: nobody there, no answer, or more than is taken.
    pub(super) async fn ask(
        &self,
        api: &Api,
        remote: &Remote,
        path: &str,
        accept: &str,
        bytes_max: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let address = address(api, remote).await?;
        let uri = format!("https://{address}{path}");
        let request = Request::builder()
            .method(Method::GET)
            .uri(&uri)
            .header(header::ACCEPT, accept)
            .header(header::HOST, links::server_name(remote))
            .header(header::USER_AGENT, "kube-aggregator")
            .header("x-remote-user", "system:kube-aggregator")
            .header("x-remote-group", crate::authn::MASTERS)
            .body(response::full(""))
            .map_err(|error| error.to_string())?;
        let shown = format!("Get {uri:?}");
        let answer = self.links.send(remote, request).await;
        let answer = answer.map_err(|why| format!("{shown}: {why}"))?;
        let (parts, body) = answer.into_parts();
        let body = http_body_util::Limited::new(body, bytes_max)
            .collect()
            .await;
        let body = body.map_err(|error| format!("{shown}: {error}"))?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_in_headers_and_nobody_else_is() {
        let mut user = User::new("jane", &["devs"]);
        user.uid = "7".to_owned();
        user.extra.insert(
            "example.com/Scopes".to_owned(),
            vec!["a".to_owned(), "b".to_owned()],
        );
        let mut headers = HeaderMap::new();
        name_user(&mut headers, &user).expect("headers");
        let texts = |name: &str| -> Vec<&str> {
            let values = headers.get_all(name).iter();
            values.map(|value| value.to_str().expect("text")).collect()
        };
        assert_eq!(texts("x-remote-user"), ["jane"]);
        assert_eq!(texts("x-remote-uid"), ["7"]);
        assert_eq!(texts("x-remote-group"), ["devs", "system:authenticated"]);
        assert_eq!(texts("x-remote-extra-example.com%2fscopes"), ["a", "b"]);
    }
}
