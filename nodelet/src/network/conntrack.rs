//! Forgets connections of UDP that lead to endpoints which are gone.
//!
//! UDP has no end of a connection: a client that goes on sending would be sent to the dead endpoint for ever. The
//! kernel's table is edited with the `conntrack` tool; without it such clients wait for the kernel's time-out.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::process::Command;

use super::services::{Protocol, Rules};

/// How many flows are looked for after one change; one process is run for each.
const FLOWS_MAX: usize = 256;

/// Where clients sent to, and the endpoint that answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The service's address; every address of the machine without one.
    pub to: Option<Ipv4Addr>,
    /// The service's or the node's port.
    pub port: u16,
    /// The endpoint.
    pub endpoint: Ipv4Addr,
}

/// The flows that one set of rules made and the next one does not.
pub fn gone(before: &Rules, after: &Rules) -> BTreeSet<Flow> {
    flows(before).difference(&flows(after)).cloned().collect()
}

fn flows(rules: &Rules) -> BTreeSet<Flow> {
    let mut flows = BTreeSet::new();
    for service in rules
        .services
        .iter()
        .filter(|service| service.protocol == Protocol::Udp)
    {
        for endpoint in service
            .internal
            .iter()
            .chain(&service.external)
            .chain(&service.all)
        {
            let endpoint = endpoint.address;
            let addresses = service.cluster_ips.iter().chain(&service.external_ips);
            flows.extend(addresses.map(|ip| Flow {
                to: Some(*ip),
                port: service.port,
                endpoint,
            }));
            flows.extend(service.node_port.map(|port| Flow {
                to: None,
                port,
                endpoint,
            }));
        }
    }
    for port in rules
        .host_ports
        .iter()
        .filter(|port| port.protocol == Protocol::Udp)
    {
        flows.insert(Flow {
            to: port.host_ip,
            port: port.host_port,
            endpoint: port.to.address,
        });
    }
    flows
}

/// Forgets flows.
pub async fn forget(flows: &BTreeSet<Flow>) {
    static COMPLAINED: AtomicBool = AtomicBool::new(false);
    if flows.len() > FLOWS_MAX {
        tracing::warn!(
            flows = flows.len(),
            "too many UDP flows ended at once; some clients wait for a time-out"
        );
    }
    for flow in flows.iter().take(FLOWS_MAX) {
        let mut command = Command::new("conntrack");
        command.args(["-D", "-p", "udp", "--orig-port-dst", &flow.port.to_string()]);
        command.args(["--reply-src", &flow.endpoint.to_string()]);
        if let Some(to) = flow.to {
            command.args(["--orig-dst", &to.to_string()]);
        }
        // It fails when there is nothing to delete: its exit code says nothing.
        let run = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        if let Err(error) = run.await {
            if !COMPLAINED.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "cannot run conntrack: UDP clients of ended pods wait for a time-out");
            }
            return;
        }
    }
}
