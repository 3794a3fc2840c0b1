//! Routes to the pods of other nodes.
//!
//! A node on a link of this machine is reached directly; any other through one VXLAN device, whose ends have addresses
//! that follow from their nodes' ranges, so that nothing has to be exchanged. Packets inside it are shorter by
//! [`OVERHEAD`]; pods of a cluster that needs it therefore must be given links of that MTU from the start.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use corral_api::k8s::api::core::v1::Node;

use super::bridge;
use super::links::{Error, Link, Links, Route};
use super::names::Names;
use super::range::Range;

/// The network identifier: the links' names tell clusters apart on a machine, the port tells them apart between machines.
const VNI: u32 = 1;

/// What VXLAN adds to a packet.
pub const OVERHEAD: u32 = 50;

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its pods.
    pub range: Range,
    /// Its own address.
    pub address: Ipv4Addr,
}

/// The other nodes that have a range and an address.
pub fn peers<'a>(nodes: impl Iterator<Item = &'a Node>, own_name: &str) -> Vec<Peer> {
    let mut peers: Vec<_> = nodes
        .filter(|node| node.metadata.name.as_deref() != Some(own_name))
        .filter_map(peer)
        .collect();
    peers.sort();
    peers
}

fn peer(node: &Node) -> Option<Peer> {
    let range = node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses
        .iter()
        .filter(|address| address.type_ == "InternalIP");
    let address = internal
        .filter_map(|address| address.address.parse().ok())
        .find(|ip: &Ipv4Addr| !ip.is_loopback())?;
    Some(Peer { range, address })
}

/// The link-layer address of a node's end of the VXLAN: locally administered, from the range's base.
fn mac(range: &Range) -> [u8; 6] {
    let [a, b, c, d] = range.base().octets();
    [0x02, 0xcb, a, b, c, d]
}

/// What routes to set: `direct` tells the link on which an address is, if any.
pub fn plan(
    peers: &[Peer],
    direct: impl Fn(Ipv4Addr) -> Option<u32>,
    vxlan: Option<u32>,
    source: Ipv4Addr,
) -> Vec<Route> {
    let route = |peer: &Peer| {
        let source = Some(source);
        match direct(peer.address) {
            Some(link) => Some(Route {
                to: peer.range,
                via: Some(peer.address),
                link,
                source,
                onlink: false,
            }),
            // The far end's address is the base of its range, which no pod has.
            None => vxlan.map(|link| Route {
                to: peer.range,
                via: Some(peer.range.base()),
                link,
                source,
                onlink: true,
            }),
        }
    };
    peers.iter().filter_map(route).collect()
}

/// The routes of this node.
#[derive(Debug)]
pub struct Routes {
    links: Links,
    names: Names,
    own: Range,
    services: Range,
    port: u16,
    /// Machines that the VXLAN device was told of.
    neighbours: BTreeMap<Range, Ipv4Addr>,
}

impl Routes {
    /// None yet; those that an earlier process set are corrected by the first sync.
    pub fn new(links: Links, names: Names, own: Range, services: Range, port: u16) -> Self {
        Self {
            links,
            names,
            own,
            services,
            port,
            neighbours: BTreeMap::new(),
        }
    }

    /// Makes the routes be those to the peers and no others.
    pub async fn sync(&mut self, peers: &[Peer]) -> Result<(), bridge::Error> {
        let addresses = self.links.addresses().await?;
        let all = self.links.all().await?;
        let bridge = self.names.bridge();
        let is_ours = |index: u32| {
            all.iter().any(|link| {
                link.index == index && (link.name == bridge || link.name == self.names.vxlan())
            })
        };
        let direct = |to: Ipv4Addr| {
            let on = |(index, own, prefix): &&(u32, Ipv4Addr, u8)| {
                *prefix < 32
                    && !is_ours(*index)
                    && !own.is_loopback()
                    && Range::new(*own, *prefix).contains(to)
            };
            addresses.iter().find(on).map(|(index, _, _)| *index)
        };
        let far: Vec<_> = peers
            .iter()
            .filter(|peer| direct(peer.address).is_none())
            .collect();
        let vxlan = match far.first() {
            Some(first) => Some(self.vxlan(first.address, &addresses, &all).await?),
            None => None,
        };
        let wanted = plan(peers, direct, vxlan, self.own.gateway());
        if let Some(index) = vxlan {
            for peer in &far {
                self.links
                    .set_neighbour(index, peer.range.base(), mac(&peer.range), peer.address)
                    .await?;
            }
            let known: BTreeMap<_, _> = far.iter().map(|peer| (peer.range, peer.address)).collect();
            for range in self
                .neighbours
                .keys()
                .filter(|range| !known.contains_key(range))
            {
                self.links
                    .remove_neighbour(index, range.base(), mac(range))
                    .await?;
            }
            self.neighbours = known;
        }
        for route in &wanted {
            self.links.set_route(route).await?;
        }
        let bridge_index = self.links.index(&bridge).await?;
        for route in self.links.own_routes().await? {
            // Another cluster's routes on this machine carry the same number: only ranges that were ours are judged.
            let kept =
                wanted.iter().any(|wanted| wanted.to == route.to) || route.to == self.services;
            if !kept && route.link != bridge_index && route.source == Some(self.own.gateway()) {
                self.links.remove_route(&route).await?;
            }
        }
        if far.is_empty() {
            self.links.remove(&self.names.vxlan()).await?;
            self.neighbours.clear();
        }
        Ok(())
    }

    /// The VXLAN device, made when it is needed first.
    async fn vxlan(
        &self,
        to: Ipv4Addr,
        addresses: &[(u32, Ipv4Addr, u8)],
        all: &[Link],
    ) -> Result<u32, bridge::Error> {
        let name = self.names.vxlan();
        if let Some(link) = all.iter().find(|link| link.name == name) {
            return Ok(link.index);
        }
        let local = source_towards(to).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let under = addresses
            .iter()
            .find(|(_, address, _)| *address == local)
            .map(|(index, _, _)| *index);
        let under = all
            .iter()
            .find(|link| Some(link.index) == under)
            .and_then(|link| link.mtu);
        self.links
            .add_vxlan(&name, VNI, self.port, local, mac(&self.own))
            .await?;
        let index = self.links.index(&name).await?;
        self.links
            .set_mtu(index, under.unwrap_or(bridge::MTU).saturating_sub(OVERHEAD))
            .await?;
        self.links.add_address(index, self.own.base(), 32).await?;
        bridge::set(&format!("/proc/sys/net/ipv4/conf/{name}/forwarding"))?;
        Ok(index)
    }

    /// Removes every route and the VXLAN device. Routes over our own links go with those.
    pub async fn remove(
        links: &Links,
        names: &Names,
        gateway: Option<Ipv4Addr>,
    ) -> Result<(), Error> {
        for route in links.own_routes().await? {
            if gateway.is_some() && route.source == gateway {
                links.remove_route(&route).await?;
            }
        }
        links.remove(&names.vxlan()).await
    }
}

/// The address that this machine would send from. Nothing is sent: connecting UDP only asks the routing table.
fn source_towards(to: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}
