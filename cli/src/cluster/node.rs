//! A node, put together: the network, the agent, and the node's own API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use corral_api::k8s::api::core::v1::{Node, NodeSpec};
use corral_nodelet::agent::housekeeping::Housekeeping;
use corral_nodelet::eviction;
use corral_nodelet::network::range::Range;
use corral_nodelet::network::{PodNetwork, bridge, routes};
use corral_nodelet::server::tls::ServerCertificate;
use corral_nodelet::{Agent, AgentConfig};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a node can be told.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// The node's name (default: the machine's host name).
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// A label of the node, KEY=VALUE.
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// A registry to speak to without TLS, HOST:PORT; loopback addresses always are.
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
    /// When pods are evicted, as for a kubelet: SIGNAL<QUANTITY,… with memory.available and, of nodefs and imagefs,
    /// available and inodesFree. Empty: never.
    #[arg(
        long,
        value_name = "THRESHOLDS",
        default_value = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%"
    )]
    pub eviction_hard: eviction::Policy,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    let wrong = corral_api::names::qualified_name(key)
        .into_iter()
        .chain(corral_api::names::label_value(value))
        .next();
    match wrong {
        Some(why) => Err(why),
        None => Ok((key.to_owned(), value.to_owned())),
    }
}

impl NodeArgs {
    /// The node's name.
    pub fn name(&self) -> anyhow::Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
        };
        match corral_api::names::dns1123_subdomain(&name).first() {
            None => Ok(name),
            Some(why) => anyhow::bail!(
                "the node name {name:?} cannot be used, name it with --node-name: {why}"
            ),
        }
    }
}

/// A short name for what belongs to a data directory on this machine: links, tables, cgroups.
pub fn cluster_id(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir
        .canonicalize()
        .with_context(|| format!("cannot use the data directory {}", data_dir.display()))?;
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    Ok(hash
        .iter()
        .take(3)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The program and arguments that run a shim: this program, by its path, so that an upgrade is used for new pods.
pub fn shim_command() -> anyhow::Result<Vec<String>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(vec![
        program.to_string_lossy().into_owned(),
        "shim".to_owned(),
    ])
}

/// Length of the prefix of one node's pods: 254 addresses, above what a node runs.
pub const POD_RANGE_PREFIX: u8 = 24;
/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";
/// The port of the VXLAN between nodes that share no link, as Linux and others use it.
pub const VXLAN_PORT: u16 = 8472;
/// The greatest packet of pods. It leaves room for VXLAN on every node, whether it needs one now or not: a node behind a
/// router may join at any time, and the links of pods that run then are not changed any more.
pub const POD_MTU: u32 = bridge::MTU - routes::OVERHEAD;
/// How long a node waits for its addresses.
const RANGE_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often it looks.
const RANGE_LOOK_PERIOD: Duration = Duration::from_millis(200);

/// The addresses of a node's pods: those that its Node has, `wanted` for a new Node, or what it is given.
pub async fn claim_range(
    client: &kube::Client,
    name: &str,
    wanted: Option<Range>,
) -> anyhow::Result<Range> {
    let nodes: kube::Api<Node> = kube::Api::all(client.clone());
    if patiently(|| nodes.get_opt(name)).await?.is_none() {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.labels =
            Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into());
        node.spec = Some(NodeSpec {
            pod_cidr: wanted.map(|range| range.to_string()),
            pod_cidrs: wanted.map(|range| vec![range.to_string()]),
            ..Default::default()
        });
        let as_usual = kube::api::PostParams::default();
        match patiently(|| nodes.create(&as_usual, &node)).await {
            // An earlier attempt was heard, and its answer was not.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            made => drop(made.context("cannot register the node")?),
        }
    }
    let given = async {
        loop {
            let node = patiently(|| nodes.get(name)).await?;
            if let Some(text) = node
                .spec
                .and_then(|spec| spec.pod_cidr)
                .filter(|text| !text.is_empty())
            {
                return text
                    .parse()
                    .with_context(|| format!("the node's podCIDR {text}"));
            }
            tokio::time::sleep(RANGE_LOOK_PERIOD).await;
        }
    };
    tokio::time::timeout(RANGE_WAIT_MAX, given)
        .await
        .context("the node is given no addresses; does the control plane run its controllers?")?
}

/// Asks until the server answers: one that is started anew is no reason for its nodes to end, and their containers run
/// meanwhile.
async fn patiently<T, F>(ask: impl Fn() -> F) -> kube::Result<T>
where
    F: Future<Output = kube::Result<T>>,
{
    loop {
        match ask().await {
            Err(error @ (kube::Error::Service(_) | kube::Error::HyperError(_))) => {
                tracing::warn!(%error, "waiting for the server");
            }
            Err(kube::Error::Api(status)) if status.code >= 500 => {
                tracing::warn!(error = status.message, "waiting for the server");
            }
            answered => return answered,
        }
        tokio::time::sleep(RANGE_LOOK_PERIOD).await;
    }
}

/// Everything that a node is started with.
pub struct NodeConfig {
    /// What the user says.
    pub args: NodeArgs,
    /// Where its pods, images and logs live.
    pub data_dir: PathBuf,
    /// Names what is made on this machine.
    pub cluster_id: String,
    /// The API.
    pub client: kube::Client,
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// The certificate of the node's API.
    pub certificate: Arc<ServerCertificate>,
    /// The CA of the cluster, in PEM.
    pub ca: String,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Ends the node; its containers go on.
    pub stop: CancellationToken,
}

/// Starts a node; its tasks end after `stop`.
pub async fn start(config: NodeConfig, tasks: &TaskTracker) -> anyhow::Result<()> {
    let NodeConfig {
        args,
        data_dir,
        cluster_id,
        client,
        addresses,
        certificate,
        ca,
        network,
        stop,
    } = config;
    let listener = TcpListener::bind("0.0.0.0:0")
        .await
        .context("cannot listen for the node's API")?;
    let server_port = listener.local_addr()?.port();
    let agent = Agent::new(AgentConfig {
        node_name: args.name()?,
        data_dir,
        cluster_id,
        client,
        shim_command: shim_command()?,
        network,
        addresses,
        server_port,
        insecure_registries: args.insecure_registries.clone(),
        labels: args.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        housekeeping: Housekeeping {
            eviction: args.eviction_hard.clone(),
            ..Housekeeping::default()
        },
    })?;
    let tls = corral_nodelet::server::tls::server_config(certificate, &ca)?;
    let server = corral_nodelet::server::Server::new(agent.shared(), stop.clone());
    tasks.spawn(server.run(listener, tls));
    tasks.spawn(agent.run(stop));
    Ok(())
}
