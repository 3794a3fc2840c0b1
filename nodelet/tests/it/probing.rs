//! Probes and hooks of every kind, aimed at servers of the test and at real containers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::scenario::Scenario;
use crate::{pod, shell};

/// What the servers of a test say, and what they were asked.
#[derive(Clone, Default)]
struct Desk {
    good: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Desk {
    fn set(&self, good: bool) {
        self.good.store(good, Ordering::SeqCst);
    }

    fn asked(&self, text: &str) -> bool {
        let asked = self.asked.lock().expect("lock");
        asked.iter().any(|request| request.contains(text))
    }

    fn note(&self, text: String) {
        self.asked.lock().expect("lock").push(text);
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        let mut piece = [0; 512];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut piece).await {
                Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                _ => return,
            }
        }
        self.note(String::from_utf8_lossy(&request).into_owned());
        let status = match self.good.load(Ordering::SeqCst) {
            true => "204 No Content",
            false => "503 Service Unavailable",
        };
        let text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    async fn http(&self, tls: bool) -> u16 {
        let (listener, port) = listen().await;
        let desk = self.clone();
        let acceptor = tls.then(acceptor);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (desk, acceptor) = (desk.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => desk.answer(stream).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                desk.answer(stream).await;
                            }
                        }
                    }
                });
            }
        });
        port
    }

    /// The health service of gRPC.
    async fn grpc(&self) -> u16 {
        let (listener, port) = listen().await;
        let desk = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = desk.clone();
                let service = hyper::service::service_fn(move |request| {
                    let desk = desk.clone();
                    async move { desk.health(request).await }
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        port
    }

    async fn health(
        &self,
        request: http::Request<hyper::body::Incoming>,
    ) -> Result<
        http::Response<
            impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + use<>,
        >,
        hyper::Error,
    > {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        self.note(format!("{path} {}", String::from_utf8_lossy(&body[5..])));
        // SERVING is 1, NOT_SERVING 2.
        let status = if self.good.load(Ordering::SeqCst) {
            1
        } else {
            2
        };
        let message = Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = futures::stream::iter([
            Ok(http_body::Frame::data(message)),
            Ok(http_body::Frame::trailers(trailers)),
        ]);
        Ok(http::Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(frames.boxed()))
            .expect("a response"))
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    let signed = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .expect("a server");
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

fn ready(pod: &Value, wanted: bool) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == wanted
        && !pod["status"]["containerStatuses"][0]["state"]["running"].is_null()
}

fn complained(scenario: &Scenario, pod: &str, text: &str) -> bool {
    let events = scenario.api.all("events");
    events.iter().any(|event| {
        let about = event["involvedObject"]["name"]
            .as_str()
            .or_else(|| event["regarding"]["name"].as_str());
        about == Some(pod) && event.to_string().contains(text)
    })
}

async fn finish(scenario: Scenario, names: &[&str]) {
    for name in names {
        scenario.delete(name, 0);
    }
    for name in names {
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

fn readiness(mut action: Value) -> Value {
    action["periodSeconds"] = json!(1);
    action["failureThreshold"] = json!(1);
    action["timeoutSeconds"] = json!(10);
    let mut container = shell("exec sleep 1000");
    container["readinessProbe"] = action;
    json!({"containers": [container], "terminationGracePeriodSeconds": 0})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_what_servers_say() {
    let scenario = Scenario::new("readiness").await;
    let desk = Desk::default();
    let header = json!([{"name": "X-Who", "value": "me"}, {"name": "Host", "value": "a.test"}]);
    let (http, https, grpc) = (
        desk.http(false).await,
        desk.http(true).await,
        desk.grpc().await,
    );
    let actions = [
        (
            "http",
            json!({"httpGet": {"port": http, "path": "/healthy?a=b", "httpHeaders": header}}),
        ),
        (
            "https",
            json!({"httpGet": {"port": https, "path": "secure", "scheme": "HTTPS"}}),
        ),
        ("grpc", json!({"grpc": {"port": grpc, "service": "db"}})),
    ];
    for (name, action) in &actions {
        scenario.create(pod(name, readiness(action.clone())));
    }
    for (name, text) in [
        (
            "http",
            "Readiness probe failed: HTTP probe failed with statuscode: 503",
        ),
        (
            "https",
            "Readiness probe failed: HTTP probe failed with statuscode: 503",
        ),
        ("grpc", "Readiness probe failed: service unhealthy"),
    ] {
        scenario
            .wait_until(text, || complained(&scenario, name, text))
            .await;
        assert!(ready(
            &scenario.wait_for(name, |pod| ready(pod, false)).await,
            false
        ));
    }
    for good in [true, false] {
        desk.set(good);
        for (name, _) in &actions {
            scenario.wait_for(name, |pod| ready(pod, good)).await;
        }
    }
    assert!(desk.asked("GET /healthy?a=b HTTP/1.1") && desk.asked("User-Agent: kube-probe/1.36"));
    assert!(desk.asked("X-Who: me") && desk.asked("Host: a.test"));
    assert!(desk.asked("GET /secure HTTP/1.1"));
    assert!(desk.asked("/grpc.health.v1.Health/Check \n\u{2}db"));
    finish(scenario, &["http", "https", "grpc"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_ready_when_somebody_listens() {
    let scenario = Scenario::new("tcp").await;
    // Bound, so that nobody else gets it, and not listening yet.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let port = socket.local_addr().expect("an address").port();
    let mut spec = readiness(json!({"tcpSocket": {"port": "named"}}));
    spec["containers"][0]["ports"] = json!([{"name": "named", "containerPort": port}]);
    scenario.create(pod("tcp", spec));
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    scenario
        .wait_until("a refusal", || complained(&scenario, "tcp", &refused))
        .await;
    let _listener = socket.listen(8).expect("listens");
    scenario.wait_for("tcp", |pod| ready(pod, true)).await;
    finish(scenario, &["tcp"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn startup_holds_the_others_back_and_liveness_restarts() {
    let scenario = Scenario::new("liveness").await;
    let test = |script: &str, failures: u32| {
        json!({"exec": {"command": ["/bin/sh", "-c", script]},
            "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": failures})
    };
    let mut container = shell("exec sleep 1000");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/sig"}]);
    container["startupProbe"] = test("test -e /sig/started", 1000);
    container["readinessProbe"] = test("exit 0", 1);
    container["livenessProbe"] = test("test ! -e /sig/dead || { echo it died >&2; exit 1; }", 1);
    scenario.create(pod(
        "p",
        json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 0}),
    ));
    scenario
        .wait_until("a failed startup probe", || {
            complained(&scenario, "p", "Startup probe failed")
        })
        .await;
    let status = scenario.get("p").expect("there")["status"]["containerStatuses"][0].clone();
    assert_eq!(
        (&status["started"], &status["ready"]),
        (&json!(false), &json!(false))
    );
    let signals = scenario.pod_dir("p").join("volumes/v");
    std::fs::write(signals.join("started"), "").expect("written");
    scenario.wait_for("p", |pod| ready(pod, true)).await;
    std::fs::write(signals.join("dead"), "").expect("written");
    scenario
        .wait_for("p", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"]
                .as_i64()
                .is_some_and(|count| count >= 1)
        })
        .await;
    std::fs::remove_file(signals.join("dead")).expect("removed");
    scenario.wait_for("p", |pod| ready(pod, true)).await;
    assert!(complained(&scenario, "p", "Liveness probe failed: it died"));
    assert!(complained(
        &scenario,
        "p",
        "failed liveness probe, will be restarted"
    ));
    finish(scenario, &["p"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_call_servers_and_wait() {
    let scenario = Scenario::new("hooks").await;
    let desk = Desk::default();
    let port = desk.http(false).await;
    let call = |path: &str| json!({"httpGet": {"port": port, "path": path}});
    let mut caller = shell("exec sleep 1000");
    caller["lifecycle"] = json!({"postStart": call("/begun"), "preStop": call("/ending")});
    let mut sleeper = shell("trap 'exit 0' TERM; echo up; while true; do sleep 0.02; done");
    sleeper["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}});
    // Nobody listens at the other end of this one.
    let unused = TcpSocket::new_v4().expect("a socket");
    unused
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let mut lost = shell("exec sleep 1000");
    let nowhere = unused.local_addr().expect("an address").port();
    lost["lifecycle"] = json!({"postStart": {"httpGet": {"port": nowhere}}});
    for (name, container) in [("caller", caller), ("sleeper", sleeper), ("lost", lost)] {
        scenario.create(pod(
            name,
            json!({"containers": [container], "terminationGracePeriodSeconds": 1}),
        ));
    }
    scenario.wait_for("caller", |pod| ready(pod, true)).await;
    assert!(desk.asked("GET /begun") && desk.asked("User-Agent: kube-lifecycle/1.36"));
    assert!(!desk.asked("GET /ending"));
    scenario.delete("caller", 1);
    scenario.wait_gone("caller").await;
    assert!(desk.asked("GET /ending"));
    assert!(
        !complained(&scenario, "caller", "Hook"),
        "any answer will do"
    );

    scenario.wait_for_log("sleeper", "c", 0, "up").await;
    let began = std::time::Instant::now();
    scenario.delete("sleeper", 30);
    scenario.wait_gone("sleeper").await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(
        took < Duration::from_secs(25),
        "it heard the signal: {took:?}"
    );

    scenario
        .wait_until("a failed hook", || {
            complained(&scenario, "lost", "FailedPostStartHook")
        })
        .await;
    scenario
        .wait_for("lost", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"]
                .as_i64()
                .is_some_and(|count| count >= 1)
        })
        .await;
    finish(scenario, &["lost"]).await;
}
