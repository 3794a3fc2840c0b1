//! The rights of the controllers.

use super::{ALL, CORE, CREATE, EVENTS, READ, Rule, workloads};

/// What each controller does, by the name of its ServiceAccount in `kube-system`.
pub(super) const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "deployment-controller",
        &[
            (
                &["apps"],
                &["deployments"],
                &["get", "list", "patch", "update", "watch"],
            ),
            (
                &["apps"],
                &["deployments/status", "deployments/finalizers"],
                &["update", "patch"],
            ),
            (
                &["apps"],
                &["replicasets"],
                &[
                    "create", "delete", "get", "list", "patch", "update", "watch",
                ],
            ),
            (CORE, &["pods"], &["get", "list", "update", "watch"]),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            (
                &["apps"],
                &["replicasets"],
                &["get", "list", "patch", "update", "watch"],
            ),
            (
                &["apps"],
                &["replicasets/status", "replicasets/finalizers"],
                &["update", "patch"],
            ),
            (
                CORE,
                &["pods"],
                &["create", "delete", "get", "list", "patch", "watch"],
            ),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            (&["apps"], &["daemonsets"], READ),
            (
                &["apps"],
                &["daemonsets/status", "daemonsets/finalizers"],
                &["update", "patch"],
            ),
            (CORE, &["nodes"], READ),
            (
                CORE,
                &["pods"],
                &["create", "delete", "get", "list", "patch", "watch"],
            ),
            (CORE, &["pods/binding"], CREATE),
            workloads::REVISIONS,
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            (
                &["batch"],
                &["jobs"],
                &["get", "list", "patch", "update", "watch", "delete"],
            ),
            (
                &["batch"],
                &["jobs/status", "jobs/finalizers"],
                &["update", "patch"],
            ),
            (
                CORE,
                &["pods"],
                &["create", "delete", "get", "list", "patch", "watch"],
            ),
            EVENTS,
        ],
    ),
    (
        "certificate-controller",
        &[
            (
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["get", "list", "watch", "delete"],
            ),
            (
                &["certificates.k8s.io"],
                &[
                    "certificatesigningrequests/status",
                    "certificatesigningrequests/approval",
                ],
                &["update"],
            ),
            (&["authorization.k8s.io"], &["subjectaccessreviews"], CREATE),
            EVENTS,
        ],
    ),
    (
        "pvc-protection-controller",
        &[
            (
                CORE,
                &["persistentvolumeclaims"],
                &["get", "list", "watch", "update"],
            ),
            (CORE, &["persistentvolumeclaims/status"], &["update"]),
            (CORE, &["pods"], READ),
            EVENTS,
        ],
    ),
    (
        "pv-protection-controller",
        &[
            (
                CORE,
                &["persistentvolumes"],
                &["get", "list", "watch", "update"],
            ),
            EVENTS,
        ],
    ),
    (
        "volumeattributesclass-protection-controller",
        &[
            (CORE, &["persistentvolumeclaims", "persistentvolumes"], READ),
            (
                &["storage.k8s.io"],
                &["volumeattributesclasses"],
                &["get", "list", "watch", "update"],
            ),
            EVENTS,
        ],
    ),
    (
        "ttl-after-finished-controller",
        &[
            (&["batch"], &["jobs"], &["delete", "get", "list", "watch"]),
            EVENTS,
        ],
    ),
    (
        "cronjob-controller",
        &[
            (
                &["batch"],
                &["cronjobs"],
                &["get", "list", "patch", "update", "watch"],
            ),
            (
                &["batch"],
                &["jobs"],
                &[
                    "create", "delete", "get", "list", "patch", "update", "watch",
                ],
            ),
            (
                &["batch"],
                &["cronjobs/status", "cronjobs/finalizers"],
                &["update", "patch"],
            ),
            (CORE, &["pods"], &["delete", "list", "get", "watch"]),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            (CORE, &["nodes", "pods", "services"], READ),
            (CORE, &["services/finalizers"], &["update"]),
            (
                &["discovery.k8s.io"],
                &["endpointslices"],
                &[
                    "create", "delete", "get", "list", "update", "patch", "watch",
                ],
            ),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            (CORE, &["pods", "services"], READ),
            (
                CORE,
                &["endpoints"],
                &[
                    "create", "delete", "get", "list", "update", "patch", "watch",
                ],
            ),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            (CORE, &["namespaces"], &["delete", "get", "list", "watch"]),
            (
                CORE,
                &["namespaces/finalize", "namespaces/status"],
                &["update", "patch"],
            ),
            (ALL, ALL, &["delete", "deletecollection", "get", "list"]),
        ],
    ),
    (
        "generic-garbage-collector",
        &[
            (
                ALL,
                ALL,
                &["delete", "get", "list", "patch", "update", "watch"],
            ),
            EVENTS,
        ],
    ),
    (
        "service-account-controller",
        &[
            (
                CORE,
                &["serviceaccounts"],
                &["create", "get", "list", "watch"],
            ),
            (CORE, &["namespaces"], READ),
            EVENTS,
        ],
    ),
    (
        "root-ca-cert-publisher",
        &[
            (
                CORE,
                &["configmaps"],
                &["create", "get", "list", "update", "patch", "watch"],
            ),
            (CORE, &["namespaces"], READ),
            EVENTS,
        ],
    ),
    (
        "node-controller",
        &[
            (
                CORE,
                &["nodes"],
                &["delete", "get", "list", "patch", "update", "watch"],
            ),
            (CORE, &["nodes/status"], &["patch", "update"]),
            (CORE, &["pods"], &["delete", "get", "list", "watch"]),
            (CORE, &["pods/status"], &["patch", "update"]),
            (&["coordination.k8s.io"], &["leases"], READ),
            EVENTS,
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[(
            &["rbac.authorization.k8s.io"],
            &["clusterroles"],
            // It gives what it does not have.
            &["escalate", "get", "list", "patch", "update", "watch"],
        )],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            (CORE, &["endpoints", "services"], READ),
            (
                CORE,
                &["endpoints/finalizers", "services/finalizers"],
                &["update"],
            ),
            (
                &["discovery.k8s.io"],
                &["endpointslices"],
                &["create", "delete", "get", "list", "update", "watch"],
            ),
            EVENTS,
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            (CORE, &["pods"], &["delete", "get", "list", "watch"]),
            (CORE, &["nodes"], READ),
            (CORE, &["pods/status"], &["patch", "update"]),
        ],
    ),
    (
        "resourcequota-controller",
        &[
            // Anything may be counted.
            (ALL, ALL, &["list", "watch"]),
            (CORE, &["resourcequotas/status"], &["update"]),
            EVENTS,
        ],
    ),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            (
                &["admissionregistration.k8s.io"],
                &["validatingadmissionpolicies"],
                READ,
            ),
            (
                &["admissionregistration.k8s.io"],
                &["validatingadmissionpolicies/status"],
                &["get", "patch", "update"],
            ),
            EVENTS,
        ],
    ),
];
