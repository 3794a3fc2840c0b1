//! One stored autoscaler, two forms: `v2` is what is stored; `v1` has one number for the CPU, and what it has no
//! fields for in annotations, as JSON in the order of fields that Go writes.

use std::collections::BTreeMap;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value, json};

use super::horizontal_pod_autoscaler::CPU_UTILIZATION_DEFAULT;
use crate::rules::selector_words;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// All annotations that carry fields; the last two are of a version that is not served any more.
const CARRIED: [&str; 6] = [
    METRICS,
    BEHAVIOR,
    CURRENT_METRICS,
    CONDITIONS,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];
/// Names of the parts of a metric, in the order in which Go writes them.
const SOURCES: [&str; 5] = [
    "object",
    "pods",
    "resource",
    "containerResource",
    "external",
];

/// Takes out the annotations that stand for fields.
pub(super) fn without_carried(annotations: &mut Option<BTreeMap<String, String>>) {
    let Some(map) = annotations else { return };
    map.retain(|key, _| !CARRIED.contains(&key.as_str()));
    if map.is_empty() {
        *annotations = None;
    }
}

/// What is asked for, or what is so: the two sides of a metric, which differ in the names of their fields.
#[derive(Clone, Copy)]
enum Side {
    Target,
    Current,
}

impl Side {
    /// The field of `v2` with the amounts.
    fn field(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Current => "current",
        }
    }

    /// A field of `v1`: `targetAverageValue` and the like.
    fn named(self, what: &str) -> String {
        format!("{}{what}", self.field())
    }
}

/// The form of `v1`.
pub(super) fn to_v1(mut value: Value) -> Value {
    let mut spec = take(&mut value, "spec");
    let mut status = take(&mut value, "status");
    let mut carried = Vec::new();
    let metrics = list(spec.remove("metrics"));
    let (cpu, others): (Vec<&Value>, Vec<&Value>) = metrics.iter().partition(|m| is_cpu_share(m));
    if let Some(first) = cpu.first() {
        let share = first["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".into(), share);
    }
    if !others.is_empty() {
        let others = others
            .iter()
            .map(|metric| metric_to_v1(metric, Side::Target));
        carried.push((METRICS, texts(others)));
    }
    let current = list(status.remove("currentMetrics"));
    if !current.is_empty() {
        let all = current
            .iter()
            .map(|metric| metric_to_v1(metric, Side::Current));
        carried.push((CURRENT_METRICS, texts(all)));
    }
    for metric in &current {
        let share = &metric["resource"]["current"]["averageUtilization"];
        if metric["resource"]["name"] == "cpu" && !share.is_null() {
            status.insert("currentCPUUtilizationPercentage".into(), share.clone());
        }
    }
    if let Some(behavior) = spec.remove("behavior").filter(|b| !b.is_null()) {
        carried.push((BEHAVIOR, behavior_to_text(&behavior)));
    }
    let conditions = list(status.remove("conditions"));
    if !conditions.is_empty() {
        carried.push((CONDITIONS, texts(conditions.iter().map(condition_to_text))));
    }
    put(&mut value, "spec", spec);
    put(&mut value, "status", status);
    set_annotations(&mut value, carried);
    with_version(value, "autoscaling/v1")
}

