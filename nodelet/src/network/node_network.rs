//! The network of a node, put together: the bridge, addresses, rules, routes and cluster DNS, kept right by watches.
//!
//! Everything stays in place when the process ends; the next one takes it up. [`teardown`] removes it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{Node, Service};
use corral_api::k8s::api::discovery::v1::EndpointSlice;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::addresses::{self, Addresses};
use super::bridge::{self, Bridge};
use super::links::{self, Links};
use super::names::Names;
use super::nft::{self, Table};
use super::range::Range;
use super::routes::{self, Routes};
use super::services::{self, PodPort, Rules};
use super::{PodAddresses, PodIdentity, PodNetwork, Resolver, conntrack};
use crate::agent::follow::{Change, follow, take};
use crate::dns;

/// Changes within this time become one transaction: a rollout of many pods would otherwise run `nft` all the time.
const SYNC_INTERVAL: Duration = Duration::from_millis(50);

/// The wait after `nft` or netlink failed.
const RETRY: Duration = Duration::from_secs(1);

/// How a node's network is set up.
pub struct NodeNetworkConfig {
    /// Names everything that is made on this machine.
    pub cluster_id: String,
    /// Where addresses in use are kept.
    pub directory: PathBuf,
    /// The API.
    pub client: Client,
    /// This node.
    pub node_name: String,
    /// The addresses of this node's pods.
    pub pod_range: Range,
    /// The addresses of Services.
    pub service_range: Range,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The port of the VXLAN between nodes that share no link; 8472 by custom.
    pub vxlan_port: u16,
    /// The greatest packet of pods; [`bridge::MTU`] by default, less [`routes::OVERHEAD`] where VXLAN is used.
    pub mtu: u32,
    /// Ends the watches and the DNS server.
    pub shutdown: CancellationToken,
}

