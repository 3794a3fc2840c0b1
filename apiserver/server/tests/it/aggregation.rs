//! Parts of the API that a server of the test's own serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use corral_server::authn::{MASTERS, User};
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Answer, Fixture, config_map};
use crate::watches::Lines;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP: &str = "/apis/tests.extension/v1";
/// How long something that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A server of the group `tests.extension`, which believes whom the cluster's ConfigMap says.
struct Extension {
    port: u16,
    bundle: String,
    /// Whether requests are left waiting.
    hangs: Arc<AtomicBool>,
    /// Lets a watch go on.
    next: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Extension {
    async fn start(fixture: &Fixture) -> Self {
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let data = fixture.get(path).await.body["data"].clone();
        let bundle = data["requestheader-client-ca-file"]
            .as_str()
            .expect("an authority");
        let mut roots = RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut bundle.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("a certificate");
        }
        assert_eq!(
            data["requestheader-allowed-names"],
            "[\"front-proxy-client\"]"
        );
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .expect("a verifier");
        let names = ["extension.default.svc".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut tls = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (hangs, next) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let serving = tokio::spawn(serve(listener, acceptor, hangs.clone(), next.clone()));
        Self {
            port,
            bundle: STANDARD.encode(made.cert.pem()),
            hangs,
            next,
            serving,
        }
    }

    /// The APIService that names it.
    fn registration(&self) -> Value {
        json!({
            "metadata": {"name": "v1.tests.extension"},
            "spec": {"group": "tests.extension", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
                "caBundle": self.bundle, "service": {"namespace": "default", "name": "extension", "port": self.port}},
        })
    }
}

/// Its name in the cluster: another name of this machine.
fn service() -> Value {
    json!({"metadata": {"name": "extension"}, "spec": {"type": "ExternalName", "externalName": "localhost"}})
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    hangs: Arc<AtomicBool>,
    next: Arc<Notify>,
) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, hangs, next) = (acceptor.clone(), hangs.clone(), next.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let shown = tls.get_ref().1.peer_certificates();
            let shown = shown.and_then(<[_]>::first).map(common_name);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (hangs, next, shown) = (hangs.clone(), next.clone(), shown.clone());
                async move {
                    if hangs.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, hyper::Error>(answer(request, shown, next).await)
                }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server
                .serve_connection_with_upgrades(TokioIo::new(tls), service)
                .await;
        });
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> String {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    let mut names = read.subject().iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    name.unwrap_or_default().to_owned()
}

fn whole(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code.try_into().expect("a code");
    let media = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", media);
    response
}

async fn answer(
    mut request: Request<Incoming>,
    shown: Option<String>,
    next: Arc<Notify>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if request.headers().contains_key("upgrade") {
        let client = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut client = TokioIo::new(client.await.expect("an upgrade"));
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).await.expect("bytes");
            bytes.reverse();
            client.write_all(&bytes).await.expect("a client");
        });
        let mut response = whole(101, &Value::Null);
        *response.body_mut() = Full::default().boxed_unsync();
        let headers = response.headers_mut();
        headers.remove("content-type");
        headers.insert("connection", http::HeaderValue::from_static("Upgrade"));
        headers.insert("upgrade", http::HeaderValue::from_static("echo"));
        return response;
    }
    if request
        .uri()
        .query()
        .is_some_and(|query| query.contains("watch"))
    {
        let lines = futures::stream::unfold(0, move |line| {
            let next = next.clone();
            async move {
                if line > 0 {
                    next.notified().await;
                }
                let text = format!("{{\"line\":{line}}}\n");
                Some((Ok(Frame::data(Bytes::from(text))), line + 1))
            }
        });
        return Response::new(StreamBody::new(lines).boxed_unsync());
    }
    let thing = json!({"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"]});
    match path.as_str() {
        GROUP => whole(
            200,
            &json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "tests.extension/v1", "resources": [thing]}),
        ),
        "/openapi/v3" => whole(
            200,
            &json!({"paths": {
            "apis/tests.extension/v1": {"serverRelativeURL": "/openapi/v3/apis/tests.extension/v1?hash=1"}}}),
        ),
        "/openapi/v3/apis/tests.extension/v1" => whole(200, &json!({"openapi": "3.0.0"})),
        "/openapi/v2" => whole(
            200,
            &json!({"swagger": "2.0",
            "paths": {"/apis/tests.extension/v1/things": {"get": {"responses": {"200": {"schema":
                {"$ref": "#/definitions/extension.Thing"}}}}}, "/other": {}},
            "definitions": {"extension.Thing": {"type": "object"}, "extension.Other": {"type": "object"}}}),
        ),
        _ if path.starts_with(&format!("{GROUP}/")) => {
            let headers: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap_or_default()]))
                .collect();
            let uri = request.uri().to_string();
            let body = request
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes();
            whole(
                201,
                &json!({"headers": headers, "shown": shown, "uri": uri,
                "body": String::from_utf8_lossy(&body)}),
            )
        }
        _ => whole(404, &Value::Null),
    }
}

