//! `Pod`.

mod resize;
pub mod row;
pub mod rules;
mod status;

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::{Pod, PodCondition, PodIP, PodSpec, PodStatus};
use jiff::Timestamp;
use serde_json::Value;

use super::pod_spec::{app_armor, defaults, prepare, qos, warnings};
use crate::kind::{Column, Kind, Names, Words};
use crate::selectable::SelectableField;

const EPHEMERAL_CONTAINERS: &str = "ephemeralcontainers";
const RESIZE: &str = "resize";

/// `v1 Pod`.
pub struct PodKind;

impl Kind for PodKind {
    type Object = Pod;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: Words::Of(&["po"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[
        SelectableField::text("spec.nodeName"),
        SelectableField::text("spec.restartPolicy"),
        SelectableField::text("spec.schedulerName"),
        SelectableField::text("spec.serviceAccountName"),
        SelectableField::boolean("spec.hostNetwork"),
        SelectableField::text("status.phase"),
        SelectableField::text("status.podIP"),
        SelectableField::text("status.nominatedNodeName"),
    ];

    fn default(pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        defaults::spec(spec);
        defaults::pod_only(spec);
        if let Some(status) = &mut pod.status {
            default_status(status);
        }
    }

    fn prepare_create(pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        defaults::service_account_alias(spec);
        prepare::drop_unoffered(spec, None);
        prepare::select_by_own_labels(spec, pod.metadata.labels.as_ref());
        app_armor::take_up(pod.metadata.annotations.as_ref(), spec);
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos::class(spec).to_owned()),
            conditions: gated(spec).then(|| vec![gated_condition()]),
            ..PodStatus::default()
        });
    }

    fn prepare_update(new: &mut Pod, old: &Pod) {
        let spec = new.spec.get_or_insert_default();
        defaults::service_account_alias(spec);
        prepare::drop_unoffered(spec, old.spec.as_ref());
        new.status.clone_from(&old.status);
    }

    fn keep_for_status(new: &mut Pod, old: &Pod) {
        let owners = &old.metadata.owner_references;
        new.metadata.owner_references.clone_from(owners);
    }

    fn prepare_status_update(new: &mut Pod, old: &Pod) {
        let class = old.status.as_ref().and_then(|s| s.qos_class.clone());
        let status = new.status.get_or_insert_default();
        if status.qos_class.is_none() {
            status.qos_class = class;
        }
        status::drop_unoffered(status, old.status.as_ref());
    }

    const PARTS: &'static [&'static str] = &[EPHEMERAL_CONTAINERS, RESIZE];

    fn prepare_part_update(part: &str, new: &mut Pod, old: &Pod) {
        resize::keep_object(new, old);
        match part {
            EPHEMERAL_CONTAINERS => resize::keep_all_but_ephemeral(new, old),
            _ => resize::keep_all_but_resources(new, old),
        }
        let spec = new.spec.get_or_insert_default();
        prepare::drop_unoffered(spec, old.spec.as_ref());
    }

    fn validate_part_update(part: &str, new: &Pod, old: &Pod) -> Vec<FieldError> {
        match part {
            EPHEMERAL_CONTAINERS => rules::ephemeral(new, old),
            _ => resize::rules(new, old),
        }
    }

    /// A pod that no node runs, or that has ended, goes at once.
    fn default_grace_period(pod: &Pod) -> Option<i64> {
        let spec = pod.spec.as_ref()?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let on_node = spec.node_name.as_ref().is_some_and(|n| !n.is_empty());
        if !on_node || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        Some(spec.termination_grace_period_seconds.unwrap_or(0))
    }

    // Every node asks for its own pods.
    const INDEXED_FIELD: Option<&'static str> = Some("spec.nodeName");

    fn columns() -> Vec<Column> {
        row::columns()
    }

    fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
        row::cells(pod, now)
    }
    fn decode_row(json: &[u8]) -> Option<Result<Pod, serde_json::Error>> {
        Some(row::decode(json))
    }

    fn validate(pod: &Pod) -> Vec<FieldError> {
        rules::create(pod)
    }

    fn validate_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
        rules::update(new, old)
    }

    fn validate_status_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
        status::rules(new, old)
    }

    fn creation_warnings(pod: &Pod) -> Vec<String> {
        let annotations = pod.metadata.annotations.as_ref();
        let spec = pod.spec.as_ref();
        spec.map_or_else(Vec::new, |spec| app_armor::warnings(annotations, spec))
    }

    fn warnings(pod: &Pod) -> Vec<String> {
        let nothing = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        let annotations = pod.metadata.annotations.as_ref();
        let mut all = warnings::of_annotations(annotations, spec);
        all.extend(warnings::of_spec("spec", spec));
        all
    }
}

/// The first of the addresses is also the one address of old clients.
fn default_status(status: &mut PodStatus) {
    let plural = status.pod_ips.as_ref().and_then(|ips| ips.first());
    match (plural, &status.pod_ip) {
        (Some(first), _) => status.pod_ip = Some(first.ip.clone()),
        (None, Some(ip)) if !ip.is_empty() => {
            status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
        }
        _ => {}
    }
}

fn gated(spec: &PodSpec) -> bool {
    spec.scheduling_gates
        .as_ref()
        .is_some_and(|g| !g.is_empty())
}

fn gated_condition() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..PodCondition::default()
    }
}
