use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("valid")
}

fn set(strategy: Value) -> DaemonSet {
    object(json!({
        "metadata": {"name": "agent", "namespace": "ns", "uid": "ds", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "v0"}]}},
        },
    }))
}

fn node(n: usize, taints: Value) -> Arc<Node> {
    Arc::new(object(
        json!({"metadata": {"name": format!("n{n}")}, "spec": {"taints": taints}}),
    ))
}

struct Simulation {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Pod>,
    made: usize,
    clock: i64,
    failures: Failures,
}

impl Simulation {
    fn new(strategy: Value, nodes: usize) -> Self {
        let nodes = (0..nodes).map(|n| node(n, json!([]))).collect();
        Self {
            set: set(strategy),
            nodes,
            pods: Vec::new(),
            made: 0,
            clock: 0,
            failures: Failures::default(),
        }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self
            .set
            .spec
            .as_mut()
            .and_then(|spec| spec.template.spec.as_mut())
            .expect("has one");
        spec.containers[0].image = Some(image.into());
    }

    fn step(&mut self) -> bool {
        self.clock += 1;
        let candidates = self.pods.iter().cloned().map(Arc::new).collect();
        let world = World {
            set: Arc::new(self.set.clone()),
            nodes: self.nodes.clone(),
            candidates,
            revisions: Vec::new(),
            waits: self.failures.of(&failure_key(&self.set)),
        };
        let plan = plan(&world, at(self.clock));
        for pod in &plan.failed {
            let node = placement::target(pod).expect("daemons name their node");
            self.failures
                .note(&failure_key(&self.set), node, at(self.clock));
        }
        let busy = !plan.create.is_empty() || !plan.delete.is_empty();
        self.pods.retain(|pod| {
            !plan
                .delete
                .iter()
                .any(|gone| gone.metadata.uid == pod.metadata.uid)
        });
        for node in &plan.create {
            self.made += 1;
            let mut pod = placement::pod_for(&self.set, node, &plan.hash);
            pod.metadata.uid = Some(format!("u{}", self.made));
            pod.metadata.creation_timestamp = Some(corral_api::time::Time(at(self.clock)));
            self.pods.push(pod);
        }
        self.set.status = Some(plan.status);
        busy
    }

    fn ready(&mut self, count: usize) {
        let unready = self
            .pods
            .iter_mut()
            .filter(|pod| !pods::is_ready(pod))
            .take(count);
        for pod in unready {
            let ready =
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            pod.status = Some(serde_json::from_value(ready).expect("a status"));
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let busy = self.step();
            self.ready(100);
            if !busy {
                return;
            }
        }
        panic!("does not settle");
    }

    fn available(&self) -> usize {
        let nodes = self.nodes.iter().filter(|node| {
            let here = |pod: &&Pod| {
                placement::target(pod) == node.metadata.name.as_deref() && pods::is_ready(pod)
            };
            self.pods.iter().any(|pod| here(&pod))
        });
        nodes.count()
    }
}

proptest! {
    #[test]
    fn an_update_stays_within_its_limits(
        n_nodes in 1..8_usize, surge in 0..3_usize, unavailable in 0..3_usize,
        ready in prop::collection::vec(0..3_usize, 1..30),
    ) {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let mut sim = Simulation::new(json!({"type": "RollingUpdate", "rollingUpdate": rolling}), n_nodes);
        sim.settle();
        prop_assert_eq!(sim.pods.len(), n_nodes);
        sim.set_image("v1");
        // With surge no node is ever without a pod; a limit of zero for both means one pod may be missing.
        let missing = if surge > 0 { 0 } else { unavailable.max(1) };
        for ready in ready {
            sim.step();
            prop_assert!(sim.available() + missing >= n_nodes);
            prop_assert!(sim.pods.len() <= n_nodes + surge);
            sim.ready(ready);
        }
        sim.settle();
        sim.settle();
        prop_assert_eq!(sim.pods.len(), n_nodes);
        let images = sim.pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone());
        prop_assert!(images.into_iter().all(|image| image == "v1"));
        prop_assert!(!sim.step());
    }
}

#[test]
fn on_delete_leaves_old_pods_alone() {
    let mut sim = Simulation::new(json!({"type": "OnDelete"}), 3);
    sim.settle();
    sim.set_image("v1");
    assert!(!sim.step());
    sim.pods.pop();
    sim.settle();
    assert_eq!(
        sim.set
            .status
            .as_ref()
            .and_then(|status| status.updated_number_scheduled),
        Some(1)
    );
}

#[test]
fn taints_keep_pods_away_or_drive_them_off() {
    let mut sim = Simulation::new(json!({}), 2);
    sim.nodes[1] = node(1, json!([{"key": "k", "effect": "NoSchedule"}]));
    sim.settle();
    assert_eq!(sim.pods.len(), 1);
    sim.nodes[1] = node(
        1,
        json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
    );
    sim.settle();
    assert_eq!(sim.pods.len(), 2);
    sim.nodes[1] = node(1, json!([{"key": "k", "effect": "NoSchedule"}]));
    sim.settle();
    assert_eq!(sim.pods.len(), 2, "a pod that is there may stay");
    sim.nodes[1] = node(1, json!([{"key": "k", "effect": "NoExecute"}]));
    sim.settle();
    assert_eq!(sim.pods.len(), 1);
}

#[test]
fn a_pod_that_always_fails_is_replaced_ever_more_slowly() {
    let mut sim = Simulation::new(json!({}), 2);
    let mut made = Vec::new();
    for _ in 0..600 {
        let before = sim.made;
        sim.step();
        if sim.made > before {
            made.push(sim.clock);
        }
        for pod in &mut sim.pods {
            let phase = if placement::target(pod) == Some("n0") {
                "Failed"
            } else {
                "Running"
            };
            pod.status = Some(serde_json::from_value(json!({"phase": phase})).expect("a status"));
        }
    }
    // Each step takes a second: one to delete, one to make anew.
    let pauses: Vec<_> = made.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [2, 2, 2, 4, 8, 16, 32, 64, 128, 256]);
    sim.set
        .status
        .as_mut()
        .expect("has one")
        .observed_generation = Some(1);
    sim.set.metadata.generation = Some(2);
    sim.step();
    let before = sim.made;
    sim.step();
    sim.step();
    assert_eq!(sim.made, before + 1, "a changed set begins anew");
}

#[test]
fn a_pod_that_ends_well_is_replaced_at_once() {
    let mut sim = Simulation::new(json!({}), 1);
    for _ in 0..10 {
        sim.step();
        for pod in &mut sim.pods {
            pod.status =
                Some(serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status"));
        }
    }
    assert_eq!(sim.made, 5);
}
