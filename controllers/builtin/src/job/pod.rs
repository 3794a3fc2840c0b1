//! The pods of a Job. Pure.

use corral_api::k8s::api::batch::v1::Job;
use corral_api::k8s::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use jiff::Timestamp;

use super::TRACKING;
use super::indexes::{Failures, INDEX};
use crate::{ownership, pods};

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix that leaves room for the server's random letters in a name of 63.
const PREFIX_LENGTH_MAX: usize = 58;

/// A pod to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewPod {
    /// The completion index, for indexed Jobs.
    pub index: Option<i32>,
    /// How often the index has failed, for Jobs with a limit per index.
    pub failures: Option<Failures>,
}

/// A new pod.
pub fn new(job: &Job, planned: &NewPod) -> Pod {
    let index = planned.index;
    let spec = job.spec.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let prefix = match index {
        Some(index) => {
            let end = format!("-{index}-");
            let start: String = name.chars().take(PREFIX_LENGTH_MAX - end.len()).collect();
            start + &end
        }
        None => format!("{name}-"),
    };
    let owner = ownership::controller_reference(job);
    let mut pod = pods::from_template(
        &spec.template,
        job.metadata.namespace.as_ref(),
        &prefix,
        owner,
    );
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(TRACKING.into());
    if let Some(index) = index {
        pod.metadata
            .annotations
            .get_or_insert_default()
            .insert(INDEX.into(), index.to_string());
        pod.metadata
            .labels
            .get_or_insert_default()
            .insert(INDEX.into(), index.to_string());
        let pod_spec = pod.spec.get_or_insert_default();
        pod_spec.hostname = Some(format!("{name}-{index}"));
        let init = pod_spec.init_containers.iter_mut().flatten();
        pod_spec
            .containers
            .iter_mut()
            .chain(init)
            .for_each(add_variable);
    }
    if let Some(failures) = planned.failures {
        failures.note(&mut pod);
    }
    pod
}

fn add_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables
        .iter()
        .any(|variable| variable.name == INDEX_VARIABLE)
    {
        return;
    }
    let field_ref = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        api_version: None,
    };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(field_ref),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

/// When a pod ended: its last container's end, or else the best that is known.
pub fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| {
        status
            .state
            .as_ref()?
            .terminated
            .as_ref()?
            .finished_at
            .as_ref()
    });
    let unready =
        || pods::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let deleted = || pod.metadata.deletion_timestamp.as_ref();
    ends.max()
        .or_else(unready)
        .or_else(deleted)
        .or(pod.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
}
