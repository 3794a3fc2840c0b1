//! Streams of a pod (logs, exec, attach, port-forward): the request goes on to the pod's node, and bytes pass both
//! ways untouched, so that the handshake is between the client and the node.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Node, Pod};
use corral_api::status::{Status, StatusReason};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::flow::Turn;
use crate::handlers::Call;
use crate::response::{self, Answer};

mod websocket;

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Longest error text of a node that is passed on.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Where a node answers.
pub(crate) struct Target {
    node: String,
    address: IpAddr,
    port: u16,
}

async fn pod_of(call: &Call) -> Result<Pod, Status> {
    let pods = call.shared.api.core("pods");
    let key = pods.key(&call.info.namespace, &call.info.name);
    let entry = pods
        .fetch(&key)
        .await?
        .ok_or_else(|| pods.not_found(&call.info.name))?;
    serde_json::from_slice(&entry.value).map_err(Status::internal)
}

/// The node of a pod; `None` before it has one.
fn target_of(call: &Call, pod: &Pod) -> Result<Option<Target>, Status> {
    let name = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.clone())
        .unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    node(call, &name).map(Some)
}

/// Where a node of this name answers.
///
/// # Errors
/// 404 without the node, 500 if it does not tell where it is.
pub(crate) fn node(call: &Call, name: &str) -> Result<Target, Status> {
    let nodes = call.shared.api.core("nodes");
    let stored = nodes
        .cacher
        .peek(&nodes.key("", name))
        .ok_or_else(|| nodes.not_found(name))?;
    let node: Node = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let address = addresses
        .iter()
        .find(|a| a.type_ == "InternalIP")
        .and_then(|a| a.address.parse().ok())
        .ok_or_else(|| Status::internal(format!("node {name} has no address")))?;
    let port = status
        .daemon_endpoints
        .and_then(|d| d.kubelet_endpoint)
        .and_then(|e| u16::try_from(e.port).ok())
        .ok_or_else(|| Status::internal(format!("node {name} tells no port")))?;
    Ok(Target {
        node: name.to_owned(),
        address,
        port,
    })
}

/// The container meant: the one named, the only one, or the one that the pod marks as its default.
fn container_of(call: &Call, pod: &Pod) -> Result<String, Status> {
    let spec = pod.spec.clone().unwrap_or_default();
    let pod_name = &call.info.name;
    let init = spec.init_containers.unwrap_or_default();
    let all = || {
        init.iter()
            .chain(spec.containers.iter())
            .map(|c| c.name.as_str())
    };
    if let Some(name) = call.info.query.get("container").filter(|c| !c.is_empty()) {
        return match all().find(|c| *c == name) {
            Some(_) => Ok(name.to_owned()),
            None => Err(Status::bad_request(format!(
                "container {name} is not valid for pod {pod_name}"
            ))),
        };
    }
    let annotations = pod.metadata.annotations.as_ref();
    let default = annotations.and_then(|a| a.get("kubectl.kubernetes.io/default-container"));
    match (default, spec.containers.as_slice()) {
        (_, [only]) if init.is_empty() => Ok(only.name.clone()),
        (Some(name), _) if all().any(|c| c == name) => Ok(name.clone()),
        (_, containers) => {
            let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
            let init: Vec<&str> = init.iter().map(|c| c.name.as_str()).collect();
            let mut message = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                names.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(Status::bad_request(message))
        }
    }
}

/// `kubectl logs`.
///
/// # Errors
/// 400 before the container has started, 404 without the pod, what the node says otherwise.
pub async fn logs(call: Call) -> Result<Answer, Status> {
    let answer = log_of(&call).await?;
    if crate::websocket::is_wanted(call.headers()) {
        return websocket::send(&call, answer.into_body());
    }
    Ok(answer)
}

async fn log_of(call: &Call) -> Result<Answer, Status> {
    let pod = pod_of(call).await?;
    let container = container_of(call, &pod)?;
    let Some(target) = target_of(call, &pod)? else {
        // A pod without a node has no log yet; clients that follow ask again.
        return Ok(response::text(200, ""));
    };
    let info = &call.info;
    let query = call.parts.uri.query().unwrap_or("");
    let path = format!(
        "/containerLogs/{}/{}/{container}?{query}",
        info.namespace, info.name
    );
    let request = Request::get(path)
        .body(Full::default())
        .map_err(Status::internal)?;
    let answer = send(call, &target, request).await?;
    if !answer.status().is_success() {
        return Err(failure(answer).await);
    }
    let media = answer.headers().get(CONTENT_TYPE).cloned();
    let body = answer
        .into_body()
        .map_err(|e| Box::new(e) as response::BodyError)
        .boxed_unsync();
    let mut out = Response::new(body);
    let media = media.unwrap_or_else(|| HeaderValue::from_static("text/plain"));
    out.headers_mut().insert(CONTENT_TYPE, media);
    Ok(out)
}