/// The form of `v2`.
pub(super) fn to_v2(mut value: Value) -> Value {
    let mut spec = take(&mut value, "spec");
    let mut status = take(&mut value, "status");
    let carried = |key: &str| -> Option<Value> {
        let text = value["metadata"]["annotations"].get(key)?.as_str()?;
        serde_json::from_str(text).ok()
    };
    let lists = |key: &str| match carried(key) {
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => Some(items),
        _ => None,
    };
    let mut metrics: Vec<Value> = lists(METRICS).unwrap_or_default();
    metrics
        .iter_mut()
        .for_each(|metric| *metric = metric_to_v2(metric, Side::Target));
    if let Some(share) = spec.remove("targetCPUUtilizationPercentage") {
        metrics.push(cpu_share(&share));
    }
    if metrics.is_empty() {
        metrics.push(cpu_share(&CPU_UTILIZATION_DEFAULT.into()));
    }
    spec.insert("metrics".into(), metrics.into());
    if let Some(behavior) = carried(BEHAVIOR).and_then(behavior_from_text) {
        spec.insert("behavior".into(), behavior);
    }
    let share = status.remove("currentCPUUtilizationPercentage");
    if let Some(mut current) = lists(CURRENT_METRICS) {
        current
            .iter_mut()
            .for_each(|metric| *metric = metric_to_v2(metric, Side::Current));
        status.insert("currentMetrics".into(), current.into());
    } else if let Some(share) = share {
        let current = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": share}}});
        status.insert("currentMetrics".into(), json!([current]));
    }
    if let Some(conditions) = lists(CONDITIONS) {
        status.insert("conditions".into(), conditions.into());
    }
    put(&mut value, "spec", spec);
    put(&mut value, "status", status);
    set_annotations(&mut value, Vec::new());
    with_version(value, "autoscaling/v2")
}

fn take(value: &mut Value, field: &str) -> Map<String, Value> {
    match value.as_object_mut().and_then(|map| map.remove(field)) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn put(value: &mut Value, field: &str, map: Map<String, Value>) {
    if !map.is_empty()
        && let Value::Object(object) = value
    {
        object.insert(field.to_owned(), map.into());
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn with_version(mut value: Value, version: &str) -> Value {
    if let Some(given) = value.get_mut("apiVersion") {
        *given = version.into();
    }
    value
}

fn set_annotations(value: &mut Value, carried: Vec<(&str, String)>) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let mut annotations = match metadata.remove("annotations") {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    annotations.retain(|key, _| !CARRIED.contains(&key.as_str()));
    annotations.extend(
        carried
            .into_iter()
            .map(|(key, text)| (key.to_owned(), text.into())),
    );
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), annotations.into());
    }
}

fn is_cpu_share(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource"
        && resource["name"] == "cpu"
        && !resource["target"]["averageUtilization"].is_null()
}

