//! The `proxy` subresource: a request goes on to a pod, to an endpoint of a service, or to a node's own API.
//!
//! Names are `[SCHEME:]NAME[:PORT]`, where a service's port may be its name. What the client sent goes on but for what
//! identifies it to this server; certificates of pods are not checked, as in kube-apiserver, since nobody issues them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use corral_api::k8s::api::core::v1::{EndpointSubset, Endpoints, Pod, Service, ServicePort};
use corral_api::status::{Status, StatusReason};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rand::seq::IndexedRandom;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::flow::Turn;
use crate::handlers::Call;
use crate::response::{self, Answer};

pub(crate) mod anybody;
mod links;

/// How long what is behind may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Larger pages pass with their links as they are: pages that people read are smaller, and each is held whole.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Headers that belong to one connection, or tell this server who asks.
pub(crate) const OWN_HEADERS: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Where a request goes.
enum Target {
    Address {
        tls: bool,
        address: SocketAddr,
        host: String,
    },
    Node(crate::node_proxy::Target),
}

/// A name as the path has it.
struct Name<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https");
        (known && !name.is_empty()).then_some(Self { scheme, name, port })
    }
}

/// Passes a request on.
///
/// # Errors
/// 400 for a name that is none, 404 without the object, 503 when nothing is behind it, 502 when that does not answer.
pub async fn handle(mut call: Call) -> Result<Answer, Status> {
    let path = match (path_behind(&call), &call.parts.method) {
        (Some(path), _) => path,
        (None, &Method::GET | &Method::HEAD) => return Ok(redirect(&call)),
        (None, _) => match call.parts.uri.query() {
            Some(query) => format!("/?{query}"),
            None => "/".to_owned(),
        },
    };
    let target = target(&call).await?;
    let upgrade = call.parts.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.filter(|_| call.parts.headers.contains_key(header::UPGRADE));
    let request = request(&call, &path, upgrade.is_some())?;
    let mut answer = match target {
        Target::Node(node) => crate::node_proxy::send(&call, &node, request).await?,
        Target::Address { tls, address, host } => send(request, tls, address, &host).await?,
    };
    if let (Some(client), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, answer.status()) {
        let behind = hyper::upgrade::on(&mut answer);
        let turn = Turn::of(&call.parts.extensions);
        crate::node_proxy::join(client, behind, turn, call.shared.stop.clone());
        let mut out = Response::new(response::full(""));
        *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *out.headers_mut() = answer.headers().clone();
        return Ok(out);
    }
    passed_back(&call, answer).await
}

/// The path and query behind `…/proxy`, still escaped; `None` if not even a slash is there.
fn path_behind(call: &Call) -> Option<String> {
    // /api/v1/[namespaces/NS/]RESOURCE/NAME/proxy
    let parts = if call.info.namespace.is_empty() { 5 } else { 7 };
    let path = call.parts.uri.path();
    let (at, _) = path.match_indices('/').nth(parts)?;
    let query = call.parts.uri.query();
    Some(match query {
        Some(query) => format!("{}?{query}", &path[at..]),
        None => path[at..].to_owned(),
    })
}

