//! Checks and changes that look at other objects, in the order in which they run.
//!
//! What a kind can decide alone is in `corral_kinds`. A plugin here is a function over the typed object.

use std::net::Ipv4Addr;
use std::sync::Arc;

use corral_api::status::Status;
use corral_kinds::{AnyKind, Object};
use corral_storage::Operation as StoreOperation;
use serde_json::Value;

use crate::api::{Api, Late};
use crate::authz::Authorizer;
use crate::metrics::allocations::Allocations;
use crate::registry::{DeleteOptions, Part, Resource, WriteContext};

mod admin_access;
mod api_service;
mod asking;
mod certificates;
mod default_ingress_class;
mod derived;
mod event_rate_limit;
mod exemption;
mod expressions;
mod image_policy;
pub mod laps;
mod limit_ranger;
mod matching;
pub(crate) mod namespace_lifecycle;
pub(crate) mod node_restriction;
mod node_taints;
mod optional;
mod owner_references;
mod plugins;
mod pod_node_selector;
mod pod_priority;
mod pod_resize;
pub mod pod_security;
mod pod_toleration_restriction;
mod pod_tolerations;
mod pod_topology;
pub mod policies;
mod policy_params;
mod rbac_escalation;
pub mod request;
mod resource_quota;
mod rights;
mod rounds;
mod runtime_class;
mod service_account;
mod service_addresses;
mod settings;
mod storage;
pub mod webhooks;

pub use resource_quota::Turn;
pub use service_addresses::{AddressRange, NodePorts};
pub(crate) use service_addresses::{adopt_node_ports, node_ports};
pub use settings::Settings;

pub use event_rate_limit::EventLimits;
pub use image_policy::ImagePolicy;
use laps::Laps;
use plugins::Plugins;
use pod_security::PodSecurity;
pub use pod_toleration_restriction::Tolerations;
use policies::Policies;
use request::{Operation, Request};
use webhooks::Webhooks;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A new object.
    Create,
    /// A change.
    Update,
}

/// A write as admission sees it.
pub struct Attributes<'a> {
    /// The resource written.
    pub resource: &'a Resource,
    /// Its kind.
    pub kind: &'a dyn AnyKind,
    /// The circumstances.
    pub cx: &'a WriteContext,
    /// What is being done.
    pub action: Action,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// The part that is written.
    pub part: Part,
    /// Who owns which fields: not a part of the object while it is written.
    pub managed: Option<&'a Value>,
    /// The same of the object as it was.
    pub old_managed: Option<&'a Value>,
    /// Whether the server chooses the name of the object.
    pub names_itself: bool,
    /// Whether what was sent lacks the UID or the time of the stored object, or has others: it was made, not read and changed.
    pub is_made_anew: bool,
    /// Operations that must succeed together with the write: addresses and ports taken or given back.
    pub claims: Vec<StoreOperation>,
    /// Whether the object goes with this write, having waited for its finalizers or its node.
    pub removes: bool,
    /// Held until the transaction is over.
    turn: Option<Turn>,
}

impl<'a> Attributes<'a> {
    /// A creation.
    pub fn create(resource: &'a Resource, cx: &'a WriteContext) -> Self {
        Self {
            resource,
            kind: &*resource.kind,
            cx,
            action: Action::Create,
            subresource: "",
            part: Part::Main,
            managed: None,
            old_managed: None,
            names_itself: false,
            is_made_anew: false,
            claims: Vec::new(),
            removes: false,
            turn: None,
        }
    }

    /// An update.
    pub fn update(
        resource: &'a Resource,
        cx: &'a WriteContext,
        part: Part,
        subresource: &'a str,
    ) -> Self {
        Self {
            action: Action::Update,
            subresource,
            part,
            ..Self::create(resource, cx)
        }
    }

    /// What is done, as metrics name it.
    fn operation(&self) -> &'static str {
        match self.action {
            Action::Create => "CREATE",
            Action::Update => "UPDATE",
        }
    }

    fn is(&self, group: &str, kind: &str, action: Action) -> bool {
        let names = self.kind.names();
        names.group == group
            && names.kind == kind
            && self.action == action
            && self.subresource.is_empty()
    }

    fn forbidden(&self, name: &str, why: &str) -> Status {
        let names = self.kind.names();
        Status::forbidden(names.group, names.plural, name, why)
    }
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

/// What admission needs to know of the cluster.
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// Addresses of Services.
    pub service_range: AddressRange,
    /// Ports of Services on every node.
    pub node_ports: NodePorts,
    /// How many of both are given.
    pub allocations: Arc<Allocations>,
    /// The address of the `kubernetes` Service: the first of the range.
    pub api_address: Ipv4Addr,
}

/// What is set up beside the plugins that need nothing.
pub struct Parts {
    /// Which plugins run.
    pub plugins: Plugins,
    /// What is measured.
    pub metrics: laps::Metrics,
    /// Pod security.
    pub pod_security: PodSecurity,
    /// What pods tolerate, and may.
    pub tolerations: Tolerations,
    /// How many Events are taken.
    pub event_limits: EventLimits,
    /// Who says which images may run.
    pub image_policy: Option<ImagePolicy>,
    /// Policies.
    pub policies: Policies,
    /// Webhooks.
    pub webhooks: Webhooks,
}

