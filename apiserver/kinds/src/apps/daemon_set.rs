//! `DaemonSet`.

use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::apps::v1::{DaemonSet, DaemonSetStatus};
use jiff::Timestamp;
use serde_json::Value;

use crate::core::pod_spec::defaults;
use crate::fill;
use crate::kind::{Column, Kind, Names, age};
use crate::table;

/// `apps/v1 DaemonSet`.
pub struct DaemonSetKind;

impl Kind for DaemonSetKind {
    type Object = DaemonSet;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;

    fn default(set: &mut DaemonSet) {
        let spec = set.spec.get_or_insert_default();
        let strategy = spec.update_strategy.get_or_insert_default();
        fill::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            fill::absent(&mut rolling.max_unavailable, IntOrString::Int(1));
            fill::absent(&mut rolling.max_surge, IntOrString::Int(0));
        }
        fill::absent(&mut spec.revision_history_limit, 10);
        defaults::template(&mut spec.template);
    }

    fn prepare_create(set: &mut DaemonSet) {
        set.status = Some(DaemonSetStatus::default());
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::integer("Desired", "Nodes that should run a pod."),
            Column::integer("Current", "Nodes that have a pod and should."),
            Column::integer("Ready", "Nodes whose pod is ready."),
            Column::integer("Up-to-date", "Nodes whose pod is made from the newest template."),
            Column::integer("Available", "Nodes whose pod has been ready for long enough."),
            Column::text("Node Selector", "Labels of the nodes that should run a pod."),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let status = set.status.as_ref();
        let count = |get: fn(&DaemonSetStatus) -> Option<i32>| status.and_then(get).unwrap_or(0);
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            set.metadata.name.clone().into(),
            count(|s| Some(s.desired_number_scheduled)).into(),
            count(|s| Some(s.current_number_scheduled)).into(),
            count(|s| Some(s.number_ready)).into(),
            count(|s| s.updated_number_scheduled).into(),
            count(|s| s.number_available).into(),
            table::labels(pods.and_then(|p| p.node_selector.as_ref())).into(),
            age(&set.metadata, now),
            names,
            images,
            table::selector(spec.map(|s| &s.selector)).into(),
        ]
    }
}
