use corral_runtime::testing::object;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("valid")
}

fn budget(spec: Value, status: Value) -> Arc<PodDisruptionBudget> {
    Arc::new(object(json!({
        "metadata": {"name": "b", "namespace": "ns", "generation": 3}, "spec": spec, "status": status,
    })))
}

fn pod(n: usize, ready: bool) -> Arc<Pod> {
    Arc::new(object(json!({
        "metadata": {"name": format!("p{n}"), "namespace": "ns"},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })))
}

fn of(uid: &str, replicas: i32) -> Scale {
    Scale::Of {
        uid: uid.into(),
        replicas,
    }
}

/// Pods of one controller that wants as many, so many of them ready.
fn world(spec: Value, status: Value, total: usize, n_ready: usize) -> World {
    let scale = of("set", number(total));
    let pods = (0..total).map(|n| (pod(n, n < n_ready), scale.clone()));
    World {
        budget: budget(spec, status),
        pods: pods.collect(),
    }
}

/// Expected, desired, healthy, allowed.
fn numbers(plan: &Plan) -> [i32; 4] {
    let status = &plan.status;
    [
        status.expected_pods,
        status.desired_healthy,
        status.current_healthy,
        status.disruptions_allowed,
    ]
    .map(|n| n.expect("is set"))
}

#[test]
fn numbers_follow_from_the_limit_and_from_what_is_ready() {
    let of = |spec, total, n_ready| numbers(&plan(&world(spec, json!({}), total, n_ready), at(0)));
    assert_eq!(of(json!({"minAvailable": 2}), 3, 3), [3, 2, 3, 1]);
    assert_eq!(of(json!({"minAvailable": 2}), 3, 1), [3, 2, 1, 0]);
    assert_eq!(of(json!({"minAvailable": "50%"}), 3, 3), [3, 2, 3, 1]);
    assert_eq!(of(json!({"maxUnavailable": 1}), 4, 4), [4, 3, 4, 1]);
    assert_eq!(of(json!({"maxUnavailable": "34%"}), 3, 3), [3, 1, 3, 2]);
    assert_eq!(of(json!({"minAvailable": 0}), 0, 0), [0, 0, 0, 0]);
}

#[test]
fn the_condition_says_whether_pods_may_go_and_is_settled() {
    let mut world = world(json!({"minAvailable": 1}), json!({}), 2, 2);
    let first = plan(&world, at(0));
    let condition = &first.status.conditions.as_ref().expect("has one")[0];
    assert_eq!(
        (
            &*condition.status,
            &*condition.reason,
            condition.observed_generation
        ),
        ("True", "SufficientPods", Some(3))
    );
    let mut next = (*world.budget).clone();
    next.status = Some(first.status.clone());
    world.budget = Arc::new(next);
    assert_eq!(plan(&world, at(5)).status, first.status);
}

#[test]
fn a_noted_eviction_counts_until_its_time_is_over() {
    let noted = json!({"disruptedPods": {"p0": at(0).to_string(), "gone": at(0).to_string()}});
    let world = world(json!({"minAvailable": 1}), noted, 3, 3);
    let soon = plan(&world, at(10));
    assert_eq!(numbers(&soon), [3, 1, 2, 1]);
    let left = soon.status.disrupted_pods.clone().expect("one is left");
    assert_eq!(left.keys().collect::<Vec<_>>(), ["p0"]);
    assert_eq!(soon.look_again, Some(at(120)));
    let late = plan(&world, at(121));
    assert_eq!(numbers(&late), [3, 1, 3, 2]);
    assert_eq!(late.not_deleted.len(), 1);
    assert_eq!(late.status.disrupted_pods, None);
}

#[test]
fn what_has_no_known_scale_allows_nothing() {
    let mut world = world(
        json!({"maxUnavailable": 1}),
        json!({"disruptionsAllowed": 2}),
        2,
        2,
    );
    world.pods[1].1 = Scale::Unknown;
    let plan = plan(&world, at(0));
    assert_eq!(plan.status.disruptions_allowed, Some(0));
    let condition = &plan.status.conditions.as_ref().expect("has one")[0];
    assert_eq!(condition.reason, "SyncFailed");
    assert_eq!(condition.message, "found no controllers for pod \"p1\"");
}

#[test]
fn pods_without_a_controller_are_told_of_where_they_do_not_count() {
    let mut world = world(json!({"maxUnavailable": 1}), json!({}), 2, 2);
    world.pods.push((pod(2, true), Scale::Unmanaged));
    world.pods.push((pod(3, true), of("other", 5)));
    let plan = plan(&world, at(0));
    assert_eq!(numbers(&plan), [7, 6, 4, 0]);
    assert_eq!(plan.warnings[0].0, "UnmanagedPods");
}
