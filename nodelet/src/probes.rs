//! Probes and lifecycle hooks: one attempt of each kind, and the loop that counts attempts against thresholds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::{Event, ProbeKind};
use crate::runtime::{ContainerRuntime, ExecSpec};

/// How much of an answer or of a command's output is read.
const OUTPUT_LEN_MAX: usize = 10 << 10;

/// How long a lifecycle hook over HTTP may take; Kubernetes leaves it to the grace period, a connection needs an end.
const HOOK_HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// How probes and hooks introduce themselves.
const PROBE_AGENT: &str = "kube-probe/1.36";
const HOOK_AGENT: &str = "kube-lifecycle/1.36";

/// What a probe is aimed at.
#[derive(Clone)]
pub struct Target {
    /// Runs exec probes.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The pod's uid.
    pub uid: String,
    /// The container instance.
    pub id: String,
    /// The pod's address.
    pub address: Option<IpAddr>,
    /// The container, for named ports.
    pub container: Container,
}

impl Target {
    /// Probes until cancelled; reports a verdict whenever it changes and at each failure past the threshold, and
    /// complains of each failed attempt.
    pub async fn run(
        self,
        kind: ProbeKind,
        probe: Probe,
        cancel: CancellationToken,
        reports: mpsc::Sender<Event>,
        complain: impl Fn(String),
    ) {
        let seconds = |value: Option<i32>, fallback: u64| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .filter(|v| *v > 0)
                    .unwrap_or(fallback),
            )
        };
        let count = |value: Option<i32>, fallback: i32| {
            value.filter(|value| *value > 0).unwrap_or(fallback)
        };
        let (timeout, period) = (
            seconds(probe.timeout_seconds, 1),
            seconds(probe.period_seconds, 10),
        );
        let success_threshold = count(probe.success_threshold, 1);
        let failure_threshold = count(probe.failure_threshold, 3);
        let delay = Duration::from_secs(
            u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0),
        );
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + delay, period);
        let (mut good, mut bad, mut said) = (0, 0, None);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cancel.cancelled() => return,
            }
            let outcome = tokio::time::timeout(timeout, self.attempt(&probe, timeout)).await;
            let outcome = outcome
                .unwrap_or_else(|_| Err(format!("probe timed out after {}s", timeout.as_secs())));
            if cancel.is_cancelled() {
                return;
            }
            match outcome {
                Ok(()) => (good, bad) = (good + 1, 0),
                Err(message) => {
                    (good, bad) = (0, bad + 1);
                    let word = match kind {
                        ProbeKind::Startup => "Startup",
                        ProbeKind::Liveness => "Liveness",
                        ProbeKind::Readiness => "Readiness",
                    };
                    complain(format!("{word} probe failed: {message}"));
                }
            }
            let verdict = match (good >= success_threshold, bad >= failure_threshold) {
                (true, _) => true,
                (_, true) => false,
                _ => continue,
            };
            if said != Some(verdict) || !verdict {
                said = Some(verdict);
                let name = self.container.name.clone();
                if reports
                    .send(Event::Probe {
                        name,
                        kind,
                        success: verdict,
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            if kind == ProbeKind::Startup && verdict {
                return;
            }
        }
    }

    async fn attempt(&self, probe: &Probe, timeout: Duration) -> Result<(), String> {
        if let Some(exec) = &probe.exec {
            self.exec(exec).await
        } else if let Some(http) = &probe.http_get {
            match self.http(http, PROBE_AGENT, timeout).await? {
                200..=399 => Ok(()),
                status => Err(format!("HTTP probe failed with statuscode: {status}")),
            }
        } else if let Some(tcp) = &probe.tcp_socket {
            self.tcp(tcp).await
        } else if let Some(grpc) = &probe.grpc {
            self.grpc(grpc).await
        } else {
            Err("missing probe handler".into())
        }
    }

    /// Runs a lifecycle hook to its end.
    pub async fn hook(&self, handler: &LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &handler.exec {
            self.exec(exec).await
        } else if let Some(http) = &handler.http_get {
            // That there was an answer is enough, as for kubelets; a probe is what looks at the status.
            let answer = self.http(http, HOOK_AGENT, HOOK_HTTP_TIMEOUT).await;
            answer.map(drop)
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(
                u64::try_from(sleep.seconds).unwrap_or(0),
            ))
            .await;
            Ok(())
        } else if let Some(tcp) = &handler.tcp_socket {
            self.tcp(tcp).await
        } else {
            Err("missing hook handler".into())
        }
    }

    async fn exec(&self, action: &ExecAction) -> Result<(), String> {
        let spec = ExecSpec {
            command: action.command.clone().unwrap_or_default(),
            stdout: true,
            stderr: true,
            kill_on_drop: true,
            ..ExecSpec::default()
        };
        let session = self
            .runtime
            .exec(&self.uid, &self.id, &spec)
            .await
            .map_err(|error| error.to_string())?;
        let (stdout, stderr) = tokio::join!(drain(session.stdout), drain(session.stderr));
        let output = [stdout?, stderr?].concat();
        match session.exit.await {
            Ok(exit) if exit.code == 0 => Ok(()),
            Ok(_) => Err(String::from_utf8_lossy(&output).trim().to_owned()),
            Err(_) => Err("the pod's shim is gone".into()),
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => self
                .container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("couldn't find port: {name}"))?,
        };
        u16::try_from(number).map_err(|_| format!("invalid port number: {number}"))
    }

    async fn connect(&self, host: Option<&str>, port: u16) -> Result<(TcpStream, String), String> {
        let host = match host.filter(|host| !host.is_empty()) {
            Some(host) => host.to_owned(),
            None => self.address.ok_or("the pod has no address")?.to_string(),
        };
        let shown = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let stream = TcpStream::connect((host.as_str(), port)).await;
        let stream =
            stream.map_err(|error| format!("dial tcp {shown}: connect: {}", reason(&error)))?;
        Ok((stream, shown))
    }

    async fn tcp(&self, action: &TCPSocketAction) -> Result<(), String> {
        let port = self.port(&action.port)?;
        self.connect(action.host.as_deref(), port).await.map(drop)
    }

    /// The status of the answer.
    async fn http(
        &self,
        action: &HTTPGetAction,
        agent: &str,
        timeout: Duration,
    ) -> Result<u16, String> {
        let path = action
            .path
            .clone()
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| "/".into());
        let path = if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        };
        let port = self.port(&action.port)?;
        let https = action.scheme.as_deref() == Some("HTTPS");
        let scheme = if https { "https" } else { "http" };
        let attempt = async {
            let (stream, shown) = self.connect(action.host.as_deref(), port).await?;
            let request = http_request(action, agent, &path, &shown);
            let status = if https {
                let stream = crate::server::tls::connect_unverified(stream)
                    .await
                    .map_err(|error| error.to_string())?;
                exchange(stream, &request).await
            } else {
                exchange(stream, &request).await
            };
            status.map_err(|error| format!("Get \"{scheme}://{shown}{path}\": {error}"))
        };
        tokio::time::timeout(timeout, attempt)
            .await
            .unwrap_or_else(|_| {
                Err(format!(
                    "Get \"{scheme}://:{port}{path}\": context deadline exceeded"
                ))
            })
    }

    /// The gRPC health protocol: one unary call over HTTP/2 with a message of one optional string.
    async fn grpc(&self, action: &GRPCAction) -> Result<(), String> {
        let port = u16::try_from(action.port).map_err(|_| "invalid port number".to_owned())?;
        let (stream, shown) = self.connect(None, port).await?;
        grpc_check(stream, &shown, action.service.as_deref().unwrap_or("")).await
    }
}

