//! Makes the rules hold: one nftables table, replaced in one transaction.
//!
//! ```text
//! prerouting, output ─▶ services ─▶ vmap address.protocol.port ─▶ s-… / x-… (one per service port) ─▶ dnat
//!                                └▶ node ports and host ports, for addresses of this machine
//! forward, input, output (filter): what is still addressed to a service has no endpoint: rejected
//! postrouting: hairpin, external traffic and what leaves the cluster gets this machine's address
//! ```
//!
//! Only the sets that remember clients (session affinity) live through a transaction; all else is flushed and filled
//! anew, so nothing has to be compared. What nobody needs any more is deleted in the same transaction.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Stdio;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::names::hex;
use super::services::{Endpoint, Protocol, Rules, ServicePort};

/// The bit of a packet's mark that asks for masquerading.
const MASQUERADE: u32 = 0x4000;

/// What is always there.
const CHAINS: [&str; 11] = [
    "prerouting",
    "output",
    "postrouting",
    "flt-forward",
    "flt-input",
    "flt-output",
    "services",
    "refuse",
    "reject-it",
    "drop-it",
    "masquerade-it",
];
const MAPS: [(&str, &str); 4] = [
    ("cluster", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("node", "inet_proto . inet_service : verdict"),
    ("refused", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("refused-node", "inet_proto . inet_service : verdict"),
];

/// Why the rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `nft` cannot be run.
    #[error("cannot run nft (the package nftables)")]
    Run(#[source] std::io::Error),
    /// `nft` refused the rules.
    #[error("nft refused: {0}")]
    Refused(String),
}

/// The chains and sets of the table that come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Names of chains.
    pub chains: BTreeSet<String>,
    /// Names of sets.
    pub sets: BTreeSet<String>,
}

/// The table.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    installed: Installed,
}

impl Table {
    /// The table of that name, with whatever an earlier process left in it.
    pub async fn open(name: String) -> Result<Self, Error> {
        let installed = match run(&["-j", "list", "table", "ip", &name], "").await {
            Ok(listing) => parse(&listing),
            Err(Error::Refused(_)) => Installed::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { name, installed })
    }

    /// Sets the rules.
    pub async fn apply(&mut self, rules: &Rules) -> Result<(), Error> {
        let (script, installed) = script(&self.name, rules, &self.installed);
        run(&["-f", "-"], &script).await?;
        self.installed = installed;
        Ok(())
    }

    /// Removes the table; one that is not there is no error.
    pub async fn remove(name: &str) -> Result<(), Error> {
        // `delete` alone would fail without the table.
        run(
            &["-f", "-"],
            &format!("add table ip {name}\ndelete table ip {name}\n"),
        )
        .await
        .map(drop)
    }
}

