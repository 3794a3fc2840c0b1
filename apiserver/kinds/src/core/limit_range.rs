//! `LimitRange`.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{LimitRange, LimitRangeItem};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::names;
use corral_api::quantity::Quantity;

use crate::core::pod_spec::validation::resources;
use crate::fill;
use crate::kind::{Kind, Names, Words};
use crate::rules::{self, Errors, at};

const TYPES: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];
/// Above this a number of units has no number of thousandths; amounts are then compared in units.
pub const MILLI_VALUE_MAX: i64 = i64::MAX / 1000;

type Amounts = Option<BTreeMap<String, Wire>>;

/// `v1 LimitRange`.
pub struct LimitRangeKind;

impl Kind for LimitRangeKind {
    type Object = LimitRange;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: Words::Of(&["limits"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn default(range: &mut LimitRange) {
        let spec = range.spec.iter_mut();
        for item in spec.flat_map(|spec| &mut spec.limits) {
            if item.type_ == "Container" {
                default_container(item);
            }
            for amounts in [
                &mut item.max,
                &mut item.min,
                &mut item.default,
                &mut item.default_request,
                &mut item.max_limit_request_ratio,
            ] {
                fill::round_up(amounts);
            }
        }
    }

    fn validate(range: &LimitRange) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let path = at("spec").child("limits");
        let mut seen = rules::Seen::default();
        let items = range.spec.iter().flat_map(|spec| &spec.limits);
        for (index, item) in items.enumerate() {
            let path = path.index(index);
            limit_type(&mut errors, &path.child("type"), &item.type_);
            seen.check(&mut errors, &path.child("type"), &item.type_);
            resource_names(&mut errors, &path, item);
            amounts(&mut errors, &path, item);
        }
        errors
    }
}

/// The limit defaults to the most, the request to the limit, and to the least where there is no limit.
fn default_container(item: &mut LimitRangeItem) {
    fn take(into: &mut Amounts, from: &Amounts) {
        for (name, amount) in from.iter().flatten() {
            let into = into.get_or_insert_default();
            into.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
    take(&mut item.default, &item.max);
    take(&mut item.default_request, &item.default);
    take(&mut item.default_request, &item.min);
}

fn limit_type(errors: &mut Errors, path: &FieldPath, name: &str) {
    let complaints = names::qualified_name(name);
    if complaints.is_empty() && !name.contains('/') && !TYPES.contains(&name) {
        let detail = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
    rules::complain(errors, path, name, complaints);
}

fn resource_names(errors: &mut Errors, path: &FieldPath, item: &LimitRangeItem) {
    let is_pod = item.type_ == "Pod";
    for (field, given, of_pods) in [
        ("max", &item.max, true),
        ("min", &item.min, true),
        ("default", &item.default, false),
        ("defaultRequest", &item.default_request, false),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio, true),
    ] {
        let path = path.child(field);
        if is_pod && !of_pods {
            if given.as_ref().is_some_and(|given| !given.is_empty()) {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(&path, detail));
            }
            continue;
        }
        for name in given.iter().flat_map(BTreeMap::keys) {
            match item.type_.as_str() {
                "Pod" | "Container" => resources::container_name(errors, &path.key(name), name),
                _ => resources::resource_name(errors, &path.key(name), name),
            }
        }
    }
    let has = |given: &Amounts| given.as_ref().is_some_and(|g| g.contains_key("storage"));
    if item.type_ == "PersistentVolumeClaim" && !has(&item.min) && !has(&item.max) {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&path.child("limits"), detail));
    }
}

/// What is said of one resource.
struct Said {
    min: Option<Quantity>,
    max: Option<Quantity>,
    default: Option<Quantity>,
    default_request: Option<Quantity>,
    ratio: Option<Quantity>,
}

