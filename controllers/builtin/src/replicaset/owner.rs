//! The kinds that keep a number of pods of one template running, each seen as a ReplicaSet. Pure.

use std::sync::Arc;

use corral_api::k8s::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use corral_api::k8s::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec,
    ReplicationControllerStatus,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1;
use corral_api::selector::LabelSelector;
use corral_runtime::key::Object;
use serde::Serialize;

/// A kind of owner.
pub trait Owner: Object<DynamicType = ()> + Serialize {
    /// Its name.
    const KIND: &'static str;

    /// What it wants and has, as a ReplicaSet would say it.
    fn as_set(owner: &Arc<Self>) -> Arc<ReplicaSet>;

    /// The pods that are its own.
    fn selector(&self) -> LabelSelector;

    /// The same with another status, of which it keeps what it has fields for.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Owner for ReplicaSet {
    const KIND: &'static str = "ReplicaSet";

    fn as_set(owner: &Arc<Self>) -> Arc<ReplicaSet> {
        Arc::clone(owner)
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector::from_object(self.spec.as_ref().map(|spec| &spec.selector))
            .unwrap_or_else(|_| LabelSelector::nothing())
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

impl Owner for ReplicationController {
    const KIND: &'static str = "ReplicationController";

    fn as_set(owner: &Arc<Self>) -> Arc<ReplicaSet> {
        Arc::new(ReplicaSet {
            metadata: owner.metadata.clone(),
            spec: owner.spec.clone().map(spec),
            status: owner.status.clone().map(status),
        })
    }

    fn selector(&self) -> LabelSelector {
        let labels = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        LabelSelector::from_set(labels.into_iter().flatten())
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            status: Some(own_status(status)),
            ..self.clone()
        }
    }
}

fn spec(spec: ReplicationControllerSpec) -> ReplicaSetSpec {
    ReplicaSetSpec {
        replicas: spec.replicas,
        min_ready_seconds: spec.min_ready_seconds,
        selector: v1::LabelSelector {
            match_labels: spec.selector,
            match_expressions: None,
        },
        template: spec.template,
    }
}

fn status(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let conditions = status.conditions.map(|conditions| {
        let conditions = conditions.into_iter().map(|c| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        });
        conditions.collect()
    });
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        terminating_replicas: None,
        observed_generation: status.observed_generation,
        conditions,
    }
}

fn own_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let conditions = status.conditions.map(|conditions| {
        let conditions = conditions
            .into_iter()
            .map(|c| ReplicationControllerCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            });
        conditions.collect()
    });
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_controller_is_a_set_and_back() {
        let made: Arc<ReplicationController> = Arc::new(object(json!({
            "metadata": {"name": "a", "namespace": "ns"},
            "spec": {"replicas": 3, "minReadySeconds": 2, "selector": {"app": "a"},
                "template": {"metadata": {"labels": {"app": "a"}}}},
            "status": {"replicas": 2, "readyReplicas": 1, "observedGeneration": 4, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]},
        })));
        let set = ReplicationController::as_set(&made);
        let spec = set.spec.as_ref().expect("has one");
        assert_eq!((spec.replicas, spec.min_ready_seconds), (Some(3), Some(2)));
        assert_eq!(
            spec.selector.match_labels,
            Some([("app".to_owned(), "a".to_owned())].into())
        );
        let status = set.status.clone().expect("has one");
        assert_eq!(made.with_status(status), *made);
    }
}
