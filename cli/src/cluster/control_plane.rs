//! Store, API server, controllers and scheduler, put together.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use corral_nodelet::network::range::Range;
use corral_server::authn::User;
use corral_server::local::Local;
use corral_server::stored_values::StoredValues;
use corral_server::{AddressRange, Server, ServerConfig, encryption};
use corral_storage::Storage;
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::etcd::{EtcdConfig, EtcdStore};
use corral_storage::prefixed::PrefixedStore;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::AdmissionArgs;
use super::clients::Clients;
use super::encryption::EncryptionArgs;
use super::etcd::EtcdArgs;
use super::security::{AuditArgs, AuthenticationArgs, AuthorizationArgs, ServiceAccountArgs};
use super::serving::ServingArgs;
use crate::kubeconfig;
use crate::logging::LogArgs;

/// The addresses of Services unless somebody says otherwise.
const DEFAULT_SERVICES: &str = "10.96.0.0/16";
/// The addresses of all pods unless somebody says otherwise.
pub(super) const DEFAULT_PODS: &str = "10.244.0.0/16";

/// What every control plane can be told.
#[derive(Debug, Clone, Args)]
pub struct ControlPlaneArgs {
    /// Where everything is kept.
    #[arg(long, default_value = "/var/lib/corral", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the API listens; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The address that nodes and pods reach the API at (default: the one listened on).
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// Another name or address that clients use for the API.
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Addresses of Services (default: 10.96.0.0/16; `corral up` takes another where that is in use).
    #[arg(long, value_name = "NETWORK")]
    pub service_range: Option<AddressRange>,
    /// Addresses of all pods (default: 10.244.0.0/16; `corral up` takes another where that is in use).
    #[arg(long, value_name = "NETWORK")]
    pub pod_range: Option<Range>,
    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    /// How long history is kept, in seconds: watches and paged lists resume within it.
    #[arg(long, default_value_t = corral_storage::HISTORY_WINDOW.as_secs(), value_name = "SECONDS")]
    pub history_seconds: u64,
    /// Least number of revisions kept, whatever their age.
    #[arg(long, default_value_t = corral_storage::HISTORY_REVISIONS_MIN, value_name = "N")]
    pub history_revisions: u64,
    #[command(flatten)]
    pub admission: AdmissionArgs,
    /// Run no controllers.
    #[arg(long)]
    pub no_controllers: bool,
    /// Run no scheduler.
    #[arg(long)]
    pub no_scheduler: bool,
    /// Run controllers and scheduler only while this process holds their leases (default: with etcd, where several
    /// servers may run, but not with the embedded store, which only one process can have).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: Option<bool>,
    #[command(flatten)]
    pub authentication: AuthenticationArgs,
    #[command(flatten)]
    pub service_accounts: ServiceAccountArgs,
    #[command(flatten)]
    pub authorization: AuthorizationArgs,
    #[command(flatten)]
    pub audit: AuditArgs,
    #[command(flatten)]
    pub serving: ServingArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

impl ControlPlaneArgs {
    /// The addresses of Services.
    pub fn service_range(&self) -> anyhow::Result<AddressRange> {
        match self.service_range {
            Some(range) => Ok(range),
            None => DEFAULT_SERVICES.parse().map_err(anyhow::Error::msg),
        }
    }

    /// Whether controllers and scheduler compete for leases.
    pub fn elects_leader(&self) -> bool {
        self.leader_elect
            .unwrap_or(!self.etcd.etcd_endpoints.is_empty())
    }
}

/// A control plane that runs.
pub struct ControlPlane {
    /// The API server.
    pub server: Server,
    /// Metrics of everything in this process.
    pub registry: Registry,
    /// Where the administrator's kubeconfig was written.
    pub kubeconfig: PathBuf,
    // Stopped before the server, so that last writes still arrive.
    pub(super) clients_stop: CancellationToken,
    server_stop: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// Starts a control plane; the API is ready when this returns.
    pub async fn start(args: &ControlPlaneArgs) -> anyhow::Result<Self> {
        let registry = Registry::new();
        std::fs::create_dir_all(&args.data_dir).with_context(|| {
            format!("cannot make the data directory {}", args.data_dir.display())
        })?;
        private_store(&args.data_dir)?;
        let server_stop = CancellationToken::new();
        let storage = open_store(args, &registry, &server_stop).await?;
        let server = Server::start(ServerConfig {
            listen: args.listen,
            advertise: args.advertise,
            names: args.tls_san.clone(),
            pki: args.data_dir.join("pki"),
            given: args.service_accounts.given(),
            service_range: args.service_range()?,
            node_ports: 30_000..=32_767,
            storage,
            authz: args.authorization.config()?,
            authn: args.authentication.config(),
            audit: args.audit.config()?,
            admission: args.admission.settings()?,
            bounds: args.serving.bounds()?,
            serving: args.serving.serving()?,
            registry: registry.clone(),
            stop: server_stop.clone(),
        })
        .await?;
        let kubeconfig = write_admin_kubeconfig(&server, &args.data_dir)?;
        let plane = Self {
            server,
            registry,
            kubeconfig,
            clients_stop: CancellationToken::new(),
            server_stop,
            tasks: TaskTracker::new(),
        };
        Clients::of(&plane, args)?.start(args, &plane.tasks);
        plane.tasks.close();
        Ok(plane)
    }