/// The beginning of a command's output, when it has ended.
async fn drain(pipe: Option<std::os::fd::OwnedFd>) -> Result<Vec<u8>, String> {
    let mut output = Vec::new();
    let Some(pipe) = pipe else { return Ok(output) };
    let reader = crate::streams::reader(pipe).map_err(|error| error.to_string())?;
    let mut bounded = reader.take(OUTPUT_LEN_MAX as u64);
    let _ = bounded.read_to_end(&mut output).await;
    // Past the bound the output is read and dropped: a full pipe would hold the command up.
    let mut rest = bounded.into_inner();
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    Ok(output)
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

fn http_request(action: &HTTPGetAction, agent: &str, path: &str, host: &str) -> String {
    let headers = action.http_headers.clone().unwrap_or_default();
    let given = |name: &str| {
        headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
    };
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    let mut add = |name: &str, value: &str| request.push_str(&format!("{name}: {value}\r\n"));
    add("Host", given("Host").map_or(host, |header| &header.value));
    if given("User-Agent").is_none() {
        add("User-Agent", agent);
    }
    if given("Accept").is_none() {
        add("Accept", "*/*");
    }
    for header in headers
        .iter()
        .filter(|header| !header.name.eq_ignore_ascii_case("Host"))
    {
        // A line break would smuggle a header in; validation refuses it, and so does this.
        if !header.value.contains(['\r', '\n']) && !header.name.contains(['\r', '\n', ':']) {
            add(&header.name, &header.value);
        }
    }
    request.push_str("\r\n");
    request
}

/// Sends a request and reads the status code of the answer.
async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &str,
) -> std::io::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while !answer.contains(&b'\n') && answer.len() < OUTPUT_LEN_MAX {
        match stream.read(&mut chunk).await? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line
        .strip_prefix("HTTP/")
        .and_then(|line| line.split(' ').nth(1)?.get(..3)?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("malformed HTTP response"))
}

/// Field 1, a string: tag 0x0a, its length in pieces of seven bits, the lowest first, and the text.
fn grpc_request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if service.is_empty() {
        return message;
    }
    message.push(0x0a);
    let mut len = service.len();
    while len >= 0x80 {
        message.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    message.push(len as u8);
    message.extend_from_slice(service.as_bytes());
    message
}

async fn grpc_check(stream: TcpStream, authority: &str, service: &str) -> Result<(), String> {
    use http_body_util::{BodyExt, Full};
    let failed = |error: &dyn std::fmt::Display| format!("service unhealthy: {error}");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .map_err(|error| failed(&error))?;
    let driver = tokio::spawn(connection);
    let message = grpc_request(service);
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend_from_slice(&message);
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(bytes::Bytes::from(frame)))
        .map_err(|error| failed(&error))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error))?;
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(|error| failed(&error))?
        .to_bytes();
    driver.abort();
    // A five-byte prefix, then field 1 (status) as a varint: 1 means SERVING.
    match body.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        _ => Err(failed(&"not serving")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_grpc_services_may_be_long() {
        assert!(grpc_request("").is_empty());
        assert_eq!(grpc_request("ab"), [0x0a, 2, b'a', b'b']);
        let long = grpc_request(&"x".repeat(300));
        assert_eq!((&long[..3], long.len()), (&[0x0a, 0xac, 0x02][..], 303));
    }
}
