//! The node's API over TLS, spoken to as the API server does.

use std::sync::Arc;

use corral_nodelet::server::{Server, tls};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

use crate::scenario::Scenario;

pub struct NodeApi {
    port: u16,
    client: Arc<rustls::ClientConfig>,
    stop: CancellationToken,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(parameters, key),
        }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec!["n1".to_owned()]).expect("a name");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

impl NodeApi {
    pub async fn start(scenario: &Scenario, client_name: &str) -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.sign("n1");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let certificate = tls::ServerCertificate::new(&certificate, &key).expect("a pair");
        let config = tls::server_config(Arc::new(certificate), &authority.pem).expect("TLS");
        let stop = CancellationToken::new();
        tokio::spawn(Server::new(scenario.shared(), stop.clone()).run(listener, config));
        let (certificate, key) = authority.sign(client_name);
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM"))
            .expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
            )
            .expect("a client");
        Self {
            port,
            client: Arc::new(client),
            stop,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .expect("connects");
        let name = ServerName::try_from("n1").expect("a name");
        tokio_rustls::TlsConnector::from(self.client.clone())
            .connect(name, stream)
            .await
            .expect("a handshake")
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await))
                .await
                .expect("HTTP");
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", "n1")
            .body(Empty::<bytes::Bytes>::new())
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let code = answer.status().as_u16();
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn socket(
        &self,
        path: &str,
        protocol: &str,
    ) -> WebSocketStream<TlsStream<TcpStream>> {
        let mut request = format!("wss://n1{path}")
            .into_client_request()
            .expect("a request");
        request.headers_mut().insert(
            "sec-websocket-protocol",
            protocol.parse().expect("a header"),
        );
        let stream = self.connect().await;
        let (socket, answer) = tokio_tungstenite::client_async(request, stream)
            .await
            .expect("an upgrade");
        assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
        socket
    }
}

impl Drop for NodeApi {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Everything that arrives until the socket closes, by channel.
async fn collect(mut socket: WebSocketStream<TlsStream<TcpStream>>) -> [String; 4] {
    let mut channels = [const { Vec::new() }; 4];
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    channels.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn binary(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

async fn running(name: &str, script: &str) -> (Scenario, NodeApi) {
    let scenario = Scenario::new(name).await;
    scenario.create(
        json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{
        "name": "c", "image": "corral.dev/host", "command": ["/bin/sh", "-c", script]}]}}),
    );
    scenario
        .wait_for("p", |pod| pod["status"]["phase"] == "Running")
        .await;
    let api = NodeApi::start(&scenario, "kube-apiserver-kubelet-client").await;
    (scenario, api)
}

