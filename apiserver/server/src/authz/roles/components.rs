//! Roles of Kubernetes' own components and add-ons, which run beside or instead of Corral's.

use super::{CORE, CREATE, EVENTS, READ, Rule};

const READ_UPDATE: &[&str] = &["get", "list", "watch", "update", "patch"];
const LIST: &[&str] = &["list", "watch"];
const TOKEN_REVIEWS: Rule = (&["authentication.k8s.io"], &["tokenreviews"], CREATE);
const ACCESS_REVIEWS: Rule = (&["authorization.k8s.io"], &["subjectaccessreviews"], CREATE);

/// Names of roles, and what they hold.
pub const COMPONENTS: &[(&str, &[Rule])] = &[
    // For servers that extend the API: they ask this one who somebody is, and what they may do.
    ("system:auth-delegator", &[TOKEN_REVIEWS, ACCESS_REVIEWS]),
    (
        "system:kube-aggregator",
        &[(CORE, &["services", "endpoints"], READ)],
    ),
    (
        "system:kube-dns",
        &[(CORE, &["endpoints", "services"], LIST)],
    ),
    (
        "system:node-problem-detector",
        &[
            (CORE, &["nodes"], &["get"]),
            (CORE, &["nodes/status"], &["patch"]),
            EVENTS,
        ],
    ),
    (
        "system:node-proxier",
        &[
            (CORE, &["services", "endpoints"], LIST),
            (CORE, &["nodes"], READ),
            EVENTS,
            (&["networking.k8s.io"], &["servicecidrs"], LIST),
            (&["discovery.k8s.io"], &["endpointslices"], LIST),
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            (
                CORE,
                &["persistentvolumes"],
                &["get", "list", "watch", "create", "delete"],
            ),
            (
                CORE,
                &["persistentvolumeclaims"],
                &["get", "list", "watch", "update"],
            ),
            (&["storage.k8s.io"], &["storageclasses"], READ),
            (CORE, &["events"], &["watch"]),
            EVENTS,
        ],
    ),
    (
        "system:volume-scheduler",
        &[
            (CORE, &["persistentvolumes"], READ_UPDATE),
            (&["storage.k8s.io"], &["storageclasses"], READ),
            (CORE, &["persistentvolumeclaims"], READ_UPDATE),
        ],
    ),
];

/// What the stock controller manager needs besides its leases: its controllers work in the names of service accounts,
/// which it makes and whose tokens it asks for.
pub const CONTROLLER_MANAGER: &[Rule] = &[
    (CORE, &["secrets", "serviceaccounts"], CREATE),
    (CORE, &["secrets"], &["delete"]),
    (CORE, &["secrets", "serviceaccounts"], &["update"]),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
    (CORE, &["serviceaccounts/token"], CREATE),
];

/// What the stock scheduler needs besides what Corral's does.
pub const SCHEDULER: &[Rule] = &[
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
    (
        &["resource.k8s.io"],
        &["deviceclasses", "resourceslices", "devicetaintrules"],
        READ,
    ),
    (
        &["resource.k8s.io"],
        &["resourceclaims", "resourceclaims/status"],
        READ_UPDATE,
    ),
    (
        &["resource.k8s.io"],
        &["resourceclaims"],
        &["create", "delete"],
    ),
    (
        &["resource.k8s.io"],
        &["resourceclaims/binding"],
        &["update", "patch"],
    ),
    (CORE, &["pods/finalizers"], &["update"]),
];