fn amounts(errors: &mut Errors, path: &FieldPath, item: &LimitRangeItem) {
    let of = |given: &Amounts, name: &str| {
        let wire = given.as_ref().and_then(|given| given.get(name));
        wire.and_then(|wire| Quantity::from_wire(wire).ok())
    };
    // Those of a pod have no defaults; that there are some has been said.
    let defaults = |given: &Amounts, name: &str| of(given, name).filter(|_| item.type_ != "Pod");
    let lists = [
        &item.max,
        &item.min,
        &item.default,
        &item.default_request,
        &item.max_limit_request_ratio,
    ];
    let names: BTreeSet<&String> = lists
        .iter()
        .flat_map(|l| l.iter().flatten())
        .map(|e| e.0)
        .collect();
    for name in names {
        let said = Said {
            min: of(&item.min, name),
            max: of(&item.max, name),
            default: defaults(&item.default, name),
            default_request: defaults(&item.default_request, name),
            ratio: of(&item.max_limit_request_ratio, name),
        };
        in_order(errors, path, name, &said);
        ratio(errors, path, name, &said);
        if !resources::can_overcommit(name)
            && let (Some(limit), Some(request)) = (said.default, said.default_request)
            && limit != request
        {
            let detail = format!(
                "default value {limit} must equal to defaultRequest value {request} in {name}"
            );
            let path = path.child("defaultRequest").key(name);
            errors.push(FieldError::invalid(&path, request.to_string(), detail));
        }
    }
}

/// The least, the request, the limit and the most do not overtake each other.
fn in_order(errors: &mut Errors, path: &FieldPath, name: &str, said: &Said) {
    let (min, max) = ((said.min, "min value"), (said.max, "max value"));
    let request = (said.default_request, "default request value");
    let (limit, limit_after_request) = ("default value", "default limit value");
    for (field, shown, low, high) in [
        ("min", said.min, min, max),
        ("defaultRequest", said.default_request, min, request),
        ("defaultRequest", said.default_request, request, max),
        (
            "defaultRequest",
            said.default_request,
            request,
            (said.default, limit_after_request),
        ),
        ("default", said.min, min, (said.default, limit)),
        ("default", said.max, (said.default, limit), max),
    ] {
        if let ((Some(low), low_words), (Some(high), high_words), Some(shown)) = (low, high, shown)
            && low > high
        {
            let detail = format!("{low_words} {low} is greater than {high_words} {high}");
            let path = path.child(field).key(name);
            errors.push(FieldError::invalid(&path, shown.to_string(), detail));
        }
    }
}

fn ratio(errors: &mut Errors, path: &FieldPath, name: &str, said: &Said) {
    let Some(ratio) = said.ratio else { return };
    let path = path.child("maxLimitRequestRatio").key(name);
    if ratio < Quantity::units(1) {
        let detail = format!("ratio {ratio} is less than 1");
        errors.push(FieldError::invalid(&path, ratio.to_string(), detail));
    }
    if let (Some(min), Some(max)) = (said.min, said.max) {
        let fine = [ratio, min, max]
            .iter()
            .all(|q| q.value() < MILLI_VALUE_MAX);
        let number = |q: Quantity| if fine { q.milli_value() } else { q.value() } as f64;
        let given = if fine {
            number(ratio) / 1000.0
        } else {
            number(ratio)
        };
        let most = number(max) / number(min);
        if given > most {
            let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
            errors.push(FieldError::invalid(&path, ratio.to_string(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn range(item: serde_json::Value) -> LimitRange {
        let mut range =
            serde_json::from_value(json!({"spec": {"limits": [item]}})).expect("a range");
        LimitRangeKind::default(&mut range);
        range
    }

    #[test]
    fn containers_default_to_the_limits() {
        let range = range(
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}),
        );
        let item = &range.spec.as_ref().expect("has one").limits[0];
        assert_eq!(json!(item.default), json!({"cpu": "2"}));
        assert_eq!(
            json!(item.default_request),
            json!({"cpu": "2", "memory": "1Mi"})
        );
        assert_eq!(
            texts(&LimitRangeKind::validate(&range)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_both_amounts() {
        let wrong = range(
            json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"},
            "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "800m"}}),
        );
        assert_eq!(
            texts(&LimitRangeKind::validate(&wrong)),
            [
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
                "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is less than 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is greater than max/min = 0.500000",
            ]
        );
        let of_pods = range(json!({"type": "Pod", "default": {"cpu": "1"}}));
        assert_eq!(
            texts(&LimitRangeKind::validate(&of_pods)),
            ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
        );
    }
}