/// Why a node's network does not come up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Netlink.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// The bridge.
    #[error("cannot set up the bridge")]
    Bridge(#[from] bridge::Error),
    /// The addresses.
    #[error("cannot read the addresses in use")]
    Addresses(#[from] addresses::Error),
    /// The rules.
    #[error("cannot set the rules for services")]
    Rules(#[from] nft::Error),
    /// The DNS server.
    #[error("cannot serve DNS")]
    Dns(#[from] dns::Error),
}

/// The network of a node.
pub struct NodeNetwork {
    bridge: Bridge,
    /// Guards who has which address; never held while waiting.
    addresses: Mutex<Addresses>,
    /// Guards the host ports of pods by uid; held to look or change.
    host_ports: Mutex<BTreeMap<String, Vec<PodPort>>>,
    changed: Arc<Notify>,
    resolver: Resolver,
}

impl NodeNetwork {
    /// Makes what is missing, takes up what is there, and keeps it right until shutdown.
    pub async fn start(config: NodeNetworkConfig) -> Result<Arc<Self>, Error> {
        let names = Names::new(&config.cluster_id);
        let (pods, services) = (config.pod_range, config.service_range);
        let links = Links::open()?;
        let bridge =
            Bridge::ensure(links.clone(), names.clone(), pods, services, config.mtu).await?;
        let addresses = Addresses::open(&config.directory.join("addresses"), pods)?;
        let table = Table::open(names.table()).await?;
        let index = dns::Shared::new(&config.domain);
        let gateway = IpAddr::V4(pods.gateway());
        dns::serve(
            index.clone(),
            (gateway, dns::PORT).into(),
            config.shutdown.clone(),
        )
        .await?;
        let network = Arc::new(Self {
            bridge,
            addresses: Mutex::new(addresses),
            host_ports: Mutex::default(),
            changed: Arc::new(Notify::new()),
            resolver: Resolver {
                nameservers: vec![gateway],
                domain: config.domain.clone(),
            },
        });
        let (sender, receiver) = watch::channel(Arc::new(World::default()));
        let (client, shutdown) = (config.client.clone(), config.shutdown.clone());
        tokio::spawn(observe(
            client,
            sender,
            network.changed.clone(),
            shutdown.clone(),
        ));
        let routes = Routes::new(links, names.clone(), pods, services, config.vxlan_port);
        let sync = Keeper {
            network: network.clone(),
            config,
            names,
            table,
            routes,
            index,
            rules: None,
            peers: None,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = sync.run(receiver) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(network)
    }

    fn set_host_ports(&self, pod: &PodIdentity, address: Ipv4Addr) {
        let ports = services::pod_ports(&pod.host_ports, address);
        if !ports.is_empty() {
            self.host_ports
                .lock()
                .expect("no panic while held")
                .insert(pod.uid.clone(), ports);
            self.changed.notify_one();
        }
    }
}

/// What the API says that matters to a node's network.
#[derive(Debug, Clone, Default)]
struct World {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    nodes: Vec<Node>,
    /// Whether each of the three was listed: before that, rules would cut off services that an earlier process knew.
    complete: bool,
}

async fn observe(
    client: Client,
    world: watch::Sender<Arc<World>>,
    changed: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let mut services = follow::<Service>(client.clone(), None, shutdown.clone());
    let mut slices = follow::<EndpointSlice>(client.clone(), None, shutdown.clone());
    let mut nodes = follow::<Node>(client, None, shutdown.clone());
    let (mut known_services, mut known_slices, mut known_nodes) =
        (HashMap::new(), HashMap::new(), HashMap::new());
    let mut listed = [false; 3];
    loop {
        let mut events = 0;
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(change) = services.recv() => merge(&mut known_services, change, &mut listed[0], &mut events),
            Some(change) = slices.recv() => merge(&mut known_slices, change, &mut listed[1], &mut events),
            Some(change) = nodes.recv() => merge(&mut known_nodes, change, &mut listed[2], &mut events),
            else => return,
        }
        // What has arrived meanwhile is taken along: a snapshot copies everything.
        while let Ok(change) = services.try_recv() {
            merge(&mut known_services, change, &mut listed[0], &mut events);
        }
        while let Ok(change) = slices.try_recv() {
            merge(&mut known_slices, change, &mut listed[1], &mut events);
        }
        while let Ok(change) = nodes.try_recv() {
            merge(&mut known_nodes, change, &mut listed[2], &mut events);
        }
        if events == 0 {
            continue;
        }
        world.send_replace(Arc::new(World {
            services: known_services.values().cloned().collect(),
            slices: known_slices.values().cloned().collect(),
            nodes: known_nodes.values().cloned().collect(),
            complete: listed == [true; 3],
        }));
        changed.notify_one();
    }
}

/// Takes a change in. Nodes change all the time in ways that do not matter; comparing what follows is left to the sync.
fn merge<K: kube::Resource<DynamicType = ()>>(
    known: &mut HashMap<String, K>,
    change: Change<K>,
    listed: &mut bool,
    events: &mut usize,
) {
    *listed |= matches!(change, Change::Listed(_));
    *events += 1;
    take(known, change);
}

/// Makes the rules, routes and names follow the world.
struct Keeper {
    network: Arc<NodeNetwork>,
    config: NodeNetworkConfig,
    names: Names,
    table: Table,
    routes: Routes,
    index: dns::Shared,
    /// The rules that hold.
    rules: Option<Rules>,
    /// The peers that routes lead to.
    peers: Option<Vec<routes::Peer>>,
}

impl Keeper {
    async fn run(mut self, world: watch::Receiver<Arc<World>>) {
        let mut earliest = Instant::now();
        loop {
            self.network.changed.notified().await;
            tokio::time::sleep_until(earliest).await;
            let current = world.borrow().clone();
            if !current.complete {
                continue;
            }
            earliest = Instant::now() + SYNC_INTERVAL;
            self.index.replace(dns::Index::build(
                &current.services,
                &current.slices,
                &self.config.domain,
            ));
            if let Err(error) = self.sync(&current).await {
                let reason = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                tracing::error!(%error, reason, "the node's network is not as it should be; trying again");
                earliest = Instant::now() + RETRY;
                self.network.changed.notify_one();
            }
        }
    }

    async fn sync(&mut self, world: &World) -> Result<(), Error> {
        let (rules, peers) = self.wanted(world);
        if self.rules.as_ref() != Some(&rules) {
            self.table.apply(&rules).await?;
            if let Some(before) = self.rules.replace(rules.clone()) {
                conntrack::forget(&conntrack::gone(&before, &rules)).await;
            }
        }
        if self.peers.as_ref() != Some(&peers) {
            self.routes.sync(&peers).await?;
            self.peers = Some(peers);
        }
        Ok(())
    }

    fn wanted(&self, world: &World) -> (Rules, Vec<routes::Peer>) {
        let peers = routes::peers(world.nodes.iter(), &self.config.node_name);
        let mut host_ports: Vec<_> = {
            let known = self.network.host_ports.lock().expect("no panic while held");
            known.values().flatten().cloned().collect()
        };
        host_ports.sort();
        // One port can lead to one place only; the scheduler sees to that, an ending pod may overlap with its successor.
        host_ports.dedup_by_key(|port| (port.host_ip, port.host_port, port.protocol));
        let rules = Rules {
            services: services::ports(&world.services, &world.slices, &self.config.node_name),
            host_ports,
            pod_range: self.config.pod_range,
            pod_ranges: peers
                .iter()
                .map(|peer| peer.range)
                .chain([self.config.pod_range])
                .collect(),
            service_range: self.config.service_range,
            bridge: self.names.bridge(),
            bridge_filters: self.network.bridge.filters(),
        };
        (rules, peers)
    }
}

fn failed<E>(operation: &'static str, pod: &PodIdentity) -> impl FnOnce(E) -> super::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let pod = format!("{}/{}", pod.namespace, pod.name);
    move |source| super::Error {
        operation,
        pod,
        source: Box::new(source),
    }
}

#[async_trait]
impl PodNetwork for NodeNetwork {
    async fn attach(&self, pod: &PodIdentity, netns: &Path) -> Result<PodAddresses, super::Error> {
        let address = {
            let mut addresses = self.addresses.lock().expect("no panic while held");
            addresses
                .allocate(&pod.uid)
                .map_err(failed("finding an address", pod))?
        };
        self.bridge
            .attach(&pod.uid, netns, address)
            .await
            .map_err(failed("connecting", pod))?;
        self.set_host_ports(pod, address);
        Ok(PodAddresses(vec![IpAddr::V4(address)]))
    }

    async fn adopt(
        &self,
        pod: &PodIdentity,
        netns: &Path,
        addresses: &PodAddresses,
    ) -> Result<(), super::Error> {
        for address in &addresses.0 {
            let IpAddr::V4(address) = *address else {
                continue;
            };
            {
                let mut kept = self.addresses.lock().expect("no panic while held");
                kept.adopt(&pod.uid, address)
                    .map_err(failed("keeping the address", pod))?;
            }
            // The bridge may be new, after a teardown or a restart of the machine's network.
            self.bridge
                .attach(&pod.uid, netns, address)
                .await
                .map_err(failed("connecting", pod))?;
            self.set_host_ports(pod, address);
        }
        Ok(())
    }

    async fn detach(&self, pod: &PodIdentity) -> Result<(), super::Error> {
        if self
            .host_ports
            .lock()
            .expect("no panic while held")
            .remove(&pod.uid)
            .is_some()
        {
            self.changed.notify_one();
        }
        self.bridge
            .detach(&pod.uid)
            .await
            .map_err(failed("disconnecting", pod))?;
        let mut addresses = self.addresses.lock().expect("no panic while held");
        addresses
            .release(&pod.uid)
            .map_err(failed("releasing the address", pod))?;
        Ok(())
    }

    fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }
}

/// Removes every trace of a cluster's network from this network namespace; repeating it does no harm.
pub async fn teardown(cluster_id: &str) -> Result<(), Error> {
    let names = Names::new(cluster_id);
    let links = Links::open()?;
    let bridge = links.find(&names.bridge()).await?;
    let gateway = match bridge {
        Some(bridge) => links
            .addresses()
            .await?
            .into_iter()
            .find(|(index, _, _)| *index == bridge.index)
            .map(|(_, ip, _)| ip),
        None => None,
    };
    Routes::remove(&links, &names, gateway).await?;
    Bridge::remove(&links, &names).await?;
    Ok(Table::remove(&names.table()).await?)
}
