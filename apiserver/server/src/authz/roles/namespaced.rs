//! Roles and bindings that hold in one namespace, as Kubernetes' own components look for them.

use corral_api::k8s::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::{
    CORE, CREATE, EVENTS, READ, Rule, account, controller_role, join, meta, named, subject,
};
use crate::aggregation::configuration;

const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";
/// What a bootstrap signer writes: where the cluster is, for those who are to join it.
const CLUSTER_INFO: &str = "cluster-info";

/// Electing a leader in the names that components do it by.
const ELECTION: &[Rule] = &[(
    &["coordination.k8s.io"],
    &["leases", "leasecandidates"],
    &["create", "get", "list", "update", "watch"],
)];
const TOKENS: &[Rule] = &[
    (CORE, &["secrets"], &["get", "list", "watch", "delete"]),
    EVENTS,
];

/// A role of one namespace with those that have it.
struct Given {
    namespace: &'static str,
    role: String,
    /// The name of the binding.
    binding: String,
    rules: Vec<PolicyRule>,
    subjects: Vec<Subject>,
}

impl Given {
    /// What a controller does in one namespace.
    fn controller(namespace: &'static str, name: &str, rules: Vec<PolicyRule>) -> Self {
        Self {
            namespace,
            role: controller_role(name),
            binding: controller_role(name),
            rules,
            subjects: vec![account(name)],
        }
    }

    /// What elects the leader of a component.
    fn election(component: &str, further: Option<&str>) -> Self {
        let name = format!("system::leader-locking-{component}");
        let user = subject("User", &format!("system:{component}"));
        let accounts = [Some(component), further].into_iter().flatten();
        Self {
            namespace: SYSTEM,
            role: name.clone(),
            binding: name,
            rules: join(&[ELECTION]),
            subjects: [user].into_iter().chain(accounts.map(account)).collect(),
        }
    }
}

fn all() -> Vec<Given> {
    let reader = configuration::READER;
    let read: Rule = (CORE, &["configmaps"], READ);
    let publish: Rule = (CORE, &["configmaps"], &["update"]);
    let signing = [
        join(&[&[read, EVENTS]]),
        vec![named(&publish, &[CLUSTER_INFO])],
    ]
    .concat();
    let users = ["kube-controller-manager", "kube-scheduler"];
    vec![
        Given {
            namespace: SYSTEM,
            role: reader.to_owned(),
            binding: format!("system::{reader}"),
            rules: vec![named(&read, &[configuration::NAME])],
            subjects: users
                .map(|name| subject("User", &format!("system:{name}")))
                .to_vec(),
        },
        Given::controller(PUBLIC, "bootstrap-signer", signing),
        Given::controller(
            SYSTEM,
            "bootstrap-signer",
            join(&[&[(CORE, &["secrets"], READ)]]),
        ),
        Given::controller(
            SYSTEM,
            "cloud-provider",
            join(&[&[read, (CORE, &["configmaps"], CREATE)]]),
        ),
        Given::controller(SYSTEM, "token-cleaner", join(&[TOKENS])),
        Given::election(
            "kube-controller-manager",
            Some("leader-election-controller"),
        ),
        Given::election("kube-scheduler", None),
    ]
}

/// The roles.
pub fn roles() -> Vec<Role> {
    let role = |given: Given| {
        let mut metadata = meta(&given.role);
        metadata.namespace = Some(given.namespace.to_owned());
        Role {
            metadata,
            rules: Some(given.rules),
        }
    };
    all().into_iter().map(role).collect()
}

/// The bindings.
pub fn role_bindings() -> Vec<RoleBinding> {
    let binding = |given: Given| {
        let mut metadata = meta(&given.binding);
        metadata.namespace = Some(given.namespace.to_owned());
        RoleBinding {
            metadata,
            role_ref: RoleRef {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "Role".to_owned(),
                name: given.role,
            },
            subjects: Some(given.subjects),
        }
    };
    all().into_iter().map(binding).collect()
}
