//! A server of a test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corral_server::admission::Settings;
use corral_server::audit::AuditConfig;
use corral_server::authn::{AuthnConfig, User};
use corral_server::authz::AuthzConfig;
use corral_server::flow::Bounds;
use corral_server::given::Given;
use corral_server::pki::Identity;
use corral_server::serving::Serving;
use corral_server::{Server, ServerConfig};
use corral_storage::Storage;
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use flate2::read::GzDecoder;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A running server; its store goes with it.
pub struct Fixture {
    pub server: Server,
    stop: CancellationToken,
    storage: Arc<dyn Storage>,
    directory: Arc<tempfile::TempDir>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    directory: &tempfile::TempDir,
    storage: &Arc<dyn Storage>,
    setup: Setup,
) -> Result<(Server, CancellationToken), corral_server::Error> {
    let stop = CancellationToken::new();
    let server = Server::start(ServerConfig {
        listen: "127.0.0.1:0".parse().expect("an address"),
        advertise: None,
        names: Vec::new(),
        pki: directory.path().join("pki"),
        given: setup.given,
        service_range: "10.96.0.0/16".parse().expect("a network"),
        node_ports: 30_000..=32_767,
        storage: storage.clone(),
        bounds: setup.bounds,
        authn: setup.authn,
        authz: setup.authz,
        audit: setup.audit,
        admission: setup.admission,
        serving: setup.serving,
        registry: prometheus::Registry::new(),
        stop: stop.clone(),
    })
    .await?;
    Ok((server, stop))
}

