//! What objects count for in quotas: of which resource each name of a quota is, what an object of it uses, and which
//! scopes an object is in. The server charges by this and the controller counts anew by the same.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Affinity, Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuotaSpec,
    ScopedResourceSelectorRequirement, Service,
};

use crate::amounts::{self, Amounts};
use crate::quantity::Quantity;

const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";
const COUNT: &str = "count/";
/// Ends the name of a storage class in the name of a resource.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The annotation that named the storage class before there was a field.
const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Resources that a pod must say an amount of where a quota limits them.
const MUST_BE_SAID: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// An object that is counted.
#[derive(Debug, Clone, Copy)]
pub enum Counted<'a> {
    /// By number, amounts and scopes.
    Pod(&'a Pod),
    /// By number, node ports and load balancers.
    Service(&'a Service),
    /// By number, storage, and both by storage class.
    Claim(&'a PersistentVolumeClaim),
    /// By number alone.
    Other,
}

/// The group and resource whose objects a name in a quota counts; `None` for names that nothing is counted by.
pub fn resource_of(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix(COUNT) {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group, plural));
    }
    let of_pods = match name {
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" | "services" => {
            return Some(("", name));
        }
        "services.nodeports" | "services.loadbalancers" => return Some(("", "services")),
        "persistentvolumeclaims" | "requests.storage" => {
            return Some(("", "persistentvolumeclaims"));
        }
        "pods" | "cpu" | "memory" | "ephemeral-storage" => true,
        name if name.contains(STORAGE_CLASS) => return Some(("", "persistentvolumeclaims")),
        name => {
            let bare = name.strip_prefix(REQUESTS);
            let bare = bare.or_else(|| name.strip_prefix("limits."));
            let standard = matches!(bare, Some("cpu" | "memory" | "ephemeral-storage"));
            let asked = name.strip_prefix(REQUESTS).is_some_and(is_extended);
            let huge = name.strip_prefix(REQUESTS).unwrap_or(name);
            standard || asked || huge.starts_with(HUGE_PAGES)
        }
    };
    of_pods.then_some(("", "pods"))
}

/// A resource that is not of Kubernetes itself.
fn is_extended(name: &str) -> bool {
    let device_class = name.starts_with("deviceclass.resource.kubernetes.io/");
    device_class || (name.contains('/') && !name.contains("kubernetes.io/"))
}

/// What an object uses of everything that could be limited.
fn usage(group: &str, plural: &str, object: Counted<'_>, now: Timestamp) -> Amounts {
    let one = Quantity::units(1);
    let count = match group {
        "" => format!("{COUNT}{plural}"),
        group => format!("{COUNT}{plural}.{group}"),
    };
    let mut used = Amounts::from([(count, one)]);
    match object {
        Counted::Pod(pod) => {
            if is_charged(pod, now) {
                used.extend(of_pod(pod));
            }
        }
        Counted::Service(service) => used.extend(of_service(service)),
        Counted::Claim(claim) => used.extend(of_claim(claim)),
        Counted::Other => {
            used.insert(plural.to_owned(), one);
        }
    }
    used
}

/// A pod that has ended uses nothing, nor does one that should have gone long ago, as on a node that is lost.
fn is_charged(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let meta = &pod.metadata;
    let overdue = meta
        .deletion_timestamp
        .as_ref()
        .zip(meta.deletion_grace_period_seconds)
        .is_some_and(|(time, grace)| now > time.0 + SignedDuration::from_secs(grace));
    !matches!(phase, Some("Succeeded" | "Failed")) && !overdue
}

fn of_pod(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::new();
    };
    let overhead = amounts::read(spec.overhead.as_ref());
    let (mut requests, mut limits) = (amounts::pod_requests(spec), amounts::pod_limits(spec));
    amounts::add(&mut requests, &overhead);
    // What has no limit has none with the overhead either.
    for (name, limit) in &mut limits {
        if let Some(more) = overhead.get(name).filter(|_| !limit.is_zero()) {
            *limit = *limit + *more;
        }
    }
    named(&requests, &limits)
}

/// Requests and limits by their names in quotas.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), Quantity::units(1))]);
    for (name, amount) in requests {
        let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if standard || name.starts_with(HUGE_PAGES) {
            used.insert(name.clone(), *amount);
        }
        if standard || name.starts_with(HUGE_PAGES) || is_extended(name) {
            used.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let limit = limits.get(name).copied();
        used.extend(limit.map(|limit| (format!("limits.{name}"), limit)));
    }
    used
}

fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.as_ref();
    let ports = || spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let kind = spec.and_then(|spec| spec.type_.as_deref());
    let allocates = spec.and_then(|spec| spec.allocate_load_balancer_node_ports) != Some(false);
    let n_node_ports = match kind {
        Some("NodePort") => ports().count(),
        Some("LoadBalancer") if allocates => ports().count(),
        Some("LoadBalancer") => ports()
            .filter(|port| port.node_port.unwrap_or(0) != 0)
            .count(),
        _ => 0,
    };
    let number = |n: usize| Quantity::units(i64::try_from(n).unwrap_or(i64::MAX));
    let balanced = usize::from(kind == Some("LoadBalancer"));
    Amounts::from([
        ("services".to_owned(), Quantity::units(1)),
        ("services.nodeports".to_owned(), number(n_node_ports)),
        ("services.loadbalancers".to_owned(), number(balanced)),
    ])
}

fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let spec = claim.spec.as_ref();
    let annotations = claim.metadata.annotations.as_ref();
    let class = annotations.and_then(|a| a.get(STORAGE_CLASS_ANNOTATION));
    let class = class.or(spec.and_then(|spec| spec.storage_class_name.as_ref()));
    let requests = spec.and_then(|spec| spec.resources.as_ref());
    let asked = amounts::read(requests.and_then(|resources| resources.requests.as_ref()));
    let given = claim
        .status
        .as_ref()
        .and_then(|status| status.allocated_resources.as_ref());
    let given = amounts::read(given);
    let storage = asked.get("storage").copied();
    let storage = storage.map(|asked| given.get("storage").copied().unwrap_or(asked).max(asked));
    let mut used = Amounts::from([("persistentvolumeclaims".to_owned(), Quantity::units(1))]);
    used.extend(storage.map(|amount| ("requests.storage".to_owned(), amount)));
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        let of_class: Vec<_> = used
            .iter()
            .map(|(name, amount)| (format!("{class}{STORAGE_CLASS}{name}"), *amount))
            .collect();
        used.extend(of_class);
    }
    used
}

/// What an object uses of what a quota limits: nothing if it is not in the quota's scopes.
pub fn used_of<'a>(
    quota: &ResourceQuotaSpec,
    hard: impl Iterator<Item = &'a String>,
    (group, plural): (&str, &str),
    object: Counted<'_>,
    now: Timestamp,
) -> Amounts {
    let mut limited = hard
        .filter(|name| resource_of(name) == Some((group, plural)))
        .peekable();
    if limited.peek().is_none() || !is_in_scopes(quota, object) {
        return Amounts::new();
    }
    let used = usage(group, plural, object, now);
    limited
        .filter_map(|name| Some((name.clone(), *used.get(name)?)))
        .collect()
}

/// Whether an object is in all scopes of a quota.
pub fn is_in_scopes(quota: &ResourceQuotaSpec, object: Counted<'_>) -> bool {
    let plain = quota.scopes.iter().flatten();
    let plain = plain.map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selector = quota.scope_selector.as_ref();
    let selected = selector
        .iter()
        .flat_map(|s| s.match_expressions.iter().flatten());
    plain
        .chain(selected.cloned())
        .all(|scope| is_in(&scope, object))
}

fn is_in(scope: &ScopedResourceSelectorRequirement, object: Counted<'_>) -> bool {
    match object {
        Counted::Pod(pod) => pod.spec.as_ref().is_some_and(|spec| pod_is_in(scope, spec)),
        Counted::Claim(claim) if scope.scope_name == "VolumeAttributesClass" => {
            let spec = claim.spec.as_ref();
            let status = claim.status.as_ref();
            let modified = status.and_then(|status| status.modify_volume_status.as_ref());
            let classes = [
                spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()),
                status.and_then(|s| s.current_volume_attributes_class_name.as_deref()),
                modified.and_then(|m| m.target_volume_attributes_class_name.as_deref()),
            ];
            let classes: BTreeSet<&str> = classes
                .into_iter()
                .flatten()
                .filter(|c| !c.is_empty())
                .collect();
            match scope.operator.as_str() {
                "Exists" => !classes.is_empty(),
                _ if classes.is_empty() => selects(scope, None),
                _ => classes.iter().any(|class| selects(scope, Some(class))),
            }
        }
        _ => false,
    }
}

