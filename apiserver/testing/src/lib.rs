//! A Kubernetes API server for tests, in their own process: what envtest is to Go, without binaries and within
//! milliseconds.
//!
//! A [`TestServer`] listens on a free port of this machine, has a store of its own, and goes with everything in it when it is
//! dropped. It is the whole API server: definitions of custom resources, admission (webhooks and policies included),
//! authentication, RBAC, watches, server-side apply. There are no controllers and no nodes, as in envtest: a Deployment stays
//! an object, nobody collects garbage, and a namespace that is deleted stays in `Terminating`.
//!
//! Clients of any kind reach it by a kubeconfig; [`TestServer::client`] makes one of kube-rs.
//!
//! ```
//! use corral_api::k8s::api::core::v1::ConfigMap;
//! use corral_testing::TestServer;
//! use kube::api::{Api, PostParams};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start().await?;
//!
//! let maps: Api<ConfigMap> = Api::default_namespaced(server.client().await?);
//! let mut map = ConfigMap::default();
//! map.metadata.name = Some("greeting".into());
//! map.data = Some([("text".into(), "hello".into())].into());
//! let made = maps.create(&PostParams::default(), &map).await?;
//! assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
//!
//! // Somebody who may do nothing yet.
//! let jane = server.client_as("jane", "developers").await?;
//! let refused = Api::<ConfigMap>::default_namespaced(jane).get("greeting").await;
//! assert!(refused.is_err_and(|error| error.to_string().contains("forbidden")));
//!
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_server::authn::MASTERS;
use corral_server::{Server, ServerConfig, pki};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use prometheus::Registry;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Addresses of Services, as in envtest.
const SERVICES: &str = "10.0.0.0/24";
/// What a server that is asked to stop is given for it.
const STOP_TIME: Duration = Duration::from_secs(10);

/// Why there is no server, or no client of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no place for the store.
    #[error("cannot make a directory for the store")]
    Directory(#[from] std::io::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] corral_storage::Error),
    /// The server does not start.
    #[error(transparent)]
    Start(#[from] corral_server::Error),
    /// A name cannot be in a certificate.
    #[error(transparent)]
    Identity(#[from] pki::Error),
    /// A kubeconfig cannot be read.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// A client cannot be made.
    #[error(transparent)]
    Client(#[from] kube::Error),
}

/// A server. Dropping it tells it to stop; [`TestServer::stop`] also waits until it has.
pub struct TestServer {
    server: Server,
    stop: CancellationToken,
    // Removed after the server has been told to stop.
    _directory: tempfile::TempDir,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TestServer {
    /// Starts a server; it is ready when this returns.
    ///
    /// # Errors
    /// When there is no room for its store, or no port.
    pub async fn start() -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix("corral-testing-")
            .tempdir()?;
        let mut config = EmbeddedConfig::new(directory.path().join("store"));
        // Nobody reads it after a loss of power.
        config.synced = false;
        let storage = EmbeddedStore::open(config, EmbeddedMetrics::default())?;
        let stop = CancellationToken::new();
        let server = Server::start(ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            names: Vec::new(),
            pki: directory.path().join("pki"),
            given: Default::default(),
            service_range: SERVICES.parse().expect("it is a network"),
            node_ports: 30_000..=32_767,
            storage,
            admission: without_accounts(),
            bounds: Default::default(),
            authn: Default::default(),
            authz: Default::default(),
            audit: Default::default(),
            serving: Default::default(),
            registry: Registry::new(),
            stop: stop.clone(),
        })
        .await?;
        Ok(Self {
            server,
            stop,
            _directory: directory,
        })
    }

    /// Where it is, such as `https://127.0.0.1:40001`.
    pub fn url(&self) -> String {
        format!("https://{}", self.server.address())
    }

    /// The certificate of its authority, in PEM.
    pub fn ca(&self) -> &str {
        self.server.ca()
    }

    /// The kubeconfig of an administrator, as text for any client: JSON, which is YAML, too.
    ///
    /// # Errors
    /// When a certificate cannot be made.
    pub fn kubeconfig(&self) -> Result<String, Error> {
        self.kubeconfig_as("admin", MASTERS)
    }

    /// The kubeconfig of somebody else.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn kubeconfig_as(&self, user: &str, group: &str) -> Result<String, Error> {
        let identity = self.server.client_identity(user, group)?;
        let encoded = |pem: &str| STANDARD.encode(pem);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(), "certificate-authority-data": encoded(self.ca()),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": encoded(&identity.certificate),
                "client-key-data": encoded(&identity.key),
            }}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        });
        Ok(config.to_string())
    }

    /// A client of an administrator.
    ///
    /// # Errors
    /// When a certificate or the client cannot be made.
    pub async fn client(&self) -> Result<kube::Client, Error> {
        self.client_as("admin", MASTERS).await
    }

    /// A client of somebody else.
    ///
    /// # Errors
    /// When a name cannot be in a certificate, or the client cannot be made.
    pub async fn client_as(&self, user: &str, group: &str) -> Result<kube::Client, Error> {
        let text = self.kubeconfig_as(user, group)?;
        let kubeconfig = Kubeconfig::from_yaml(&text)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Stops the server and waits until it has stopped.
    pub async fn stop(self) {
        self.stop.cancel();
        // A handler that does not end goes with the test.
        let _ = tokio::time::timeout(STOP_TIME, self.server.stopped()).await;
    }
}

/// Nobody makes service accounts, so pods must do without.
fn without_accounts() -> corral_server::admission::Settings {
    let off = ["ServiceAccount".to_owned()];
    corral_server::admission::Settings::read(&[], &off, None).expect("there is such a plugin")
}
