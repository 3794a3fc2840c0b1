//! A container's environment: literal values, references, whole ConfigMaps and Secrets, and the Services around it.

mod file;

use std::collections::BTreeMap;
use std::path::Path;

use corral_api::k8s::api::core::v1::{
    Container, EnvVarSource, FileKeySelector, ObjectFieldSelector, Pod, ResourceFieldSelector,
    Service,
};
use corral_api::quantity::Quantity;

use crate::objects::{Error, Objects};
use crate::runtime::spec::expand::expand;
use crate::runtime::spec::resources::{limit, request};
use crate::volumes::mounts::read_below;

/// What the node knows and a pod may ask for.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The node's name.
    pub node_name: String,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// Thousandths of a CPU that pods of this node may use.
    pub allocatable_milli_cpu: i64,
    /// Bytes that pods of this node may use.
    pub allocatable_memory: i64,
    /// Bytes of the disk that pods of this node may use.
    pub allocatable_disk: i64,
}

/// The largest file of variables that is read, about what an environment can hold.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Resolves everything. Later entries win; `$(NAME)` sees what came before. `pod_dir` has the pod's volumes.
pub async fn resolve(
    objects: &Objects,
    pod: &Pod,
    container: &Container,
    services: &[Service],
    facts: &Facts,
    pod_dir: &Path,
) -> Result<Vec<(String, String)>, Error> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let enable_links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let services = service_variables(services, &namespace, enable_links);
    let mut list: Vec<(String, String)> = services.into_iter().collect();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let found = if let Some(reference) = &source.config_map_ref {
            objects
                .config_map_text(
                    &namespace,
                    &reference.name,
                    reference.optional.unwrap_or(false),
                )
                .await?
        } else if let Some(reference) = &source.secret_ref {
            objects
                .secret_text(
                    &namespace,
                    &reference.name,
                    reference.optional.unwrap_or(false),
                )
                .await?
        } else {
            BTreeMap::new()
        };
        list.extend(
            found
                .into_iter()
                .map(|(key, value)| (format!("{prefix}{key}"), value)),
        );
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => {
                if let Some(reference) = &source.file_key_ref {
                    if let Some(value) = from_file(pod_dir, reference)? {
                        list.push((variable.name.clone(), value));
                    }
                    continue;
                }
                match referenced(objects, &namespace, pod, container, source, facts).await? {
                    Some(value) => value,
                    None => continue,
                }
            }
            (value, None) => {
                let lookup = |name: &str| {
                    list.iter()
                        .rev()
                        .find(|(key, _)| key == name)
                        .map(|(_, value)| value.clone())
                };
                expand(value.as_deref().unwrap_or(""), lookup)
            }
        };
        list.push((variable.name.clone(), value));
    }
    Ok(list)
}

async fn referenced(
    objects: &Objects,
    namespace: &str,
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    facts: &Facts,
) -> Result<Option<String>, Error> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, field, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, resource, facts).map(Some);
    }
    let (kind, name, key, optional, found) = if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let found = objects
            .config_map_text(namespace, &reference.name, optional)
            .await?;
        (
            "ConfigMap",
            &reference.name,
            &reference.key,
            optional,
            found,
        )
    } else if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let found = objects
            .secret_text(namespace, &reference.name, optional)
            .await?;
        ("Secret", &reference.name, &reference.key, optional, found)
    } else {
        return Err(Error::Unsupported("this kind of valueFrom"));
    };
    match found.get(key) {
        Some(value) => Ok(Some(value.clone())),
        None if optional => Ok(None),
        None => Err(Error::NoKey {
            kind,
            key: key.clone(),
            namespace: namespace.to_owned(),
            name: name.clone(),
        }),
    }
}

/// A variable of a file that another container of the pod wrote. As in a kubelet, an empty one is missing.
fn from_file(pod_dir: &Path, reference: &FileKeySelector) -> Result<Option<String>, Error> {
    let volume = pod_dir.join("volumes").join(&reference.volume_name);
    let path = Path::new(&reference.path);
    let bytes = read_below(&volume, path, FILE_LEN_MAX).map_err(Error::EnvFile)?;
    let value = file::value(&String::from_utf8_lossy(&bytes), &reference.key)
        .map_err(|error| Error::EnvFile(std::io::Error::other(error)))?;
    match (value.is_empty(), reference.optional.unwrap_or(false)) {
        (false, _) => Ok(Some(value)),
        (true, true) => Ok(None),
        (true, false) => Err(Error::NoVariable {
            key: reference.key.clone(),
            path: reference.path.clone(),
        }),
    }
}

/// A field of the pod as text.
pub fn field_value(pod: &Pod, field: &ObjectFieldSelector, facts: &Facts) -> Result<String, Error> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let path = field.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(Error::Unsupported("this fieldPath")),
        };
        return Ok(map
            .as_ref()
            .and_then(|map| map.get(key).cloned())
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&metadata.name),
        "metadata.namespace" => text(&metadata.namespace),
        "metadata.uid" => text(&metadata.uid),
        "metadata.labels" => formatted(metadata.labels.as_ref()),
        "metadata.annotations" => formatted(metadata.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => spec
            .map(|spec| text(&spec.service_account_name))
            .unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(Error::Unsupported("this fieldPath")),
    })
}

