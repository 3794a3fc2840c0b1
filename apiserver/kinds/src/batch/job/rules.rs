//! What is wrong with a Job's spec, and what an update of one may change.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::batch::v1::{
    Job, JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicyRule,
};
use corral_api::k8s::api::core::v1::{Affinity, PodTemplateSpec};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector as GivenSelector;
use corral_api::names;
use corral_api::selector::LabelSelector;
use serde_json::Value;

use super::{
    CONTROLLER_UID_LABEL, JOB_NAME_LABEL, LEGACY_CONTROLLER_UID_LABEL, LEGACY_JOB_NAME_LABEL,
    indexes,
};
use crate::core::pod_spec::validation;
use crate::rules::{self, Errors, Seen, at, invalid_unshown, json, text};

const INDEXED_PARALLELISM_MAX: i32 = 100_000;
const FAILED_INDEXES_MAX: i32 = 100_000;
/// Above this many completions the bounds are tighter, so that the status stays small.
const COMPLETIONS_SOFT_MAX: i32 = 100_000;
const HIGH_COMPLETIONS_PARALLELISM_MAX: i32 = 10_000;
const HIGH_COMPLETIONS_FAILED_INDEXES_MAX: i32 = 10_000;
const POLICY_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const MANAGED_BY_LENGTH_MAX: usize = 63;
const SUCCEEDED_INDEXES_LENGTH_MAX: usize = 64 * 1024;

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Rules of a Job.
pub fn job(job: &Job) -> Errors {
    let mut errors = Errors::new();
    let Some(spec) = &job.spec else { return errors };
    generated_selector(&mut errors, job, spec);
    let path = at("spec");
    self::spec(&mut errors, &path, spec);
    match &spec.selector {
        None => errors.push(FieldError::required(&path.child("selector"), "")),
        Some(selector) => rules::label_selector(&mut errors, &path.child("selector"), selector),
    }
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.as_ref());
    if let Some(selector) = comparable(spec.selector.as_ref())
        && !selector.matches_opt(labels)
    {
        let path = path.child("template.metadata.labels");
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&path, json(&labels), detail));
    }
    if let Some(completions) = spec.completions.filter(|n| is_indexed(spec) && *n > 0) {
        let name = text(&job.metadata.name);
        let hostname = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&hostname).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {hostname}");
            errors.push(FieldError::invalid(&at("metadata.name"), name, detail));
        }
    }
    errors
}

/// A selector with which labels can be compared; one that breaks a rule is none.
fn comparable(selector: Option<&GivenSelector>) -> Option<LabelSelector> {
    let mut errors = Errors::new();
    if let Some(selector) = selector {
        rules::label_selector(&mut errors, &FieldPath::root(), selector);
    }
    let parsed = LabelSelector::from_object(selector).ok();
    parsed.filter(|_| errors.is_empty())
}

fn generated_selector(errors: &mut Errors, job: &Job, spec: &JobSpec) {
    let Some(selector) = spec
        .selector
        .as_ref()
        .filter(|_| spec.manual_selector != Some(true))
    else {
        return;
    };
    let (name, uid) = (text(&job.metadata.name), text(&job.metadata.uid));
    if uid.is_empty() {
        errors.push(FieldError::required(&at("metadata.uid"), ""));
    }
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.as_ref());
    let expected = [
        (LEGACY_CONTROLLER_UID_LABEL, uid),
        (LEGACY_JOB_NAME_LABEL, name),
        (CONTROLLER_UID_LABEL, uid),
        (JOB_NAME_LABEL, name),
    ];
    for (label, value) in expected {
        let path = at("spec.template.metadata.labels").key(label);
        let detail = format!("must be '{value}'");
        match labels.and_then(|l| l.get(label)) {
            None => errors.push(FieldError::required(&path, detail)),
            Some(given) if given != value => {
                errors.push(FieldError::invalid(&path, json(&labels), detail))
            }
            Some(_) => {}
        }
    }
    let expected = expected
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into_iter()
        .collect();
    if let Some(parsed) = comparable(Some(selector))
        && !parsed.matches(&expected)
    {
        let detail = "`selector` not auto-generated";
        let path = at("spec.selector");
        errors.push(rules::invalid_selector(&path, selector, detail));
    }
}