/// A page behind is asked by a path with a slash, so that its relative links lead where they should.
fn redirect(call: &Call) -> Answer {
    let path = call.parts.uri.path();
    let place = match call.parts.uri.query() {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    let mut answer = Response::new(response::full(""));
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(place) = HeaderValue::from_str(&place) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
    answer
}

async fn target(call: &Call) -> Result<Target, Status> {
    let text = call.info.name.as_str();
    match call.info.resource.as_str() {
        "pods" => {
            let name = Name::parse(text)
                .ok_or_else(|| Status::bad_request(format!("invalid pod request {text:?}")))?;
            pod(&name, &read(call, "pods", name.name).await?)
        }
        "services" => {
            let name = Name::parse(text)
                .ok_or_else(|| Status::bad_request(format!("invalid service request {text:?}")))?;
            let service = read(call, "services", name.name).await?;
            let endpoints = read(call, "endpoints", name.name).await;
            service_endpoint(&name, &service, endpoints.ok())
        }
        _ => {
            let name = Name::parse(text)
                .ok_or_else(|| Status::bad_request(format!("invalid node request {text:?}")))?;
            crate::node_proxy::node(call, name.name).map(Target::Node)
        }
    }
}

async fn read<K: DeserializeOwned>(call: &Call, plural: &str, name: &str) -> Result<K, Status> {
    let resource = call.shared.api.core(plural);
    let key = resource.key(&call.info.namespace, name);
    let entry = resource.fetch(&key).await?;
    let entry = entry.ok_or_else(|| resource.not_found(name))?;
    serde_json::from_slice(&entry.value).map_err(Status::internal)
}

fn pod(name: &Name<'_>, pod: &Pod) -> Result<Target, Status> {
    let status = pod.status.as_ref();
    let ip = status.and_then(|status| status.pod_ip.as_deref());
    let ip = ip.and_then(|ip| ip.parse().ok()).filter(may_be_reached);
    let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
    let spec = pod.spec.as_ref();
    let first = spec
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .next()
        .map(|port| port.container_port);
    let port = match name.port {
        "" => first.and_then(|port| u16::try_from(port).ok()),
        port => port.parse().ok(),
    };
    let tls = name.scheme == "https";
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    Ok(Target::Address {
        tls,
        address: SocketAddr::new(ip, port),
        host: format!("{ip}:{port}"),
    })
}

/// Addresses of this machine and its link are not what a pod has; whoever writes a status could name them.
fn may_be_reached(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

fn service_endpoint(
    name: &Name<'_>,
    service: &Service,
    endpoints: Option<Endpoints>,
) -> Result<Target, Status> {
    let unavailable = |why: String| Status::failure(503, StatusReason::ServiceUnavailable, why);
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref());
    let ports = ports.unwrap_or_default();
    let port = service_port(ports, name.port).ok_or_else(|| {
        let why = format!(
            "no service port {:?} found for service {:?}",
            name.port, name.name
        );
        unavailable(why)
    })?;
    let wanted = port.name.as_deref().unwrap_or("");
    let subsets = endpoints.and_then(|endpoints| endpoints.subsets);
    let found: Vec<SocketAddr> = subsets
        .iter()
        .flatten()
        .flat_map(|subset| addresses(subset, wanted))
        .collect();
    let address = found.choose(&mut rand::rng()).copied().ok_or_else(|| {
        unavailable(format!(
            "no endpoints available for service {:?}",
            name.name
        ))
    })?;
    Ok(Target::Address {
        tls: name.scheme == "https",
        address,
        host: address.to_string(),
    })
}

fn service_port<'a>(ports: &'a [ServicePort], wanted: &str) -> Option<&'a ServicePort> {
    if wanted.is_empty() {
        return ports
            .iter()
            .find(|port| port.name.is_none())
            .or(match ports {
                [only] => Some(only),
                _ => None,
            });
    }
    let named = |port: &&ServicePort| port.name.as_deref() == Some(wanted);
    let numbered = |port: &&ServicePort| port.port.to_string() == wanted;
    let mut all = ports.iter();
    all.clone().find(named).or_else(|| all.find(numbered))
}

fn addresses(subset: &EndpointSubset, port_name: &str) -> Vec<SocketAddr> {
    let ports = subset.ports.iter().flatten();
    let port = ports
        .filter(|port| port.name.as_deref().unwrap_or("") == port_name)
        .find_map(|port| u16::try_from(port.port).ok());
    let ips = subset.addresses.iter().flatten();
    let ips = ips.filter_map(|address| address.ip.parse().ok());
    ips.filter(may_be_reached)
        .filter_map(|ip| Some(SocketAddr::new(ip, port?)))
        .collect()
}

fn request(call: &Call, path: &str, upgrade: bool) -> Result<Request<Full<Bytes>>, Status> {
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(path)
        .body(Full::new(call.body.clone()))
        .map_err(Status::internal)?;
    let headers = request.headers_mut();
    for (name, value) in &call.parts.headers {
        // A page that came compressed could not be read here.
        let own = OWN_HEADERS.contains(name)
            || name == header::ACCEPT_ENCODING
            || name.as_str().starts_with("impersonate-");
        let of_upgrade = upgrade && (name == header::UPGRADE || name == header::CONNECTION);
        if (!own && name != header::CONTENT_LENGTH) || of_upgrade {
            headers.append(name.clone(), value.clone());
        }
    }
    forwarded(headers, call);
    Ok(request)
}

/// Tells who asked, and how.
fn forwarded(headers: &mut HeaderMap, call: &Call) {
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-forwarded-uri", call.parts.uri.path());
    set("x-forwarded-proto", "https");
    let host = call.parts.headers.get(header::HOST);
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        set("x-forwarded-host", host);
    }
}

