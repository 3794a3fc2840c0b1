//! The policies: which failures end the Job or an index, which do not count, and which successes are enough. Pure.

use std::ops::RangeInclusive;
use std::sync::Arc;

use corral_api::k8s::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use corral_api::k8s::api::core::v1::{ContainerStatus, Pod};
use corral_runtime::ObjectKey;

use super::indexes::{self, Failures, Indexes};
use super::is_failed;
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
    let failed = pods.iter().filter(|pod| is_failed(pod, spec));
    let mut fatal = failed.filter_map(|pod| {
        let (n, rule, seen) = matched(spec, pod)?;
        (rule.action == "FailJob").then(|| format!("{seen} matching FailJob rule at index {n}"))
    });
    fatal.next()
}

/// Whether a failed pod counts towards the limits.
pub fn counts(spec: &JobSpec, pod: &Pod) -> bool {
    matched(spec, pod).is_none_or(|(_, rule, _)| rule.action != "Ignore")
}

/// The index that a failed pod ends for good.
pub fn failed_index(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    let limit = u32::try_from(spec.backoff_limit_per_index?).unwrap_or(0);
    let at_once = matched(spec, pod).is_some_and(|(_, rule, _)| rule.action == "FailIndex");
    let over = counts(spec, pod) && Failures::of(pod).counted >= limit;
    indexes::of(pod).filter(|_| at_once || over)
}

/// How often an index has failed, given the last pod of it that did.
pub fn failures_after(spec: &JobSpec, last: Option<&Pod>) -> Failures {
    let Some(last) = last else {
        return Failures::default();
    };
    let mut failures = Failures::of(last);
    if counts(spec, last) {
        failures.counted = failures.counted.saturating_add(1);
    } else {
        failures.ignored = failures.ignored.saturating_add(1);
    }
    failures
}

/// The first rule of the success policy that the completed indexes meet.
pub fn succeeding(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let rules = &spec.success_policy.as_ref()?.rules;
    if completed.0.is_empty() {
        return None;
    }
    rules.iter().position(|rule| {
        let (within, wanted) = match &rule.succeeded_indexes {
            Some(text) => {
                let ranges = indexes::ranges(text);
                let inside = |index: &&i32| ranges.iter().any(|range| range.contains(*index));
                let total: i64 = ranges.iter().map(length).sum();
                (
                    completed.0.iter().filter(inside).count(),
                    Some(total).filter(|n| *n > 0),
                )
            }
            None => (completed.0.len(), None),
        };
        let within = i64::try_from(within).unwrap_or(i64::MAX);
        let enough = rule
            .succeeded_count
            .map(i64::from)
            .into_iter()
            .chain(wanted)
            .min();
        // A list of indexes that cannot be read is met by nothing.
        let readable = rule.succeeded_indexes.is_none() || wanted.is_some();
        readable && enough.is_some_and(|enough| within >= enough)
    })
}

/// Indexes may be many more than would fit in memory one by one.
fn length(range: &RangeInclusive<i32>) -> i64 {
    i64::from(*range.end()) - i64::from(*range.start()) + 1
}
