//! The pod failure policy: which failures end the Job, and which do not count. Pure.

use std::sync::Arc;

use corral_api::k8s::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use corral_api::k8s::api::core::v1::{ContainerStatus, Pod};
use corral_runtime::ObjectKey;

use crate::pods;

/// The first rule that matches a failed pod, with its place and what it saw.
fn matched<'a>(spec: &'a JobSpec, pod: &Pod) -> Option<(usize, &'a PodFailurePolicyRule, String)> {
    let rules = spec.pod_failure_policy.as_ref()?.rules.iter().enumerate();
    let mut hits = rules.filter_map(|(n, rule)| seen_by(rule, pod).map(|seen| (n, rule, seen)));
    hits.next()
}

fn seen_by(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let key = ObjectKey::of(&pod.metadata);
    if let Some(codes) = &rule.on_exit_codes {
        let status = pod.status.as_ref()?;
        let all = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten();
        let named = |status: &&ContainerStatus| {
            codes
                .container_name
                .as_ref()
                .is_none_or(|name| *name == status.name)
        };
        let mut ended = all.filter(named).filter_map(|status| {
            let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
            Some((&status.name, code))
        });
        let (name, code) = ended.find(|(_, code)| {
            let listed = codes.values.contains(code);
            *code != 0
                && if codes.operator == "NotIn" {
                    !listed
                } else {
                    listed
                }
        })?;
        return Some(format!(
            "Container {name} for pod {key} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let mut hits = patterns.filter(|pattern| {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        pods::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted)
    });
    hits.next()
        .map(|pattern| format!("Pod {key} has condition {}", pattern.type_))
}

/// Why the Job has to fail at once, if a failed pod says so.
pub fn failing(spec: &JobSpec, pods: &[Arc<Pod>]) -> Option<String> {
    let failed = pods.iter().filter(|pod| pods::phase(pod) == "Failed");
    let mut fatal = failed.filter_map(|pod| {
        let (n, rule, seen) = matched(spec, pod)?;
        (rule.action == "FailJob").then(|| format!("{seen} matching FailJob rule at index {n}"))
    });
    fatal.next()
}

/// Whether a failed pod counts towards the back-off limit.
pub fn counts(spec: &JobSpec, pod: &Pod) -> bool {
    matched(spec, pod).is_none_or(|(_, rule, _)| rule.action != "Ignore")
}
