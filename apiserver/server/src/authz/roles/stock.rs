//! What controllers do that only the stock controller manager has, by the names of their ServiceAccounts: it may run in place
//! of Corral's.

use super::{CORE, EVENTS, READ, Rule};

const LIST: &[&str] = &["list", "watch"];
const CHANGE: &[&str] = &["patch", "update"];
const READ_CHANGE: &[&str] = &["get", "list", "patch", "update", "watch"];
const STORAGE: &[&str] = &["storage.k8s.io"];
const DEVICES: &[&str] = &["resource.k8s.io"];
const NETWORK: &[&str] = &["networking.k8s.io"];

pub const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "attachdetach-controller",
        &[
            (
                CORE,
                &["persistentvolumes", "persistentvolumeclaims", "pods"],
                LIST,
            ),
            (CORE, &["nodes"], READ),
            (CORE, &["nodes/status"], CHANGE),
            (
                STORAGE,
                &["volumeattachments"],
                &["create", "delete", "get", "list", "watch"],
            ),
            (STORAGE, &["csidrivers", "csinodes"], READ),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            (CORE, &["pods"], READ),
            (CORE, &["pods/finalizers"], &["update"]),
            (
                CORE,
                &["persistentvolumeclaims"],
                &["create", "get", "list", "watch"],
            ),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            (CORE, &["persistentvolumes"], READ_CHANGE),
            (CORE, &["persistentvolumeclaims/status"], CHANGE),
            (CORE, &["persistentvolumeclaims"], READ),
            EVENTS,
        ],
    ),
    (
        "horizontal-pod-autoscaler",
        &[
            (&["autoscaling"], &["horizontalpodautoscalers"], READ),
            (
                &["autoscaling"],
                &["horizontalpodautoscalers/status"],
                &["update"],
            ),
            (&["*"], &["*/scale"], &["get", "update"]),
            (&["", "metrics.k8s.io"], &["pods"], LIST),
            (
                &["custom.metrics.k8s.io", "external.metrics.k8s.io"],
                &["*"],
                READ,
            ),
            EVENTS,
        ],
    ),
    // It also reads one ConfigMap, which is named beside this table.
    (TOKEN_CLEANER, &[(CORE, &["secrets"], &["delete", "patch"])]),
    (
        "persistent-volume-binder",
        &[
            (
                CORE,
                &["persistentvolumes"],
                &["create", "delete", "get", "list", "update", "watch"],
            ),
            (
                CORE,
                &["persistentvolumeclaims"],
                &["get", "list", "update", "watch"],
            ),
            (
                CORE,
                &["persistentvolumes/status", "persistentvolumeclaims/status"],
                &["update"],
            ),
            (
                CORE,
                &["pods"],
                &["create", "delete", "get", "list", "watch"],
            ),
            (STORAGE, &["storageclasses"], READ),
            (CORE, &["nodes"], LIST),
            (CORE, &["events"], &["watch"]),
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            (CORE, &["pods"], READ),
            (CORE, &["pods/finalizers"], &["update"]),
            (CORE, &["pods/status"], CHANGE),
            (
                DEVICES,
                &["resourceclaims"],
                &["create", "delete", "get", "list", "watch"],
            ),
            (
                DEVICES,
                &[
                    "resourceclaims",
                    "resourceclaims/status",
                    "resourceclaims/binding",
                ],
                CHANGE,
            ),
            EVENTS,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            (CORE, &["pods"], &["delete", "get", "list", "watch"]),
            (CORE, &["pods/status"], CHANGE),
            (
                DEVICES,
                &["resourceclaims", "resourceslices", "deviceclasses"],
                READ,
            ),
            EVENTS,
        ],
    ),
    (
        "route-controller",
        &[
            (CORE, &["nodes"], LIST),
            (CORE, &["nodes/status"], &["patch"]),
            EVENTS,
        ],
    ),
    (
        "selinux-warning-controller",
        &[
            (
                CORE,
                &["persistentvolumeclaims", "persistentvolumes", "pods"],
                READ,
            ),
            (STORAGE, &["csidrivers"], READ),
            EVENTS,
        ],
    ),
    (
        "service-cidrs-controller",
        &[
            (NETWORK, &["servicecidrs"], READ_CHANGE),
            (
                NETWORK,
                &["servicecidrs/finalizers", "servicecidrs/status"],
                CHANGE,
            ),
            (NETWORK, &["ipaddresses"], READ),
            EVENTS,
        ],
    ),
    (
        "service-controller",
        &[
            (CORE, &["services"], READ),
            (CORE, &["services/status"], CHANGE),
            (CORE, &["nodes"], LIST),
            EVENTS,
        ],
    ),
    (
        "ttl-controller",
        &[
            (CORE, &["nodes"], &["list", "patch", "update", "watch"]),
            EVENTS,
        ],
    ),
];

/// Removes tokens in Secrets that nobody uses.
pub const TOKEN_CLEANER: &str = "legacy-service-account-token-cleaner";
/// The ConfigMap that it reads.
pub const TOKEN_TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
