//! Links, addresses and routes of the network namespace that this was opened in, through netlink.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan,
    RouteMessageBuilder,
};

use super::range::Range;

/// Why netlink did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel refused.
    #[error("cannot {0}")]
    Kernel(String, #[source] Box<rtnetlink::Error>),
    /// A link that should be there is not.
    #[error("there is no link {0}")]
    NoLink(String),
}

const EEXIST: i32 = libc::EEXIST;
/// What the kernel says of routes, neighbours and links that are gone already.
const GONE: [i32; 3] = [libc::ESRCH, libc::ENODEV, libc::ENOENT];

fn outcome(
    result: Result<(), rtnetlink::Error>,
    fine: &[i32],
    doing: impl FnOnce() -> String,
) -> Result<(), Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if fine.contains(&-message.raw_code()) => {
            Ok(())
        }
        other => other.map_err(|error| Error::Kernel(doing(), Box::new(error))),
    }
}

/// A netlink connection; its task ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Links {
    handle: Handle,
}

/// A link's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The number of the bridge that it is a port of.
    pub controller: Option<u32>,
    /// Its greatest packet.
    pub mtu: Option<u32>,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            controller: None,
            mtu: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
                _ => {}
            }
        }
        link
    }
}

impl Links {
    /// Opens a connection in the calling thread's network namespace, inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All links.
    pub async fn all(&self) -> Result<Vec<Link>, Error> {
        let found: Result<Vec<_>, _> = self.handle.link().get().execute().try_collect().await;
        let found = found.map_err(|error| Error::Kernel("list links".into(), Box::new(error)))?;
        Ok(found.iter().map(Link::of).collect())
    }

    /// A link by its name.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        match self
            .handle
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next()
            .await
        {
            Ok(found) => Ok(found.as_ref().map(Link::of)),
            Err(rtnetlink::Error::NetlinkError(message)) if GONE.contains(&-message.raw_code()) => {
                Ok(None)
            }
            Err(error) => Err(Error::Kernel(
                format!("find the link {name}"),
                Box::new(error),
            )),
        }
    }

    /// A link's number.
    pub async fn index(&self, name: &str) -> Result<u32, Error> {
        self.find(name)
            .await?
            .map(|link| link.index)
            .ok_or_else(|| Error::NoLink(name.to_owned()))
    }

    /// Makes a bridge unless there is one.
    pub async fn add_bridge(&self, name: &str) -> Result<(), Error> {
        let made = self
            .handle
            .link()
            .add(LinkBridge::new(name).build())
            .execute()
            .await;
        outcome(made, &[EEXIST], || format!("make the bridge {name}"))
    }

    /// Makes a VXLAN device unless there is one.
    pub async fn add_vxlan(
        &self,
        name: &str,
        vni: u32,
        port: u16,
        local: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), Error> {
        let device = LinkVxlan::new(name, vni)
            .port(port)
            .learning(false)
            .local(local)
            .address(mac.to_vec())
            .up();
        outcome(
            self.handle.link().add(device.build()).execute().await,
            &[EEXIST],
            || format!("make {name}"),
        )
    }

    /// Makes a pair of links: one here and up as a port of the bridge, with hairpin; the other, `eth0`, in a namespace.
    pub async fn add_pod_link(
        &self,
        name: &str,
        bridge: u32,
        namespace: RawFd,
        mtu: u32,
    ) -> Result<(), Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0")
            .mtu(mtu)
            .setns_by_fd(namespace)
            .build();
        let pair = LinkVeth::new(name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let pair = pair.mtu(mtu).controller(bridge).up().build();
        outcome(self.handle.link().add(pair).execute().await, &[], || {
            format!("make the link {name}")
        })?;
        let index = self.index(name).await?;
        let port = LinkBridgePort::new(index).hairpin(true).build();
        outcome(
            self.handle.link().set_port(port).execute().await,
            &[],
            || format!("set hairpin on {name}"),
        )
    }

    /// Sets a link up.
    pub async fn up(&self, index: u32) -> Result<(), Error> {
        let up = LinkUnspec::new_with_index(index).up().build();
        outcome(self.handle.link().set(up).execute().await, &[], || {
            format!("set link {index} up")
        })
    }

    /// Sets a link's greatest packet.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        let change = LinkUnspec::new_with_index(index).mtu(mtu).build();
        outcome(self.handle.link().set(change).execute().await, &[], || {
            format!("set the MTU of link {index}")
        })
    }

    /// Removes a link; one that is gone is no error.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.find(name).await? else {
            return Ok(());
        };
        outcome(
            self.handle.link().del(link.index).execute().await,
            &GONE,
            || format!("remove the link {name}"),
        )
    }

    /// Adds an address unless it is there.
    pub async fn add_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Error> {
        let added = self
            .handle
            .address()
            .add(index, IpAddr::V4(address), prefix)
            .execute()
            .await;
        outcome(added, &[EEXIST], || format!("add the address {address}"))
    }

    /// The IPv4 addresses of every link: link number, address, and length of prefix.
    pub async fn addresses(&self) -> Result<Vec<(u32, Ipv4Addr, u8)>, Error> {
        use netlink_packet_route::address::AddressAttribute;
        let found: Result<Vec<_>, _> = self.handle.address().get().execute().try_collect().await;
        let found =
            found.map_err(|error| Error::Kernel("list addresses".into(), Box::new(error)))?;
        let of = |attribute: &AddressAttribute| match attribute {
            // The address of one's own end; on a point-to-point link `Address` would be the other one.
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        };
        let facts = |message: &netlink_packet_route::address::AddressMessage| {
            let address = message.attributes.iter().find_map(of)?;
            Some((message.header.index, address, message.header.prefix_len))
        };
        Ok(found.iter().filter_map(facts).collect())
    }

    /// Sets a route, in place of one to the same destination.
    pub async fn set_route(&self, route: &Route) -> Result<(), Error> {
        let set = self
            .handle
            .route()
            .add(route.message())
            .replace()
            .execute()
            .await;
        outcome(set, &[], || format!("set the route to {}", route.to))
    }

    /// Removes a route; one that is gone is no error.
    pub async fn remove_route(&self, route: &Route) -> Result<(), Error> {
        let removed = self.handle.route().del(route.message()).execute().await;
        outcome(removed, &GONE, || {
            format!("remove the route to {}", route.to)
        })
    }

    /// The IPv4 routes that carry our protocol number.
    pub async fn own_routes(&self) -> Result<Vec<Route>, Error> {
        let all = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute();
        let all: Result<Vec<_>, _> = all.try_collect().await;
        let all = all.map_err(|error| Error::Kernel("list routes".into(), Box::new(error)))?;
        Ok(all
            .iter()
            .filter(|route| u8::from(route.header.protocol) == PROTOCOL)
            .filter_map(Route::of)
            .collect())
    }

    /// Tells a VXLAN device where the machine with this link-layer address is, and the address of its end.
    pub async fn set_neighbour(
        &self,
        index: u32,
        end: Ipv4Addr,
        mac: [u8; 6],
        node: Ipv4Addr,
    ) -> Result<(), Error> {
        let doing = || format!("tell the VXLAN device of {node}");
        let neighbours = self.handle.neighbours();
        let end = neighbours
            .add(index, IpAddr::V4(end))
            .link_layer_address(&mac)
            .replace();
        outcome(end.execute().await, &[], doing)?;
        let place = neighbours
            .add_bridge(index, &mac)
            .flags(NeighbourFlags::Own)
            .destination(IpAddr::V4(node));
        outcome(place.replace().execute().await, &[], doing)
    }

    /// Makes a VXLAN device forget a machine.
    pub async fn remove_neighbour(
        &self,
        index: u32,
        end: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), Error> {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.ifindex = index;
        neighbour.header.family = AddressFamily::Inet;
        neighbour
            .attributes
            .push(NeighbourAttribute::Destination(end.into()));
        let doing = || format!("forget the neighbour {end}");
        outcome(
            self.handle.neighbours().del(neighbour).execute().await,
            &GONE,
            doing,
        )?;
        let mut place = NeighbourMessage::default();
        place.header.ifindex = index;
        place.header.family = AddressFamily::Bridge;
        place.header.flags = NeighbourFlags::Own;
        place
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        outcome(
            self.handle.neighbours().del(place).execute().await,
            &GONE,
            doing,
        )
    }
}

