//! Roles of components and add-ons, ours or Kubernetes' own, which run beside or instead of Corral's.

use super::{ALL, CORE, CREATE, EVENTS, READ, Rule, WRITE};

const READ_UPDATE: &[&str] = &["get", "list", "watch", "update", "patch"];
const LIST: &[&str] = &["list", "watch"];
const DEVICES: &[&str] = &["resource.k8s.io"];
const TOKEN_REVIEWS: Rule = (&["authentication.k8s.io"], &["tokenreviews"], CREATE);
const ACCESS_REVIEWS: Rule = (&["authorization.k8s.io"], &["subjectaccessreviews"], CREATE);
/// To take part in an election; the lease itself is named beside this table.
const NEW_LEASES: Rule = (&["coordination.k8s.io"], &["leases"], CREATE);

/// To ask for a certificate, and to see it signed.
pub const REQUEST_CERTIFICATES: Rule = (
    &["certificates.k8s.io"],
    &["certificatesigningrequests"],
    &["create", "get", "list", "watch"],
);

/// What the pages about how a server does may be read with besides their paths.
pub const MONITORING: Rule = (CORE, &["nodes/metrics"], &["get"]);

/// Names of roles, and what they hold.
pub const COMPONENTS: &[(&str, &[Rule])] = &[
    // For servers that extend the API: they ask this one who somebody is, and what they may do.
    ("system:auth-delegator", &[TOKEN_REVIEWS, ACCESS_REVIEWS]),
    (
        "system:heapster",
        &[
            (CORE, &["events", "namespaces", "nodes", "pods"], READ),
            (&["extensions"], &["deployments"], READ),
        ],
    ),
    (
        "system:kube-aggregator",
        &[(CORE, &["services", "endpoints"], READ)],
    ),
    (
        "system:kube-dns",
        &[(CORE, &["endpoints", "services"], LIST)],
    ),
    (
        "system:kubelet-api-admin",
        &[
            (CORE, &["nodes"], &["get", "list", "watch", "proxy"]),
            (
                CORE,
                &[
                    "nodes/configz",
                    "nodes/healthz",
                    "nodes/log",
                    "nodes/metrics",
                    "nodes/pods",
                    "nodes/proxy",
                    "nodes/stats",
                ],
                ALL,
            ),
        ],
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

/// What a node does. Which objects of these kinds, `authz/node.rs` decides.
pub const NODE: &[Rule] = &[
    TOKEN_REVIEWS,
    (
        &["authorization.k8s.io"],
        &["localsubjectaccessreviews", "subjectaccessreviews"],
        CREATE,
    ),
    (CORE, &["services"], READ),
    (CORE, &["nodes"], &["create", "get", "list", "watch"]),
    (CORE, &["nodes", "nodes/status"], &["patch", "update"]),
    EVENTS,
    (
        CORE,
        &["pods"],
        &["get", "list", "watch", "create", "delete"],
    ),
    (CORE, &["pods/status"], &["patch", "update"]),
    (CORE, &["pods/eviction", "serviceaccounts/token"], CREATE),
    (CORE, &["configmaps", "secrets"], READ),
    (
        CORE,
        &[
            "endpoints",
            "persistentvolumeclaims",
            "persistentvolumes",
            "serviceaccounts",
        ],
        &["get"],
    ),
    (
        CORE,
        &["persistentvolumeclaims/status"],
        &["get", "patch", "update"],
    ),
    (
        &["coordination.k8s.io"],
        &["leases"],
        &["create", "delete", "get", "patch", "update"],
    ),
    (&["node.k8s.io"], &["runtimeclasses"], READ),
    REQUEST_CERTIFICATES,
    (&["storage.k8s.io"], &["volumeattachments"], &["get"]),
    (&["storage.k8s.io"], &["csidrivers"], READ),
    (
        &["storage.k8s.io"],
        &["csinodes"],
        &["create", "delete", "get", "patch", "update"],
    ),
    (DEVICES, &["resourceclaims"], &["get"]),
    (DEVICES, &["resourceslices"], &["deletecollection"]),
];

/// What the controllers do as one, besides holding their lease: they watch everything, make the service accounts in whose
/// names each of them works, and ask for their tokens.
pub const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    NEW_LEASES,
    (ALL, ALL, LIST),
    (
        CORE,
        &["configmaps", "namespaces", "secrets", "serviceaccounts"],
        &["get"],
    ),
    (CORE, &["secrets", "serviceaccounts"], &["create", "update"]),
    (CORE, &["secrets"], &["delete"]),
    (CORE, &["serviceaccounts/token"], CREATE),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
];

/// What a scheduler does besides holding its lease.
pub const SCHEDULER: &[Rule] = &[
    EVENTS,
    NEW_LEASES,
    (&["coordination.k8s.io"], &["leasecandidates"], READ),
    (&["coordination.k8s.io"], &["leasecandidates"], WRITE),
    (
        CORE,
        &[
            "namespaces",
            "nodes",
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "replicationcontrollers",
            "services",
        ],
        READ,
    ),
    (CORE, &["pods"], &["delete"]),
    (CORE, &["bindings", "pods/binding"], CREATE),
    (CORE, &["pods/status"], &["patch", "update"]),
    (CORE, &["pods/finalizers"], &["update"]),
    (&["apps", "extensions"], &["replicasets"], READ),
    (&["apps"], &["statefulsets"], READ),
    (&["policy"], &["poddisruptionbudgets"], READ),
    (
        &["storage.k8s.io"],
        &[
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "volumeattachments",
        ],
        READ,
    ),
    (DEVICES, &["deviceclasses", "resourceslices"], READ),
    (
        DEVICES,
        &["resourceclaims", "resourceclaims/status"],
        READ_UPDATE,
    ),
    (DEVICES, &["resourceclaims"], &["create", "delete"]),
    (DEVICES, &["resourceclaims/binding"], &["update", "patch"]),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
];