/// Rules of a Job's spec without its selector, which the template of a CronJob does not have.
pub(crate) fn spec(errors: &mut Errors, path: &FieldPath, spec: &JobSpec) {
    for (field, n) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        (
            "ttlSecondsAfterFinished",
            spec.ttl_seconds_after_finished.map(i64::from),
        ),
        (
            "backoffLimitPerIndex",
            spec.backoff_limit_per_index.map(i64::from),
        ),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        rules::nonnegative_opt(errors, &path.child(field), n);
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let path = path.child("backoffLimitPerIndex");
        errors.push(FieldError::required(
            &path,
            "when maxFailedIndexes is specified",
        ));
    }
    if let Some(manager) = &spec.managed_by {
        managed_by(errors, &path.child("managedBy"), manager);
    }
    if let Some(mode) = &spec.completion_mode {
        let (path, allowed) = (path.child("completionMode"), ["NonIndexed", "Indexed"]);
        if !allowed.contains(&mode.as_str()) {
            errors.push(FieldError::not_supported_of(&path, mode, &allowed));
        }
    }
    if is_indexed(spec) {
        indexed(errors, path, spec);
    } else {
        not_indexed(errors, path, spec);
    }
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy.rules");
        if policy.rules.len() > POLICY_RULES_MAX {
            errors.push(FieldError::too_many(
                &path,
                policy.rules.len(),
                POLICY_RULES_MAX,
            ));
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            failure_rule(errors, &path.index(index), rule, spec);
        }
    }
    success_policy(errors, &path.child("successPolicy"), spec);
    if let Some(policy) = &spec.pod_replacement_policy {
        let allowed: &[&str] = match spec.pod_failure_policy {
            Some(_) => &["Failed"],
            None => &["Failed", "TerminatingOrFailed"],
        };
        rules::supported(errors, &path.child("podReplacementPolicy"), policy, allowed);
    }
    validation::template(errors, &path.child("template"), &spec.template);
    restart_policy(errors, &path.child("template.spec.restartPolicy"), spec);
}

fn managed_by(errors: &mut Errors, path: &FieldPath, manager: &str) {
    errors.extend(FieldError::domain_prefixed_path(path, manager));
    if manager.len() > MANAGED_BY_LENGTH_MAX {
        errors.push(FieldError::too_long(path, MANAGED_BY_LENGTH_MAX));
    }
}

fn indexed(errors: &mut Errors, path: &FieldPath, spec: &JobSpec) {
    let at_most = |errors: &mut Errors, field: &str, n: Option<i32>, max: i32, when: &str| {
        if let Some(n) = n.filter(|n| *n > max) {
            let detail = format!("must be less than or equal to {max}{when}");
            errors.push(FieldError::invalid(&path.child(field), n, detail));
        }
    };
    let Some(completions) = spec.completions else {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(&path.child("completions"), detail));
        return;
    };
    let when = " when completion mode is Indexed";
    at_most(
        errors,
        "parallelism",
        spec.parallelism,
        INDEXED_PARALLELISM_MAX,
        when,
    );
    if let Some(n) = spec.max_failed_indexes.filter(|n| *n > completions) {
        let detail = "must be less than or equal to completions";
        errors.push(FieldError::invalid(
            &path.child("maxFailedIndexes"),
            n,
            detail,
        ));
    }
    at_most(
        errors,
        "maxFailedIndexes",
        spec.max_failed_indexes,
        FAILED_INDEXES_MAX,
        "",
    );
    if completions > COMPLETIONS_SOFT_MAX && spec.backoff_limit_per_index.is_some() {
        if spec.max_failed_indexes.is_none() {
            let detail =
                format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
            errors.push(FieldError::required(
                &path.child("maxFailedIndexes"),
                detail,
            ));
        }
        let when = format!(
            " when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index"
        );
        at_most(
            errors,
            "parallelism",
            spec.parallelism,
            HIGH_COMPLETIONS_PARALLELISM_MAX,
            &when,
        );
        let max = HIGH_COMPLETIONS_FAILED_INDEXES_MAX;
        at_most(
            errors,
            "maxFailedIndexes",
            spec.max_failed_indexes,
            max,
            &when,
        );
    }
}

fn not_indexed(errors: &mut Errors, path: &FieldPath, spec: &JobSpec) {
    for (field, n) in [
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ] {
        if let Some(n) = n {
            let detail = "requires indexed completion mode";
            errors.push(FieldError::invalid(&path.child(field), n, detail));
        }
    }
}

fn restart_policy(errors: &mut Errors, path: &FieldPath, spec: &JobSpec) {
    let pods = spec.template.spec.as_ref();
    match pods.map_or("", |p| text(&p.restart_policy)) {
        "" | "Always" => {
            let detail = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required(path, detail));
        }
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, "OnFailure", detail));
        }
        policy => rules::supported(errors, path, policy, &["OnFailure", "Never"]),
    }
}

