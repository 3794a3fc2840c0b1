//! `Deployment`.

use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::apps::v1::{Deployment, DeploymentStatus};
use jiff::Timestamp;
use serde_json::Value;

use crate::core::pod_spec::defaults;
use crate::fill;
use crate::kind::{Column, Kind, Names, ScalePaths, age};
use crate::table;

/// `apps/v1 Deployment`.
pub struct DeploymentKind;

impl Kind for DeploymentKind {
    type Object = Deployment;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const SCALE: Option<ScalePaths> = Some(ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: "/spec/selector",
    });

    fn default(deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        fill::absent(&mut spec.replicas, 1);
        let strategy = spec.strategy.get_or_insert_default();
        fill::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            let quarter = || IntOrString::String("25%".to_owned());
            fill::absent(&mut rolling.max_unavailable, quarter());
            fill::absent(&mut rolling.max_surge, quarter());
        }
        fill::absent(&mut spec.revision_history_limit, 10);
        fill::absent(&mut spec.progress_deadline_seconds, 600);
        defaults::template(&mut spec.template);
    }

    fn prepare_create(deployment: &mut Deployment) {
        deployment.status = Some(DeploymentStatus::default());
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::text("Ready", "Pods that are ready, of how many."),
            Column::text("Up-to-date", "Pods made from the newest template."),
            Column::text("Available", "Pods that have been ready for long enough."),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.as_ref();
        let count = |get: fn(&DeploymentStatus) -> Option<i32>| status.and_then(get).unwrap_or(0);
        let wanted = spec.and_then(|s| s.replicas).unwrap_or(0);
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            deployment.metadata.name.clone().into(),
            format!("{}/{wanted}", count(|s| s.ready_replicas)).into(),
            count(|s| s.updated_replicas).into(),
            count(|s| s.available_replicas).into(),
            age(&deployment.metadata, now),
            names,
            images,
            table::selector_text(spec.map(|s| &s.selector)).into(),
        ]
    }
}
