//! In place of kube-apiserver: the same server as `corral server`, without controllers and scheduler, told by the flags of
//! kube-apiserver.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use corral_server::serving::Serving;
use corral_server::tls::KeyFiles;
use corral_server::{AddressRange, Server, ServerConfig};
use corral_storage::Storage;
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use prometheus::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::etcd;
use crate::cluster::admission::AdmissionArgs;
use crate::cluster::control_plane::{connect, layered};
use crate::cluster::encryption::EncryptionArgs;
use crate::cluster::etcd::EtcdArgs;
use crate::cluster::security::{
    AuditArgs, AuthenticationArgs, AuthorizationArgs, ServiceAccountArgs,
};
use crate::cluster::serving::ServingArgs;
use crate::cluster::signals;
use crate::logging::{self, LogFormat};

/// From this `-v` on more is logged than by default.
const VERBOSE: u8 = 3;

/// In place of kube-apiserver: Corral's API server, told by kube-apiserver's flags.
#[derive(Debug, Parser)]
#[command(name = "kube-apiserver", version = corral_server::KUBERNETES, max_term_width = 100)]
pub struct ApiServerArgs {
    /// The address to listen on.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// The port to listen on; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    secure_port: u16,
    /// The address that others reach the server at (default: the one listened on).
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// Where certificates are, and those that the server makes.
    #[arg(long, value_name = "DIR", default_value = "/var/run/kubernetes")]
    cert_dir: PathBuf,
    /// Addresses of Services.
    #[arg(long, value_name = "NETWORK", default_value = "10.0.0.0/24")]
    service_cluster_ip_range: AddressRange,
    /// Whether containers may be privileged; that they may not is the business of Pod Security admission here.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = clap::ArgAction::Set)]
    allow_privileged: bool,
    /// How much is logged, from 0 to 10.
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    verbosity: u8,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    encryption: EncryptionArgs,
    #[command(flatten)]
    serving: ServingArgs,
    #[command(flatten)]
    admission: AdmissionArgs,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    #[command(flatten)]
    service_accounts: ServiceAccountArgs,
    #[command(flatten)]
    authorization: AuthorizationArgs,
    #[command(flatten)]
    audit: AuditArgs,
}

/// Runs until told to stop.
pub async fn run(args: ApiServerArgs) -> anyhow::Result<()> {
    ensure!(
        args.allow_privileged,
        "--allow-privileged=false: privileged containers are refused by Pod Security admission alone here"
    );
    let filter = match args.verbosity >= VERBOSE {
        true => "debug,hyper=warn,h2=warn,rustls=warn",
        false => logging::DEFAULT_FILTER,
    };
    logging::start(filter, LogFormat::Text)?;
    let stop = signals::stop_token()?;
    let registry = Registry::new();
    let server_stop = CancellationToken::new();
    let inner = storage(&args.etcd, &registry).await?;
    let prefix = args.etcd.prefix()?;
    let encrypted = args.encryption.given();
    let storage = layered(inner, &prefix, encrypted, &registry, &server_stop).await?;
    let server = Server::start(ServerConfig {
        listen: SocketAddr::new(args.bind_address, args.secure_port),
        advertise: args.advertise_address,
        names: Vec::new(),
        given: args.service_accounts.given(),
        pki: args.cert_dir.join("corral"),
        service_range: args.service_cluster_ip_range,
        node_ports: 30_000..=32_767,
        storage,
        authz: args.authorization.config()?,
        authn: args.authentication.config(),
        audit: args.audit.config()?,
        admission: args.admission.settings()?,
        bounds: args.serving.bounds()?,
        serving: serving(&args)?,
        registry,
        stop: server_stop.clone(),
    })
    .await?;
    stop.cancelled().await;
    server.leave().await;
    server_stop.cancel();
    server.stopped().await;
    Ok(())
}

fn serving(args: &ApiServerArgs) -> anyhow::Result<Serving> {
    let mut serving = args.serving.serving()?;
    // kube-apiserver takes a pair of this name if it is there.
    let found = ["crt", "key"].map(|end| args.cert_dir.join(format!("apiserver.{end}")));
    let [certificate, key] = found;
    if serving.certificate.is_none() && certificate.exists() && key.exists() {
        serving.certificate = Some(KeyFiles { certificate, key });
    }
    Ok(serving)
}

/// How long our own stand-in for etcd, which may be starting beside this server, is waited for.
const ASKING_MAX: Duration = Duration::from_secs(10);
const ASKING_PAUSE: Duration = Duration::from_millis(20);

/// Asks who is at a URL until somebody answers; `None` when that is etcd, or nobody yet.
async fn asked(url: &str) -> Option<etcd::Store> {
    let deadline = Instant::now() + ASKING_MAX;
    loop {
        match etcd::ask(url).await {
            Ok(found) => return found,
            Err(_) if Instant::now() < deadline => tokio::time::sleep(ASKING_PAUSE).await,
            Err(_) => return None,
        }
    }
}

/// The store that stands behind a URL: that of our own stand-in, or etcd.
async fn storage(args: &EtcdArgs, registry: &Registry) -> anyhow::Result<Arc<dyn Storage>> {
    let Some(config) = args.config()? else {
        bail!("--etcd-servers must be specified");
    };
    let ours = match config.endpoints.as_slice() {
        [url] => asked(url).await.map(|store| (url, store)),
        _ => None,
    };
    let Some((url, store)) = ours else {
        return Ok(connect(config).await?);
    };
    let url = url.clone();
    let mut config = EmbeddedConfig::new(&store.directory);
    config.synced = store.synced;
    let metrics = EmbeddedMetrics::register(registry)?;
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(config, metrics)).await?;
    let store = opened.with_context(|| format!("the store of {url}"))?;
    Ok(store)
}