fn pod_is_in(scope: &ScopedResourceSelectorRequirement, spec: &PodSpec) -> bool {
    let ends = spec
        .active_deadline_seconds
        .is_some_and(|seconds| seconds >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(spec),
        "NotBestEffort" => !is_best_effort(spec),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref();
            selects(scope, class.filter(|class| !class.is_empty()))
        }
        "CrossNamespacePodAffinity" => spec.affinity.as_ref().is_some_and(reaches_out),
        _ => false,
    }
}

fn selects(scope: &ScopedResourceSelectorRequirement, value: Option<&str>) -> bool {
    let named = value.is_some_and(|v| scope.values.iter().flatten().any(|known| known == v));
    match scope.operator.as_str() {
        "In" => named,
        "NotIn" => !named,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Whether a pod asks for no CPU or memory and is limited in neither.
fn is_best_effort(spec: &PodSpec) -> bool {
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut all = all
        .map(|c| c.resources.as_ref())
        .chain([spec.resources.as_ref()]);
    !all.any(|resources| {
        let lists = resources.into_iter().flat_map(|r| [&r.requests, &r.limits]);
        let mut given = lists.flat_map(|list| amounts::read(list.as_ref()));
        given.any(|(name, amount)| {
            matches!(name.as_str(), "cpu" | "memory") && amount > Quantity::default()
        })
    })
}

/// Whether an affinity is about pods of other namespaces.
fn reaches_out(affinity: &Affinity) -> bool {
    fn out(term: &PodAffinityTerm) -> bool {
        let namespaces = term.namespaces.as_ref();
        namespaces.is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some()
    }
    let (towards, away) = (
        affinity.pod_affinity.as_ref(),
        affinity.pod_anti_affinity.as_ref(),
    );
    let required = [
        towards.and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        }),
        away.and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        }),
    ];
    let preferred = [
        towards.and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        }),
        away.and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        }),
    ];
    required.into_iter().flatten().flatten().any(out)
        || preferred
            .into_iter()
            .flatten()
            .flatten()
            .any(|term| out(&term.pod_affinity_term))
}

/// The resources that a quota limits and containers of a pod say no amount of, as the message tells them.
pub fn unsaid<'a>(pod: &Pod, limited: impl Iterator<Item = &'a String>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.resources.as_ref();
    let mut whole = of_pod
        .iter()
        .flat_map(|r| [&r.requests, &r.limits])
        .flatten();
    if whole.any(|list| !list.is_empty()) {
        return None;
    }
    let must: BTreeSet<&String> = limited
        .filter(|n| MUST_BE_SAID.contains(&n.as_str()))
        .collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        let said = said_by(container);
        for name in must.iter().filter(|name| !said.contains_key(**name)) {
            missing
                .entry(name.as_str())
                .or_default()
                .insert(&container.name);
        }
    }
    let words: Vec<String> = missing
        .iter()
        .map(|(name, by)| {
            let by: Vec<&str> = by.iter().copied().collect();
            format!("{name} for: {}", by.join(","))
        })
        .collect();
    (!words.is_empty()).then(|| format!("must specify {}", words.join("; ")))
}

