//! The roles and bindings that every cluster starts with, as a table.
//!
//! They are made when they are missing; rules that are missing from one are added, so that an upgrade can give new
//! rights, while what an administrator added stays.

mod components;
mod controllers;
mod namespaced;
mod people;
mod stock;
mod workloads;

use corral_api::k8s::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use corral_api::meta::ObjectMeta;

use components::{COMPONENTS, REQUEST_CERTIFICATES};
use controllers::CONTROLLERS;
pub use namespaced::{role_bindings, roles};
use people::{ADMIN, EDIT, VIEW};

/// A rule on resources: groups, resources, verbs.
type Rule = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &["*"];
const CREATE: &[&str] = &["create"];
const CORE: &[&str] = &[""];
const EVENTS: Rule = (
    &["", "events.k8s.io"],
    &["events"],
    &["create", "patch", "update"],
);

/// Where nodes have their keys signed.
const NODE_CERTIFICATES: &[&str] = &["/corral/v1/node-certificates"];

/// Paths that anybody may read.
const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// Paths that everyone who proved who they are may read.
const DISCOVERY_PATHS: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|t| (*t).to_owned()).collect()
}

fn rule((groups, resources, verbs): &Rule) -> PolicyRule {
    PolicyRule {
        api_groups: Some(texts(groups)),
        resources: Some(texts(resources)),
        verbs: texts(verbs),
        ..Default::default()
    }
}

/// The same on objects of some names only.
fn named(of: &Rule, names: &[&str]) -> PolicyRule {
    PolicyRule {
        resource_names: Some(texts(names)),
        ..rule(of)
    }
}

fn paths(urls: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        non_resource_urls: Some(texts(urls)),
        verbs: texts(verbs),
        ..Default::default()
    }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(
            [(
                "kubernetes.io/bootstrapping".to_owned(),
                "rbac-defaults".to_owned(),
            )]
            .into(),
        ),
        annotations: Some(
            [(
                "rbac.authorization.kubernetes.io/autoupdate".to_owned(),
                "true".to_owned(),
            )]
            .into(),
        ),
        ..Default::default()
    }
}

fn role(name: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole {
        metadata: meta(name),
        rules: Some(rules),
        aggregation_rule: None,
    }
}

fn aggregation_label(to: &str) -> (String, String) {
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
    (label, "true".to_owned())
}

/// Names of roles that hold what a role for people has of its own begin with this.
pub const AGGREGATED: &str = "system:aggregate-to-";

/// A role for people: others may add to it by a label. Its rules are what a controller gathers; it begins with what
/// that will come to.
fn aggregating(name: &str, part_of: Option<&str>, rules: Vec<PolicyRule>) -> ClusterRole {
    let mut role = role(name, rules);
    let labels = role.metadata.labels.get_or_insert_default();
    labels.extend(part_of.map(aggregation_label));
    let selector = LabelSelector {
        match_labels: Some([aggregation_label(name)].into()),
        ..Default::default()
    };
    role.aggregation_rule = Some(AggregationRule {
        cluster_role_selectors: Some(vec![selector]),
    });
    role
}

/// What a role for people has of its own.
fn aggregated(to: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    let mut role = role(&format!("{AGGREGATED}{to}"), rules);
    let labels = role.metadata.labels.get_or_insert_default();
    labels.extend([aggregation_label(to)]);
    role
}

fn join(lists: &[&[Rule]]) -> Vec<PolicyRule> {
    lists
        .iter()
        .flat_map(|list| list.iter().map(rule))
        .collect()
}

/// All controllers with what they do.
fn all_controllers() -> impl Iterator<Item = &'static (&'static str, &'static [Rule])> {
    let own = CONTROLLERS.iter().chain(workloads::CONTROLLERS);
    own.chain(stock::CONTROLLERS)
}

/// The name of a controller's role and binding.
pub fn controller_role(controller: &str) -> String {
    format!("system:controller:{controller}")
}