/// What of a server a test sets.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub admission: Settings,
    pub bounds: Bounds,
    pub audit: AuditConfig,
    pub authn: AuthnConfig,
    pub authz: AuthzConfig,
    pub serving: Serving,
    pub given: Given,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Fixture {
    pub async fn start() -> Self {
        Self::start_within(Bounds::default()).await
    }

    pub async fn start_within(bounds: Bounds) -> Self {
        Self::start_with(Setup {
            bounds,
            ..Default::default()
        })
        .await
    }

    /// A server whose admission is set up.
    pub async fn start_admitting(admission: Settings) -> Self {
        Self::start_with(Setup {
            admission,
            ..Default::default()
        })
        .await
    }

    pub async fn start_with(setup: Setup) -> Self {
        Self::try_start(setup).await.expect("a server")
    }

    pub async fn try_start(setup: Setup) -> Result<Self, corral_server::Error> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = EmbeddedConfig::new(directory.path().join("store"));
        let storage = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("a new store");
        let storage: Arc<dyn Storage> = storage;
        let (server, stop) = serve(&directory, &storage, setup).await?;
        Ok(Self {
            server,
            stop,
            storage,
            directory: Arc::new(directory),
        })
    }

    /// What the server stores in.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Another server over the same store, which runs as well.
    pub async fn beside(&self) -> Self {
        self.beside_through(|storage| storage).await
    }

    /// The same, which gets to the store through something.
    pub async fn beside_through(
        &self,
        through: impl FnOnce(Arc<dyn Storage>) -> Arc<dyn Storage>,
    ) -> Self {
        let storage = through(self.storage.clone());
        let (server, stop) = serve(&self.directory, &storage, Setup::default())
            .await
            .expect("a server");
        Self {
            server,
            stop,
            storage,
            directory: self.directory.clone(),
        }
    }

    /// The next server over the same store, after this one has stopped.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        self.server.stopped().await;
        let (server, stop) = serve(&self.directory, &self.storage, Setup::default())
            .await
            .expect("a server");
        self.server = server;
        self.stop = stop;
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on everybody who is known may do everything.
    pub async fn empower_everybody(&self) {
        let group = "system:authenticated";
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "all"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        assert_eq!(self.create(path, binding).await.code, 201);
        let may = async || {
            let user = User::new("somebody", &[group]);
            let path = "/api/v1/namespaces/default/configmaps/none";
            let answer = self.ask_as(user, "GET", path, "application/json", Value::Null);
            answer.await.code == 404
        };
        let asking = async {
            while !may().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(30), asking).await;
        asked.expect("the binding counts");
    }

    /// Asks as an administrator, in process.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let user = User::new("admin", &[corral_server::authn::MASTERS]);
        self.ask_as(user, method, path, "application/json", body)
            .await
    }

    /// Asks as somebody, in process, with a content type.
    pub async fn ask_as(
        &self,
        user: User,
        method: &str,
        path: &str,
        content: &str,
        body: Value,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .header("user-agent", "test/1");
        self.send_as(user, request, body).await
    }

    /// Sends a request as somebody, in process.
    pub async fn send_as(
        &self,
        user: User,
        request: hyper::http::request::Builder,
        body: Value,
    ) -> Answer {
        use tower::ServiceExt;
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(&body).expect("JSON")
        };
        let request = request
            .body(kube::client::Body::from(bytes))
            .expect("a request");
        let answer = self
            .server
            .local(user)
            .oneshot(request)
            .await
            .expect("never fails");
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// The text at a path.
    pub async fn text(&self, user: User, path: &str) -> String {
        use tower::ServiceExt;
        let request = Request::get(path).body(kube::client::Body::empty());
        let local = self.server.local(user);
        let answer = local.oneshot(request.expect("a request")).await;
        let body = answer.expect("never fails").into_body().collect().await;
        String::from_utf8_lossy(&body.expect("a whole body").to_bytes()).into_owned()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, Value::Null).await
    }

    pub async fn create(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, body).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let user = User::new("admin", &[corral_server::authn::MASTERS]);
        self.ask_as(user, "PATCH", path, &format!("application/{kind}"), body)
            .await
    }

    /// A webhook of creations of a core resource that takes connections and says nothing: whoever asks it waits until what
    /// this answers is gone.
    pub async fn silent_webhook(&self, resource: &str) -> TcpListener {
        let hook = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}/", hook.local_addr().expect("an address"));
        self.ask_before_creation(resource, json!({"url": url}))
            .await;
        hook
    }

    /// Has a webhook asked before an object of a core resource is created.
    pub async fn ask_before_creation(&self, resource: &str, client: Value) {
        let rule = json!({
            "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource],
        });
        let webhook = json!({
            "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore", "timeoutSeconds": 30, "clientConfig": client, "rules": [rule],
        });
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "hook"}, "webhooks": [webhook],
        });
        let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
        assert_eq!(self.create(path, configuration).await.code, 201);
    }

    /// A ConfigMap of a name.
    pub async fn config_map(&self, name: &str, value: &str) -> Answer {
        self.create(
            "/api/v1/namespaces/default/configmaps",
            config_map(name, value),
        )
        .await
    }

    /// Stops the server and waits until it has.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.server.stopped().await;
    }

    /// A connection with an administrator's certificate.
    pub async fn connect(&self) -> http1::SendRequest<Full<Bytes>> {
        speak(self.connect_raw().await).await
    }

    /// A connection of somebody who has no rights and no seats of their own.
    pub async fn connect_as_user(&self, name: &str) -> http1::SendRequest<Full<Bytes>> {
        speak(self.connect_raw_as_user(name).await).await
    }

    /// The same without anything that speaks HTTP on it.
    pub async fn connect_raw_as_user(
        &self,
        name: &str,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let identity = self.server.client_identity(name, "users");
        self.connect_as(Some(identity.expect("an identity"))).await
    }

    /// A connection with an administrator's certificate, without anything that speaks HTTP on it.
    pub async fn connect_raw(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let identity = self
            .server
            .client_identity("admin", corral_server::authn::MASTERS)
            .expect("an identity");
        self.connect_as(Some(identity)).await
    }

    /// The same with another certificate, or with none.
    pub async fn connect_as(
        &self,
        identity: Option<Identity>,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let shown = identity.map(|identity| identity.to_rustls().expect("PEM"));
        let shown = shown.map(|(mut chain, key)| (chain.remove(0), key));
        self.connect_by(shown).await
    }

    /// The same with a certificate of somebody else's.
    pub async fn connect_by(
        &self,
        shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.try_connect_by(shown).await.expect("TLS")
    }

    /// The same, where the server may refuse the certificate.
    pub async fn try_connect_by(
        &self,
        shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut self.server.ca().as_bytes()) {
            roots
                .add(certificate.expect("a certificate"))
                .expect("a certificate");
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match shown {
            Some((certificate, key)) => {
                let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
                // Not looked at before it is shown: some tests have a key that is not the certificate's.
                let shown = CertifiedKey::new(vec![certificate], key.expect("a key"));
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(self.address())
            .await
            .expect("the server listens");
        let name = ServerName::try_from("localhost").expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    }
}

/// Speaks HTTP/1.1 on a connection.
async fn speak(tls: tokio_rustls::client::TlsStream<TcpStream>) -> http1::SendRequest<Full<Bytes>> {
    let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// Answers of kube-apiserver v1.36.3 that are kept beside the tests.
pub fn answers(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let file = std::fs::File::open(folder.join(name)).expect("kept answers");
    serde_json::from_reader(GzDecoder::new(file)).expect("JSON")
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
}

/// The whole body of an answer.
pub async fn body_of(answer: Response<Incoming>) -> Bytes {
    let body = answer.into_body().collect().await;
    body.expect("a whole body").to_bytes()
}

/// Sends a request over a connection.
pub async fn send(
    connection: &mut http1::SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    connection
        .send_request(request.body(Full::new(body.into())).expect("a request"))
        .await
        .expect("an answer")
}
