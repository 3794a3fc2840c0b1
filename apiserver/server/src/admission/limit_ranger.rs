//! LimitRanges of a namespace: defaults of containers before a pod's rules are checked, limits of pods, containers and
//! claims afterwards.

use std::collections::BTreeMap;

use corral_api::amounts::{self, Amounts};
use corral_api::k8s::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::quantity::Quantity;
use corral_api::status::Status;
use corral_kinds::Object;
use corral_kinds::core::limit_range::MILLI_VALUE_MAX;

use super::{Action, Attributes};
use crate::api::Api;

/// Tells which amounts of a pod are not its own.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The ranges of a namespace, in the order of their names.
fn ranges(api: &Api, namespace: &str) -> Vec<LimitRange> {
    let resource = api.core("limitranges");
    let snapshot = resource.cacher.snapshot();
    let prefix = resource.key(namespace, "");
    let stored = snapshot.below(&prefix);
    stored
        .filter_map(|stored| serde_json::from_slice(&stored.json).ok())
        .collect()
}

fn items(range: &LimitRange) -> impl Iterator<Item = &LimitRangeItem> {
    range.spec.iter().flat_map(|spec| &spec.limits)
}

/// Gives containers the amounts that they leave out.
pub(super) fn admit(api: &Api, attributes: &Attributes<'_>, object: &mut Object) {
    let Some(pod) = object.get_mut::<Pod>() else {
        return;
    };
    for range in ranges(api, &attributes.cx.namespace) {
        default(pod, &range);
    }
}

fn default(pod: &mut Pod, range: &LimitRange) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for item in items(range).filter(|item| item.type_ == "Container") {
        requests.extend(item.default_request.clone().into_iter().flatten());
        limits.extend(item.default.clone().into_iter().flatten());
    }
    let Some(spec) = pod.spec.as_mut() else {
        return;
    };
    let mut set = Vec::new();
    let init = spec.init_containers.iter_mut().flatten();
    let all = spec.containers.iter_mut().map(|c| ("container", c));
    for (what, container) in all.chain(init.map(|c| ("init container", c))) {
        let resources = container.resources.get_or_insert_default();
        let name = &container.name;
        for (field, list, defaults) in [
            ("request", &mut resources.requests, &requests),
            ("limit", &mut resources.limits, &limits),
        ] {
            let given = fill(list, defaults);
            if !given.is_empty() {
                set.push(format!("{} {field} for {what} {name}", given.join(", ")));
            }
        }
    }
    if !set.is_empty() {
        let text = format!("LimitRanger plugin set: {}", set.join("; "));
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION.to_owned(), text);
    }
}

/// Adds what a list leaves out and tells what that was.
fn fill(
    list: &mut Option<BTreeMap<String, Wire>>,
    defaults: &BTreeMap<String, Wire>,
) -> Vec<String> {
    let mut given = Vec::new();
    for (name, amount) in defaults {
        let list = list.get_or_insert_default();
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.clone());
            given.push(name.clone());
        }
    }
    given
}

/// Whether an object keeps to the limits.
///
/// # Errors
/// 403 with everything that the first range objects to.
pub(super) fn check(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let leaving = |object| attributes.kind.meta(object).deletion_timestamp.is_some();
    let resized = attributes.subresource == "resize";
    let checked = match attributes.action {
        _ if attributes.cx.namespace.is_empty() || old.is_some_and(leaving) => false,
        Action::Create => attributes.subresource.is_empty(),
        // Containers of a pod do not change by other ways.
        Action::Update if object.get::<Pod>().is_some() => resized,
        Action::Update => attributes.subresource.is_empty(),
    };
    if !checked {
        return Ok(());
    }
    let refusal: Option<Vec<String>> = if let Some(pod) = object.get::<Pod>() {
        refusal(api, attributes, |range| of_pod(pod, range))
    } else if let Some(claim) = object.get::<PersistentVolumeClaim>() {
        refusal(api, attributes, |range| of_claim(claim, range))
    } else {
        None
    };
    let Some(mut errors) = refusal else {
        return Ok(());
    };
    let name = attributes
        .kind
        .meta(object)
        .name
        .clone()
        .unwrap_or_default();
    let why = if errors.len() == 1 {
        errors.remove(0)
    } else {
        format!("[{}]", errors.join(", "))
    };
    Err(attributes.forbidden(&name, &why))
}