fn failure_rule(
    errors: &mut Errors,
    path: &FieldPath,
    rule: &PodFailurePolicyRule,
    spec: &JobSpec,
) {
    let action_path = path.child("action");
    match rule.action.as_str() {
        "" => {
            let detail = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            errors.push(FieldError::required(&action_path, detail));
        }
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(&action_path, "FailIndex", detail));
        }
        action => {
            let allowed = ["Count", "FailIndex", "FailJob", "Ignore"];
            rules::supported(errors, &action_path, action, &allowed);
        }
    }
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(errors, &path.child("onExitCodes"), codes, spec);
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let patterns_path = path.child("onPodConditions");
    if patterns.len() > POLICY_RULES_MAX {
        errors.push(FieldError::too_many(
            &patterns_path,
            patterns.len(),
            POLICY_RULES_MAX,
        ));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let path = patterns_path.index(index);
        let complaints = names::qualified_name(&pattern.type_);
        rules::complain(errors, &path.child("type"), &pattern.type_, complaints);
        let status_path = path.child("status");
        match text(&pattern.status) {
            "" => {
                let detail = "valid values: [\"False\" \"True\" \"Unknown\"]";
                errors.push(FieldError::required(&status_path, detail));
            }
            given => {
                rules::supported(errors, &status_path, given, &["False", "True", "Unknown"]);
            }
        }
    }
    let detail = match (rule.on_exit_codes.is_some(), patterns.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errors.push(invalid_unshown(path, detail));
}

fn exit_codes(
    errors: &mut Errors,
    path: &FieldPath,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    spec: &JobSpec,
) {
    let operator_path = path.child("operator");
    if codes.operator.is_empty() {
        let detail = "valid values: [\"In\" \"NotIn\"]";
        errors.push(FieldError::required(&operator_path, detail));
    } else {
        rules::supported(errors, &operator_path, &codes.operator, &["In", "NotIn"]);
    }
    if let Some(name) = &codes.container_name {
        let pods = spec.template.spec.as_ref();
        let mut containers = pods.into_iter().flat_map(|p| {
            p.containers
                .iter()
                .chain(p.init_containers.iter().flatten())
        });
        if !containers.any(|c| c.name == *name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(
                &path.child("containerName"),
                name.as_str(),
                detail,
            ));
        }
    }
    let path = path.child("values");
    if codes.values.is_empty() {
        let detail = "at least one value is required";
        errors.push(FieldError::invalid(&path, Value::Null, detail));
    } else if codes.values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(
            &path,
            codes.values.len(),
            EXIT_CODES_MAX,
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            let detail = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(&path.index(index), 0, detail));
        }
        if !seen.insert(*code) {
            errors.push(FieldError::duplicate(&path.index(index), *code));
        }
    }
    if !codes.values.is_sorted() {
        errors.push(FieldError::invalid(
            &path,
            json(&codes.values),
            "must be ordered",
        ));
    }
}

fn success_policy(errors: &mut Errors, path: &FieldPath, spec: &JobSpec) {
    let Some(policy) = &spec.success_policy else {
        return;
    };
    if !is_indexed(spec) {
        let detail = "requires indexed completion mode";
        errors.push(FieldError::invalid(path, json(policy), detail));
        return;
    }
    let path = path.child("rules");
    if policy.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path, detail));
    }
    if policy.rules.len() > POLICY_RULES_MAX {
        errors.push(FieldError::too_many(
            &path,
            policy.rules.len(),
            POLICY_RULES_MAX,
        ));
    }
    let completions = spec.completions.unwrap_or(0);
    for (index, rule) in policy.rules.iter().enumerate() {
        success_rule(errors, &path.index(index), rule, completions);
    }
}

fn success_rule(errors: &mut Errors, path: &FieldPath, rule: &SuccessPolicyRule, completions: i32) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut n_indexes = None;
    if let Some(given) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if given.len() > SUCCEEDED_INDEXES_LENGTH_MAX {
            errors.push(FieldError::too_long(&path, SUCCEEDED_INDEXES_LENGTH_MAX));
        }
        match indexes::parse(given, completions) {
            Ok(ranges) => n_indexes = Some(indexes::count(&ranges)),
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(&path, given.as_str(), detail));
            }
        }
    }
    let Some(count) = rule.succeeded_count else {
        return;
    };
    let path = path.child("succeededCount");
    rules::nonnegative(errors, &path, count);
    if count > completions {
        let detail = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errors.push(FieldError::invalid(&path, count, detail));
    }
    if let Some(n) = n_indexes.filter(|n| count > *n) {
        let detail = format!(
            "must be less than or equal to {n} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(FieldError::invalid(&path, count, detail));
    }
}

