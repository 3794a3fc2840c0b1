//! Starts controllers.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use corral_runtime::{CacheFactory, Clock, Metrics, Tasks};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::certificates::{self, SigningCa};
use crate::context::{ClientFactory, Context};
use crate::{
    admissionpolicystatus, clusterroleaggregation, cronjob, daemonset, deployment, disruption,
    endpoints, endpointslice, endpointslicemirroring, garbagecollector, job, namespace, nodeipam,
    nodelifecycle, podgc, protection, replicaset, resourcequota, rootca, serviceaccount,
    statefulset,
};

/// A controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Deployment,
    ReplicaSet,
    ReplicationController,
    DaemonSet,
    StatefulSet,
    Job,
    CronJob,
    Endpoints,
    EndpointSlice,
    EndpointSliceMirroring,
    Namespace,
    ServiceAccount,
    RootCa,
    NodeIpam,
    NodeLifecycle,
    PodGc,
    ResourceQuota,
    ClusterRoleAggregation,
    Disruption,
    PvcProtection,
    PvProtection,
    VolumeAttributesClassProtection,
    CsrApproving,
    CsrSigning,
    CsrCleaner,
    ValidatingAdmissionPolicyStatus,
    GarbageCollector,
}

impl Name {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Deployment,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::DaemonSet,
        Self::StatefulSet,
        Self::Job,
        Self::CronJob,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::EndpointSliceMirroring,
        Self::Namespace,
        Self::ServiceAccount,
        Self::RootCa,
        Self::NodeIpam,
        Self::NodeLifecycle,
        Self::PodGc,
        Self::ResourceQuota,
        Self::ClusterRoleAggregation,
        Self::Disruption,
        Self::PvcProtection,
        Self::PvProtection,
        Self::VolumeAttributesClassProtection,
        Self::CsrApproving,
        Self::CsrSigning,
        Self::CsrCleaner,
        Self::ValidatingAdmissionPolicyStatus,
        Self::GarbageCollector,
    ];
}

impl fmt::Display for Name {
    /// As kube-controller-manager calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deployment => "deployment-controller",
            Self::ReplicaSet => "replicaset-controller",
            Self::ReplicationController => "replicationcontroller-controller",
            Self::DaemonSet => "daemonset-controller",
            Self::StatefulSet => "statefulset-controller",
            Self::Job => "job-controller",
            Self::CronJob => "cronjob-controller",
            Self::Endpoints => "endpoints-controller",
            Self::EndpointSlice => "endpointslice-controller",
            Self::EndpointSliceMirroring => "endpointslice-mirroring-controller",
            Self::Namespace => "namespace-controller",
            Self::ServiceAccount => "serviceaccount-controller",
            Self::RootCa => "root-ca-certificate-publisher-controller",
            Self::NodeIpam => "node-ipam-controller",
            Self::NodeLifecycle => "node-lifecycle-controller",
            Self::PodGc => "pod-garbage-collector-controller",
            Self::ResourceQuota => "resourcequota-controller",
            Self::ClusterRoleAggregation => "clusterrole-aggregation-controller",
            Self::Disruption => "disruption-controller",
            Self::PvcProtection => "persistentvolumeclaim-protection-controller",
            Self::PvProtection => "persistentvolume-protection-controller",
            Self::VolumeAttributesClassProtection => "volumeattributesclass-protection-controller",
            Self::CsrApproving => "certificatesigningrequest-approving-controller",
            Self::CsrSigning => "certificatesigningrequest-signing-controller",
            Self::CsrCleaner => "certificatesigningrequest-cleaner-controller",
            Self::ValidatingAdmissionPolicyStatus => "validatingadmissionpolicy-status-controller",
            Self::GarbageCollector => "garbage-collector-controller",
        })
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|name| name.to_string() == text);
        found
            .copied()
            .ok_or_else(|| format!("there is no controller {text:?}"))
    }
}

/// What the controllers are started with.
pub struct ControllersConfig {
    /// Makes a client for a controller's identity.
    pub clients: ClientFactory,
    /// Caches shared with other parts of the process; made here when absent.
    pub caches: Option<CacheFactory>,
    /// Where metrics are registered.
    pub registry: Registry,
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// The cluster's CA certificate in PEM, published into every namespace.
    pub root_ca: Option<String>,
    /// The CA that signs what is approved for Kubernetes' own signers.
    pub signing_ca: Option<SigningCa>,
    /// The addresses of all pods in CIDR notation, of which each node is given a part.
    pub cluster_cidr: Option<String>,
    /// Which controllers run.
    pub enabled: BTreeSet<Name>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Starts the enabled controllers and returns when they have ended after shutdown.
pub async fn start(config: ControllersConfig) {
    let tasks = Tasks::new(config.shutdown.clone());
    let caches = config.caches.unwrap_or_else(|| {
        let metrics = Metrics::register(&config.registry);
        CacheFactory::new((config.clients)("shared-caches"), metrics, tasks.clone())
            .trimming(corral_runtime::trim::pod)
    });
    // Caches that outlive us must not go on waking our queues.
    let caches = caches.during(config.shutdown.clone());
    let metrics = caches.metrics().clone();
    let context = Context {
        clients: config.clients,
        caches,
        clock: config.clock,
        metrics,
        tasks,
    };
    for name in &config.enabled {
        match name {
            Name::Deployment => deployment::start(&context),
            Name::ReplicaSet => replicaset::start(&context),
            Name::ReplicationController => replicaset::start_replication(&context),
            Name::DaemonSet => daemonset::start(&context),
            Name::StatefulSet => statefulset::start(&context),
            Name::Job => job::start(&context),
            Name::CronJob => cronjob::start(&context),
            Name::Endpoints => endpoints::start(&context),
            Name::EndpointSlice => endpointslice::start(&context),
            Name::EndpointSliceMirroring => endpointslicemirroring::start(&context),
            Name::Namespace => namespace::start(&context),
            Name::ServiceAccount => serviceaccount::start(&context),
            Name::RootCa => match &config.root_ca {
                Some(certificate) => rootca::start(&context, certificate.clone()),
                None => tracing::info!("no root certificate to publish"),
            },
            Name::NodeIpam => match &config.cluster_cidr {
                Some(range) => nodeipam::start(&context, range),
                None => tracing::info!("no pod addresses to give to nodes"),
            },
            Name::NodeLifecycle => nodelifecycle::start(&context),
            Name::PodGc => podgc::start(&context),
            Name::ResourceQuota => resourcequota::start(&context),
            Name::ClusterRoleAggregation => clusterroleaggregation::start(&context),
            Name::Disruption => disruption::start(&context),
            Name::PvcProtection => protection::start_claims(&context),
            Name::PvProtection => protection::start_volumes(&context),
            Name::VolumeAttributesClassProtection => protection::start_classes(&context),
            Name::CsrApproving => certificates::start_approving(&context),
            Name::CsrSigning => match &config.signing_ca {
                Some(ca) => certificates::start_signing(&context, ca),
                None => tracing::info!("no CA to sign requests for certificates with"),
            },
            Name::CsrCleaner => certificates::start_cleaner(&context),
            Name::ValidatingAdmissionPolicyStatus => admissionpolicystatus::start(&context),
            // Last in the set: it then finds the typed caches of the others and watches only the remaining kinds.
            Name::GarbageCollector => garbagecollector::start(&context),
        }
    }
    config.shutdown.cancelled().await;
    context.tasks.join().await;
}
