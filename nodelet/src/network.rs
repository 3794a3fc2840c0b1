//! The pod network: a bridge per node, services as one nftables table, routes between nodes, cluster DNS.
//!
//! This file is the edge: what a pod's worker needs, and a stand-in without any network. Behind it, in reading order:
//! [`node_network`] (the real one, put together), [`addresses`], [`bridge`] and [`links`] (netlink), [`services`]
//! (what should hold, pure), [`nft`] (making it hold), [`conntrack`], [`routes`] (other nodes).

pub mod addresses;
pub mod bridge;
pub mod conntrack;
pub mod links;
pub mod names;
pub mod nft;
pub mod node_network;
pub mod range;
pub mod routes;
pub mod services;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;

pub use names::Names;
pub use node_network::{NodeNetwork, NodeNetworkConfig, teardown};
pub use range::Range;

/// Who a pod is, for the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// Ports of the node that lead into the pod.
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a container's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address to listen on; every address without it.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A pod's addresses, the primary one first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodAddresses(pub Vec<IpAddr>);

/// How the pods of this node resolve names with DNS policy ClusterFirst.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// The cluster's name servers; without any, pods use the node's.
    pub nameservers: Vec<IpAddr>,
    /// The cluster's domain (`cluster.local`).
    pub domain: String,
}

/// Why a pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed for pod {pod}")]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// Namespace and name.
    pub pod: String,
    /// The reason.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Connects pods. Every call may be repeated: attaching an attached pod returns the addresses it has.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects the network namespace at `netns`.
    async fn attach(&self, pod: &PodIdentity, netns: &Path) -> Result<PodAddresses, Error>;
    /// Tells that a pod with these addresses was attached before this process started.
    async fn adopt(
        &self,
        pod: &PodIdentity,
        netns: &Path,
        addresses: &PodAddresses,
    ) -> Result<(), Error>;
    /// Disconnects a pod; one that is not attached is no error.
    async fn detach(&self, pod: &PodIdentity) -> Result<(), Error>;
    /// How pods resolve names.
    fn resolver(&self) -> Resolver;
}

/// No network: every pod has its loopback interface alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(&self, _pod: &PodIdentity, _netns: &Path) -> Result<PodAddresses, Error> {
        Ok(PodAddresses(vec![IpAddr::from([127, 0, 0, 1])]))
    }

    async fn adopt(
        &self,
        _pod: &PodIdentity,
        _netns: &Path,
        _addresses: &PodAddresses,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn detach(&self, _pod: &PodIdentity) -> Result<(), Error> {
        Ok(())
    }

    fn resolver(&self) -> Resolver {
        Resolver::default()
    }
}
