use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("valid")
}

fn node(ready: &str, taints: Value) -> Node {
    object(json!({
        "metadata": {"name": "n", "uid": "n"}, "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
}

fn pod(tolerations: Value) -> Arc<Pod> {
    Arc::new(object(json!({
        "metadata": {"name": "p", "uid": "p"},
        "spec": {"containers": [], "nodeName": "n", "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })))
}

fn world(node: Node, heard: i64, pods: Vec<Arc<Pod>>, turn: Turn) -> World {
    World {
        node: Arc::new(node),
        heard: at(heard),
        pods,
        turn,
    }
}

fn applied(world: &World, plan: &Plan) -> World {
    let mut node = (*world.node).clone();
    node.status = plan.status.clone().or(node.status);
    if let Some(taints) = &plan.taints {
        node.spec.get_or_insert_default().taints = Some(taints.clone());
    }
    World {
        node: Arc::new(node),
        heard: world.heard,
        pods: Vec::new(),
        turn: world.turn,
    }
}

#[test]
fn a_silent_node_becomes_unknown_and_its_pods_leave_when_their_toleration_ends() {
    let patient =
        pod(json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]));
    let stubborn = pod(json!([{"operator": "Exists"}]));
    let timid = pod(json!([]));
    let pods = vec![Arc::clone(&patient), stubborn, timid];
    let silent = world(node("True", json!([])), 0, pods.clone(), Turn::Now);
    assert!(plan(&silent, at(49)).status.is_none());
    let first = plan(&silent, at(50));
    assert_eq!(health::ready_of(first.status.as_ref()), "Unknown");
    assert_eq!(first.taints.as_ref().map(Vec::len), Some(2));
    assert_eq!(
        first.evict.len(),
        1,
        "only the pod without a toleration goes at once"
    );
    assert_eq!(first.look_again, Some(at(350)));
    let then = World {
        pods,
        ..applied(&silent, &first)
    };
    assert_eq!(plan(&then, at(350)).evict.len(), 2);
}

#[test]
fn nothing_is_evicted_while_no_node_is_ready() {
    let silent = world(
        node("True", json!([])),
        0,
        vec![pod(json!([]))],
        Turn::Never,
    );
    let plan = plan(&silent, at(100));
    assert!(plan.evict.is_empty());
    assert_eq!(plan.taints.map(|taints| taints.len()), Some(1));
}

#[test]
fn a_node_waits_for_its_turn_to_be_given_up_but_not_to_be_kept_free() {
    let mut waiting = world(
        node("False", json!([])),
        100,
        vec![pod(json!([]))],
        Turn::At(at(107)),
    );
    let first = plan(&waiting, at(100));
    assert!(first.evict.is_empty() && !first.gives_up);
    assert_eq!(first.look_again, Some(at(107)));
    let taints = first.taints.expect("no new pods come");
    assert_eq!(
        taints
            .iter()
            .map(|taint| taint.effect.as_str())
            .collect::<Vec<_>>(),
        ["NoSchedule"]
    );
    waiting.turn = Turn::Now;
    let then = plan(&waiting, at(107));
    assert!(then.gives_up && then.evict.len() == 1);
    // Who is given up already changes the reason at once.
    let given_up = json!([{"key": health::UNREACHABLE, "effect": "NoExecute", "timeAdded": at(0).to_string()}]);
    let swapped = plan(
        &world(node("False", given_up), 100, vec![], Turn::Later),
        at(100),
    );
    assert!(!swapped.gives_up);
    let taints = swapped.taints.expect("the other reason");
    assert!(taints.iter().all(|taint| taint.key == health::NOT_READY) && taints.len() == 2);
}

proptest! {
    #[test]
    fn plans_settle_and_never_touch_foreign_taints(
        ready in prop_oneof![Just("True"), Just("False"), Just("Unknown")], heard in 0..100_i64,
        turn in prop_oneof![Just(Turn::Never), Just(Turn::Later), Just(Turn::At(at(200))), Just(Turn::Now)],
        cordoned in any::<bool>(), stale in any::<bool>(),
    ) {
        let mut taints = vec![json!({"key": "mine", "effect": "NoSchedule"})];
        if stale {
            taints.push(json!({"key": health::NOT_READY, "effect": "NoExecute"}));
        }
        let mut node = node(ready, json!(taints));
        node.spec.get_or_insert_default().unschedulable = Some(cordoned);
        let world = world(node, heard, Vec::new(), turn);
        let first = plan(&world, at(100));
        let after = applied(&world, &first);
        let again = plan(&after, at(100));
        prop_assert!(again.status.is_none() && again.taints.is_none());
        let taints = after.node.spec.clone().and_then(|spec| spec.taints).unwrap_or_default();
        prop_assert!(taints.iter().any(|taint| taint.key == "mine"));
    }
}
