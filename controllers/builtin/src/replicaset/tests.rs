use corral_api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("valid")
}

fn set(replicas: i32) -> ReplicaSet {
    object(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "ns", "uid": "set", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
    }))
}

fn pod(
    n: usize,
    owner: Option<&str>,
    matching: bool,
    phase: &str,
    ready: bool,
    leaving: bool,
) -> Pod {
    let owners: Vec<Value> = owner
        .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}))
        .into_iter()
        .collect();
    let mut pod = json!({
        "metadata": {
            "name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}"),
            "labels": {"app": if matching { "web" } else { "other" }}, "ownerReferences": owners,
        },
        "spec": {"containers": [], "nodeName": if n.is_multiple_of(3) { Value::Null } else { json!(format!("n{}", n % 2)) }},
        "status": {"phase": phase, "conditions": [{
            "type": "Ready", "status": if ready { "True" } else { "False" },
            "lastTransitionTime": "2023-01-01T00:00:00Z",
        }]},
    });
    if leaving {
        pod["metadata"]["deletionTimestamp"] = json!("2023-01-01T00:00:00Z");
    }
    object(pod)
}

fn any_pod(n: usize) -> impl Strategy<Value = Pod> {
    let owner = prop_oneof![Just(Some("set")), Just(Some("other")), Just(None)];
    let phase = prop_oneof![3 => Just("Running"), 1 => Just("Pending"), 1 => Just("Failed"), 1 => Just("Succeeded")];
    (
        owner,
        any::<bool>(),
        phase,
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(move |(owner, matching, phase, ready, leaving)| {
            pod(n, owner, matching, phase, ready, leaving)
        })
}

fn any_world() -> impl Strategy<Value = World> {
    let pods = prop::collection::vec(any::<prop::sample::Index>(), 0..12)
        .prop_flat_map(|entries| (0..entries.len()).map(any_pod).collect::<Vec<_>>());
    (0..8, pods).prop_map(|(replicas, pods)| World {
        set: Arc::new(set(replicas)),
        candidates: pods.into_iter().map(Arc::new).collect(),
        related: HashMap::new(),
    })
}

/// The world after every step of a plan has succeeded.
fn applied(world: &World, plan: &Plan) -> World {
    let mut pods: Vec<Pod> = world.candidates.iter().map(|pod| (**pod).clone()).collect();
    let is = |pod: &Pod, list: &[Arc<Pod>]| {
        list.iter()
            .any(|other| other.metadata.uid == pod.metadata.uid)
    };
    pods.retain(|pod| !is(pod, &plan.delete));
    for pod in &mut pods {
        if is(pod, &plan.claims.adopt) {
            pod.metadata.owner_references =
                Some(vec![ownership::controller_reference(&*world.set)]);
        }
        if is(pod, &plan.claims.release) {
            pod.metadata.owner_references = None;
        }
    }
    let spec = world.set.spec.clone().unwrap_or_default();
    let template = spec.template.unwrap_or_default();
    for n in 0..plan.create {
        let owner: OwnerReference = ownership::controller_reference(&*world.set);
        let mut new = pods::from_template(
            &template,
            world.set.metadata.namespace.as_ref(),
            "web-",
            owner,
        );
        new.metadata.uid = Some(format!("new{n}"));
        pods.push(new);
    }
    let mut set = (*world.set).clone();
    set.status = Some(plan.status.clone());
    World {
        set: Arc::new(set),
        candidates: pods.into_iter().map(Arc::new).collect(),
        related: HashMap::new(),
    }
}

proptest! {
    #[test]
    fn applying_a_plan_and_planning_again_changes_no_pod(world in any_world()) {
        let again = plan(&applied(&world, &plan(&world, now())), now());
        prop_assert_eq!(again.create, 0);
        prop_assert!(again.delete.is_empty());
        prop_assert!(again.claims.is_settled());
    }

    #[test]
    fn only_pods_of_the_set_are_deleted_or_released(world in any_world()) {
        let plan = plan(&world, now());
        for pod in plan.delete.iter().chain(&plan.claims.release) {
            let owner = controller_of(&pod.metadata);
            prop_assert!(owner.is_none_or(|owner| owner.uid == "set"));
        }
        for pod in &plan.claims.adopt {
            prop_assert!(controller_of(&pod.metadata).is_none());
        }
    }

    #[test]
    fn the_number_of_active_pods_comes_out_as_wanted(world in any_world()) {
        let after = applied(&world, &plan(&world, now()));
        let settled = plan(&after, now());
        prop_assert_eq!(Some(settled.status.replicas), world.set.spec.as_ref().and_then(|s| s.replicas));
    }

    #[test]
    fn ready_pods_outlive_pods_that_are_not(world in any_world()) {
        let plan = plan(&world, now());
        let kept = plan.claims.held().filter(|pod| pods::is_active(pod));
        let kept = kept.filter(|pod| !plan.delete.iter().any(|gone| Arc::ptr_eq(gone, pod)));
        let worst = kept.filter(|pod| !pods::is_ready(pod) && pods::node_of(pod).is_none()).count();
        let best = plan.delete.iter().filter(|pod| pods::is_ready(pod) && pods::node_of(pod).is_some()).count();
        prop_assert!(worst == 0 || best == 0);
    }
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let mut set = set(1);
    set.spec.as_mut().expect("has a spec").min_ready_seconds = Some(30);
    let mut ready = pod(1, Some("set"), true, "Running", true, false);
    let since = now() - jiff::SignedDuration::from_secs(10);
    let conditions = ready
        .status
        .as_mut()
        .and_then(|status| status.conditions.as_mut());
    conditions.expect("has conditions")[0].last_transition_time = Some(Time(since));
    let world = World {
        set: Arc::new(set),
        candidates: vec![Arc::new(ready)],
        related: HashMap::new(),
    };
    let first = plan(&world, now());
    assert_eq!(
        (first.status.ready_replicas, first.status.available_replicas),
        (Some(1), None)
    );
    let then = first.look_again.expect("looks again");
    assert_eq!(then, since + jiff::SignedDuration::from_secs(30));
    assert_eq!(plan(&world, then).status.available_replicas, Some(1));
}
