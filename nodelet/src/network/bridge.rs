//! The node's bridge and the links that connect pods to it.
//!
//! Only settings of the bridge itself are changed, never those of the machine: `forwarding` of the bridge lets pods
//! reach what is behind the machine, and `nf_call_iptables` lets the answers between two pods of one bridge, which
//! never pass the IP layer otherwise, find the connection whose addresses were rewritten.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::links::{self, Links, Route};
use super::names::Names;
use super::range::Range;

/// What a pod's link can carry when the machine's links have the customary 1500 bytes.
pub const MTU: u32 = 1500;

/// The bridge.
#[derive(Debug, Clone)]
pub struct Bridge {
    links: Links,
    names: Names,
    range: Range,
    index: u32,
    mtu: u32,
    filters: bool,
}

/// Why the bridge or a pod's link does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Netlink.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// The pod's namespace cannot be opened.
    #[error("cannot open the network namespace")]
    Namespace(#[source] std::io::Error),
    /// A setting of the bridge.
    #[error("cannot write {0}")]
    Setting(String, #[source] std::io::Error),
}

impl Bridge {
    /// Makes the bridge, or takes up the one that is there.
    pub async fn ensure(
        links: Links,
        names: Names,
        range: Range,
        services: Range,
        mtu: u32,
    ) -> Result<Self, Error> {
        let name = names.bridge();
        links.add_bridge(&name).await?;
        let index = links.index(&name).await?;
        links.up(index).await?;
        links
            .add_address(index, range.gateway(), range.prefix())
            .await?;
        set(&format!("/proc/sys/net/ipv4/conf/{name}/forwarding"))?;
        // Without that part of the kernel the bridge's own setting exists, too, but does nothing.
        let filters = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
        warn_without_forwarding();
        let service_route = Route {
            to: services,
            via: None,
            link: index,
            source: Some(range.gateway()),
            onlink: false,
        };
        links.set_route(&service_route).await?;
        Ok(Self {
            links,
            names,
            range,
            index,
            mtu,
            filters,
        })
    }

    /// Whether packets between two pods of the bridge pass the IP rules.
    pub fn filters(&self) -> bool {
        self.filters
    }

    /// The bridge's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Connects a namespace; one that is connected already stays as it is.
    pub async fn attach(&self, uid: &str, netns: &Path, address: Ipv4Addr) -> Result<(), Error> {
        let name = self.names.pod_link(uid);
        let namespace = std::fs::File::open(netns).map_err(Error::Namespace)?;
        let descriptor = namespace.try_clone().map_err(Error::Namespace)?;
        let inside = namespace.try_clone().map_err(Error::Namespace)?;
        let connected = links::inside(inside, |links| async move {
            Ok(links.find("eth0").await?.is_some())
        })
        .await?;
        if !connected {
            // One of an earlier attempt leads nowhere now.
            self.links.remove(&name).await?;
            self.links
                .add_pod_link(&name, self.index, descriptor.as_raw_fd(), self.mtu)
                .await?;
        }
        let (gateway, prefix) = (self.range.gateway(), self.range.prefix());
        links::inside(namespace, move |links| async move {
            let (lo, eth0) = (links.index("lo").await?, links.index("eth0").await?);
            links.up(lo).await?;
            links.add_address(eth0, address, prefix).await?;
            links.up(eth0).await?;
            let everywhere = Range::new(Ipv4Addr::UNSPECIFIED, 0);
            let default = Route {
                to: everywhere,
                via: Some(gateway),
                link: eth0,
                source: None,
                onlink: false,
            };
            links.set_route(&default).await
        })
        .await?;
        Ok(())
    }

    /// Disconnects a pod. Its namespace is usually gone by then and took the link along.
    pub async fn detach(&self, uid: &str) -> Result<(), Error> {
        Ok(self.links.remove(&self.names.pod_link(uid)).await?)
    }

    /// Removes the bridge and every link on it.
    pub async fn remove(links: &Links, names: &Names) -> Result<(), Error> {
        let Some(bridge) = links.find(&names.bridge()).await? else {
            return Ok(());
        };
        for link in links.all().await? {
            if link.controller == Some(bridge.index) {
                links.remove(&link.name).await?;
            }
        }
        Ok(links.remove(&names.bridge()).await?)
    }
}

/// Switches a setting on.
pub(super) fn set(path: &str) -> Result<(), Error> {
    std::fs::write(path, "1").map_err(|error| Error::Setting(path.to_owned(), error))
}

fn warn_without_forwarding() {
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    if forwarding.trim() == "0" {
        tracing::warn!(
            "this machine does not forward packets: pods reach each other and this machine, but answers from other \
             machines do not reach pods; `sysctl -w net.ipv4.ip_forward=1` changes that"
        );
    }
}