/// What may not change of a Job.
pub fn update(new: &Job, old: &Job) -> Errors {
    let mut errors = job(new);
    let (Some(spec), Some(was)) = (&new.spec, &old.spec) else {
        return errors;
    };
    let path = at("spec");
    let completions = path.child("completions");
    if !is_indexed(spec) {
        rules::immutable(
            &mut errors,
            &completions,
            &spec.completions,
            &was.completions,
        );
    } else if spec.completions != was.completions
        && spec.completions.is_some()
        && spec.completions != spec.parallelism
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(
            &completions,
            json(&spec.completions),
            detail,
        ));
    }
    rules::immutable(
        &mut errors,
        &path.child("selector"),
        &spec.selector,
        &was.selector,
    );
    template_update(&mut errors, &path.child("template"), spec, old);
    macro_rules! fixed {
        ($($field:ident $name:literal),*) => {$(
            rules::immutable(&mut errors, &path.child($name), &spec.$field, &was.$field);
        )*};
    }
    fixed!(
        completion_mode "completionMode", pod_failure_policy "podFailurePolicy",
        backoff_limit_per_index "backoffLimitPerIndex", managed_by "managedBy", success_policy "successPolicy"
    );
    errors
}

/// The template is fixed, except for what places the pods and what they need while the Job is suspended and none of
/// its pods runs.
fn template_update(errors: &mut Errors, path: &FieldPath, spec: &JobSpec, old: &Job) {
    let Some(was) = &old.spec else { return };
    let status = old.status.as_ref();
    let suspended = was.suspend == Some(true);
    let condition = |s: &corral_api::k8s::api::batch::v1::JobStatus| {
        let mut conditions = s.conditions.iter().flatten();
        conditions.any(|c| c.type_ == "Suspended" && c.status == "True")
    };
    let stopped = status
        .is_none_or(|s| s.active.unwrap_or(0) == 0 && (s.start_time.is_none() || condition(s)));
    let mut expected = was.template.clone();
    if suspended && stopped {
        allow_placement(&mut expected, &spec.template);
        allow_resources(&mut expected, &spec.template);
    }
    rules::immutable(errors, path, &spec.template, &expected);
}

fn allow_placement(expected: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    if let Some(meta) = &new.metadata {
        let expected = expected.metadata.get_or_insert_default();
        expected.labels.clone_from(&meta.labels);
        expected.annotations.clone_from(&meta.annotations);
    }
    let (Some(expected), Some(new)) = (&mut expected.spec, &new.spec) else {
        return;
    };
    expected.node_selector.clone_from(&new.node_selector);
    expected.tolerations.clone_from(&new.tolerations);
    expected.scheduling_gates.clone_from(&new.scheduling_gates);
    let node_affinity = new.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let mut affinity = expected.affinity.clone().unwrap_or_default();
    affinity.node_affinity = node_affinity;
    expected.affinity =
        Some(affinity).filter(|a| *a != Affinity::default() || new.affinity.is_some());
}

fn allow_resources(expected: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    let (Some(expected), Some(new)) = (&mut expected.spec, &new.spec) else {
        return;
    };
    let containers = expected
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut expected.containers);
    let given: Vec<_> = new
        .init_containers
        .iter()
        .flatten()
        .chain(&new.containers)
        .collect();
    for container in containers {
        if let Some(given) = given.iter().find(|c| c.name == container.name) {
            container.resources.clone_from(&given.resources);
        }
    }
}

/// What is allowed and may surprise.
pub fn warnings(job: &Job) -> Vec<String> {
    let mut warnings = Vec::new();
    let complaints = names::dns1123_label(text(&job.metadata.name));
    if !complaints.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            complaints.join(" ")
        ));
    }
    let Some(spec) = &job.spec else {
        return warnings;
    };
    let many = spec.completions.unwrap_or(0) > COMPLETIONS_SOFT_MAX
        && spec.parallelism.unwrap_or(0) > HIGH_COMPLETIONS_PARALLELISM_MAX;
    if is_indexed(spec) && many {
        warnings.push("spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
    }
    warnings
}

/// A list of texts without empty and repeated ones.
pub(super) fn uids(errors: &mut Errors, path: &FieldPath, uids: Option<&Vec<String>>) {
    let mut seen = Seen::default();
    for (index, uid) in uids.into_iter().flatten().enumerate() {
        let path = path.index(index);
        if uid.is_empty() {
            errors.push(FieldError::invalid(&path, "", "must not be empty"));
        } else {
            seen.check(errors, &path, uid);
        }
    }
}
