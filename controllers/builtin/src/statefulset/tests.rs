use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("valid")
}

/// A set with its pods, whose plans are carried out.
struct Simulation {
    set: StatefulSet,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
    clock: i64,
    /// Names of the pods that were made and deleted, in order.
    made: Vec<String>,
    gone: Vec<String>,
}

impl Simulation {
    fn new(spec: Value) -> Self {
        let mut set = json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "set", "generation": 1},
            "spec": {
                "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "revisionHistoryLimit": 1, "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "template": {"metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            },
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            set["spec"][key] = value.clone();
        }
        Self {
            set: object(set),
            pods: Vec::new(),
            revisions: Vec::new(),
            clock: 0,
            made: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn spec(&mut self) -> &mut StatefulSetSpec {
        self.set.spec.get_or_insert_default()
    }

    fn set_image(&mut self, image: &str) {
        let pods = self.spec().template.spec.as_mut().expect("has one");
        pods.containers[0].image = Some(image.to_owned());
    }

    /// Carries out one plan; whether there was anything to do.
    fn step(&mut self) -> bool {
        self.clock += 1;
        let world = World {
            set: Arc::new(self.set.clone()),
            candidates: self.pods.iter().cloned().map(Arc::new).collect(),
            revisions: self.revisions.iter().cloned().map(Arc::new).collect(),
        };
        let plan = plan(&world, at(self.clock));
        let mut busy = self.set.status.as_ref() != Some(&plan.status);
        match plan.revisions.change {
            history::Change::None => {}
            history::Change::Create(new) => self.revisions.push(*new),
            history::Change::Renumber(known, number) => {
                let mut known_ones = self.revisions.iter_mut();
                let known = known_ones.find(|r| r.metadata.name == known.metadata.name);
                known.expect("is there").revision = number;
            }
        }
        let named = |meta: &corral_api::meta::ObjectMeta| meta.name.clone().expect("has one");
        for old in &plan.revisions.delete {
            self.revisions
                .retain(|r| r.metadata.name != old.metadata.name);
        }
        for pod in &plan.delete {
            busy = true;
            self.gone.push(named(&pod.metadata));
            self.pods.retain(|p| p.metadata.name != pod.metadata.name);
        }
        for pod in plan.create {
            busy = true;
            let name = named(&pod.metadata);
            assert!(
                self.pods.iter().all(|p| named(&p.metadata) != name),
                "{name} twice"
            );
            self.made.push(name);
            self.pods.push(pod);
        }
        self.set.status = Some(plan.status);
        busy
    }

    fn make_ready(&mut self) {
        let since = at(self.clock).to_string();
        for pod in &mut self.pods {
            pod.status = Some(object_status(&since));
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.make_ready();
            if !self.step() {
                return;
            }
        }
        panic!("does not settle");
    }

    fn images(&self) -> Vec<String> {
        let mut images: Vec<_> = self
            .pods
            .iter()
            .map(|pod| {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let spec = pod.spec.as_ref().expect("has one");
                format!(
                    "{name}={}",
                    spec.containers[0].image.as_deref().unwrap_or("")
                )
            })
            .collect();
        images.sort();
        images
    }
}

fn object_status(since: &str) -> corral_api::k8s::api::core::v1::PodStatus {
    serde_json::from_value(json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": since}]}))
    .expect("a status")
}

#[test]
fn pods_come_one_after_the_other_and_know_who_they_are() {
    let mut simulation = Simulation::new(json!({"ordinals": {"start": 5}}));
    simulation.step();
    assert_eq!(simulation.made, ["db-5"]);
    simulation.step();
    assert_eq!(simulation.made.len(), 1, "the first is not ready");
    simulation.settle();
    assert_eq!(simulation.made, ["db-5", "db-6", "db-7"]);
    let pod = &simulation.pods[1];
    let labels = pod.metadata.labels.clone().expect("has some");
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-6");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "6");
    let status = simulation.set.status.clone().expect("has one");
    assert_eq!(
        Some(&labels["controller-revision-hash"]),
        status.current_revision.as_ref()
    );
    let spec = pod.spec.as_ref().expect("has one");
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("db-6"), Some("db"))
    );
    assert_eq!((status.replicas, status.ready_replicas), (3, Some(3)));
}

#[test]
fn an_ordered_set_shrinks_from_the_last_and_a_parallel_one_at_once() {
    let mut simulation = Simulation::new(json!({}));
    simulation.settle();
    simulation.spec().replicas = Some(1);
    simulation.step();
    assert_eq!(simulation.gone, ["db-2"]);
    simulation.settle();
    assert_eq!(simulation.gone, ["db-2", "db-1"]);

    let mut simulation = Simulation::new(json!({"podManagementPolicy": "Parallel"}));
    simulation.step();
    assert_eq!(simulation.made.len(), 3);
    simulation.spec().replicas = Some(0);
    simulation.step();
    assert_eq!(simulation.gone, ["db-2", "db-1", "db-0"]);
}

#[test]
fn an_update_goes_from_the_last_down_to_the_partition() {
    let mut simulation = Simulation::new(json!({}));
    simulation.settle();
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    simulation.spec().update_strategy = serde_json::from_value(rolling).expect("a strategy");
    simulation.set_image("v2");
    simulation.settle();
    assert_eq!(simulation.gone, ["db-2", "db-1"]);
    assert_eq!(simulation.images(), ["db-0=v1", "db-1=v2", "db-2=v2"]);
    let status = simulation.set.status.clone().expect("has one");
    assert_ne!(status.current_revision, status.update_revision);
    assert_eq!(
        (status.current_replicas, status.updated_replicas),
        (Some(1), Some(2))
    );

    // What is lost below the partition comes back as it was.
    simulation
        .pods
        .retain(|pod| pod.metadata.name.as_deref() != Some("db-0"));
    simulation.settle();
    assert_eq!(simulation.images()[0], "db-0=v1");

    let all = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
    simulation.spec().update_strategy = serde_json::from_value(all).expect("a strategy");
    simulation.settle();
    assert_eq!(simulation.images()[0], "db-0=v2");
    let status = simulation.set.status.clone().expect("has one");
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(simulation.revisions.len(), 2);
}

#[test]
fn on_delete_leaves_updates_to_whoever_deletes() {
    let mut simulation = Simulation::new(json!({"updateStrategy": {"type": "OnDelete"}}));
    simulation.settle();
    simulation.set_image("v2");
    simulation.settle();
    assert!(simulation.gone.is_empty());
    simulation.pods.remove(1);
    simulation.settle();
    assert_eq!(simulation.images(), ["db-0=v1", "db-1=v2", "db-2=v1"]);
}

#[test]
fn an_ended_pod_is_made_anew_and_labels_are_put_back() {
    let mut simulation = Simulation::new(json!({}));
    simulation.settle();
    let status = simulation.pods[0].status.get_or_insert_default();
    status.phase = Some("Failed".into());
    simulation.step();
    simulation.settle();
    assert_eq!(simulation.gone, ["db-0"]);
    let labels = simulation.pods[0]
        .metadata
        .labels
        .as_mut()
        .expect("has some");
    labels.remove("statefulset.kubernetes.io/pod-name");
    let world = World {
        set: Arc::new(simulation.set.clone()),
        candidates: simulation.pods.iter().cloned().map(Arc::new).collect(),
        revisions: simulation.revisions.iter().cloned().map(Arc::new).collect(),
    };
    let plan = plan(&world, at(1000));
    assert_eq!(plan.name.len(), 1);
}

proptest! {
    #[test]
    fn an_ordered_set_never_has_two_steps_at_once(
        steps in prop::collection::vec((0..4_i32, 0..3_usize, any::<bool>()), 1..30)
    ) {
        let mut simulation = Simulation::new(json!({}));
        for (replicas, image, ready) in steps {
            simulation.spec().replicas = Some(replicas);
            simulation.set_image(&format!("v{image}"));
            let before = simulation.made.len() + simulation.gone.len();
            simulation.step();
            prop_assert!(simulation.made.len() + simulation.gone.len() <= before + 1);
            if ready {
                simulation.make_ready();
            }
        }
        simulation.make_ready();
        simulation.settle();
        let wanted = simulation.spec().replicas.unwrap_or(1);
        prop_assert_eq!(simulation.pods.len(), usize::try_from(wanted).expect("not negative"));
        let images = simulation.images();
        let first = images.first().map(|i| i.split('=').next_back());
        prop_assert!(images.iter().all(|i| Some(i.split('=').next_back()) == first));
    }
}