/// `kubectl exec`, `attach` and `port-forward`.
///
/// # Errors
/// 400 for a request that is no upgrade, or whose container does not run.
pub async fn stream(mut call: Call) -> Result<Answer, Status> {
    let pod = pod_of(&call).await?;
    let Some(target) = target_of(&call, &pod)? else {
        let message = format!("pod {} does not have a host assigned", call.info.name);
        return Err(Status::bad_request(message));
    };
    let info = &call.info;
    let query = node_query(call.parts.uri.query().unwrap_or(""));
    let path = match info.subresource.as_str() {
        "portforward" => format!("/portForward/{}/{}?{query}", info.namespace, info.name),
        verb => {
            let container = container_of(&call, &pod)?;
            format!(
                "/{verb}/{}/{}/{container}?{query}",
                info.namespace, info.name
            )
        }
    };
    let client = call
        .parts
        .extensions
        .remove::<OnUpgrade>()
        .filter(|_| call.parts.headers.contains_key(UPGRADE))
        .ok_or_else(|| Status::bad_request("Upgrade request required"))?;
    let method = if call.parts.method == Method::POST {
        Method::POST
    } else {
        Method::GET
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Full::default())
        .map_err(Status::internal)?;
    for (name, value) in &call.parts.headers {
        let passes = name == UPGRADE
            || name == CONNECTION
            || name.as_str().starts_with("sec-websocket-")
            || name.as_str().starts_with("x-stream-protocol");
        if passes {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    let mut answer = send(&call, &target, request).await?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(failure(answer).await);
    }
    let node = hyper::upgrade::on(&mut answer);
    let turn = Turn::of(&call.parts.extensions);
    join(client, node, turn, call.shared.stop.clone());
    let mut out = Response::new(response::full(""));
    *out.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = answer.headers().clone();
    Ok(out)
}

/// Passes bytes both ways between two upgraded connections until one of them ends, or the server does.
pub(crate) fn join(
    client: OnUpgrade,
    behind: OnUpgrade,
    turn: Option<Turn>,
    stop: CancellationToken,
) {
    tokio::spawn(async move {
        let _turn = turn;
        let (Ok(client), Ok(behind)) = tokio::join!(client, behind) else {
            return;
        };
        tokio::select! {
            () = pass(TokioIo::new(client), TokioIo::new(behind)) => {}
            () = stop.cancelled() => {}
        }
    });
}

/// How long a client may go on talking after the other side has said its last.
const LINGER: Duration = Duration::from_secs(5);

/// Passes bytes both ways. One that takes nothing more may still have something to say: a container's last output and its
/// exit code come when its input is already closed.
async fn pass<C, B>(client: C, behind: B)
where
    C: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_behind, mut to_behind) = tokio::io::split(behind);
    let forth = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_behind).await;
        let _ = to_behind.shutdown().await;
    };
    let back = async {
        let told = tokio::io::copy(&mut from_behind, &mut to_client).await;
        let _ = to_client.shutdown().await;
        told.is_ok()
    };
    let (mut forth, mut back) = (pin!(forth), pin!(back));
    let mut is_silent = false;
    loop {
        tokio::select! {
            () = &mut forth, if !is_silent => is_silent = true,
            told = &mut back => {
                if told && !is_silent {
                    let _ = tokio::time::timeout(LINGER, &mut forth).await;
                }
                return;
            }
        }
    }
}

/// The query as nodes read it: which streams are wanted has other names there.
fn node_query(query: &str) -> String {
    let renamed = query
        .split('&')
        .filter(|p| !p.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let on = crate::request::is_true(value);
            match key {
                "stdin" => on.then(|| "input=1".to_owned()),
                "stdout" => on.then(|| "output=1".to_owned()),
                "stderr" => on.then(|| "error=1".to_owned()),
                "tty" => on.then(|| "tty=1".to_owned()),
                "container" => None,
                _ => Some(pair.to_owned()),
            }
        });
    renamed.collect::<Vec<_>>().join("&")
}

async fn failure(answer: Response<Incoming>) -> Status {
    let code = answer.status().as_u16();
    let body = http_body_util::Limited::new(answer.into_body(), ERROR_BYTES_MAX)
        .collect()
        .await;
    let bytes = body.map(|b| b.to_bytes()).unwrap_or_default();
    if let Ok(status) = serde_json::from_slice::<Status>(&bytes)
        && status.code != 0
    {
        return status;
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let reason = match code {
        400 => StatusReason::BadRequest,
        404 => StatusReason::NotFound,
        403 => StatusReason::Forbidden,
        _ => StatusReason::InternalError,
    };
    Status::failure(code, reason, text)
}

/// Asks a node's API.
///
/// # Errors
/// 502 when the node does not answer.
pub(crate) async fn send(
    call: &Call,
    target: &Target,
    mut request: Request<Full<bytes::Bytes>>,
) -> Result<Response<Incoming>, Status> {
    let unreachable = |why: String| {
        tracing::warn!(node = target.node, why, "node does not answer");
        Status::failure(
            502,
            StatusReason::InternalError,
            format!(
                "error dialing backend: node {} does not answer: {why}",
                target.node
            ),
        )
    };
    let connect = TcpStream::connect((target.address, target.port));
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| unreachable("connection timed out".to_owned()))?
        .map_err(|e| unreachable(e.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(&call.shared.node_client));
    // Certificates of nodes name the node, so that an address that moved to another machine is noticed.
    let name = crate::pki::node_server_name(&target.node);
    let name = ServerName::try_from(name).map_err(Status::internal)?;
    let tls = connector
        .connect(name, tcp)
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    tokio::spawn(async move {
        // An upgraded connection lives on; its end is seen by those who hold it.
        let _ = connection.with_upgrades().await;
    });
    let host = HeaderValue::from_str(&target.node).map_err(Status::internal)?;
    request.headers_mut().insert(HOST, host);
    sender
        .send_request(request)
        .await
        .map_err(|e| unreachable(e.to_string()))
}
