use corral_api::k8s::api::apps::v1::ReplicaSetStatus;
use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::json;

use super::rollout::{max_surge, max_unavailable};
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("valid")
}

fn deployment(replicas: i32, surge: i32, unavailable: i32, strategy: &str) -> Deployment {
    let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
    let strategy = if strategy == "Recreate" {
        json!({"type": strategy})
    } else {
        json!({"type": strategy, "rollingUpdate": rolling})
    };
    object(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v0"}]}},
        },
    }))
}

/// A Deployment with sets whose pods come up and go away as the test says.
struct Simulation {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    clock: i64,
}

impl Simulation {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            clock: 0,
        }
    }

    fn spec(&mut self) -> &mut DeploymentSpec {
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|n| n + 1);
        self.deployment.spec.as_mut().expect("has a spec")
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.spec().template.spec.as_mut().expect("has a pod spec");
        spec.containers[0].image = Some(image.into());
    }

    fn world(&self) -> World {
        let pods = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
        World {
            deployment: Arc::new(self.deployment.clone()),
            candidates: self.sets.iter().cloned().map(Arc::new).collect(),
            running: self
                .sets
                .iter()
                .map(|set| {
                    (
                        uid_of(&set.metadata).to_owned(),
                        usize::try_from(pods(set)).expect("positive"),
                    )
                })
                .collect(),
        }
    }

    /// Plans and applies; returns whether anything but the status was to be done.
    fn step(&mut self) -> bool {
        self.clock += 1;
        let plan = plan(&self.world(), at(self.clock));
        let busy = plan.create.is_some()
            || !plan.update.is_empty()
            || !plan.delete.is_empty()
            || plan.revision.is_some();
        if let Some(mut set) = plan.create {
            set.metadata.uid = Some(format!("rs{}", self.clock));
            set.metadata.generation = Some(1);
            set.metadata.creation_timestamp = Some(corral_api::time::Time(at(self.clock)));
            self.sets.push(set);
        }
        for update in plan.update {
            let set = self
                .sets
                .iter_mut()
                .find(|set| set.metadata.uid == update.set.metadata.uid)
                .expect("known");
            set.metadata
                .annotations
                .get_or_insert_default()
                .extend(update.annotations);
            set.spec.get_or_insert_default().replicas = Some(update.replicas);
        }
        self.sets.retain(|set| {
            !plan
                .delete
                .iter()
                .any(|gone| gone.metadata.uid == set.metadata.uid)
        });
        if let Some(revision) = plan.revision {
            self.deployment
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(revision::REVISION.into(), revision);
        }
        self.deployment.status = Some(plan.status);
        busy
    }

    /// Each set's pods follow its replicas; of the running ones at most `ready` more become available.
    fn pods_follow(&mut self, ready: i32) {
        let mut left = ready;
        for set in &mut self.sets {
            let replicas = spec_replicas(set);
            let old = set.status.clone().unwrap_or_default();
            let available = old.available_replicas.unwrap_or(0).min(replicas);
            let more = left.min(replicas - available);
            left -= more;
            let available = Some(available + more);
            let (ready_replicas, observed_generation) = (available, set.metadata.generation);
            let replicas = replicas.max(0);
            set.status = Some(ReplicaSetStatus {
                replicas,
                ready_replicas,
                available_replicas: available,
                observed_generation,
                ..old
            });
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let busy = self.step();
            self.pods_follow(1000);
            if !busy && !self.step() {
                return;
            }
        }
        panic!("does not settle");
    }

    fn asked(&self) -> i32 {
        self.sets.iter().map(spec_replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets
            .iter()
            .filter_map(|set| set.status.as_ref()?.available_replicas)
            .sum()
    }

    fn reason(&self, condition: &str) -> String {
        let conditions = self
            .deployment
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut found = conditions.filter(|c| c.type_ == condition);
        found
            .next()
            .and_then(|c| c.reason.clone())
            .unwrap_or_default()
    }
}

