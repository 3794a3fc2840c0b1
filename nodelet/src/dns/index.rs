//! The records of the cluster's domain, from Services and EndpointSlices. Pure.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use corral_api::k8s::api::core::v1::Service;
use corral_api::k8s::api::discovery::v1::{Endpoint, EndpointSlice};
use hickory_proto::rr::RecordType;

/// A record's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// Another name.
    Alias(String),
    /// The name of an address.
    Pointer(String),
    /// Where a port is served.
    Service {
        /// The port.
        port: u16,
        /// The share among its peers.
        weight: u16,
        /// The name of the machine.
        target: String,
    },
}

/// What the cluster says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Records of the type asked for.
    Records(Vec<Data>),
    /// The name exists, without such records.
    NoData,
    /// The name does not exist.
    NoName,
    /// The name is not the cluster's.
    Elsewhere,
}

/// A snapshot of all records. As large as Services and endpoints are, which the API server bounds.
#[derive(Debug, Default)]
pub struct Index {
    domain: String,
    serial: u32,
    names: HashMap<String, Vec<Data>>,
    pointers: HashMap<Ipv4Addr, Vec<String>>,
}

impl Index {
    /// The records for these objects.
    pub fn build(services: &[Service], slices: &[EndpointSlice], domain: &str) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let seconds = jiff::Timestamp::now().as_second();
        let serial = u32::try_from(seconds.rem_euclid(i64::from(u32::MAX))).unwrap_or(0);
        let mut index = Self {
            domain,
            serial,
            ..Self::default()
        };
        for top in ["svc", "pod"] {
            index.name(&format!("{top}.{}", index.domain));
        }
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) =
                labels.and_then(|labels| labels.get("kubernetes.io/service-name"))
            {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                by_service
                    .entry((namespace, service))
                    .or_default()
                    .push(slice);
            }
        }
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service
                .get(&(namespace, name))
                .map(Vec::as_slice)
                .unwrap_or_default();
            index.service(
                service,
                &format!("{name}.{namespace}.svc.{}", index.domain),
                slices,
            );
        }
        index
    }

    /// The cluster's domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Grows with time.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What is said of a name in lower case without the final dot.
    pub fn answer(&self, name: &str, kind: RecordType) -> Answer {
        if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
            return self.reverse(reversed, kind);
        }
        let Some(inside) = name.strip_suffix(&self.domain) else {
            return Answer::Elsewhere;
        };
        if !inside.is_empty() && !inside.ends_with('.') {
            return Answer::Elsewhere;
        }
        if let Some(address) = inside.strip_suffix(".pod.").and_then(pod_address) {
            return if kind == RecordType::A {
                Answer::Records(vec![Data::A(address)])
            } else {
                Answer::NoData
            };
        }
        let Some(data) = self.names.get(name) else {
            return if inside.is_empty() {
                Answer::NoData
            } else {
                Answer::NoName
            };
        };
        let fits = |data: &&Data| match data {
            Data::A(_) => kind == RecordType::A,
            Data::Alias(_) => true,
            Data::Pointer(_) => kind == RecordType::PTR,
            Data::Service { .. } => kind == RecordType::SRV,
        };
        let found: Vec<_> = data.iter().filter(fits).cloned().collect();
        if found.is_empty() {
            Answer::NoData
        } else {
            Answer::Records(found)
        }
    }

    fn reverse(&self, reversed: &str, kind: RecordType) -> Answer {
        let parts: Option<Vec<u8>> = reversed
            .split('.')
            .rev()
            .map(|part| part.parse().ok())
            .collect();
        let address = parts
            .and_then(|parts| <[u8; 4]>::try_from(parts).ok())
            .map(Ipv4Addr::from);
        match address.and_then(|address| self.pointers.get(&address)) {
            None => Answer::Elsewhere,
            Some(_) if kind != RecordType::PTR => Answer::NoData,
            Some(names) => Answer::Records(names.iter().cloned().map(Data::Pointer).collect()),
        }
    }

    fn service(&mut self, service: &Service, name: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = &spec.external_name {
                let target = target.trim_end_matches('.').to_ascii_lowercase();
                self.add(name, Data::Alias(target));
            }
            return;
        }
        let addresses: Vec<Ipv4Addr> = spec
            .cluster_ips
            .iter()
            .flatten()
            .chain(&spec.cluster_ip)
            .filter_map(|text| text.parse().ok())
            .collect();
        if addresses.is_empty() {
            return self.headless(name, slices, spec.publish_not_ready_addresses == Some(true));
        }
        for address in addresses {
            self.add(name, Data::A(address));
            self.point(address, name);
        }
        for port in spec.ports.iter().flatten() {
            let number = u16::try_from(port.port).ok();
            self.port(
                name,
                port.name.as_deref(),
                port.protocol.as_deref(),
                number,
                100,
                name,
            );
        }
        // Endpoints with a name of their own have it in every kind of service.
        for endpoint in slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
        {
            if let Some(hostname) = &endpoint.hostname {
                self.endpoint(&format!("{hostname}.{name}"), endpoint, false);
            }
        }
    }

    fn headless(&mut self, name: &str, slices: &[&EndpointSlice], unready: bool) {
        self.name(name);
        let mut targets: Vec<(String, &EndpointSlice)> = Vec::new();
        for slice in slices {
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(address) = address(endpoint) else {
                    continue;
                };
                if !unready && !ready(endpoint) {
                    continue;
                }
                self.add(name, Data::A(address));
                let own = endpoint
                    .hostname
                    .clone()
                    .unwrap_or_else(|| address.to_string().replace('.', "-"));
                let own = format!("{own}.{name}");
                self.endpoint(&own, endpoint, true);
                targets.push((own, slice));
            }
        }
        let weight = u16::try_from(100 / targets.len().max(1))
            .unwrap_or(1)
            .max(1);
        for (target, slice) in targets {
            for port in slice.ports.iter().flatten() {
                let number = port.port.and_then(|port| u16::try_from(port).ok());
                self.port(
                    name,
                    port.name.as_deref(),
                    port.protocol.as_deref(),
                    number,
                    weight,
                    &target,
                );
            }
        }
    }

    fn endpoint(&mut self, own: &str, endpoint: &Endpoint, known_ready: bool) {
        if let Some(address) = address(endpoint).filter(|_| known_ready || ready(endpoint)) {
            self.add(own, Data::A(address));
            self.point(address, own);
        }
    }

    fn port(
        &mut self,
        service: &str,
        name: Option<&str>,
        protocol: Option<&str>,
        port: Option<u16>,
        weight: u16,
        to: &str,
    ) {
        let (Some(name), Some(port)) = (name.filter(|name| !name.is_empty()), port) else {
            return;
        };
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        let target = to.to_owned();
        self.add(
            &format!("_{name}._{protocol}.{service}"),
            Data::Service {
                port,
                weight,
                target,
            },
        );
    }

    fn add(&mut self, name: &str, data: Data) {
        self.name(name);
        let records = self.names.entry(name.to_owned()).or_default();
        if !records.contains(&data) {
            records.push(data);
        }
    }

    fn point(&mut self, address: Ipv4Addr, name: &str) {
        let names = self.pointers.entry(address).or_default();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }

    /// Makes a name exist, and all names above it: what has something below it is no error to ask for.
    fn name(&mut self, name: &str) {
        let mut name = name;
        while name.len() > self.domain.len() && !self.names.contains_key(name) {
            self.names.insert(name.to_owned(), Vec::new());
            name = name.split_once('.').map_or("", |(_, above)| above);
        }
    }
}

