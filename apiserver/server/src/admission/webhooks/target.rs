//! Where a webhook is reached: the host of a URL, or what is behind a Service.

use std::net::SocketAddr;

use corral_api::k8s::api::admissionregistration::v1::WebhookClientConfig;
use corral_api::k8s::api::core::v1::Service;
use corral_api::k8s::api::discovery::v1::EndpointSlice;
use http::Uri;
use rand::seq::SliceRandom;

use crate::api::Api;

/// The port where none is named.
const PORT_DEFAULT: u16 = 443;

/// Where a webhook is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A host by its name or address.
    Host(String, u16),
    /// A port of a Service: namespace, name, port.
    Service(String, String, u16),
}

/// A webhook's place, what it is called there, and the path.
pub struct Target {
    /// Where.
    pub place: Place,
    /// The name in its certificate, and of the host header.
    pub server_name: String,
    /// The URL as errors show it, without the query.
    pub url: String,
    /// The path.
    pub path: String,
    /// Whether HTTP/2 is spoken where possible. Only with this machine, as in Kubernetes: elsewhere one connection for all
    /// requests would keep them from being spread.
    pub http2: bool,
}

/// Reads a configuration.
///
/// # Errors
/// Why nobody can be reached by it.
pub fn of(config: &WebhookClientConfig) -> Result<Target, String> {
    if let Some(service) = &config.service {
        let port = service.port.and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or(PORT_DEFAULT);
        let server_name = format!("{}.{}.svc", service.name, service.namespace);
        let path = clean(service.path.as_deref().unwrap_or_default());
        return Ok(Target {
            url: format!("https://{server_name}:{port}{path}"),
            place: Place::Service(service.namespace.clone(), service.name.clone(), port),
            server_name,
            path,
            http2: false,
        });
    }
    let given = config.url.as_deref().unwrap_or_default();
    let uri: Uri = given
        .parse()
        .map_err(|error| format!("Unparsable URL: {error}"))?;
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    if host.is_empty() {
        return Err("webhook configuration must have either service or URL".to_owned());
    }
    let address = host.parse::<std::net::IpAddr>();
    let local = address.map_or_else(
        |_| host.eq_ignore_ascii_case("localhost"),
        |ip| ip.is_loopback(),
    );
    Ok(Target {
        place: Place::Host(host.clone(), uri.port_u16().unwrap_or(PORT_DEFAULT)),
        server_name: host,
        url: match (uri.path(), uri.authority()) {
            ("/" | "", _) | (_, None) => given.to_owned(),
            (path, Some(authority)) => format!("https://{authority}{}", clean(path)),
        },
        path: clean(uri.path()),
        http2: local,
    })
}

/// A path as kube-apiserver asks for it: without empty and dotted parts, and without a slash at the end. Tests of operators
/// name paths that begin with two.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The addresses of a place, in the order in which they are tried.
///
/// # Errors
/// What Kubernetes says of a Service that leads nowhere, or of a name that is not known.
pub async fn addresses(api: &Api, place: &Place) -> Result<Vec<SocketAddr>, String> {
    match place {
        Place::Host(host, port) => of_host(host, *port).await,
        Place::Service(namespace, name, port) => of_service(api, namespace, name, *port).await,
    }
}

async fn of_host(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> = found
        .map_err(|error| format!("dial tcp: lookup {host}: {error}"))?
        .collect();
    if found.is_empty() {
        return Err(format!("dial tcp: lookup {host}: no such host"));
    }
    Ok(found)
}

/// The ready endpoints of a Service in random order: they can be reached also where nothing translates its address.
async fn of_service(
    api: &Api,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let services = api.core("services");
    let stored = services.cacher.peek(&services.key(namespace, name));
    let missing = || format!("service {name:?} not found");
    let service: Service = stored
        .and_then(|stored| serde_json::from_slice(&stored.json).ok())
        .ok_or_else(missing)?;
    let spec = service.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let host = spec.external_name.unwrap_or_default();
        return of_host(&host, port).await;
    }
    let mut ports = spec.ports.iter().flatten();
    let found = ports.find(|known| known.port == i32::from(port));
    let found =
        found.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let mut addresses = endpoints(
        api,
        namespace,
        name,
        found.name.as_deref().unwrap_or_default(),
    );
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    addresses.shuffle(&mut rand::rng());
    Ok(addresses)
}

fn endpoints(api: &Api, namespace: &str, service: &str, port_name: &str) -> Vec<SocketAddr> {
    let Some(resource) = api.resource("discovery.k8s.io", "endpointslices") else {
        return Vec::new();
    };
    let snapshot = resource.cacher.snapshot();
    let prefix = resource.cacher.prefix();
    let of_service = snapshot.objects.values().filter(|stored| {
        stored.namespace_and_name(prefix).0 == namespace
            && stored.label("kubernetes.io/service-name") == Some(service)
    });
    let mut found = Vec::new();
    for stored in of_service {
        let Ok(slice) = serde_json::from_slice::<EndpointSlice>(&stored.json) else {
            continue;
        };
        let mut ports = slice.ports.iter().flatten();
        let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port
            .and_then(|p| p.port)
            .and_then(|port| u16::try_from(port).ok())
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            if conditions.and_then(|c| c.ready) == Some(false) {
                continue;
            }
            let ips = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
            found.extend(ips.map(|ip| SocketAddr::new(ip, port)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_or_a_service() {
        let config = |url: &str| WebhookClientConfig {
            url: Some(url.to_owned()),
            ..Default::default()
        };
        let local = of(&config("https://127.0.0.1:8443/a/b")).expect("a target");
        assert_eq!(local.place, Place::Host("127.0.0.1".into(), 8443));
        let doubled = of(&config("https://127.0.0.1:8443//a/../b/")).expect("a target");
        assert_eq!(doubled.url, "https://127.0.0.1:8443/b");
        assert_eq!(doubled.path, "/b");
        assert_eq!((local.path.as_str(), local.http2), ("/a/b", true));
        let far = of(&config("https://hooks.example.com")).expect("a target");
        assert_eq!(far.place, Place::Host("hooks.example.com".into(), 443));
        assert_eq!((far.path.as_str(), far.http2), ("/", false));
        let service: WebhookClientConfig = serde_json::from_value(serde_json::json!({
            "service": {"namespace": "n", "name": "s", "path": "check"}
        }))
        .expect("a configuration");
        let service = of(&service).expect("a target");
        assert_eq!(service.server_name, "s.n.svc");
        assert_eq!(service.url, "https://s.n.svc:443/check");
    }
}