    /// A transport to the API inside this process.
    pub fn local(&self, user: User) -> Local {
        self.server.local(user)
    }

    /// Tells that the server is not ready any more, and waits until others have had time to learn of it.
    pub async fn leave(&self) {
        self.server.leave().await;
    }

    /// Stops controllers and scheduler, then the server.
    pub async fn stop(self) {
        /// Controllers end at once; this bounds one that does not.
        const CLIENTS_STOP_MAX: Duration = Duration::from_secs(5);
        self.clients_stop.cancel();
        let _ = tokio::time::timeout(CLIENTS_STOP_MAX, self.tasks.wait()).await;
        self.server_stop.cancel();
        self.server.stopped().await;
    }
}

/// Where the embedded store is.
pub(super) fn store_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// Makes that directory. The store holds Secrets, and nobody but its owner has business in it.
pub(super) fn private_store(data_dir: &Path) -> anyhow::Result<()> {
    let store = store_directory(data_dir);
    std::fs::create_dir_all(&store)
        .and_then(|()| {
            let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&store, owner_only)
        })
        .with_context(|| format!("cannot make {} private", store.display()))
}

async fn open_store(
    args: &ControlPlaneArgs,
    registry: &Registry,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn Storage>> {
    let inner = open_inner_store(args, registry).await?;
    let source = args.encryption.source(&args.data_dir);
    let prefix = args.etcd.prefix()?;
    layered(inner, &prefix, Some(source), registry, stop).await
}

/// A store with what lies between it and the server: encryption if it is wanted, keys with another prefix, values that other
/// servers wrote.
pub async fn layered(
    inner: Arc<dyn Storage>,
    prefix: &str,
    encrypted: Option<encryption::Source>,
    registry: &Registry,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn Storage>> {
    let mut store = inner;
    if let Some(source) = encrypted {
        let over = encryption::over(store, source, prefix, registry, stop.clone()).await;
        store = over.map_err(anyhow::Error::msg)?;
    }
    if prefix != encryption::KEYS {
        store = PrefixedStore::new(store, encryption::KEYS, prefix);
    }
    Ok(StoredValues::over(store))
}

async fn open_inner_store(
    args: &ControlPlaneArgs,
    registry: &Registry,
) -> anyhow::Result<Arc<dyn Storage>> {
    let history_window = Duration::from_secs(args.history_seconds);
    if let Some(mut config) = args.etcd.config()? {
        config.history_window = history_window;
        config.history_revisions_min = args.history_revisions;
        let store = connect(config).await?;
        store.announce(&args.etcd.prefix()?, &own_name()).await?;
        return Ok(store);
    }
    let mut config = EmbeddedConfig::new(store_directory(&args.data_dir));
    config.history_window = history_window;
    config.history_revisions_min = args.history_revisions;
    let metrics = EmbeddedMetrics::register(registry)?;
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(config, metrics)).await??;
    Ok(store)
}

/// How long a server that starts waits for etcd, which may be starting beside it.
const ETCD_WAIT_MAX: Duration = Duration::from_secs(30);
const ETCD_LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What this server is called where others look at who uses etcd.
fn own_name() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{} {}", host.to_string_lossy(), std::process::id())
}

pub async fn connect(config: EtcdConfig) -> anyhow::Result<Arc<EtcdStore>> {
    let deadline = tokio::time::Instant::now() + ETCD_WAIT_MAX;
    let mut told = false;
    loop {
        match EtcdStore::connect(config.clone()).await {
            Ok(store) => return Ok(store),
            Err(corral_storage::Error::Unavailable(why)) => {
                let endpoints = config.endpoints.join(",");
                ensure!(
                    tokio::time::Instant::now() < deadline,
                    "etcd at {endpoints} does not answer: {why}; does it run, and do the certificates fit?"
                );
                if !told {
                    tracing::warn!(endpoints, why, "waiting for etcd");
                    told = true;
                }
                tokio::time::sleep(ETCD_LOOK_PERIOD).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes `admin.kubeconfig`, which only its owner may read.
fn write_admin_kubeconfig(server: &Server, data_dir: &Path) -> anyhow::Result<PathBuf> {
    let identity = server.client_identity("admin", corral_server::authn::MASTERS)?;
    let mut address = server.address();
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    }
    let text = kubeconfig::render(
        &format!("https://{address}"),
        server.ca(),
        "admin",
        &identity,
    );
    let path = data_dir.join("admin.kubeconfig");
    corral_server::pki::write_private(&path, &text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ControlPlaneArgs,
    }

    fn elects(flags: &[&str]) -> bool {
        let all = ["corral"].iter().chain(flags);
        Command::parse_from(all).args.elects_leader()
    }

    #[test]
    fn a_leader_is_elected_where_several_servers_may_run_unless_told_otherwise() {
        let etcd = "--etcd-endpoints=http://127.0.0.1:2379";
        assert!(!elects(&[]));
        assert!(elects(&["--leader-elect"]));
        assert!(elects(&[etcd]));
        assert!(!elects(&[etcd, "--leader-elect=false"]));
    }
}