fn cpu_share(share: &Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": share});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

/// JSON of an object whose fields have an order; those without a value are left out.
fn ordered(fields: &[(&str, Option<String>)]) -> String {
    let given = fields
        .iter()
        .filter_map(|(key, text)| Some((key, text.as_ref()?)));
    let fields: Vec<String> = given
        .map(|(key, text)| format!("\"{key}\":{text}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn texts(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// A value as Go writes it into JSON, which escapes what HTML would read.
fn text(value: &Value) -> String {
    let mut text = value.to_string();
    for (plain, escaped) in [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026")] {
        text = text.replace(plain, escaped);
    }
    text
}

/// A field that is left out when it is not there.
fn optional(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| text(value))
}

/// A field that is always there: a text.
fn required(value: &Value) -> Option<String> {
    Some(optional(value).unwrap_or_else(|| "\"\"".to_owned()))
}

/// A field that is always there: an amount.
fn amount(value: &Value) -> Option<String> {
    Some(optional(value).unwrap_or_else(|| "\"0\"".to_owned()))
}

fn selector(value: &Value) -> Option<String> {
    let selector: LabelSelector = serde_json::from_value(value.clone()).ok()?;
    Some(selector_words(&selector))
}

fn metric_to_v1(metric: &Value, side: Side) -> String {
    let mut fields = vec![("type", required(&metric["type"]))];
    for source in SOURCES {
        let part = &metric[source];
        if !part.is_null() {
            fields.push((source, Some(source_to_v1(source, part, side))));
        }
    }
    ordered(&fields)
}

fn source_to_v1(source: &str, part: &Value, side: Side) -> String {
    let amounts = &part[side.field()];
    let metric = &part["metric"];
    let name = required(&metric["name"]);
    let (average, value) = (&amounts["averageValue"], &amounts["value"]);
    let named = ["AverageValue", "Value", "AverageUtilization"].map(|what| side.named(what));
    let [average_field, value_field, share_field] = named.each_ref().map(String::as_str);
    let share = optional(&amounts["averageUtilization"]);
    let needed = matches!(side, Side::Current);
    match source {
        "object" => {
            let object = &part["describedObject"];
            let target = ordered(&[
                ("kind", required(&object["kind"])),
                ("name", required(&object["name"])),
                ("apiVersion", optional(&object["apiVersion"])),
            ]);
            ordered(&[
                ("target", Some(target)),
                ("metricName", name),
                (value_field, amount(value)),
                ("selector", selector(&metric["selector"])),
                ("averageValue", optional(average)),
            ])
        }
        "pods" => ordered(&[
            ("metricName", name),
            (average_field, amount(average)),
            ("selector", selector(&metric["selector"])),
        ]),
        "external" => ordered(&[
            ("metricName", name),
            ("metricSelector", selector(&metric["selector"])),
            (
                value_field,
                if needed {
                    amount(value)
                } else {
                    optional(value)
                },
            ),
            (average_field, optional(average)),
        ]),
        _ => {
            let container = (source == "containerResource").then(|| required(&part["container"]));
            ordered(&[
                ("name", required(&part["name"])),
                (share_field, share),
                (
                    average_field,
                    if needed {
                        amount(average)
                    } else {
                        optional(average)
                    },
                ),
                ("container", container.flatten()),
            ])
        }
    }
}

fn metric_to_v2(metric: &Value, side: Side) -> Value {
    let mut out = json!({"type": metric["type"].as_str().unwrap_or_default()});
    for source in SOURCES {
        if metric[source].is_object() {
            out[source] = source_to_v2(source, &metric[source], side);
        }
    }
    out
}

fn source_to_v2(source: &str, part: &Value, side: Side) -> Value {
    let of = |what: &str| part.get(side.named(what)).filter(|v| !v.is_null()).cloned();
    let is_zero = |value: &Value| value == "0";
    let mut amounts = Map::new();
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            amounts.insert(field.to_owned(), value);
        }
    };
    let (value, average) = match source {
        "object" => {
            let average = part.get("averageValue").filter(|v| !v.is_null()).cloned();
            let value = of("Value").unwrap_or_else(|| "0".into());
            // The older form cannot leave the value out.
            let left_out = matches!(side, Side::Target) && average.is_some() && is_zero(&value);
            ((!left_out).then_some(value), average)
        }
        "pods" => (None, Some(of("AverageValue").unwrap_or_else(|| "0".into()))),
        _ => (of("Value"), of("AverageValue")),
    };
    let share = of("AverageUtilization");
    if matches!(side, Side::Target) {
        let by_value = match source {
            "object" => average.is_none(),
            "external" => value.is_some(),
            _ => false,
        };
        let kind = match () {
            () if share.is_some() => "Utilization",
            () if by_value => "Value",
            () => "AverageValue",
        };
        set("type", Some(kind.into()));
    }
    set("value", value);
    set("averageValue", average);
    set("averageUtilization", share);
    let mut out = json!({side.field(): amounts});
    match source {
        "resource" => out["name"] = part["name"].clone(),
        "containerResource" => {
            out["name"] = part["name"].clone();
            out["container"] = part["container"].clone();
        }
        _ => {
            let given = part.get("metricSelector").or_else(|| part.get("selector"));
            let name = part["metricName"].as_str().unwrap_or_default();
            out["metric"] = json!({"name": name});
            if let Some(given) = given.filter(|v| !v.is_null()) {
                out["metric"]["selector"] = given.clone();
            }
        }
    }
    if source == "object" {
        out["describedObject"] = part["target"].clone();
    }
    out
}

/// Names of fields as Go has them, in its order, with those of `v2`.
const RULES: [(&str, &str); 4] = [
    ("StabilizationWindowSeconds", "stabilizationWindowSeconds"),
    ("SelectPolicy", "selectPolicy"),
    ("Policies", "policies"),
    ("Tolerance", "tolerance"),
];
const POLICY: [(&str, &str); 3] = [
    ("Type", "type"),
    ("Value", "value"),
    ("PeriodSeconds", "periodSeconds"),
];
const DIRECTIONS: [(&str, &str); 2] = [("ScaleUp", "scaleUp"), ("ScaleDown", "scaleDown")];

fn behavior_to_text(behavior: &Value) -> String {
    let policy = |policy: &Value| ordered(&POLICY.map(|(go, v2)| (go, Some(text(&policy[v2])))));
    let rules = |rules: &Value| {
        ordered(&RULES.map(|(go, v2)| match rules[v2].as_array() {
            Some(policies) => (go, Some(texts(policies.iter().map(policy)))),
            None => (go, Some(text(&rules[v2]))),
        }))
    };
    ordered(&DIRECTIONS.map(|(go, v2)| match &behavior[v2] {
        Value::Null => (go, Some("null".to_owned())),
        given => (go, Some(rules(given))),
    }))
}

/// Go does not tell upper case from lower in names.
fn renamed(value: &Value, names: &[(&str, &str)]) -> Map<String, Value> {
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(_, value)| !value.is_null());
    let named = fields.filter_map(|(key, value)| {
        let name = names
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(key));
        Some((name?.1.to_owned(), value.clone()))
    });
    named.collect()
}