/// Runs `nft` and returns what it says.
async fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let mut command = Command::new("nft");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(Error::Run)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // Both at once: a listing or many complaints may fill the pipe before all input is read.
    let write = async {
        let written = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        written
    };
    let (written, output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(Error::Run)?;
    if output.status.success() {
        written.map_err(Error::Run)?;
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = complaint.lines().take(3).collect();
    Err(Error::Refused(lines.join(" ")))
}

fn parse(listing: &str) -> Installed {
    let value: serde_json::Value = serde_json::from_str(listing).unwrap_or_default();
    let entries = value["nftables"].as_array().cloned().unwrap_or_default();
    let names = |kind: &str| -> BTreeSet<String> {
        entries
            .iter()
            .filter_map(|entry| entry[kind]["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let mut installed = Installed {
        chains: names("chain"),
        sets: names("set"),
    };
    installed
        .chains
        .retain(|name| !CHAINS.contains(&name.as_str()));
    installed.sets.retain(|name| name.starts_with("a-"));
    installed
}

/// A short stable name.
fn key(text: &str) -> String {
    hex(&Sha256::digest(text)[..6])
}

/// The transaction that turns what is installed into what the rules say.
pub fn script(table: &str, rules: &Rules, before: &Installed) -> (String, Installed) {
    let mut writer = Writer {
        table,
        head: String::new(),
        body: String::new(),
        now: Installed::default(),
    };
    writer.foundation(rules);
    for service in &rules.services {
        writer.service(service);
    }
    for port in &rules.host_ports {
        let chain = format!("h-{}", key(&format!("{port:?}")));
        writer.chain(&chain);
        writer.rule(&chain, &dnat(port.protocol, &port.to));
        match port.host_ip {
            Some(ip) => writer.element(
                "cluster",
                &format!(
                    "{ip} . {} . {} : goto {chain}",
                    port.protocol, port.host_port
                ),
            ),
            None => writer.element(
                "node",
                &format!("{} . {} : goto {chain}", port.protocol, port.host_port),
            ),
        }
    }
    writer.hairpins(rules);
    let mut script = writer.head;
    let stale_chains: Vec<_> = before.chains.difference(&writer.now.chains).collect();
    // Every reference must be gone before the first deletion.
    for chain in &stale_chains {
        let _ = writeln!(script, "flush chain ip {table} {chain}");
    }
    for chain in &stale_chains {
        let _ = writeln!(script, "delete chain ip {table} {chain}");
    }
    for set in before.sets.difference(&writer.now.sets) {
        let _ = writeln!(script, "delete set ip {table} {set}");
    }
    script.push_str(&writer.body);
    (script, writer.now)
}

fn dnat(protocol: Protocol, to: &Endpoint) -> String {
    format!("meta l4proto {protocol} dnat to {}:{}", to.address, to.port)
}

struct Writer<'a> {
    table: &'a str,
    /// Declarations and flushes.
    head: String,
    /// Rules and elements.
    body: String,
    now: Installed,
}

impl Writer<'_> {
    fn foundation(&mut self, rules: &Rules) {
        let table = self.table;
        let _ = writeln!(self.head, "add table ip {table}");
        for (name, kind) in MAPS {
            let _ = writeln!(
                self.head,
                "add map ip {table} {name} {{ type {kind}; }}\nflush map ip {table} {name}"
            );
        }
        let sets = [
            ("pods", "type ipv4_addr; flags interval;"),
            ("hairpin", "type ipv4_addr . ipv4_addr;"),
        ];
        for (name, kind) in sets {
            let _ = writeln!(
                self.head,
                "add set ip {table} {name} {{ {kind} }}\nflush set ip {table} {name}"
            );
        }
        for (chain, hook) in [
            ("prerouting", "nat hook prerouting priority dstnat"),
            ("output", "nat hook output priority -100"),
            ("postrouting", "nat hook postrouting priority srcnat"),
            ("flt-forward", "filter hook forward priority filter"),
            ("flt-input", "filter hook input priority filter"),
            ("flt-output", "filter hook output priority filter"),
        ] {
            let _ = writeln!(self.head, "add chain ip {table} {chain} {{ type {hook}; }}");
        }
        for chain in CHAINS {
            let _ = writeln!(
                self.head,
                "add chain ip {table} {chain}\nflush chain ip {table} {chain}"
            );
        }
        for range in &rules.pod_ranges {
            self.element("pods", &range.to_string());
        }
        self.rule("prerouting", "jump services");
        self.rule("output", "jump services");
        self.rule(
            "services",
            "ip daddr . meta l4proto . th dport vmap @cluster",
        );
        let here = "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap";
        self.rule("services", &format!("{here} @node"));
        for chain in ["flt-forward", "flt-input", "flt-output"] {
            self.rule(chain, "ct state new jump refuse");
        }
        self.rule("refuse", "ip daddr . meta l4proto . th dport vmap @refused");
        self.rule("refuse", &format!("{here} @refused-node"));
        self.rule(
            "refuse",
            &format!("ip daddr {} goto reject-it", rules.service_range),
        );
        self.rule("reject-it", "meta l4proto tcp reject with tcp reset");
        self.rule("reject-it", "reject with icmp type port-unreachable");
        self.rule("drop-it", "drop");
        self.rule(
            "masquerade-it",
            &format!("meta mark set meta mark | {MASQUERADE:#x}"),
        );
        let unmark = !MASQUERADE;
        let marked = format!("meta mark & {MASQUERADE:#x} == {MASQUERADE:#x}");
        self.rule(
            "postrouting",
            &format!("{marked} meta mark set meta mark & {unmark:#x} masquerade fully-random"),
        );
        self.rule(
            "postrouting",
            "ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random",
        );
        if !rules.bridge_filters {
            let range = rules.pod_range;
            self.rule(
                "postrouting",
                &format!(
                    "ct status dnat ip saddr {range} ip daddr {range} masquerade fully-random"
                ),
            );
        }
        let leaving = format!(
            "ip saddr {} ip daddr != @pods oifname != \"{}\"",
            rules.pod_range, rules.bridge
        );
        self.rule("postrouting", &format!("{leaving} masquerade fully-random"));
    }

    fn service(&mut self, service: &ServicePort) {
        let id = key(&service.name);
        let (protocol, port) = (service.protocol, service.port);
        if !service.internal.is_empty() {
            let chain = format!("s-{id}");
            self.balance(&chain, &id, service, &service.internal);
            for ip in &service.cluster_ips {
                self.element(
                    "cluster",
                    &format!("{ip} . {protocol} . {port} : goto {chain}"),
                );
            }
        } else if service.internal_hidden {
            for ip in &service.cluster_ips {
                self.element(
                    "refused",
                    &format!("{ip} . {protocol} . {port} : goto drop-it"),
                );
            }
        }
        if service.node_port.is_some() || !service.external_ips.is_empty() {
            self.external(service, &id);
        }
    }

    fn external(&mut self, service: &ServicePort, id: &str) {
        let (protocol, port) = (service.protocol, service.port);
        if !service.all.is_empty() {
            let chain = format!("x-{id}");
            self.chain(&chain);
            if service.external_local {
                // From inside, every endpoint may be used: the policy is about keeping sources of the outside.
                let inside = format!("c-{id}");
                self.balance(&inside, id, service, &service.all);
                self.rule(&chain, &format!("ip saddr @pods goto {inside}"));
                self.rule(&chain, "fib saddr type local jump masquerade-it");
                self.rule(&chain, &format!("fib saddr type local goto {inside}"));
                if !service.external.is_empty() {
                    let here = format!("l-{id}");
                    self.balance(&here, id, service, &service.external);
                    self.rule(&chain, &format!("goto {here}"));
                }
            } else {
                let all = format!("c-{id}");
                self.balance(&all, id, service, &service.external);
                self.rule(&chain, "jump masquerade-it");
                self.rule(&chain, &format!("goto {all}"));
            }
            for ip in &service.external_ips {
                self.element(
                    "cluster",
                    &format!("{ip} . {protocol} . {port} : goto {chain}"),
                );
            }
            if let Some(node_port) = service.node_port {
                self.element("node", &format!("{protocol} . {node_port} : goto {chain}"));
            }
        }
        if service.all.is_empty() || service.external_hidden {
            let verdict = if service.external_hidden {
                "drop-it"
            } else {
                "reject-it"
            };
            for ip in &service.external_ips {
                self.element(
                    "refused",
                    &format!("{ip} . {protocol} . {port} : goto {verdict}"),
                );
            }
            if let Some(node_port) = service.node_port {
                self.element(
                    "refused-node",
                    &format!("{protocol} . {node_port} : goto {verdict}"),
                );
            }
        }
    }

    /// A chain that sends each new connection to one of the endpoints.
    fn balance(&mut self, chain: &str, id: &str, service: &ServicePort, endpoints: &[Endpoint]) {
        self.chain(chain);
        let targets: Vec<_> = match service.affinity {
            None => Vec::new(),
            Some(seconds) => endpoints
                .iter()
                .map(|to| self.remembering(id, service, to, seconds))
                .collect(),
        };
        // A client that is remembered goes where it went.
        for (set, target) in &targets {
            self.rule(chain, &format!("ip saddr @{set} goto {target}"));
        }
        let count = endpoints.len();
        if targets.is_empty() {
            if let [only] = endpoints {
                return self.rule(chain, &dnat(service.protocol, only));
            }
            let map: Vec<_> = endpoints
                .iter()
                .enumerate()
                .map(|(n, to)| format!("{n} : {} . {}", to.address, to.port))
                .collect();
            let random = format!("numgen random mod {count} map {{ {} }}", map.join(", "));
            return self.rule(
                chain,
                &format!("meta l4proto {} dnat to {random}", service.protocol),
            );
        }
        let map: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(n, (_, target))| format!("{n} : goto {target}"))
            .collect();
        self.rule(
            chain,
            &format!("numgen random mod {count} vmap {{ {} }}", map.join(", ")),
        );
    }

    /// The set that remembers an endpoint's clients, and the chain that sends there and remembers. The set's name tells
    /// the time-out, as a set's time-out cannot be changed.
    fn remembering(
        &mut self,
        id: &str,
        service: &ServicePort,
        to: &Endpoint,
        seconds: u32,
    ) -> (String, String) {
        let place = key(&format!("{}:{}", to.address, to.port));
        let (set, chain) = (
            format!("a-{id}-{place}-{seconds}"),
            format!("e-{id}-{place}"),
        );
        if self.now.sets.insert(set.clone()) {
            let kind =
                format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size 65536;");
            let _ = writeln!(self.head, "add set ip {} {set} {{ {kind} }}", self.table);
        }
        if !self.now.chains.contains(&chain) {
            self.chain(&chain);
            self.rule(&chain, &format!("update @{set} {{ ip saddr }}"));
            self.rule(&chain, &dnat(service.protocol, to));
        }
        (set, chain)
    }

    /// Endpoints of this node that reach themselves through a service.
    fn hairpins(&mut self, rules: &Rules) {
        let services = rules
            .services
            .iter()
            .flat_map(|service| service.all.iter().chain(&service.internal));
        let ports = rules.host_ports.iter().map(|port| &port.to);
        let addresses: BTreeSet<_> = services.chain(ports).map(|to| to.address).collect();
        for address in addresses
            .into_iter()
            .filter(|address| rules.pod_range.contains(*address))
        {
            self.element("hairpin", &format!("{address} . {address}"));
        }
    }

    fn chain(&mut self, name: &str) {
        self.now.chains.insert(name.to_owned());
        let table = self.table;
        let _ = writeln!(
            self.head,
            "add chain ip {table} {name}\nflush chain ip {table} {name}"
        );
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        let _ = writeln!(self.body, "add rule ip {} {chain} {rule}", self.table);
    }

    fn element(&mut self, set: &str, element: &str) {
        let _ = writeln!(
            self.body,
            "add element ip {} {set} {{ {element} }}",
            self.table
        );
    }
}