fn address(endpoint: &Endpoint) -> Option<Ipv4Addr> {
    endpoint
        .addresses
        .first()
        .and_then(|text| text.parse().ok())
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

/// `1-2-3-4.namespace`.
fn pod_address(name: &str) -> Option<Ipv4Addr> {
    let (address, namespace) = name.split_once('.')?;
    let plain = !namespace.is_empty() && !namespace.contains('.');
    address.replace('-', ".").parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn world() -> Index {
        let services = json!([
            {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.10",
                "ports": [{"name": "http", "port": 80}]}},
            {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"],
                "ports": [{"name": "sql", "port": 5432}]}},
            {"metadata": {"name": "away", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "X.example."}},
        ]);
        let slices = json!([{
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5433}],
            "endpoints": [
                {"addresses": ["10.1.0.5"], "hostname": "db-0"},
                {"addresses": ["10.1.0.6"]},
                {"addresses": ["10.1.0.7"], "conditions": {"ready": false}},
            ],
        }]);
        let services: Vec<Service> = serde_json::from_value(services).expect("services");
        let slices: Vec<EndpointSlice> = serde_json::from_value(slices).expect("slices");
        Index::build(&services, &slices, "cluster.local")
    }

    fn a(last: u8) -> Data {
        Data::A(Ipv4Addr::new(10, 1, 0, last))
    }

    #[test]
    fn names_of_services_and_endpoints_are_answered() {
        let index = world();
        let ask = |name: &str, kind| index.answer(&format!("{name}.cluster.local"), kind);
        assert_eq!(
            ask("web.shop.svc", RecordType::A),
            Answer::Records(vec![Data::A(Ipv4Addr::new(10, 96, 0, 10))])
        );
        assert_eq!(
            ask("db.shop.svc", RecordType::A),
            Answer::Records(vec![a(5), a(6)])
        );
        assert_eq!(
            ask("db-0.db.shop.svc", RecordType::A),
            Answer::Records(vec![a(5)])
        );
        assert_eq!(
            ask("10-1-0-6.db.shop.svc", RecordType::A),
            Answer::Records(vec![a(6)])
        );
        assert_eq!(
            ask("10-1-0-9.shop.pod", RecordType::A),
            Answer::Records(vec![a(9)])
        );
        let web = Data::Service {
            port: 80,
            weight: 100,
            target: "web.shop.svc.cluster.local".into(),
        };
        assert_eq!(
            ask("_http._tcp.web.shop.svc", RecordType::SRV),
            Answer::Records(vec![web])
        );
        let Answer::Records(sql) = ask("_sql._tcp.db.shop.svc", RecordType::SRV) else {
            panic!("records")
        };
        assert!(sql.contains(&Data::Service {
            port: 5433,
            weight: 50,
            target: "db-0.db.shop.svc.cluster.local".into()
        }));
        assert_eq!(
            ask("away.shop.svc", RecordType::A),
            Answer::Records(vec![Data::Alias("x.example".into())])
        );
    }

    #[test]
    fn what_is_missing_is_told_apart() {
        let index = world();
        assert_eq!(
            index.answer("web.shop.svc.cluster.local", RecordType::AAAA),
            Answer::NoData
        );
        assert_eq!(
            index.answer("shop.svc.cluster.local", RecordType::A),
            Answer::NoData
        );
        assert_eq!(index.answer("cluster.local", RecordType::A), Answer::NoData);
        assert_eq!(
            index.answer("nope.shop.svc.cluster.local", RecordType::A),
            Answer::NoName
        );
        assert_eq!(
            index.answer("notcluster.local", RecordType::A),
            Answer::Elsewhere
        );
        assert_eq!(
            index.answer("example.org", RecordType::A),
            Answer::Elsewhere
        );
    }

    #[test]
    fn addresses_have_names() {
        let index = world();
        let pointer = |name: &str| {
            Answer::Records(vec![Data::Pointer(format!(
                "{name}.shop.svc.cluster.local"
            ))])
        };
        assert_eq!(
            index.answer("10.0.96.10.in-addr.arpa", RecordType::PTR),
            pointer("web")
        );
        assert_eq!(
            index.answer("5.0.1.10.in-addr.arpa", RecordType::PTR),
            pointer("db-0.db")
        );
        assert_eq!(
            index.answer("8.8.8.8.in-addr.arpa", RecordType::PTR),
            Answer::Elsewhere
        );
    }
}