/// Its condition, as soon as it is as wanted.
async fn until_available(fixture: &Fixture, wanted: &str, reason: &str) -> Value {
    until(fixture, &format!("{SERVICES}/v1.tests.extension"), |body| {
        let condition = &body["status"]["conditions"][0];
        condition["status"] == wanted && condition["reason"] == reason
    })
    .await["status"]["conditions"][0]
        .clone()
}

async fn until(fixture: &Fixture, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let body = fixture.get(path).await.body;
        if holds(&body) {
            return body;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path}: {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn make(fixture: &Fixture, path: &str, object: Value) {
    let made = fixture.create(path, object).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

/// A server and its extension, which is available.
async fn extended() -> (Fixture, Extension) {
    let fixture = Fixture::start().await;
    let extension = Extension::start(&fixture).await;
    make(&fixture, "/api/v1/namespaces/default/services", service()).await;
    make(&fixture, SERVICES, extension.registration()).await;
    until_available(&fixture, "True", "Passed").await;
    // What was written is known where requests are passed on a moment later.
    let is_list = |body: &Value| body["kind"] == "APIResourceList";
    until(&fixture, GROUP, is_list).await;
    (fixture, extension)
}

fn header<'a>(told: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = told["headers"].as_array().into_iter().flatten();
    let found = headers.filter(|header| header[0] == name);
    found.filter_map(|header| header[1].as_str()).collect()
}

async fn aggregated(fixture: &Fixture) -> Value {
    use tower::ServiceExt;
    let request = Request::get("/apis")
        .header(
            "accept",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        )
        .body(kube::client::Body::empty())
        .expect("a request");
    let admin = User::new("admin", &[MASTERS]);
    let answer = fixture.server.local(admin).oneshot(request).await;
    let body = answer.expect("never fails").into_body().collect().await;
    let body: Value = serde_json::from_slice(&body.expect("a body").to_bytes()).expect("JSON");
    let mut groups = body["items"].as_array().into_iter().flatten();
    let group = groups.find(|group| group["metadata"]["name"] == "tests.extension");
    group
        .map(|group| group["versions"][0].clone())
        .unwrap_or_default()
}

#[tokio::test]
async fn an_api_service_tells_what_is_missing_until_its_server_answers() {
    let fixture = Fixture::start().await;
    let extension = Extension::start(&fixture).await;
    make(&fixture, SERVICES, extension.registration()).await;
    let missing = until_available(&fixture, "False", "ServiceNotFound").await;
    assert_eq!(
        missing["message"],
        "service/extension in \"default\" is not present"
    );
    let local = fixture.get(&format!("{SERVICES}/v1.apps")).await.body;
    assert_eq!(local["status"]["conditions"][0]["reason"], "Local");

    let services = "/api/v1/namespaces/default/services";
    let port = json!({"port": 443, "targetPort": 8443});
    make(
        &fixture,
        services,
        json!({"metadata": {"name": "extension"}, "spec": {"ports": [port]}}),
    )
    .await;
    let wrong = until_available(&fixture, "False", "ServicePortError").await;
    let told = format!(
        "service/extension in \"default\" is not listening on port {}",
        extension.port
    );
    assert_eq!(wrong["message"], told.as_str());
    let port = json!([{"op": "add", "path": "/spec/ports/0", "value": {"name": "x", "port": extension.port}},
        {"op": "add", "path": "/spec/ports/1/name", "value": "y"}]);
    let path = format!("{services}/extension");
    assert_eq!(
        fixture.patch(&path, "json-patch+json", port).await.code,
        200
    );
    until_available(&fixture, "False", "EndpointsNotFound").await;
    let slice = json!({"metadata": {"name": "extension-1", "labels": {"kubernetes.io/service-name": "extension"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": false}}],
        "ports": [{"name": "x", "port": extension.port}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    make(&fixture, slices, slice).await;
    until_available(&fixture, "False", "MissingEndpoints").await;
    let answer = fixture
        .text(User::new("admin", &[MASTERS]), &format!("{GROUP}/things"))
        .await;
    assert_eq!(answer, "service unavailable\n");

    fixture.ask("DELETE", &path, Value::Null).await;
    make(&fixture, services, service()).await;
    until_available(&fixture, "True", "Passed").await;
    let other = Extension::start(&fixture).await;
    let change = json!({"spec": {"caBundle": other.bundle}});
    let path = format!("{SERVICES}/v1.tests.extension");
    assert_eq!(
        fixture.patch(&path, "merge-patch+json", change).await.code,
        200
    );
    let untrusted = until_available(&fixture, "False", "FailedDiscoveryCheck").await;
    let message = untrusted["message"].as_str().expect("a message");
    assert!(
        message.contains("certificate signed by unknown authority"),
        "{message}"
    );
    let change = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    assert_eq!(
        fixture.patch(&path, "merge-patch+json", change).await.code,
        200
    );
    until_available(&fixture, "True", "Passed").await;

    fixture.ask("DELETE", &path, Value::Null).await;
    let list = until(&fixture, "/apis", |body| {
        !body.to_string().contains("tests.extension")
    });
    list.await;
    let gone = fixture.get(&format!("{GROUP}/things")).await;
    assert_eq!(gone.code, 404);
}

#[tokio::test]
async fn a_request_goes_on_in_the_name_of_whoever_asks() {
    let (fixture, _extension) = extended().await;
    let mut jane = User::new("jane", &["devs", MASTERS]);
    jane.uid = "7".to_owned();
    let values = vec!["a".to_owned(), "b".to_owned()];
    jane.extra.insert("example.com/Scopes".to_owned(), values);
    let path = format!("{GROUP}/namespaces/default/things/x?dryRun=All");
    let told = fixture
        .ask_as(
            jane,
            "POST",
            &path,
            "application/json",
            json!({"some": "thing"}),
        )
        .await;
    assert_eq!(told.code, 201);
    let told = told.body;
    assert_eq!(told["shown"], "front-proxy-client");
    assert_eq!(told["body"], "{\"some\":\"thing\"}");
    assert!(told["uri"].as_str().expect("a URI").ends_with(&path));
    assert_eq!(header(&told, "x-remote-user"), ["jane"]);
    assert_eq!(header(&told, "x-remote-uid"), ["7"]);
    assert_eq!(
        header(&told, "x-remote-group"),
        ["devs", MASTERS, "system:authenticated"]
    );
    assert_eq!(
        header(&told, "x-remote-extra-example.com%2fscopes"),
        ["a", "b"]
    );
    assert_eq!(header(&told, "user-agent"), ["test/1"]);

    // What a client says of itself is not passed on, and neither is what it shows to this server.
    let mut connection = fixture.connect().await;
    let lies = [
        ("x-remote-user", "root"),
        ("x-remote-group", "gods"),
        ("x-remote-extra-a", "b"),
        ("impersonate-user", "bob"),
        ("impersonate-group", MASTERS),
        ("authorization", "Basic YTpi"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let answer = crate::fixture::send(&mut connection, "GET", &path, &lies, Bytes::new()).await;
    assert_eq!(answer.status(), 201);
    let told = answer.into_body().collect().await.expect("a body");
    let told: Value = serde_json::from_slice(&told.to_bytes()).expect("JSON");
    assert_eq!(header(&told, "x-remote-user"), ["bob"]);
    let groups = [MASTERS, "system:authenticated"];
    assert_eq!(header(&told, "x-remote-group"), groups);
    for name in ["x-remote-extra-a", "impersonate-user", "authorization"] {
        assert_eq!(header(&told, name), Vec::<&str>::new(), "{name}");
    }
    // Who may not ask is not passed on.
    let nobody = User::new("nobody", &[]);
    let refused = fixture
        .ask_as(nobody, "GET", &path, "application/json", Value::Null)
        .await;
    assert_eq!(refused.code, 403);
}

#[tokio::test]
async fn streams_and_upgraded_connections_are_passed_through() {
    let (fixture, extension) = extended().await;
    let mut watch = Lines::open(&fixture, &format!("{GROUP}/things?watch=1")).await;
    assert_eq!(watch.next().await, Some(json!({"line": 0})));
    extension.next.notify_one();
    assert_eq!(watch.next().await, Some(json!({"line": 1})));

    let mut connection = fixture.connect_raw().await;
    let request = format!(
        "GET {GROUP}/namespaces/default/things/x/stream HTTP/1.1\r\nhost: x\r\n\
        connection: Upgrade\r\nupgrade: echo\r\n\r\n"
    );
    connection
        .write_all(request.as_bytes())
        .await
        .expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("a byte"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("upgrade: echo"),
        "{head}"
    );
    connection.write_all(b"abcd").await.expect("sent");
    let mut echo = [0; 4];
    connection.read_exact(&mut echo).await.expect("an echo");
    assert_eq!(&echo, b"dcba");
}

#[tokio::test]
async fn discovery_and_openapi_tell_of_an_extension_also_while_it_is_down() {
    let (fixture, extension) = extended().await;
    let list = until(&fixture, "/apis", |body| {
        body.to_string().contains("tests.extension")
    })
    .await;
    let groups = list["groups"].as_array().expect("groups");
    let names: Vec<_> = groups.iter().map(|group| group["name"].as_str()).collect();
    assert_eq!(names.first(), Some(&Some("apiregistration.k8s.io")));
    assert_eq!(
        names.last(),
        Some(&Some("tests.extension")),
        "its priority is the least"
    );
    let told = aggregated(&fixture).await;
    assert_eq!(told["freshness"], "Current");
    assert_eq!(told["resources"][0]["resource"], "things");
    let own = fixture.get(GROUP).await.body;
    assert_eq!(own["resources"][0]["kind"], "Thing");
    let index = until(&fixture, "/openapi/v3", |body| {
        !body["paths"]["apis/tests.extension/v1"].is_null()
    })
    .await;
    let url = index["paths"]["apis/tests.extension/v1"]["serverRelativeURL"].as_str();
    let document = fixture.get(url.expect("a URL")).await.body;
    assert_eq!(document, json!({"openapi": "3.0.0"}));
    let document = until(&fixture, "/openapi/v2", |body| {
        !body["definitions"]["extension.Thing"].is_null()
    })
    .await;
    assert!(!document["paths"]["/apis/tests.extension/v1/things"].is_null());
    assert!(
        document["paths"]["/other"].is_null()
            && document["definitions"]["extension.Other"].is_null()
    );

    drop(extension);
    // Something of the Service changes, so that nobody has to wait for the next look.
    let path = "/api/v1/namespaces/default/services/extension";
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    fixture.patch(path, "merge-patch+json", change).await;
    let down = until_available(&fixture, "False", "FailedDiscoveryCheck").await;
    let message = down["message"].as_str().expect("a message");
    assert!(
        message.starts_with("failing or missing response from https://"),
        "{message}"
    );
    assert_eq!(aggregated(&fixture).await["freshness"], "Stale");
    assert_eq!(
        aggregated(&fixture).await["resources"][0]["resource"],
        "things"
    );
    assert_eq!(fixture.get(&format!("{GROUP}/things")).await.code, 503);
    let metrics = fixture
        .text(User::new("admin", &[MASTERS]), "/metrics")
        .await;
    assert!(metrics.contains("aggregator_unavailable_apiservice{name=\"v1.tests.extension\"} 1"));
}

#[tokio::test]
async fn an_extension_that_keeps_silent_stops_nobody_else() {
    let (fixture, extension) = extended().await;
    extension.hangs.store(true, Ordering::SeqCst);
    // As many as are let through, and one more.
    let path = format!("{GROUP}/things");
    let asking = (0..120).map(|_| {
        let (local, path) = (
            fixture.server.local(User::new("admin", &[MASTERS])),
            path.clone(),
        );
        async move {
            use tower::ServiceExt;
            let request = Request::get(path).body(kube::client::Body::empty());
            let asked = local.oneshot(request.expect("a request"));
            match tokio::time::timeout(Duration::from_secs(2), asked).await {
                Ok(answer) => Some(answer.expect("never fails").status()),
                Err(_) => None,
            }
        }
    });
    let write = async {
        // A node's life goes on meanwhile.
        let lease = json!({"metadata": {"name": "node-1"}, "spec": {"holderIdentity": "node-1"}});
        make(
            &fixture,
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases",
            lease,
        )
        .await;
        make(
            &fixture,
            "/api/v1/namespaces/default/configmaps",
            config_map("a", "1"),
        )
        .await;
        make(
            &fixture,
            "/api/v1/nodes",
            json!({"metadata": {"name": "node-1"}}),
        )
        .await;
        let status = json!({"status": {"phase": "Running"}});
        fixture
            .patch("/api/v1/nodes/node-1/status", "merge-patch+json", status)
            .await
    };
    let began = std::time::Instant::now();
    let (answers, written): (Vec<Option<StatusCode>>, Answer) =
        tokio::join!(join_all(asking), write);
    assert_eq!(written.code, 200, "{}", written.body);
    assert!(began.elapsed() < PATIENCE);
    let refused = answers
        .iter()
        .filter(|answer| **answer == Some(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(refused.count(), 20, "{answers:?}");
}

#[tokio::test]
async fn nobody_else_serves_what_every_server_has() {
    let fixture = Fixture::start().await;
    let spec = json!({"service": {"namespace": "default", "name": "extension"}, "insecureSkipTLSVerify": true});
    for name in ["v1.apps", "v1.coordination.k8s.io", "v1."] {
        let path = format!("{SERVICES}/{name}");
        let refused = fixture
            .patch(&path, "merge-patch+json", json!({"spec": spec}))
            .await;
        assert_eq!(refused.code, 422, "{}", refused.body);
        let cause = &refused.body["details"]["causes"][0];
        assert_eq!(cause["field"], "spec.service");
    }
    assert_eq!(fixture.get("/apis/apps/v1").await.code, 200);
}

#[tokio::test]
async fn described_kinds_have_api_services_that_go_with_them() {
    let fixture = Fixture::start().await;
    let definition = json!({"metadata": {"name": "things.tests.example"}, "spec": {"group": "tests.example",
        "scope": "Cluster", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    make(&fixture, definitions, definition).await;
    let path = format!("{SERVICES}/v1.tests.example");
    let made = until(&fixture, &path, |body| {
        body["status"]["conditions"][0]["reason"] == "Local"
    })
    .await;
    assert_eq!(
        made["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
        "true"
    );
    assert_eq!(
        made["spec"],
        json!({"group": "tests.example", "version": "v1", "groupPriorityMinimum": 1000,
        "versionPriority": 100})
    );
    fixture
        .ask(
            "DELETE",
            &format!("{definitions}/things.tests.example"),
            Value::Null,
        )
        .await;
    until(&fixture, &path, |body| body["code"] == 404).await;
}
