//! The list of all kinds: the one place that names each.

use crate::kind::{AnyKind, Erased};
use crate::{
    admissionregistration, apiextensions, apiregistration, apps, authentication, authorization,
    autoscaling, batch, certificates, coordination, core, discovery, events, flowcontrol,
    networking, node, policy, rbac, resource, scheduling, storage,
};

/// Kinds with a resource of their own.
pub static RESOURCES: &[&dyn AnyKind] = &[
    &Erased::<core::namespace::NamespaceKind>::new(),
    &Erased::<core::node::NodeKind>::new(),
    &Erased::<core::pod::PodKind>::new(),
    &Erased::<core::service::ServiceKind>::new(),
    &Erased::<core::endpoints::EndpointsKind>::new(),
    &Erased::<core::config_map::ConfigMapKind>::new(),
    &Erased::<core::secret::SecretKind>::new(),
    &Erased::<core::service_account::ServiceAccountKind>::new(),
    &Erased::<core::event::EventKind>::new(),
    &Erased::<core::replication_controller::ReplicationControllerKind>::new(),
    &Erased::<core::pod_template::PodTemplateKind>::new(),
    &Erased::<core::limit_range::LimitRangeKind>::new(),
    &Erased::<core::resource_quota::ResourceQuotaKind>::new(),
    &Erased::<apps::deployment::DeploymentKind>::new(),
    &Erased::<apps::replica_set::ReplicaSetKind>::new(),
    &Erased::<apps::daemon_set::DaemonSetKind>::new(),
    &Erased::<apps::stateful_set::StatefulSetKind>::new(),
    &Erased::<apps::controller_revision::ControllerRevisionKind>::new(),
    &Erased::<autoscaling::horizontal_pod_autoscaler::HorizontalPodAutoscalerKind>::new(),
    &Erased::<autoscaling::horizontal_pod_autoscaler_v1::HorizontalPodAutoscalerKind>::new(),
    &Erased::<batch::job::JobKind>::new(),
    &Erased::<batch::cron_job::CronJobKind>::new(),
    &Erased::<policy::pod_disruption_budget::PodDisruptionBudgetKind>::new(),
    &Erased::<discovery::endpoint_slice::EndpointSliceKind>::new(),
    &Erased::<networking::ingress::IngressKind>::new(),
    &Erased::<networking::ingress_class::IngressClassKind>::new(),
    &Erased::<networking::network_policy::NetworkPolicyKind>::new(),
    &Erased::<networking::ip_address::IpAddressKind>::new(),
    &Erased::<networking::service_cidr::ServiceCidrKind>::new(),
    &Erased::<coordination::lease::LeaseKind>::new(),
    &Erased::<rbac::role::RoleKind>::new(),
    &Erased::<rbac::role_binding::RoleBindingKind>::new(),
    &Erased::<rbac::cluster_role::ClusterRoleKind>::new(),
    &Erased::<rbac::cluster_role_binding::ClusterRoleBindingKind>::new(),
    &Erased::<scheduling::priority_class::PriorityClassKind>::new(),
    &Erased::<node::runtime_class::RuntimeClassKind>::new(),
    &Erased::<authentication::token_review::TokenReviewKind>::new(),
    &Erased::<authentication::self_subject_review::SelfSubjectReviewKind>::new(),
    &Erased::<authorization::subject_access_review::SubjectAccessReviewKind>::new(),
    &Erased::<authorization::self_subject_access_review::SelfSubjectAccessReviewKind>::new(),
    &Erased::<authorization::local_subject_access_review::LocalSubjectAccessReviewKind>::new(),
    &Erased::<authorization::self_subject_rules_review::SelfSubjectRulesReviewKind>::new(),
    &Erased::<core::persistent_volume::PersistentVolumeKind>::new(),
    &Erased::<core::persistent_volume_claim::PersistentVolumeClaimKind>::new(),
    &Erased::<storage::storage_class::StorageClassKind>::new(),
    &Erased::<storage::csi_driver::CsiDriverKind>::new(),
    &Erased::<storage::csi_node::CsiNodeKind>::new(),
    &Erased::<storage::csi_storage_capacity::CsiStorageCapacityKind>::new(),
    &Erased::<storage::volume_attachment::VolumeAttachmentKind>::new(),
    &Erased::<storage::volume_attributes_class::VolumeAttributesClassKind>::new(),
    &Erased::<certificates::certificate_signing_request::CertificateSigningRequestKind>::new(),
    &Erased::<flowcontrol::flow_schema::FlowSchemaKind>::new(),
    &Erased::<flowcontrol::priority_level_configuration::PriorityLevelConfigurationKind>::new(),
    &Erased::<resource::device_class::DeviceClassKind>::new(),
    &Erased::<resource::resource_claim::ResourceClaimKind>::new(),
    &Erased::<resource::resource_claim_template::ResourceClaimTemplateKind>::new(),
    &Erased::<resource::resource_slice::ResourceSliceKind>::new(),
    &Erased::<apiextensions::custom_resource_definition::CustomResourceDefinitionKind>::new(),
    &Erased::<admissionregistration::mutating_admission_policy::MutatingAdmissionPolicyKind>::new(),
    &Erased::<admissionregistration::mutating_admission_policy_binding::MutatingAdmissionPolicyBindingKind>::new(),
    &Erased::<admissionregistration::mutating_webhook_configuration::MutatingWebhookConfigurationKind>::new(),
    &Erased::<admissionregistration::validating_admission_policy::ValidatingAdmissionPolicyKind>::new(),
    &Erased::<admissionregistration::validating_admission_policy_binding::ValidatingAdmissionPolicyBindingKind>::new(),
    &Erased::<admissionregistration::validating_webhook_configuration::ValidatingWebhookConfigurationKind>::new(),
    &Erased::<apiregistration::api_service::ApiServiceKind>::new(),
    &Erased::<core::component_status::ComponentStatusKind>::new(),
    &Erased::<core::binding::BindingKind>::new(),
    &Erased::<events::event::EventKind>::new(),
];