fn refusal(
    api: &Api,
    attributes: &Attributes<'_>,
    of: impl Fn(&LimitRange) -> Vec<String>,
) -> Option<Vec<String>> {
    let ranges = ranges(api, &attributes.cx.namespace);
    let mut all = ranges.iter().map(of);
    let mut errors = all.find(|errors| !errors.is_empty())?;
    let mut seen = std::collections::BTreeSet::new();
    errors.retain(|error| seen.insert(error.clone()));
    Some(errors)
}

fn of_pod(pod: &Pod, range: &LimitRange) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    for item in items(range) {
        match item.type_.as_str() {
            "Container" => {
                let init = spec.init_containers.iter().flatten();
                for container in spec.containers.iter().chain(init) {
                    let (requests, limits) = of_container(container);
                    limited(&mut errors, item, &requests, &limits);
                }
            }
            "Pod" => limited(
                &mut errors,
                item,
                &amounts::pod_requests(spec),
                &amounts::pod_limits(spec),
            ),
            _ => {}
        }
    }
    errors
}

fn of_container(container: &Container) -> (Amounts, Amounts) {
    let resources = container.resources.as_ref();
    (
        amounts::read(resources.and_then(|r| r.requests.as_ref())),
        amounts::read(resources.and_then(|r| r.limits.as_ref())),
    )
}

/// What is asked for has to lie between the least and the most.
fn of_claim(claim: &PersistentVolumeClaim, range: &LimitRange) -> Vec<String> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts::read(resources.and_then(|r| r.requests.as_ref()));
    let mut errors = Vec::new();
    for item in items(range).filter(|item| item.type_ == "PersistentVolumeClaim") {
        for (name, min) in amounts::read(item.min.as_ref()) {
            let bound = Bound::new("minimum", item, &name, min);
            errors.extend(bound.least(requests.get(&name), None));
        }
        for (name, max) in amounts::read(item.max.as_ref()) {
            let bound = Bound::new("maximum", item, &name, max);
            errors.extend(match requests.get(&name) {
                None => Some(bound.unsaid("request")),
                Some(request) => bound.most("request", request),
            });
        }
    }
    errors
}

fn limited(errors: &mut Vec<String>, item: &LimitRangeItem, requests: &Amounts, limits: &Amounts) {
    for (name, min) in amounts::read(item.min.as_ref()) {
        let bound = Bound::new("minimum", item, &name, min);
        errors.extend(bound.least(requests.get(&name), limits.get(&name)));
    }
    for (name, max) in amounts::read(item.max.as_ref()) {
        let bound = Bound::new("maximum", item, &name, max);
        errors.extend(match limits.get(&name) {
            None => Some(bound.unsaid("limit")),
            Some(limit) => bound.most("limit", limit).or_else(|| {
                let request = requests.get(&name);
                request.and_then(|request| bound.most("request", request))
            }),
        });
    }
    for (name, ratio) in amounts::read(item.max_limit_request_ratio.as_ref()) {
        let (request, limit) = (requests.get(&name), limits.get(&name));
        errors.extend(out_of_ratio(item, &name, ratio, request, limit));
    }
}

/// The least or the most of a resource.
struct Bound {
    /// `minimum cpu usage per Container is 1`.
    words: String,
    amount: Quantity,
}

impl Bound {
    fn new(which: &str, item: &LimitRangeItem, name: &str, amount: Quantity) -> Self {
        let words = format!("{which} {name} usage per {} is {amount}", item.type_);
        Self { words, amount }
    }

    fn unsaid(&self, what: &str) -> String {
        format!("{}.  No {what} is specified", self.words)
    }

    fn but(&self, what: &str, is: &Quantity) -> String {
        format!("{}, but {what} is {is}", self.words)
    }

