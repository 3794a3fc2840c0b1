//! What the controllers of workloads beside Deployments do, by the names of their ServiceAccounts.

use super::{CORE, EVENTS, READ, Rule};

const OWN_STATUS: &[&str] = &["update", "patch"];
const PODS: Rule = (
    CORE,
    &["pods"],
    &[
        "create", "delete", "get", "list", "patch", "update", "watch",
    ],
);
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
                &["get", "list", "patch", "update", "watch"],
            ),
            (
                CORE,
                &[
                    "replicationcontrollers/status",
                    "replicationcontrollers/finalizers",
                ],
                OWN_STATUS,
            ),
            PODS,
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
                OWN_STATUS,
            ),
            PODS,
            REVISIONS,
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            (
                &["apps"],
                &["deployments", "replicasets", "statefulsets"],
                READ,
            ),
            (CORE, &["pods", "replicationcontrollers"], READ),
            (&["policy"], &["poddisruptionbudgets"], READ),
            (&["policy"], &["poddisruptionbudgets/status"], OWN_STATUS),
            (CORE, &["pods/status"], OWN_STATUS),
            (&["*"], &["*/scale"], &["get"]),
            EVENTS,
        ],
    ),
];