proptest! {
    #[test]
    fn a_rolling_update_stays_within_surge_and_unavailability(
        replicas in 1..12, surge in 0..4, unavailable in 0..4,
        ready in prop::collection::vec(0..3_i32, 1..60), changes in prop::collection::vec(0..60_usize, 0..4),
    ) {
        let mut sim = Simulation::new(deployment(replicas, surge, unavailable, "RollingUpdate"));
        sim.settle();
        let spec = sim.deployment.spec.clone().expect("has a spec");
        let (surge, unavailable) = (max_surge(&spec), max_unavailable(&spec));
        sim.set_image("v1");
        for (n, ready) in ready.into_iter().enumerate() {
            if changes.contains(&n) {
                sim.set_image(&format!("change{n}"));
            }
            sim.step();
            prop_assert!(sim.asked() <= replicas + surge, "{} asked of {replicas}+{surge}", sim.asked());
            sim.pods_follow(ready);
            prop_assert!(sim.available() >= replicas - unavailable, "{} of {replicas}", sim.available());
        }
        sim.settle();
        prop_assert_eq!(sim.asked(), replicas);
        prop_assert_eq!(sim.reason("Progressing"), "NewReplicaSetAvailable");
        prop_assert!(!sim.step(), "a settled Deployment has nothing to do");
    }

    #[test]
    fn resizing_during_a_rollout_ends_at_the_new_size(
        replicas in 1..10, resized in 0..20, surge in 1..4, ready in prop::collection::vec(0..3_i32, 1..10),
    ) {
        let mut sim = Simulation::new(deployment(replicas, surge, 1, "RollingUpdate"));
        sim.settle();
        sim.set_image("v1");
        for ready in ready {
            sim.step();
            sim.pods_follow(ready);
        }
        sim.spec().replicas = Some(resized);
        sim.settle();
        prop_assert_eq!(sim.asked(), resized);
        prop_assert_eq!(sim.available(), resized);
    }
}

#[test]
fn recreate_never_runs_two_templates_at_once() {
    let mut sim = Simulation::new(deployment(3, 0, 0, "Recreate"));
    sim.settle();
    sim.set_image("v1");
    for _ in 0..10 {
        sim.step();
        let with_pods = |set: &&ReplicaSet| {
            spec_replicas(set) > 0
                || set
                    .status
                    .as_ref()
                    .is_some_and(|status| status.replicas > 0)
        };
        assert!(sim.sets.iter().filter(with_pods).count() <= 1);
        sim.pods_follow(3);
    }
    assert_eq!(sim.available(), 3);
}

#[test]
fn going_back_makes_the_old_set_the_newest_revision_and_history_is_trimmed() {
    let mut sim = Simulation::new(deployment(2, 1, 0, "RollingUpdate"));
    for image in ["v0", "v1", "v2", "v3", "v4"] {
        sim.set_image(image);
        sim.settle();
    }
    assert_eq!(sim.sets.len(), 3, "the present set and two old ones");
    sim.set_image("v3");
    sim.settle();
    let newest = sim
        .sets
        .iter()
        .max_by_key(|set| revision::of(set))
        .expect("has sets");
    assert_eq!(revision::of(newest), 6);
    assert_eq!(
        newest
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(revision::REVISION_HISTORY))
            .map(String::as_str),
        Some("4")
    );
    let own = sim
        .deployment
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(revision::REVISION));
    assert_eq!(own.map(String::as_str), Some("6"));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut sim = Simulation::new(deployment(2, 1, 0, "RollingUpdate"));
    sim.settle();
    sim.spec().paused = Some(true);
    sim.set_image("v1");
    sim.spec().replicas = Some(5);
    sim.settle();
    assert_eq!((sim.sets.len(), sim.asked()), (1, 5));
    assert_eq!(sim.reason("Progressing"), "DeploymentPaused");
    sim.spec().paused = Some(false);
    sim.settle();
    assert_eq!(sim.sets.len(), 2);
    assert_eq!(sim.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_without_progress_exceeds_its_deadline() {
    let mut sim = Simulation::new(deployment(2, 1, 0, "RollingUpdate"));
    sim.settle();
    sim.set_image("broken");
    for _ in 0..5 {
        sim.step();
        sim.pods_follow(0);
    }
    assert_eq!(sim.reason("Progressing"), "ReplicaSetUpdated");
    let next = plan(&sim.world(), at(sim.clock))
        .look_again
        .expect("looks again at the deadline");
    sim.clock = next.as_second() - 1_700_000_000;
    sim.step();
    assert_eq!(sim.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(sim.reason("Available"), "MinimumReplicasAvailable");
}
