//! The rights of the controllers.

use super::{ALL, CORE, CREATE, EVENTS, READ, Rule, workloads};

const LIST: &[&str] = &["list", "watch"];
const UPDATE: &[&str] = &["update"];
const READ_UPDATE: &[&str] = &["get", "list", "update", "watch"];
/// Where workloads are; nothing is served in the second any more, but roles are compared by what they say.
const APPS: &[&str] = &["apps", "extensions"];
/// Pods that a controller makes and adopts.
const OWN_PODS: Rule = (
    CORE,
    &["pods"],
    &["create", "delete", "list", "patch", "watch"],
);

/// What each controller does, by the name of its ServiceAccount in `kube-system`. The caches of all of them are filled by
/// `system:kube-controller-manager`, which may list and watch everything.
pub(super) const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "deployment-controller",
        &[
            (APPS, &["deployments"], READ_UPDATE),
            (
                APPS,
                &["deployments/status", "deployments/finalizers"],
                UPDATE,
            ),
            (
                APPS,
                &["replicasets"],
                &[
                    "create", "delete", "get", "list", "patch", "update", "watch",
                ],
            ),
            (CORE, &["pods"], READ_UPDATE),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            (APPS, &["replicasets"], READ_UPDATE),
            (
                APPS,
                &["replicasets/status", "replicasets/finalizers"],
                UPDATE,
            ),
            OWN_PODS,
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            (APPS, &["daemonsets"], READ),
            (
                APPS,
                &["daemonsets/status", "daemonsets/finalizers"],
                UPDATE,
            ),
            (CORE, &["nodes"], LIST),
            OWN_PODS,
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
                &["get", "list", "patch", "update", "watch"],
            ),
            (&["batch"], &["jobs/status", "jobs/finalizers"], UPDATE),
            OWN_PODS,
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
            (&["batch"], &["cronjobs"], READ_UPDATE),
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
                UPDATE,
            ),
            (CORE, &["pods"], &["delete", "list", "watch"]),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            (CORE, &["nodes", "pods", "services"], READ),
            (CORE, &["services/finalizers"], UPDATE),
            (
                &["discovery.k8s.io"],
                &["endpointslices"],
                &["create", "delete", "get", "list", "update", "watch"],
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
                &["create", "delete", "get", "list", "update", "watch"],
            ),
            // Addresses within the networks of pods and Services.
            (CORE, &["endpoints/restricted"], CREATE),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            (CORE, &["namespaces"], &["delete", "get", "list", "watch"]),
            (CORE, &["namespaces/finalize", "namespaces/status"], UPDATE),
            (
                ALL,
                ALL,
                &["delete", "deletecollection", "get", "list", "watch"],
            ),
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
        &[(CORE, &["serviceaccounts"], CREATE), EVENTS],
    ),
    (
        "root-ca-cert-publisher",
        &[(CORE, &["configmaps"], &["create", "update"]), EVENTS],
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
            (CORE, &["pods"], &["delete", "list", "watch"]),
            (CORE, &["nodes"], READ),
            (CORE, &["pods/status"], &["patch"]),
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
