//! The row of an autoscaler.

use corral_api::k8s::api::autoscaling::v2::{
    HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, age};

/// How many metrics a row shows.
const SHOWN_MAX: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::text("Reference", "What is scaled."),
        Column::text("Targets", "What is measured, and what it shall be."),
        Column::text("MinPods", "The fewest pods."),
        Column::text("MaxPods", "The most pods."),
        Column::text("Replicas", "The pods there are."),
        Column::AGE,
    ]
}

pub(super) fn cells(scaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    let spec = &scaler.spec;
    let status = scaler.status.clone().unwrap_or_default();
    let target = &spec.scale_target_ref;
    let min = spec.min_replicas.map(|min| min.to_string());
    let statuses = status.current_metrics.unwrap_or_default();
    vec![
        scaler.metadata.name.clone().into(),
        format!("{}/{}", target.kind, target.name).into(),
        metrics(spec.metrics.as_deref().unwrap_or_default(), &statuses).into(),
        min.unwrap_or_else(|| "<unset>".to_owned()).into(),
        spec.max_replicas.into(),
        status.current_replicas.unwrap_or(0).into(),
        age(&scaler.metadata, now),
    ]
}

fn metrics(specs: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown = specs.iter().enumerate().take(SHOWN_MAX);
    let shown: Vec<String> = shown
        .map(|(i, spec)| metric(spec, statuses.get(i)))
        .collect();
    let shown = shown.join(", ");
    match specs.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn metric(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    match spec.type_.as_str() {
        "External" => {
            let current = status.and_then(|s| s.external.as_ref()).map(|s| &s.current);
            amount(spec.external.as_ref().map(|s| &s.target), current)
        }
        "Object" => {
            let current = status.and_then(|s| s.object.as_ref()).map(|s| &s.current);
            amount(spec.object.as_ref().map(|s| &s.target), current)
        }
        "Pods" => {
            let current = status.and_then(|s| s.pods.as_ref());
            let current = current.map_or(UNKNOWN, |s| quantity(s.current.average_value.as_ref()));
            let target = spec
                .pods
                .as_ref()
                .and_then(|s| s.target.average_value.as_ref());
            format!("{current}/{}", quantity(target))
        }
        "Resource" => {
            let current = status.and_then(|s| s.resource.as_ref()).map(|s| &s.current);
            let source = spec.resource.as_ref();
            share(source.map(|s| (s.name.as_str(), &s.target)), current)
        }
        "ContainerResource" => {
            let current = status.and_then(|s| s.container_resource.as_ref());
            let source = spec.container_resource.as_ref();
            let source = source.map(|s| (s.name.as_str(), &s.target));
            share(source, current.map(|s| &s.current))
        }
        _ => "<unknown type>".to_owned(),
    }
}

fn quantity(wire: Option<&Quantity>) -> &str {
    wire.map_or("<nil>", |wire| wire.0.as_str())
}

/// An amount, of all pods together or on average.
fn amount(target: Option<&MetricTarget>, current: Option<&MetricValueStatus>) -> String {
    let Some(target) = target else {
        return UNKNOWN.to_owned();
    };
    match &target.average_value {
        Some(wanted) => {
            let current = current.and_then(|c| c.average_value.as_ref());
            let current = current.map_or(UNKNOWN, |wire| wire.0.as_str());
            format!("{current}/{} (avg)", wanted.0)
        }
        None => {
            let current = current.map_or(UNKNOWN, |c| quantity(c.value.as_ref()));
            format!("{current}/{}", quantity(target.value.as_ref()))
        }
    }
}

/// An amount, or a share of what the pods ask for.
fn share(source: Option<(&str, &MetricTarget)>, current: Option<&MetricValueStatus>) -> String {
    let Some((name, target)) = source else {
        return UNKNOWN.to_owned();
    };
    if let Some(wanted) = &target.average_value {
        let current = current.map_or(UNKNOWN, |c| quantity(c.average_value.as_ref()));
        return format!("{name}: {current}/{}", wanted.0);
    }
    let percent = |share: Option<i32>| share.map(|share| format!("{share}%"));
    let current = percent(current.and_then(|c| c.average_utilization));
    let current = current.unwrap_or_else(|| UNKNOWN.to_owned());
    let wanted = percent(target.average_utilization).unwrap_or_else(|| "<auto>".to_owned());
    format!("{name}: {current}/{wanted}")
}
