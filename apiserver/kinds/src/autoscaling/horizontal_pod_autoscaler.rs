//! `HorizontalPodAutoscaler`: how many pods a workload has, by what is measured.

use corral_api::field::FieldError;
use corral_api::k8s::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use jiff::Timestamp;
use serde_json::Value;

use super::convert::without_carried;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words};

mod row;
mod rules;

/// The share of the CPU that pods shall use where nobody says what is measured.
pub(super) const CPU_UTILIZATION_DEFAULT: i32 = 80;
/// Seconds of the windows in which the default policies count.
const PERIOD_SECONDS: i32 = 15;

/// `autoscaling/v2 HorizontalPodAutoscaler`, the form that the store keeps.
pub struct HorizontalPodAutoscalerKind;

impl Kind for HorizontalPodAutoscalerKind {
    type Object = HorizontalPodAutoscaler;

    const NAMES: Names<'static> = Names {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: Words::Of(&["hpa"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;

    fn default(scaler: &mut HorizontalPodAutoscaler) {
        // What another version carries in annotations is no annotation here.
        without_carried(&mut scaler.metadata.annotations);
        if let Some(status) = &mut scaler.status {
            fill::none_if_empty(&mut status.current_metrics);
        }
        let spec = &mut scaler.spec;
        fill::absent(&mut spec.min_replicas, 1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu(CPU_UTILIZATION_DEFAULT)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let up = behavior.scale_up.get_or_insert_default();
            fill::absent(&mut up.stabilization_window_seconds, 0);
            complete(up, &[policy("Pods", 4), policy("Percent", 100)]);
            let down = behavior.scale_down.get_or_insert_default();
            complete(down, &[policy("Percent", 100)]);
        }
    }

    fn validate(scaler: &HorizontalPodAutoscaler) -> Vec<FieldError> {
        rules::spec(scaler, None)
    }

    fn validate_update(
        new: &HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
    ) -> Vec<FieldError> {
        rules::spec(new, Some(old))
    }

    fn validate_status_update(
        new: &HorizontalPodAutoscaler,
        _old: &HorizontalPodAutoscaler,
    ) -> Vec<FieldError> {
        rules::status(new)
    }

    fn warnings(_scaler: &HorizontalPodAutoscaler) -> Vec<String> {
        vec!["spec: accepted, but not honoured by this server yet".to_owned()]
    }

    fn columns() -> Vec<Column> {
        row::columns()
    }

    fn cells(scaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        row::cells(scaler, now)
    }
}

/// The share of the CPU that is asked for as what is measured.
fn cpu(utilization: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(utilization),
                ..Default::default()
            },
        }),
        ..Default::default()
    }
}

fn policy(type_: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy {
        type_: type_.to_owned(),
        value,
        period_seconds: PERIOD_SECONDS,
    }
}

fn complete(rules: &mut HPAScalingRules, policies: &[HPAScalingPolicy]) {
    fill::absent(&mut rules.select_policy, "Max".to_owned());
    fill::absent(&mut rules.policies, policies.to_vec());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn scaler(spec: Value) -> HorizontalPodAutoscaler {
        serde_json::from_value(json!({"spec": spec})).expect("an autoscaler")
    }

    #[test]
    fn what_is_measured_and_how_fast_it_scales_has_defaults() {
        let mut object = scaler(json!({
            "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 7}},
        }));
        HorizontalPodAutoscalerKind::default(&mut object);
        assert!(HorizontalPodAutoscalerKind::validate(&object).is_empty());
        assert_eq!(object.spec.min_replicas, Some(1));
        let behavior = serde_json::to_value(&object.spec.behavior).expect("JSON");
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        assert_eq!(
            behavior,
            json!({
                "scaleDown": {"stabilizationWindowSeconds": 7, "selectPolicy": "Max", "policies": [percent]},
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]},
            })
        );
        let cells = HorizontalPodAutoscalerKind::cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            cells[1..5],
            [
                "Deployment/d".into(),
                "cpu: <unknown>/80%".into(),
                "1".into(),
                json!(3)
            ]
        );
    }

    #[test]
    fn each_source_of_a_metric_has_its_target() {
        let object = scaler(json!({
            "maxReplicas": 1, "minReplicas": 2,
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "v1"},
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}],
        }));
        let errors = HorizontalPodAutoscalerKind::validate(&object);
        assert_eq!(
            texts(&errors),
            [
                "spec.maxReplicas: Invalid value: 1: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
            ]
        );
        // Who points at a wrong version already may go on doing so.
        let errors = HorizontalPodAutoscalerKind::validate_update(&object, &object);
        assert_eq!(errors.len(), 2, "{:?}", texts(&errors));
    }
}