async fn end(scenario: Scenario) {
    scenario.delete("p", 0);
    scenario.wait_gone("p").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_served_and_followed_to_the_end() {
    let (scenario, api) = running(
        "logs",
        "echo one; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo three",
    )
    .await;
    scenario.wait_for_log("p", "c", 0, "two").await;
    let (code, text) = api
        .get("/containerLogs/default/p/c?stream=Stdout&tailLines=1")
        .await;
    assert_eq!((code, text.as_str()), (200, "one\n"));
    assert_eq!(
        api.get("/containerLogs/default/p/c?previous=true").await.0,
        400
    );
    assert_eq!(api.get("/containerLogs/default/p/other").await.0, 404);
    let go = async {
        collect(
            api.socket(
                "/exec/default/p/c?command=touch&command=/tmp/go",
                "v5.channel.k8s.io",
            )
            .await,
        )
        .await
    };
    let (followed, _) = tokio::join!(api.get("/containerLogs/default/p/c?follow=true"), go);
    assert_eq!(followed.1, "one\ntwo\nthree\n");
    let (_, pods) = api.get("/pods").await;
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    assert_eq!(pods["items"][0]["metadata"]["name"], "p");
    assert!(
        api.get("/stats/summary")
            .await
            .1
            .contains("usageCoreNanoSeconds")
    );
    end(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_carries_streams_codes_and_terminals() {
    let (scenario, api) = running("exec", "exec sleep 1000").await;
    let path = "/exec/default/p/c?input=1&output=1&error=1&command=/bin/sh&command=-c&command=cat%3Becho+oops+%3E%262%3Bexit+3";
    let mut socket = api.socket(path, "v5.channel.k8s.io").await;
    socket.send(binary(0, b"hello")).await.expect("sent");
    socket.send(binary(255, &[0])).await.expect("sent");
    let [_, out, err, status] = collect(socket).await;
    assert_eq!((out.as_str(), err.as_str()), ("hello", "oops\n"));
    let status: Value = serde_json::from_str(&status).expect("a status");
    assert_eq!(status["details"]["causes"][0]["message"], "3");

    let path = "/exec/default/p/c?input=1&output=1&tty=1&command=/bin/sh&command=-c&command=read+x%3Bstty+size";
    let mut socket = api.socket(path, "v4.channel.k8s.io").await;
    socket
        .send(binary(4, br#"{"Width":91,"Height":37}"#))
        .await
        .expect("sent");
    socket.send(binary(0, b"go\r")).await.expect("sent");
    let [_, out, _, status] = collect(socket).await;
    assert!(out.contains("37 91"), "{out:?}");
    assert!(status.contains("Success"), "{status}");

    let socket = api
        .socket(
            "/exec/default/p/c?output=1&command=absent",
            "v5.channel.k8s.io",
        )
        .await;
    let [_, _, _, status] = collect(socket).await;
    assert!(status.contains("executable file not found"), "{status}");

    // The oldest protocol knows no Status: nothing tells success, and text a failure.
    for (script, wanted) in [
        ("echo+a", ["a\n", ""]),
        (
            "echo+a%3Bexit+3",
            [
                "a\n",
                "command terminated with non-zero exit code: exit code 3",
            ],
        ),
    ] {
        let path =
            format!("/exec/default/p/c?output=1&command=/bin/sh&command=-c&command={script}");
        let [_, out, _, status] = collect(api.socket(&path, "channel.k8s.io").await).await;
        assert_eq!([out.as_str(), status.as_str()], wanted);
    }
    end(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded_into_the_pod() {
    let server = "import socket\ns=socket.socket()\ns.bind(('127.0.0.1',8080))\ns.listen()\nwhile 1:\n c,_=s.accept()\n \
                  d=c.recv(9)\n c.sendall(b'got '+d)\n c.close()";
    let (scenario, api) = running("ports", &format!("exec python3 -c \"{server}\"")).await;
    // Until the program listens, connections are refused; the answer then is an error on the odd channel.
    loop {
        let mut socket = api
            .socket("/portForward/default/p?ports=8080", "v4.channel.k8s.io")
            .await;
        socket.send(binary(0, b"ping")).await.expect("sent");
        let [data, error, ..] = collect(socket).await;
        if !error.contains("error forwarding") {
            assert!(data.ends_with("got ping"), "{data:?}");
            break;
        }
        assert!(error.contains("refused"), "{error}");
    }
    end(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_of_the_same_authority_are_refused() {
    let scenario = Scenario::new("others").await;
    let api = NodeApi::start(&scenario, "system:node:n2").await;
    assert_eq!(api.get("/pods").await.0, 403);
    scenario.finish().await;
}

/// A pod whose container reads its input.
async fn reading(name: &str, script: &str, more: Value) -> (Scenario, NodeApi) {
    let scenario = Scenario::new(name).await;
    let mut container = json!({"name": "c", "image": "corral.dev/host", "stdin": true,
        "command": ["/bin/sh", "-c", script]});
    for (key, value) in more.as_object().expect("fields") {
        container[key] = value.clone();
    }
    scenario.create(
        json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [container],
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}}),
    );
    // What a container writes first may be in its log before the node has learned that it runs.
    scenario
        .wait_for("p", |pod| pod["status"]["phase"] == "Running")
        .await;
    scenario.wait_for_log("p", "c", 0, "up").await;
    let api = NodeApi::start(&scenario, "kube-apiserver-kubelet-client").await;
    (scenario, api)
}

/// Output of a channel until `text` is in it.
async fn until(
    socket: &mut WebSocketStream<TlsStream<TcpStream>>,
    channel: u8,
    text: &str,
) -> String {
    let [seen] = until_all(socket, [(channel, text)]).await;
    seen
}

/// What comes on each channel until all texts have come.
async fn until_all<const N: usize>(
    socket: &mut WebSocketStream<TlsStream<TcpStream>>,
    texts: [(u8, &str); N],
) -> [String; N] {
    let mut seen = [const { String::new() }; N];
    while texts
        .iter()
        .zip(&seen)
        .any(|((_, text), seen)| !seen.contains(text))
    {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                let at = texts.iter().position(|(channel, _)| *channel == bytes[0]);
                if let Some(at) = at {
                    seen[at].push_str(&String::from_utf8_lossy(&bytes[1..]));
                }
            }
            Some(Ok(_)) => {}
            end => panic!("{texts:?} never came after {seen:?}: {end:?}"),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_carries_input_and_both_outputs_and_may_come_back() {
    let script = "echo up; while read line; do echo got $line; echo err $line >&2; \
                  [ $line = end ] && exit 5; done; echo closed";
    let (scenario, api) = reading("attach", script, json!({})).await;
    let path = "/attach/default/p/c?input=1&output=1&error=1";
    let mut first = api.socket(path, "v5.channel.k8s.io").await;
    first.send(binary(0, b"one\n")).await.expect("sent");
    // Both, so that nothing of this is left for whoever comes next.
    let both = [(1, "got one\n"), (2, "err one\n")];
    assert_eq!(
        until_all(&mut first, both).await,
        ["got one\n", "err one\n"]
    );
    drop(first);
    // Without `stdinOnce` the container's input stays open for whoever comes next.
    let mut watcher = api
        .socket("/attach/default/p/c?output=1", "v4.channel.k8s.io")
        .await;
    let mut second = api.socket(path, "v5.channel.k8s.io").await;
    second.send(binary(0, b"two\n")).await.expect("sent");
    assert_eq!(until(&mut second, 2, "err two\n").await, "err two\n");
    assert_eq!(until(&mut watcher, 1, "got two\n").await, "got two\n");
    drop(watcher);
    second.send(binary(0, b"end\n")).await.expect("sent");
    let [_, out, err, status] = collect(second).await;
    assert!(
        out.ends_with("got end\n") && err.ends_with("err end\n"),
        "{out:?} {err:?}"
    );
    assert!(status.contains("Success"), "{status}");
    let pod = scenario
        .wait_for("p", |pod| pod["status"]["phase"] == "Failed")
        .await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 5);
    let log = scenario.log("p", "c", 0);
    for line in [
        "stdout F got one",
        "stderr F err one",
        "stdout F got two",
        "stdout F got end",
    ] {
        assert!(log.contains(line), "{line:?} is missing in {log}");
    }
    assert!(!log.contains("closed"), "{log}");
    end(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_is_given_once_ends_with_its_giver() {
    let (scenario, api) = reading(
        "once-in",
        "echo up; cat; echo closed",
        json!({"stdinOnce": true}),
    )
    .await;
    let mut socket = api
        .socket("/attach/default/p/c?input=1&output=1", "v5.channel.k8s.io")
        .await;
    socket.send(binary(0, b"words\n")).await.expect("sent");
    until(&mut socket, 1, "words\n").await;
    socket.close(None).await.expect("closed");
    scenario
        .wait_for("p", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    let log = scenario.log("p", "c", 0);
    assert!(
        log.contains("F words\n") && log.contains("F closed\n"),
        "{log}"
    );
    end(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_can_be_attached_to_and_resized() {
    let (scenario, api) = reading(
        "tty",
        "echo up; read line; stty size; echo got $line; test -t 0 && echo tty",
        json!({"tty": true}),
    )
    .await;
    let mut socket = api
        .socket(
            "/attach/default/p/c?input=1&output=1&tty=1",
            "v5.channel.k8s.io",
        )
        .await;
    socket
        .send(binary(4, br#"{"Width":91,"Height":37}"#))
        .await
        .expect("sent");
    socket.send(binary(0, b"go\r")).await.expect("sent");
    let [_, out, err, _] = collect(socket).await;
    assert!(
        out.contains("37 91\r\n") && out.contains("got go\r\n"),
        "{out:?}"
    );
    assert!(out.contains("tty\r\n") && err.is_empty(), "{out:?} {err:?}");
    end(scenario).await;
}
