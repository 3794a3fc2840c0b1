//! How many addresses and node ports Services have, and how often one was given or refused.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::Maker;
use crate::admission::{AddressRange, NodePorts, node_ports};
use crate::api::Api;

/// How an address or a port came to be the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Somebody chose it.
    Static,
    /// It was free.
    Dynamic,
}

const SCOPES: [&str; 2] = ["static", "dynamic"];

/// How often one was given, and how often not.
#[derive(Debug)]
pub struct Given {
    total: [IntCounter; SCOPES.len()],
    errors: [IntCounter; SCOPES.len()],
}

impl Given {
    /// One was given, or not.
    pub fn tried(&self, scope: Scope, is_given: bool) {
        let counters = if is_given { &self.total } else { &self.errors };
        counters[scope as usize].inc();
    }
}

/// What is measured of the addresses and node ports of Services.
#[derive(Debug)]
pub struct Allocations {
    /// Of addresses.
    pub addresses: Given,
    seconds: Histogram,
    range: AddressRange,
    addresses_taken: IntGauge,
    addresses_left: IntGauge,
    /// Of node ports.
    pub ports: Given,
    node_ports: NodePorts,
    ports_taken: IntGauge,
    ports_left: IntGauge,
}

impl Allocations {
    /// Registers them.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(
        registry: &Registry,
        range: AddressRange,
        node_ports: NodePorts,
    ) -> Result<Self, prometheus::Error> {
        let make = Maker(registry);
        let cidr = range.to_string();
        let of_range = [("cidr", cidr.as_str())];
        let addresses = "kube_apiserver_clusterip_allocator";
        let ports = "kube_apiserver_nodeport_allocator";
        let gauge = |name: String, help: &str, labels: &[(&str, &str)]| {
            let (names, values): (Vec<&str>, Vec<&str>) = labels.iter().copied().unzip();
            let gauges = make.gauges(&name, help, &names)?;
            Ok::<_, prometheus::Error>(gauges.with_label_values(&values))
        };
        let given = |prefix: &str, what: &str, labels: &[(&str, &str)]| {
            let (mut names, values): (Vec<&str>, Vec<&str>) = labels.iter().copied().unzip();
            names.push("scope");
            let counters = |name: &str, help: String| {
                let counters = make.counters(&format!("{prefix}_{name}"), &help, &names)?;
                Ok::<_, prometheus::Error>(SCOPES.map(|scope| {
                    let values = values.iter().copied().chain([scope]);
                    counters.with_label_values(&values.collect::<Vec<_>>())
                }))
            };
            Ok::<_, prometheus::Error>(Given {
                total: counters("allocation_total", format!("{what} that Services got."))?,
                errors: counters(
                    "allocation_errors_total",
                    format!("{what} that Services did not get."),
                )?,
            })
        };
        let seconds = make.histograms(
            &format!("{addresses}_allocation_duration_seconds"),
            "Time that it takes to find an address.",
            prometheus::DEFAULT_BUCKETS,
            &["cidr"],
        )?;
        Ok(Self {
            addresses: given(addresses, "Addresses", &of_range)?,
            seconds: seconds.with_label_values(&[cidr.as_str()]),
            addresses_taken: gauge(
                format!("{addresses}_allocated_ips"),
                "Addresses that Services have.",
                &of_range,
            )?,
            addresses_left: gauge(
                format!("{addresses}_available_ips"),
                "Addresses that are free.",
                &of_range,
            )?,
            range,
            ports: given(ports, "Node ports", &[])?,
            ports_taken: gauge(
                format!("{ports}_allocated_ports"),
                "Node ports that Services have.",
                &[],
            )?,
            ports_left: gauge(
                format!("{ports}_available_ports"),
                "Node ports that are free.",
                &[],
            )?,
            node_ports,
        })
    }

    /// An address was found, which took a time.
    pub fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// Reads how things stand.
    pub(super) fn observe(&self, api: &Api) {
        let n = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        if let Some(addresses) = api.resource("networking.k8s.io", "ipaddresses") {
            let snapshot = addresses.cacher.snapshot();
            let prefix = addresses.cacher.prefix();
            let names = snapshot.objects.values();
            let names = names.map(|stored| stored.namespace_and_name(prefix).1);
            let ours = names.filter_map(|name| name.parse::<Ipv4Addr>().ok());
            let taken = n(ours.filter(|ip| self.range.contains(*ip)).count());
            self.addresses_taken.set(taken);
            // The first and the last are no addresses.
            let all = i64::from(self.range.size()) - 2;
            self.addresses_left.set(all - taken);
        }
        let services = api.core("services").cacher.snapshot();
        let ports = services.objects.values();
        let ports = ports.flat_map(|stored| node_ports(&stored.json));
        let taken: HashSet<u16> = ports.filter(|n| self.node_ports.contains(n)).collect();
        self.ports_taken.set(n(taken.len()));
        self.ports_left
            .set(n(self.node_ports.clone().count()) - n(taken.len()));
    }
}
