//! `corral agent`: a node that joins a control plane elsewhere.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use corral_nodelet::network::node_network::{NodeNetwork, NodeNetworkConfig};
use corral_nodelet::network::range::Range;
use corral_nodelet::server::tls::ServerCertificate;
use tokio_util::task::TaskTracker;

use super::given_node::{GivenArgs, GivenNode};
use super::identity::Member;
use super::node::{self, NodeArgs, NodeConfig};
use super::process_lock::ProcessLock;
use super::signals;
use crate::logging::LogArgs;

/// Start a node that joins a control plane.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The API to join, https://HOST:PORT.
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "kubeconfig",
        conflicts_with_all = ["kubeconfig", "tls_cert_file", "client_ca_file"]
    )]
    server: Option<http::Uri>,
    /// The file with the token that `corral token create` made; needed until the node has joined.
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    given: GivenArgs,
    /// Where pods, images and logs live.
    #[arg(long, default_value = "/var/lib/corral-agent", value_name = "DIR")]
    data_dir: PathBuf,
    /// Addresses of Services, as the server has them.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "NETWORK")]
    service_range: Range,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What a node needs of its cluster, however it came by it.
struct Access {
    client: kube::Client,
    url: String,
    address: IpAddr,
    certificate: Arc<ServerCertificate>,
    /// The CA of those who may ask the node.
    ca: String,
    /// A node that has joined keeps its certificate new by itself.
    member: Option<Member>,
}

impl Access {
    fn joined(member: Member, server: &http::Uri) -> Self {
        Self {
            client: member.client(),
            url: server.to_string(),
            address: member.address(),
            certificate: member.certificate(),
            ca: member.ca().to_owned(),
            member: Some(member),
        }
    }

    fn given(node: GivenNode) -> Self {
        Self {
            client: node.client,
            url: node.url,
            address: node.address,
            certificate: node.certificate,
            ca: node.ca,
            member: None,
        }
    }
}

/// Runs until told to stop. Containers go on running; the next start takes them up.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let AgentArgs {
        server,
        token_file,
        given,
        data_dir,
        service_range,
        node,
        log,
    } = args;
    log.start()?;
    let stop = signals::stop_token()?;
    let name = node.name()?;
    let lock = ProcessLock::create(&data_dir)?;
    let entering = async {
        match (&given.kubeconfig, &server) {
            (Some(file), _) => Ok(Access::given(GivenNode::enter(&given, file, &name).await?)),
            (None, Some(server)) => {
                let token = token_file.as_deref();
                let member = Member::enter(server, token, &name, &data_dir).await?;
                Ok(Access::joined(member, server))
            }
            (None, None) => anyhow::bail!("the agent needs --server or --kubeconfig"),
        }
    };
    let access = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        access = entering => access?,
    };
    let (client, address) = (access.client, access.address);
    let tasks = TaskTracker::new();
    let cluster_id = node::cluster_id(&data_dir)?;
    let pod_range = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        range = node::claim_range(&client, &name, None) => range?,
    };
    let network = NodeNetwork::start(NodeNetworkConfig {
        cluster_id: cluster_id.clone(),
        directory: data_dir.join("node").join("network"),
        client: client.clone(),
        node_name: name.clone(),
        pod_range,
        service_range,
        domain: node::DOMAIN.to_owned(),
        vxlan_port: node::VXLAN_PORT,
        mtu: node::POD_MTU,
        shutdown: stop.clone(),
    })
    .await
    .context("cannot set up the network")?;
    node::start(
        NodeConfig {
            args: node,
            cluster_id,
            data_dir: data_dir.join("node"),
            client,
            addresses: vec![address],
            certificate: access.certificate,
            ca: access.ca,
            network,
            stop: stop.clone(),
        },
        &tasks,
    )
    .await?;
    if let Some(member) = access.member {
        tasks.spawn(member.keep(stop));
    }
    tasks.close();
    println!("server      {}", access.url);
    println!("node        {name} ({address})");
    tasks.wait().await;
    drop(lock);
    Ok(())
}