/// Kinds that are met only as the body of a subresource.
pub static SUBRESOURCE_KINDS: &[&dyn AnyKind] = &[
    &Erased::<authentication::token_request::TokenRequestKind>::new(),
    &Erased::<autoscaling::scale::ScaleKind>::new(),
    &Erased::<policy::eviction::EvictionKind>::new(),
];

/// The kind of a resource.
pub fn resource(group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
    RESOURCES.iter().copied().find(|kind| {
        let names = kind.names();
        names.plural == plural && names.group == group && names.version == version
    })
}

/// A kind by its name.
pub fn kind(group: &str, version: &str, name: &str) -> Option<&'static dyn AnyKind> {
    RESOURCES
        .iter()
        .chain(SUBRESOURCE_KINDS)
        .copied()
        .find(|kind| {
            let names = kind.names();
            names.kind == name && names.group == group && names.version == version
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_and_columns_and_decodes_the_empty_object() {
        for kind in RESOURCES.iter().chain(SUBRESOURCE_KINDS) {
            let names = kind.names();
            let node = crate::schema::of(*kind);
            assert!(node.field("metadata").is_some(), "{}", names.kind);
            let mut object = kind.decode(serde_json::json!({})).expect(names.kind);
            kind.default(&mut object);
            let once = kind.encode(&object).expect(names.kind);
            kind.default(&mut object);
            assert_eq!(
                once,
                kind.encode(&object).expect(names.kind),
                "defaults of {}",
                names.kind
            );
            let cells = kind.cells(&object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns().len(), "{}", names.kind);
            let named = kind.columns().iter().any(|c| c.format == "name");
            assert!(named, "{}", names.kind);
        }
    }
}
