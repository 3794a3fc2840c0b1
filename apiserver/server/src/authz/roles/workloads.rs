//! What the controllers of workloads beside Deployments do, by the names of their ServiceAccounts.

use super::{CORE, EVENTS, READ, Rule};

const UPDATE: &[&str] = &["update"];
/// Earlier states of templates.
pub const REVISIONS: Rule = (
    &["apps"],
    &["controllerrevisions"],
    &[
        "create", "delete", "get", "list", "patch", "update", "watch",
    ],
);

pub const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "replication-controller",
        &[
            (
                CORE,
                &["replicationcontrollers"],
                &["get", "list", "update", "watch"],
            ),
            (
                CORE,
                &[
                    "replicationcontrollers/status",
                    "replicationcontrollers/finalizers",
                ],
                UPDATE,
            ),
            (
                CORE,
                &["pods"],
                &["create", "delete", "list", "patch", "watch"],
            ),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            (&["apps"], &["statefulsets"], READ),
            (
                &["apps"],
                &["statefulsets/status", "statefulsets/finalizers"],
                UPDATE,
            ),
            (
                CORE,
                &["pods"],
                &[
                    "create", "delete", "get", "list", "patch", "update", "watch",
                ],
            ),
            (CORE, &["pods/finalizers"], UPDATE),
            (
                CORE,
                &["persistentvolumeclaims"],
                &["create", "delete", "get", "list", "update", "watch"],
            ),
            REVISIONS,
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            (
                &["apps", "extensions"],
                &["deployments", "replicasets"],
                READ,
            ),
            (&["apps"], &["statefulsets"], READ),
            (CORE, &["replicationcontrollers"], READ),
            (&["policy"], &["poddisruptionbudgets"], READ),
            (&["policy"], &["poddisruptionbudgets/status"], UPDATE),
            (CORE, &["pods/status"], &["update", "patch"]),
            (&["*"], &["*/scale"], &["get"]),
            EVENTS,
        ],
    ),
];