fn behavior_from_text(value: Value) -> Option<Value> {
    let mut behavior = renamed(&value, &DIRECTIONS);
    for rules in behavior.values_mut() {
        let mut own = renamed(rules, &RULES);
        if let Some(Value::Array(policies)) = own.get_mut("policies") {
            policies
                .iter_mut()
                .for_each(|policy| *policy = renamed(policy, &POLICY).into());
        }
        *rules = own.into();
    }
    (!behavior.is_empty()).then(|| behavior.into())
}

fn condition_to_text(condition: &Value) -> String {
    ordered(&[
        ("type", required(&condition["type"])),
        ("status", required(&condition["status"])),
        (
            "lastTransitionTime",
            Some(text(&condition["lastTransitionTime"])),
        ),
        ("reason", optional(&condition["reason"])),
        ("message", optional(&condition["message"])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {"mine": "1"}},
            "spec": {
                "maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [
                    {"type": "Object", "object": {
                        "describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
                        "metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "Value", "value": "2"}}},
                    {"type": "External", "external": {
                        "metric": {"name": "<e>"}, "target": {"type": "AverageValue", "averageValue": "1500m"}}},
                    {"type": "Resource", "resource": {
                        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                ],
                "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15}]}},
            },
            "status": {
                "desiredReplicas": 2,
                "currentMetrics": [{"type": "Resource", "resource": {
                    "name": "cpu", "current": {"averageUtilization": 10, "averageValue": "5m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    #[test]
    fn what_the_older_form_has_no_fields_for_is_carried_in_annotations() {
        let older = to_v1(newest());
        assert_eq!(older["apiVersion"], "autoscaling/v1");
        assert_eq!(older["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(older["status"]["currentCPUUtilizationPercentage"], 10);
        let annotations = &older["metadata"]["annotations"];
        assert_eq!(
            annotations[METRICS],
            "[{\"type\":\"Object\",\"object\":{\"target\":{\"kind\":\"Service\",\"name\":\"s\",\"apiVersion\":\"v1\"},\
             \"metricName\":\"m\",\"targetValue\":\"2\",\"selector\":{\"matchLabels\":{\"a\":\"b\"}}}},\
             {\"type\":\"External\",\"external\":{\"metricName\":\"\\u003ce\\u003e\",\"targetAverageValue\":\"1500m\"}}]"
        );
        assert_eq!(
            annotations[BEHAVIOR],
            "{\"ScaleUp\":{\"StabilizationWindowSeconds\":null,\"SelectPolicy\":\"Max\",\"Policies\":[{\"Type\":\"Pods\",\
             \"Value\":4,\"PeriodSeconds\":15}],\"Tolerance\":null},\"ScaleDown\":null}"
        );
        assert_eq!(annotations["mine"], "1");
    }

    #[test]
    fn an_autoscaler_survives_the_way_there_and_back() {
        assert_eq!(to_v2(to_v1(newest())), newest());
    }

    #[test]
    fn the_older_form_measures_the_cpu_by_default() {
        let newer = to_v2(
            json!({"apiVersion": "autoscaling/v1", "metadata": {}, "spec": {"maxReplicas": 1}}),
        );
        assert_eq!(newer["spec"]["metrics"], json!([cpu_share(&80.into())]));
    }
}