/// The plugins.
pub struct Admission {
    api: Late<Api>,
    authorizer: Late<Authorizer>,
    config: AdmissionConfig,
    turns: resource_quota::Turns,
    plugins: Plugins,
    metrics: laps::Metrics,
    pod_security: PodSecurity,
    tolerations: Tolerations,
    event_limits: EventLimits,
    image_policy: Option<ImagePolicy>,
    policies: Policies,
    webhooks: Webhooks,
}

impl Admission {
    /// Plugins over resources that exist later.
    pub fn new(
        api: Late<Api>,
        authorizer: Late<Authorizer>,
        config: AdmissionConfig,
        parts: Parts,
    ) -> Self {
        Self {
            api,
            authorizer,
            config,
            turns: resource_quota::Turns::default(),
            plugins: parts.plugins,
            metrics: parts.metrics,
            pod_security: parts.pod_security,
            tolerations: parts.tolerations,
            event_limits: parts.event_limits,
            image_policy: parts.image_policy,
            policies: parts.policies,
            webhooks: parts.webhooks,
        }
    }

    fn api(&self) -> Result<Arc<Api>, Status> {
        self.api.get().ok_or_else(stopping)
    }

    /// Changes an object before its rules are checked.
    ///
    /// # Errors
    /// 403 when the write is not admitted.
    pub async fn mutate(
        &self,
        attributes: &mut Attributes<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let api = self.api()?;
        let mut laps = self.metrics.begin(attributes.operation(), "admit");
        if laps.run(&self.plugins, "NamespaceAutoProvision") {
            namespace_lifecycle::provide(&api, attributes, object).await?;
        }
        self.built_in(&api, &mut laps, attributes, object, old)
            .await?;
        self.ask_mutating(&api, attributes, object, old).await?;
        // What has no second try comes last: what is claimed, and rights.
        if attributes.is("", "Service", Action::Create)
            || attributes.is("", "Service", Action::Update)
        {
            service_addresses::admit(&api, &self.config, attributes, object, old).await?;
        }
        admin_access::admit(&api, attributes, object, old).await?;
        let authorizer = self.authorizer.get().ok_or_else(stopping)?;
        rbac_escalation::check(&authorizer, attributes, object, old).await?;
        laps.pass();
        Ok(())
    }

    /// The plugins that change objects. They run once more when policies or webhooks have changed what they saw.
    async fn built_in(
        &self,
        api: &Api,
        laps: &mut Laps<'_>,
        attributes: &Attributes<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let mut run = |plugin| laps.run(&self.plugins, plugin);
        let creates_pod = attributes.is("", "Pod", Action::Create);
        let updates_pod = attributes.is("", "Pod", Action::Update);
        if run("NamespaceLifecycle") {
            namespace_lifecycle::check(api, attributes, object).await?;
        }
        if creates_pod && run("LimitRanger") {
            limit_ranger::admit(api, attributes, object);
        }
        if creates_pod && run("ServiceAccount") {
            service_account::admit(api, attributes, object).await?;
        }
        if run("NodeRestriction") {
            node_restriction::check(api, attributes, object, old)?;
        }
        if attributes.is("", "Node", Action::Create) && run("TaintNodesByCondition") {
            node_taints::admit(object);
        }
        if (creates_pod || updates_pod) && run("AlwaysPullImages") {
            optional::always_pull(object, old);
        }
        if creates_pod && run("PodNodeSelector") {
            pod_node_selector::admit(api, attributes, object).await?;
        }
        if creates_pod && run("Priority") {
            pod_priority::admit(api, attributes, object)?;
        }
        if updates_pod && run("Priority") {
            pod_priority::keep(object, old);
        }
        if (creates_pod || updates_pod) && run("DefaultTolerationSeconds") {
            // A patch replaces the whole list: what was added at creation would be missed.
            pod_tolerations::admit(object);
        }
        if (creates_pod || updates_pod) && run("PodTolerationRestriction") {
            let tolerations = &self.tolerations;
            tolerations
                .admit(api, attributes, object, creates_pod)
                .await?;
        }
        if (creates_pod || updates_pod) && run("ExtendedResourceToleration") {
            optional::tolerate_devices(object);
        }
        if creates_pod && run("RuntimeClass") {
            runtime_class::admit(api, attributes, object)?;
        }
        if attributes.is("networking.k8s.io", "Ingress", Action::Create)
            && run("DefaultIngressClass")
        {
            default_ingress_class::admit(api, object);
        }
        if creates_pod && run("PodTopologyLabels") {
            pod_topology::admit(api, object);
        }
        laps.pause();
        api_service::admit(attributes, object);
        certificates::admit(attributes, object, old);
        storage::admit(api, &self.plugins, attributes, object, old);
        Ok(())
    }

