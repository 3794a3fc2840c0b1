//! The scheduler against an API in memory.

use std::sync::Arc;

use corral_runtime::testing::{FakeApi, World};
use corral_scheduler::plugins::Plugins;
use corral_scheduler::{SchedulerConfig, start};
use prometheus::Registry;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/pods";

fn world() -> World {
    let world = World::new();
    let config = SchedulerConfig {
        client: world.client.clone(),
        caches: Some(world.factory.clone()),
        registry: Registry::new(),
        shutdown: world.tasks.shutdown().clone(),
        scheduler_name: "default-scheduler".into(),
        clock: Arc::clone(&world.clock) as Arc<dyn corral_runtime::Clock>,
        plugins: Plugins::default(),
    };
    world.tasks.spawn("scheduler", start(config));
    world
}

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"name": name}}, "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    })
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
    });
    for (key, value) in spec.as_object().expect("an object") {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn find(api: &FakeApi, name: &str) -> Value {
    api.objects(PODS)
        .into_iter()
        .find(|pod| pod["metadata"]["name"] == name)
        .expect("is there")
}

async fn wait(world: &World, condition: impl FnMut(&FakeApi) -> bool) {
    let waiting = world.api.wait_until(condition);
    tokio::time::timeout(std::time::Duration::from_secs(3600), waiting)
        .await
        .expect("in time");
}

fn condition(pod: &Value) -> (String, String) {
    let condition = &pod["status"]["conditions"][0];
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

#[tokio::test(start_paused = true)]
async fn pods_spread_over_nodes_and_the_rest_is_unschedulable_until_there_is_room() {
    let world = world();
    for n in 0..3 {
        world.api.add(node(&format!("n{n}"), "2"));
    }
    for n in 0..7 {
        world.api.add(pod(&format!("p{n}"), json!({})));
    }
    let bound = |api: &FakeApi| {
        api.objects(PODS)
            .iter()
            .filter(|pod| !pod["spec"]["nodeName"].is_null())
            .count()
    };
    wait(&world, |api| {
        bound(api) == 6
            && api
                .objects(PODS)
                .iter()
                .any(|pod| condition(pod).0 == "Unschedulable")
    })
    .await;
    let pods = world.api.objects(PODS);
    let left = pods
        .iter()
        .find(|pod| pod["spec"]["nodeName"].is_null())
        .expect("one is left");
    assert_eq!(
        condition(left).1,
        "0/3 nodes are available: 3 Insufficient cpu."
    );
    for n in 0..3 {
        let here = pods
            .iter()
            .filter(|pod| pod["spec"]["nodeName"] == format!("n{n}"))
            .count();
        assert_eq!(here, 2, "no node is overcommitted");
    }
    let gone = pods
        .iter()
        .find(|pod| !pod["spec"]["nodeName"].is_null())
        .expect("some are bound");
    let name = gone["metadata"]["name"].as_str().expect("named");
    world
        .api
        .remove(&format!("/api/v1/namespaces/ns/pods/{name}"));
    wait(&world, |api| bound(api) == 6).await;
}

#[tokio::test(start_paused = true)]
async fn reasons_are_counted_per_node_in_kubernetes_words() {
    let world = world();
    world.api.add(node("small", "500m"));
    let mut tainted = node("tainted", "4");
    tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    world.api.add(tainted);
    let mut cordoned = node("cordoned", "4");
    cordoned["spec"]["unschedulable"] = json!(true);
    world.api.add(cordoned);
    world.api.add(pod("p", json!({})));
    wait(&world, |api| {
        condition(&find(api, "p")).1
            == "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
                1 node(s) were unschedulable."
    })
    .await;
    world.api.merge(
        "/api/v1/nodes/cordoned",
        json!({"spec": {"unschedulable": null}}),
    );
    wait(&world, |api| {
        find(api, "p")["spec"]["nodeName"] == "cordoned"
    })
    .await;
    wait(&world, |api| {
        let events = api.objects("/api/v1/events");
        let reasons: Vec<_> = events
            .iter()
            .map(|event| event["reason"].as_str().unwrap_or_default())
            .collect();
        reasons.contains(&"FailedScheduling") && reasons.contains(&"Scheduled")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn selectors_tolerations_gates_and_scheduler_names_are_respected() {
    let world = world();
    world.api.add(node("a", "4"));
    world.api.add(node("b", "4"));
    world
        .api
        .add(pod("selects", json!({"nodeSelector": {"name": "b"}})));
    world
        .api
        .add(pod("other", json!({"schedulerName": "someone-else"})));
    world
        .api
        .add(pod("gated", json!({"schedulingGates": [{"name": "g"}]})));
    let terms = json!([{"labelSelector": {}, "topologyKey": "kubernetes.io/hostname"}]);
    let affinity =
        json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    world.api.add(pod("apart", json!({"affinity": affinity})));
    wait(&world, |api| {
        find(api, "selects")["spec"]["nodeName"] == "b"
    })
    .await;
    wait(&world, |api| {
        condition(&find(api, "apart")).0 == "Unschedulable"
    })
    .await;
    let message = condition(&find(&world.api, "apart")).1;
    let wanted =
        "0/2 nodes are available: this scheduler does not support required pod anti-affinity yet.";
    assert_eq!(message, wanted);
    for name in ["other", "gated"] {
        assert!(find(&world.api, name)["spec"]["nodeName"].is_null());
    }
    world.api.merge(
        "/api/v1/namespaces/ns/pods/gated",
        json!({"spec": {"schedulingGates": null}}),
    );
    wait(&world, |api| {
        !find(api, "gated")["spec"]["nodeName"].is_null()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_gives_the_room_back_and_is_tried_again() {
    let world = world();
    world
        .api
        .refuse(|_, path, _| path.ends_with("/binding").then_some((500, "InternalError")));
    world.api.add(node("a", "1"));
    world.api.add(pod("p", json!({})));
    let refused = |api: &FakeApi| {
        api.recorded()
            .iter()
            .filter(|r| r.path.ends_with("/binding"))
            .count()
    };
    let recorded = async {
        while refused(&world.api) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), recorded)
        .await
        .expect("tried again");
    world.api.accept_all();
    wait(&world, |api| find(api, "p")["spec"]["nodeName"] == "a").await;
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_of_a_later_term_goes_on_where_the_first_stopped() {
    let world = World::new();
    let registry = Registry::new();
    let config = |shutdown: &tokio_util::sync::CancellationToken| SchedulerConfig {
        client: world.client.clone(),
        caches: Some(world.factory.clone()),
        registry: registry.clone(),
        shutdown: shutdown.clone(),
        scheduler_name: "default-scheduler".into(),
        clock: Arc::clone(&world.clock) as Arc<dyn corral_runtime::Clock>,
        plugins: Plugins::default(),
    };
    let bound = |api: &FakeApi, name: &str| !find(api, name)["spec"]["nodeName"].is_null();
    world.api.add(node("n", "8"));
    for name in ["first", "second"] {
        let term = world.tasks.shutdown().child_token();
        let working = tokio::spawn(start(config(&term)));
        world.api.add(pod(name, json!({})));
        wait(&world, |api| bound(api, name)).await;
        let metrics = registry.gather();
        let attempts = metrics
            .iter()
            .find(|family| family.name() == "corral_scheduler_attempts_total");
        let attempts = attempts.expect("each term has its counters");
        assert_eq!(attempts.get_metric()[0].get_counter().get_value(), 1.0);
        term.cancel();
        working.await.expect("ends");
    }
    world.api.add(pod("third", json!({})));
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(!bound(&world.api, "third"), "nobody leads");
}