fn said_by(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let requests = amounts::read(resources.and_then(|r| r.requests.as_ref()));
    let limits = amounts::read(resources.and_then(|r| r.limits.as_ref()));
    named(&requests, &limits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value, status: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": status})).expect("a pod")
    }

    fn used(hard: &[&str], scopes: Value, resource: (&str, &str), object: Counted<'_>) -> String {
        let quota: ResourceQuotaSpec = serde_json::from_value(scopes).expect("scopes");
        let hard: Vec<String> = hard.iter().map(|name| (*name).to_owned()).collect();
        amounts::words(&used_of(
            &quota,
            hard.iter(),
            resource,
            object,
            Timestamp::UNIX_EPOCH,
        ))
    }

    const PODS: (&str, &str) = ("", "pods");

    #[test]
    fn names_of_quotas_count_resources() {
        for (name, resource) in [
            ("count/jobs.batch", Some(("batch", "jobs"))),
            (
                "count/widgets.a.example.com",
                Some(("a.example.com", "widgets")),
            ),
            ("count/pods", Some(PODS)),
            ("limits.cpu", Some(PODS)),
            ("requests.hugepages-2Mi", Some(PODS)),
            ("requests.example.com/gpu", Some(PODS)),
            ("services.nodeports", Some(("", "services"))),
            (
                "gold.storageclass.storage.k8s.io/requests.storage",
                Some(("", "persistentvolumeclaims")),
            ),
            ("secrets", Some(("", "secrets"))),
            ("limits.example.com/gpu", None),
        ] {
            assert_eq!(resource_of(name), resource, "{name}");
        }
    }

    #[test]
    fn a_pod_uses_what_it_asks_for_until_it_ends() {
        let spec = json!({"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "100m", "example.com/gpu": "2"}, "limits": {"cpu": "1", "memory": "1Gi"}}}],
            "overhead": {"cpu": "50m"}});
        let hard = [
            "pods",
            "count/pods",
            "cpu",
            "limits.cpu",
            "limits.memory",
            "requests.example.com/gpu",
        ];
        let running = pod(spec.clone(), json!({"phase": "Running"}));
        assert_eq!(
            used(&hard, json!({}), PODS, Counted::Pod(&running)),
            "count/pods=1,cpu=150m,limits.cpu=1050m,limits.memory=1Gi,pods=1,requests.example.com/gpu=2"
        );
        let ended = pod(spec, json!({"phase": "Failed"}));
        assert_eq!(
            used(&hard, json!({}), PODS, Counted::Pod(&ended)),
            "count/pods=1"
        );
    }

    #[test]
    fn a_pod_counts_only_in_its_scopes() {
        let best = pod(
            json!({"containers": [{"name": "c"}], "activeDeadlineSeconds": 5, "priorityClassName": "high"}),
            json!({}),
        );
        let within = |scopes: Value| !used(&["pods"], scopes, PODS, Counted::Pod(&best)).is_empty();
        assert!(within(json!({"scopes": ["BestEffort", "Terminating"]})));
        assert!(!within(json!({"scopes": ["BestEffort", "NotTerminating"]})));
        let class = |operator: &str, values: Value| {
            within(json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}}))
        };
        assert!(class("In", json!(["low", "high"])));
        assert!(!class("NotIn", json!(["high"])));
        assert!(class("Exists", json!([])));
        assert!(!within(json!({"scopes": ["CrossNamespacePodAffinity"]})));
        // A scope says nothing about other kinds.
        assert_eq!(
            used(
                &["secrets"],
                json!({"scopes": ["BestEffort"]}),
                ("", "secrets"),
                Counted::Other
            ),
            ""
        );
    }

    #[test]
    fn services_and_claims_use_more_than_their_number() {
        let service: Service = serde_json::from_value(json!({"spec": {"type": "LoadBalancer",
            "ports": [{"port": 1}, {"port": 2}]}}))
        .expect("a service");
        let hard = ["services", "services.nodeports", "services.loadbalancers"];
        assert_eq!(
            used(
                &hard,
                json!({}),
                ("", "services"),
                Counted::Service(&service)
            ),
            "services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"storageClassName": "gold",
            "resources": {"requests": {"storage": "1Gi"}}}}))
            .expect("a claim");
        let hard = [
            "requests.storage",
            "gold.storageclass.storage.k8s.io/requests.storage",
            "tin.storageclass.storage.k8s.io/requests.storage",
        ];
        assert_eq!(
            used(
                &hard,
                json!({}),
                ("", "persistentvolumeclaims"),
                Counted::Claim(&claim)
            ),
            "gold.storageclass.storage.k8s.io/requests.storage=1Gi,requests.storage=1Gi"
        );
    }

    #[test]
    fn what_containers_leave_unsaid_is_told_by_resource() {
        let pod = pod(
            json!({"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]}),
            json!({}),
        );
        let limited = ["limits.cpu", "memory", "pods"].map(str::to_owned);
        assert_eq!(
            unsaid(&pod, limited.iter()).as_deref(),
            Some("must specify limits.cpu for: b; memory for: a,b")
        );
        assert_eq!(unsaid(&pod, limited[2..].iter()), None);
    }
}