async fn send(
    mut request: Request<Full<Bytes>>,
    tls: bool,
    address: SocketAddr,
    host: &str,
) -> Result<Response<Incoming>, Status> {
    let failed = |why: String| {
        let message = format!("error trying to reach service: {why}");
        Status::failure(503, StatusReason::ServiceUnavailable, message)
    };
    let host = HeaderValue::from_str(host).map_err(Status::internal)?;
    request.headers_mut().insert(header::HOST, host);
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| failed(format!("dial tcp {address}: i/o timeout")))?
        .map_err(|error| failed(format!("dial tcp {address}: {error}")))?;
    if !tls {
        return exchange(tcp, request).await.map_err(failed);
    }
    static ANYBODY: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(anybody::config);
    let name = ServerName::IpAddress(address.ip().into());
    let connector = TlsConnector::from(ANYBODY.clone());
    let tls = connector.connect(name, tcp).await;
    let tls = tls.map_err(|error| failed(error.to_string()))?;
    exchange(tls, request).await.map_err(failed)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // Its end is seen by whoever reads the answer, or holds the upgraded connection.
        let _ = connection.with_upgrades().await;
    });
    let answer = sender.send_request(request).await;
    answer.map_err(|error| error.to_string())
}

/// The answer for the client: as it came, but for what belongs to the connection behind; places that it names are named
/// by this server's paths.
async fn passed_back(call: &Call, answer: Response<Incoming>) -> Result<Answer, Status> {
    let (mut parts, body) = answer.into_parts();
    for name in &OWN_HEADERS {
        parts.headers.remove(name);
    }
    if let Some(place) = parts.headers.get(header::LOCATION)
        && let Some(place) = place
            .to_str()
            .ok()
            .and_then(|place| place_here(call, place))
    {
        parts.headers.insert(header::LOCATION, place);
    }
    if call.parts.method == Method::HEAD {
        return Ok(Response::from_parts(parts, response::full("")));
    }
    if let Some(prefix) = path_here(call).filter(|_| is_page(&parts.headers)) {
        let page = body.collect().await.map_err(Status::internal)?.to_bytes();
        let page = links::rewrite(&String::from_utf8_lossy(&page), &prefix);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Ok(Response::from_parts(parts, response::full(page)));
    }
    let body = body.map_err(|e| Box::new(e) as response::BodyError);
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

/// Whether it is a page of HTML of a length that is told and not too much.
fn is_page(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    text(header::CONTENT_TYPE).is_some_and(|media| media.starts_with("text/html"))
        && length.is_some_and(|length: usize| length <= PAGE_BYTES_MAX)
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// The path here that stands for the root of the host behind.
fn path_here(call: &Call) -> Option<String> {
    let behind = path_behind(call)?;
    let behind = behind.split('?').next().unwrap_or_default();
    let base = call.parts.uri.path().strip_suffix(behind)?;
    Some(base.to_owned())
}

/// A place on the host behind, by the path that leads to it through here.
fn place_here(call: &Call, place: &str) -> Option<HeaderValue> {
    let path = place.starts_with('/').then_some(place)?;
    let base = path_here(call)?;
    HeaderValue::from_str(&format!("{base}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let parsed = |text| {
            let name = Name::parse(text)?;
            Some((name.scheme, name.name, name.port))
        };
        assert_eq!(parsed("web"), Some(("", "web", "")));
        assert_eq!(parsed("web:80"), Some(("", "web", "80")));
        assert_eq!(parsed("https:web:"), Some(("https", "web", "")));
        for wrong in ["", ":80", "ftp:web:80", "a:b:c:d"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_that_no_pod_has_are_not_reached() {
        let reached = |ip: &str| may_be_reached(&ip.parse().expect("an address"));
        assert!(reached("10.244.0.5") && reached("2001:db8::1"));
        for ip in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(!reached(ip), "{ip}");
        }
    }

    #[test]
    fn a_services_port_is_found_by_name_number_or_being_the_only_one() {
        let port = |name: Option<&str>, port| ServicePort {
            name: name.map(str::to_owned),
            port,
            ..ServicePort::default()
        };
        let two = [port(Some("a"), 80), port(Some("b"), 81)];
        let number = |wanted| service_port(&two, wanted).map(|port| port.port);
        assert_eq!(
            (number("b"), number("80"), number("")),
            (Some(81), Some(80), None)
        );
        assert_eq!(service_port(&two[..1], "").map(|port| port.port), Some(80));
    }
}