/// Marks the routes that are ours among the host's. Not one of the numbers that rt_protos(5) assigns.
const PROTOCOL: u8 = 167;

/// A route of ours in the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where it leads.
    pub to: Range,
    /// The next machine, if it does not end on the link.
    pub via: Option<Ipv4Addr>,
    /// The link.
    pub link: u32,
    /// The address that the host itself uses as source.
    pub source: Option<Ipv4Addr>,
    /// Whether the next machine is taken to be on the link whatever its address.
    pub onlink: bool,
}

impl Route {
    fn message(&self) -> RouteMessage {
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.to.base(), self.to.prefix())
            .output_interface(self.link)
            .protocol(PROTOCOL.into());
        match self.via {
            Some(via) => builder = builder.gateway(via),
            None => builder = builder.scope(netlink_packet_route::route::RouteScope::Link),
        }
        if let Some(source) = self.source {
            builder = builder.pref_source(source);
        }
        if self.onlink {
            builder = builder.onlink();
        }
        builder.build()
    }

    fn of(message: &RouteMessage) -> Option<Self> {
        use netlink_packet_route::route::RouteFlags;
        let mut destination = None;
        let (mut via, mut link, mut source) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    destination = Some(*address)
                }
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
                RouteAttribute::Oif(index) => link = Some(*index),
                _ => {}
            }
        }
        let to = Range::new(
            destination?,
            message.header.destination_prefix_length.min(32),
        );
        Some(Self {
            to,
            via,
            link: link?,
            source,
            onlink: message.header.flags.contains(RouteFlags::Onlink),
        })
    }
}

/// Does something with the links of another network namespace, on a thread of its own.
pub async fn inside<T, F, Fut>(namespace: std::fs::File, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(Links) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, Error>>,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread and not the blocking pool: the pool's threads are used again and would stay in the namespace.
    std::thread::Builder::new()
        .name("pod-network".into())
        .spawn(move || {
            let run = || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                    .map_err(std::io::Error::from)?;
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
            };
            let result = match run() {
                Ok(runtime) => runtime.block_on(async { work(Links::open()?).await }),
                Err(error) => Err(Error::Socket(error)),
            };
            let _ = sender.send(result);
        })
        .map_err(Error::Socket)?;
    receiver
        .await
        .map_err(|_| Error::Socket(std::io::Error::other("the thread died")))?
}