/// The roles.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let reviews: Rule = (
        &["authorization.k8s.io"],
        &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        CREATE,
    );
    let who: Rule = (&["authentication.k8s.io"], &["selfsubjectreviews"], CREATE);
    let mut roles = vec![
        role(
            "cluster-admin",
            vec![rule(&(ALL, ALL, ALL)), paths(ALL, ALL)],
        ),
        // In the order in which the controller gathers, so that it finds nothing to do in a new cluster.
        aggregating("admin", None, join(&[EDIT, VIEW, ADMIN])),
        aggregating("edit", Some("admin"), join(&[EDIT, VIEW])),
        aggregating("view", Some("edit"), join(&[VIEW])),
        aggregated("admin", join(&[ADMIN])),
        aggregated("edit", join(&[EDIT])),
        aggregated("view", join(&[VIEW])),
        role("system:discovery", vec![paths(DISCOVERY_PATHS, &["get"])]),
        role(
            "system:public-info-viewer",
            vec![paths(PUBLIC_PATHS, &["get"])],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![paths(
                &[
                    "/.well-known/openid-configuration",
                    "/.well-known/openid-configuration/",
                    "/openid/v1/jwks",
                    "/openid/v1/jwks/",
                ],
                &["get"],
            )],
        ),
        role("system:basic-user", vec![rule(&reviews), rule(&who)]),
        role(
            "system:monitoring",
            vec![
                paths(
                    &[
                        "/flagz",
                        "/healthz",
                        "/healthz/*",
                        "/livez",
                        "/livez/*",
                        "/metrics",
                        "/metrics/slis",
                        "/readyz",
                        "/readyz/*",
                        "/statusz",
                    ],
                    &["get"],
                ),
                rule(&components::MONITORING),
            ],
        ),
        role("system:node", node_rules()),
        role(
            "system:kube-scheduler",
            [
                join(&[components::SCHEDULER]),
                vec![lease("kube-scheduler", &["get", "list", "update", "watch"])],
            ]
            .concat(),
        ),
        role(
            "system:kube-controller-manager",
            [
                join(&[components::CONTROLLER_MANAGER]),
                vec![lease("kube-controller-manager", &["get", "update"])],
            ]
            .concat(),
        ),
        role(
            "system:node-bootstrapper",
            vec![
                rule(&REQUEST_CERTIFICATES),
                paths(NODE_CERTIFICATES, &["post"]),
            ],
        ),
        // A node renews its certificate with the one that it has.
        role(
            "corral:node-certificates",
            vec![paths(NODE_CERTIFICATES, &["post"])],
        ),
    ];
    let components = COMPONENTS.iter();
    roles.extend(components.map(|(name, rules)| role(name, join(&[rules]))));
    roles.extend(certificate_roles());
    roles.extend(all_controllers().map(|(name, rules)| {
        let mut role = role(&controller_role(name), join(&[rules]));
        if *name == stock::TOKEN_CLEANER {
            let tracking = named(&(CORE, &["configmaps"], &["get"]), &[stock::TOKEN_TRACKING]);
            role.rules.get_or_insert_default().push(tracking);
        }
        if *name == "certificate-controller" {
            role.rules.get_or_insert_default().extend(signer_rules());
        }
        role
    }));
    roles
}

/// Holding the lease of a component.
fn lease(name: &str, verbs: &'static [&'static str]) -> PolicyRule {
    named(&(&["coordination.k8s.io"], &["leases"], verbs), &[name])
}

/// What the controller of certificates approves, and signs.
fn signer_rules() -> [PolicyRule; 2] {
    let named = |verb, signers: &[&str]| {
        let names = signers
            .iter()
            .map(|signer| format!("kubernetes.io/{signer}"));
        PolicyRule {
            resource_names: Some(names.collect()),
            ..rule(&(&["certificates.k8s.io"], &["signers"], verb))
        }
    };
    [
        named(&["approve"], &["kube-apiserver-client-kubelet"]),
        named(
            &["sign"],
            &[
                "legacy-unknown",
                "kube-apiserver-client",
                "kube-apiserver-client-kubelet",
                "kubelet-serving",
            ],
        ),
    ]
}

/// For those who are to approve requests for certificates, or to have theirs approved.
fn certificate_roles() -> impl Iterator<Item = ClusterRole> {
    const PREFIX: &str = "system:certificates.k8s.io:";
    const GROUP: &[&str] = &["certificates.k8s.io"];
    let requesters = [
        ("nodeclient", "certificatesigningrequests/nodeclient"),
        (
            "selfnodeclient",
            "certificatesigningrequests/selfnodeclient",
        ),
    ];
    let requesters = requesters.map(|(name, resource)| {
        let name = format!("{PREFIX}certificatesigningrequests:{name}");
        let mut create = rule(&(GROUP, &[], CREATE));
        create.resources = Some(vec![resource.to_owned()]);
        role(&name, vec![create])
    });
    let signers = [
        "legacy-unknown",
        "kubelet-serving",
        "kube-apiserver-client",
        "kube-apiserver-client-kubelet",
    ];
    let approvers = signers.map(|signer| {
        let mut approve = rule(&(GROUP, &["signers"], &["approve"]));
        approve.resource_names = Some(vec![format!("kubernetes.io/{signer}")]);
        role(&format!("{PREFIX}{signer}-approver"), vec![approve])
    });
    requesters.into_iter().chain(approvers)
}