    fn least(&self, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
        match (request, limit) {
            (None, _) => Some(self.unsaid("request")),
            (Some(request), _) if *request < self.amount => Some(self.but("request", request)),
            (_, Some(limit)) if *limit < self.amount => Some(self.but("limit", limit)),
            _ => None,
        }
    }

    fn most(&self, what: &str, is: &Quantity) -> Option<String> {
        (*is > self.amount).then(|| self.but(what, is))
    }
}

fn out_of_ratio(
    item: &LimitRangeItem,
    name: &str,
    ratio: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let words = format!(
        "{name} max limit to request ratio per {} is {ratio}",
        item.type_
    );
    let given = |amount: Option<&Quantity>| amount.copied().filter(|amount| !amount.is_zero());
    let Some(request) = given(request) else {
        return Some(format!(
            "{words}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = given(limit) else {
        return Some(format!("{words}, but no limit is specified or limit is 0"));
    };
    let fine = [request, limit]
        .iter()
        .all(|amount| amount.value() <= MILLI_VALUE_MAX);
    let number = |q: Quantity| if fine { q.milli_value() } else { q.value() } as f64;
    let provided = number(limit) / number(request);
    (provided * 1000.0 > ratio.milli_value() as f64)
        .then(|| format!("{words}, but provided ratio is {provided:.6}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(limits: Value) -> LimitRange {
        serde_json::from_value(json!({"spec": {"limits": limits}})).expect("a range")
    }

    fn pod(resources: Value) -> Pod {
        let containers = json!([{"name": "c", "resources": resources}]);
        serde_json::from_value(json!({"spec": {"containers": containers}})).expect("a pod")
    }

    #[test]
    fn containers_get_what_they_leave_out_and_the_pod_says_so() {
        let mut pod = pod(json!({"requests": {"cpu": "300m"}}));
        let range = range(
            json!([{"type": "Container", "default": {"cpu": "500m", "memory": "500Mi"},
            "defaultRequest": {"cpu": "100m", "memory": "200Mi"}}]),
        );
        default(&mut pod, &range);
        let resources = &pod.spec.as_ref().expect("has one").containers[0].resources;
        assert_eq!(
            json!(resources),
            json!({"limits": {"cpu": "500m", "memory": "500Mi"}, "requests": {"cpu": "300m", "memory": "200Mi"}})
        );
        let said = pod
            .metadata
            .annotations
            .as_ref()
            .map(|a| a[ANNOTATION].as_str());
        assert_eq!(
            said,
            Some(
                "LimitRanger plugin set: memory request for container c; cpu, memory limit for container c"
            )
        );
        let before = pod.clone();
        default(&mut pod, &range);
        assert_eq!(pod, before);
    }

    #[test]
    fn what_is_out_of_bounds_is_told_in_kubernetes_words() {
        let range = range(
            json!([{"type": "Container", "min": {"cpu": "200m", "memory": "1Mi"}, "max": {"cpu": "1", "memory": "1Gi"},
            "maxLimitRequestRatio": {"cpu": "4"}}, {"type": "Pod", "max": {"memory": "1Mi"}}]),
        );
        let wrong =
            pod(json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "2"}}));
        assert_eq!(
            of_pod(&wrong, &range),
            [
                "minimum cpu usage per Container is 200m, but request is 100m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 4, but provided ratio is 20.000000",
                "maximum memory usage per Pod is 1Mi.  No limit is specified",
            ]
        );
    }

    #[test]
    fn claims_keep_to_the_bounds_of_storage() {
        let range = range(
            json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}}]),
        );
        let asking = |storage: &str| -> PersistentVolumeClaim {
            let requests = json!({"resources": {"requests": {"storage": storage}}});
            serde_json::from_value(json!({"spec": requests})).expect("a claim")
        };
        assert_eq!(of_claim(&asking("2Gi"), &range), Vec::<String>::new());
        assert_eq!(
            of_claim(&asking("6Gi"), &range),
            ["maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi"]
        );
        assert_eq!(
            of_claim(&asking("1Mi"), &range),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
        );
    }
}