/// `metadata.labels['key']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as the downward API writes it: one `key="value"` per line, sorted.
fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    let line =
        |(key, value): (&String, &String)| format!("{key}={}", corral_api::field::go_quote(value));
    map.into_iter()
        .flatten()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A request or limit of a container as a number in units of the divisor.
pub fn resource_value(
    pod: &Pod,
    own: &Container,
    field: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, Error> {
    let named = field
        .container_name
        .as_ref()
        .filter(|name| !name.is_empty());
    let container = match (named, pod.spec.as_ref()) {
        (Some(name), Some(spec)) => {
            crate::pod::find(spec, name).ok_or(Error::Unsupported("this containerName"))?
        }
        _ => own,
    };
    let (side, name) = field
        .resource
        .split_once('.')
        .ok_or(Error::Unsupported("this resource field"))?;
    let value = match side {
        "limits" => limit(container, name),
        "requests" => request(container, name),
        _ => return Err(Error::Unsupported("this resource field")),
    };
    let divisor = field
        .divisor
        .as_ref()
        .and_then(|divisor| Quantity::from_wire(divisor).ok())
        .filter(|divisor| !divisor.is_zero());
    let divided = |amount: i64, unit: i64| (amount + unit.max(1) - 1) / unit.max(1);
    Ok(if name == "cpu" {
        // Without a limit a container may use what the node has.
        let fallback = if side == "limits" {
            facts.allocatable_milli_cpu
        } else {
            0
        };
        let milli = value.map_or(fallback, Quantity::milli_value);
        divided(milli, divisor.map_or(1000, Quantity::milli_value)).to_string()
    } else {
        let fallback = match (side, name) {
            ("limits", "memory") => facts.allocatable_memory,
            ("limits", "ephemeral-storage") => facts.allocatable_disk,
            _ => 0,
        };
        divided(
            value.map_or(fallback, Quantity::value),
            divisor.map_or(1, Quantity::value),
        )
        .to_string()
    })
}

/// The variables that announce Services: those of the pod's namespace, and always the API server's.
fn service_variables(
    services: &[Service],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let belongs =
        |service: &Service, space: &str| service.metadata.namespace.as_deref() == Some(space);
    let master = |service: &Service| {
        belongs(service, "default") && service.metadata.name.as_deref() == Some("kubernetes")
    };
    let chosen = services.iter().filter(|service| master(service)).chain(
        services
            .iter()
            .filter(|service| links && belongs(service, namespace)),
    );
    for service in chosen {
        announce(service, &mut variables);
    }
    variables
}

fn announce(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    if ip.is_empty() || ip == "None" {
        return;
    }
    let upper = |text: &str| text.to_uppercase().replace(['-', '.'], "_");
    let prefix = upper(&name);
    let ports = spec.ports.clone().unwrap_or_default();
    let mut set =
        |suffix: String, value: String| variables.insert(format!("{prefix}_{suffix}"), value);
    set("SERVICE_HOST".into(), ip.clone());
    for (index, port) in ports.iter().enumerate() {
        let number = port.port;
        if index == 0 {
            set("SERVICE_PORT".into(), number.to_string());
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            set("PORT".into(), format!("{protocol}://{ip}:{number}"));
        }
        if let Some(port_name) = &port.name {
            set(
                format!("SERVICE_PORT_{}", upper(port_name)),
                number.to_string(),
            );
        }
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let base = format!("PORT_{number}_{protocol}");
        set(
            base.clone(),
            format!("{}://{ip}:{number}", protocol.to_lowercase()),
        );
        set(format!("{base}_PROTO"), protocol.to_lowercase());
        set(format!("{base}_PORT"), number.to_string());
        set(format!("{base}_ADDR"), ip.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_announced_as_kubernetes_does() {
        let service: Service = serde_saphyr::from_str(
            "{metadata: {name: my-db, namespace: a}, spec: {clusterIP: 10.0.0.7, ports: [{name: sql, port: 5432}]}}",
        )
        .expect("a service");
        let variables = service_variables(std::slice::from_ref(&service), "a", true);
        assert_eq!(variables["MY_DB_SERVICE_HOST"], "10.0.0.7");
        assert_eq!(variables["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(variables["MY_DB_PORT_5432_TCP_ADDR"], "10.0.0.7");
        assert!(service_variables(&[service], "b", true).is_empty());
    }

    #[test]
    fn fields_of_the_pod_are_text() {
        let pod: Pod = serde_saphyr::from_str(
            "{metadata: {name: p, labels: {a: 'x\"y'}}, spec: {containers: []}}",
        )
        .expect("a pod");
        let value = |path: &str| {
            let field = ObjectFieldSelector {
                field_path: path.into(),
                ..Default::default()
            };
            field_value(&pod, &field, &Facts::default())
        };
        assert_eq!(value("metadata.labels['a']").expect("known"), "x\"y");
        assert_eq!(value("metadata.labels").expect("known"), "a=\"x\\\"y\"");
        assert!(value("spec.nothing").is_err());
    }
}