/// What every node may do, as far as it does not depend on its pods.
pub fn node_rules() -> Vec<PolicyRule> {
    join(&[components::NODE])
}

fn group(name: &str) -> Subject {
    subject("Group", name)
}

fn subject(kind: &str, name: &str) -> Subject {
    Subject {
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: None,
    }
}

/// A service account of the system's.
fn account(name: &str) -> Subject {
    Subject {
        api_group: None,
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some("kube-system".to_owned()),
    }
}

fn binding(name: &str, role: &str, subjects: Vec<Subject>) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: meta(name),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(subjects),
    }
}

/// The bindings.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    use crate::authn::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, bootstrap};
    let mut bindings = vec![
        binding("cluster-admin", "cluster-admin", vec![group(MASTERS)]),
        binding(
            "system:discovery",
            "system:discovery",
            vec![group(AUTHENTICATED)],
        ),
        binding(
            "system:basic-user",
            "system:basic-user",
            vec![group(AUTHENTICATED)],
        ),
        binding(
            "system:public-info-viewer",
            "system:public-info-viewer",
            vec![group(AUTHENTICATED), group(UNAUTHENTICATED)],
        ),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            vec![group("system:serviceaccounts")],
        ),
        binding(
            "system:monitoring",
            "system:monitoring",
            vec![group("system:monitoring")],
        ),
        // For those who look for it: nodes have this role by the node authorizer, and not by a binding.
        binding("system:node", "system:node", Vec::new()),
        binding(
            "system:kube-scheduler",
            "system:kube-scheduler",
            vec![subject("User", "system:kube-scheduler")],
        ),
        binding(
            "system:kube-controller-manager",
            "system:kube-controller-manager",
            vec![subject("User", "system:kube-controller-manager")],
        ),
        binding(
            "system:volume-scheduler",
            "system:volume-scheduler",
            vec![subject("User", "system:kube-scheduler")],
        ),
        binding(
            "system:node-proxier",
            "system:node-proxier",
            vec![subject("User", "system:kube-proxy")],
        ),
        binding(
            "system:kube-dns",
            "system:kube-dns",
            vec![account("kube-dns")],
        ),
        // A node renews its certificate by itself.
        binding(
            "corral:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            vec![group(crate::authz::node::NODES)],
        ),
        binding(
            "corral:node-certificates",
            "corral:node-certificates",
            vec![group(crate::authz::node::NODES)],
        ),
        // A node makes the routes to all others, balances the load of Services and answers for their names, as kube-proxy, a
        // network plugin and CoreDNS do elsewhere.
        binding(
            "corral:nodes",
            "system:node-proxier",
            vec![group(crate::authz::node::NODES)],
        ),
        binding(
            "system:node-bootstrapper",
            "system:node-bootstrapper",
            vec![group(bootstrap::GROUP)],
        ),
    ];
    bindings.extend(all_controllers().map(|(name, _)| {
        let role = controller_role(name);
        binding(&role, &role, vec![account(name)])
    }));
    bindings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_for_people_begin_with_what_their_parts_come_to() {
        let mut roles = cluster_roles();
        roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let has = |role: &ClusterRole, label: &str| {
            let labels = role.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key(label))
        };
        let mut n_aggregating = 0;
        for role in roles.iter().filter(|role| role.aggregation_rule.is_some()) {
            let name = role.metadata.name.as_deref().expect("has one");
            let (label, _) = aggregation_label(name);
            let parts = roles.iter().filter(|part| has(part, &label));
            let rules: Vec<_> = parts.flat_map(|part| part.rules.iter().flatten()).collect();
            assert_eq!(
                role.rules.iter().flatten().collect::<Vec<_>>(),
                rules,
                "{name}"
            );
            n_aggregating += 1;
        }
        assert_eq!(n_aggregating, 3);
    }
}