    /// Looks at an object as it will be stored: the plugins, then policies and webhooks.
    ///
    /// # Errors
    /// 403 when the write is not admitted.
    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let api = self.api()?;
        let mut laps = self.metrics.begin(attributes.operation(), "validate");
        let mut run = |plugin| laps.run(&self.plugins, plugin);
        if run("NamespaceExists") {
            namespace_lifecycle::check_exists(&api, attributes).await?;
        }
        if run("LimitPodHardAntiAffinityTopology") {
            optional::check_anti_affinity(attributes, object)?;
        }
        if run("LimitRanger") {
            limit_ranger::check(&api, attributes, object, old)?;
        }
        let authorizer = self.authorizer.get().ok_or_else(stopping)?;
        if run("OwnerReferencesPermissionEnforcement") {
            owner_references::check(&api, &authorizer, attributes, object, old).await?;
        }
        if let Some(image_policy) = self
            .image_policy
            .as_ref()
            .filter(|_| run("ImagePolicyWebhook"))
        {
            image_policy.check(attributes, object).await?;
        }
        if run("PodSecurity") {
            self.pod_security
                .check(&api, attributes, object, old)
                .await?;
        }
        if run("Priority") {
            pod_priority::check_classes(&api, attributes, object)?;
        }
        let is_pod = attributes.is("", "Pod", attributes.action);
        if is_pod && run("PodTolerationRestriction") {
            self.tolerations.check(&api, attributes, object).await?;
        }
        if attributes.is("", "Pod", Action::Create) && run("RuntimeClass") {
            runtime_class::check(&api, attributes, object)?;
        }
        if run("EventRateLimit") {
            self.event_limits.check(attributes, object)?;
        }
        if run("PersistentVolumeClaimResize") {
            storage::check_growth(&api, attributes, object, old)?;
        }
        certificates::check(&authorizer, &self.plugins, attributes, object, old).await?;
        if run("DenyServiceExternalIPs") {
            optional::check_external_ips(attributes, object, old)?;
        }
        if run("PodResizeValidator") {
            pod_resize::check(&api, attributes, object, old)?;
        }
        policy_params::check(&api, &authorizer, attributes, object, old).await?;
        laps.pause();
        self.ask_validating(&api, attributes, object, old).await?;
        laps.pass();
        Ok(())
    }

    /// Charges quotas, after everybody else: what is refused is not charged.
    ///
    /// # Errors
    /// 403 when a quota does not suffice.
    pub async fn charge(
        &self,
        attributes: &mut Attributes<'_>,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let api = self.api()?;
        if self.plugins.run("ResourceQuota") {
            resource_quota::charge(&api, &self.turns, attributes, object, old).await?;
        }
        if self.plugins.run("AlwaysDeny") {
            optional::deny(attributes, object)?;
        }
        Ok(())
    }

    /// Whether an object may be deleted.
    ///
    /// # Errors
    /// 403 when it may not.
    pub async fn delete(
        &self,
        resource: &Resource,
        cx: &WriteContext,
        name: &str,
        options: &DeleteOptions,
        old: &Value,
    ) -> Result<(), Status> {
        let (api, kind) = (self.api()?, &*resource.kind);
        if self.plugins.run("NodeRestriction") {
            node_restriction::check_delete(&api, kind, cx, name, old).await?;
        }
        if self.plugins.run("NamespaceLifecycle") {
            namespace_lifecycle::check_delete(kind, name)?;
        }
        if !cx.asked.collection {
            pod_priority::check_delete(kind, name)?;
        }
        let told = if cx.asked.collection { "" } else { name };
        let request = Request::about(resource, cx, Operation::Delete, told).with_deletion(options);
        self.ask_about_deletion(&api, &request, old).await
    }

    /// Asks the plugins, and then webhooks, about the Binding of a pod; answers what they make of it.
    ///
    /// # Errors
    /// As [`Admission::admit_other`].
    pub async fn admit_binding(
        &self,
        request: &Request<'_>,
        mut binding: Value,
    ) -> Result<Value, Status> {
        if self.plugins.run("PodTopologyLabels") {
            pod_topology::admit_binding(&*self.api()?, &mut binding);
        }
        self.admit_other(request, binding).await
    }

    /// Operations that give back to quotas what a deleted object used, and the turn to hold until they are done.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn discharge(
        &self,
        kind: &dyn AnyKind,
        cx: &WriteContext,
        name: &str,
        json: &[u8],
    ) -> Result<(Vec<StoreOperation>, Option<Turn>), Status> {
        if !self.plugins.run("ResourceQuota") {
            return Ok((Vec::new(), None));
        }
        let api = self.api()?;
        let object = (cx.namespace.as_str(), name);
        resource_quota::discharge(&api, &self.turns, kind, object, json, cx.now).await
    }

    /// Operations that give back what a removed object had claimed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn releases(
        &self,
        kind: &dyn AnyKind,
        json: &[u8],
    ) -> Result<Vec<StoreOperation>, Status> {
        if kind.names().group.is_empty() && kind.names().kind == "Service" {
            return service_addresses::releases(&*self.api()?, json).await;
        }
        Ok(Vec::new())
    }
}
