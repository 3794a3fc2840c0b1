//! Deletion: of owners, of namespaces, of what nobody needs.

use corral_controllers::Name;
use corral_runtime::testing::FakeApi;
use serde_json::json;

use crate::cluster::{Cluster, PODS, deployment};

const SETS: &str = "/apis/apps/v1/replicasets";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

async fn running() -> Cluster {
    let cluster = Cluster::start(&[Name::Deployment, Name::ReplicaSet, Name::GarbageCollector]);
    cluster.run_pods();
    cluster.world.api.add(deployment(2, "v1"));
    cluster
        .wait_until(|api| api.objects(DEPLOYMENTS)[0]["status"]["availableReplicas"] == 2)
        .await;
    cluster
}

async fn delete(cluster: &Cluster, policy: &str) {
    use kube::api::{Api, DeleteParams, PropagationPolicy};
    let propagation_policy = Some(match policy {
        "Foreground" => PropagationPolicy::Foreground,
        "Orphan" => PropagationPolicy::Orphan,
        _ => PropagationPolicy::Background,
    });
    let client = cluster.world.client.clone();
    let deployments: Api<corral_api::k8s::api::apps::v1::Deployment> =
        Api::namespaced(client, "ns");
    deployments
        .delete(
            "web",
            &DeleteParams {
                propagation_policy,
                ..DeleteParams::default()
            },
        )
        .await
        .expect("deleted");
}

fn empty(api: &FakeApi) -> bool {
    [DEPLOYMENTS, SETS, PODS]
        .iter()
        .all(|collection| api.objects(collection).is_empty())
}

#[tokio::test(start_paused = true)]
async fn dependents_go_in_the_background() {
    let cluster = running().await;
    delete(&cluster, "Background").await;
    assert!(cluster.world.api.objects(DEPLOYMENTS).is_empty());
    cluster.wait_until(empty).await;
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_the_owner_goes_last() {
    let cluster = running().await;
    delete(&cluster, "Foreground").await;
    cluster
        .wait_until(|api| {
            let (sets, pods) = (api.objects(SETS), api.objects(PODS));
            if api.objects(DEPLOYMENTS).is_empty() {
                assert!(sets.is_empty(), "the set went first");
            }
            if sets.is_empty() {
                assert!(pods.is_empty(), "the pods went first");
            }
            empty(api)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn orphans_stay() {
    let cluster = running().await;
    delete(&cluster, "Orphan").await;
    cluster
        .wait_until(|api| api.objects(DEPLOYMENTS).is_empty())
        .await;
    let sets = cluster.world.api.objects(SETS);
    assert_eq!(sets.len(), 1);
    assert!(
        sets[0]["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    assert_eq!(cluster.world.api.objects(PODS).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_with_everything_in_it() {
    let names = [
        Name::Namespace,
        Name::Deployment,
        Name::ReplicaSet,
        Name::ServiceAccount,
        Name::GarbageCollector,
    ];
    let cluster = Cluster::start(&names);
    cluster.run_pods();
    cluster
        .world
        .api
        .add(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}));
    cluster.world.api.add(deployment(2, "v1"));
    cluster.wait_until(|api| api.objects(PODS).len() == 2).await;
    let namespaces: kube::Api<corral_api::k8s::api::core::v1::Namespace> =
        kube::Api::all(cluster.world.client.clone());
    namespaces
        .delete("ns", &kube::api::DeleteParams::default())
        .await
        .expect("deleted");
    cluster
        .wait_until(|api| api.objects("/api/v1/namespaces").is_empty())
        .await;
    assert!(empty(&cluster.world.api));
}

#[tokio::test(start_paused = true)]
async fn a_role_gathers_the_rules_of_others_and_follows_them() {
    let cluster = Cluster::start(&[Name::ClusterRoleAggregation]);
    let role = |name: &str, verb: &str| {
        let rule = json!({"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": [verb]});
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": [rule],
            "metadata": {"name": name, "labels": {"to": "all"}},
        })
    };
    let mut all = role("all", "stale");
    all["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]});
    let api = &cluster.world.api;
    api.add(all);
    api.add(role("reader", "get"));
    api.add(role("maker", "create"));
    let verbs = |api: &corral_runtime::testing::FakeApi| {
        let roles = api.objects("/apis/rbac.authorization.k8s.io/v1/clusterroles");
        let all = roles.iter().find(|role| role["metadata"]["name"] == "all");
        let rules = all.and_then(|all| all["rules"].as_array().cloned());
        let verbs = rules.unwrap_or_default();
        let verbs = verbs.iter().map(|rule| rule["verbs"][0].clone());
        verbs.collect::<Vec<_>>()
    };
    cluster
        .wait_until(|api| verbs(api) == ["create", "get"])
        .await;
    api.remove("/apis/rbac.authorization.k8s.io/v1/clusterroles/maker");
    cluster.wait_until(|api| verbs(api) == ["get"]).await;
    let writes = api.recorded();
    assert!(writes.iter().all(|write| write.method == "PATCH"));
}

#[tokio::test(start_paused = true)]
async fn failing_nodes_are_given_up_one_by_one_and_taken_back_when_none_is_left() {
    let cluster = Cluster::start(&[Name::NodeLifecycle]);
    let api = &cluster.world.api;
    for n in 0..5 {
        let ready = if n < 3 { "False" } else { "True" };
        let conditions = json!([{"type": "Ready", "status": ready}]);
        api.add(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}")}, "spec": {},
            "status": {"conditions": conditions},
        }));
    }
    let given_up = |api: &FakeApi| {
        let nodes = api.objects("/api/v1/nodes");
        let taints = nodes
            .iter()
            .flat_map(|node| node["spec"]["taints"].as_array().cloned());
        let driving = taints
            .flatten()
            .filter(|taint| taint["effect"] == "NoExecute");
        let mut times: Vec<jiff::Timestamp> = driving
            .map(|taint| {
                taint["timeAdded"]
                    .as_str()
                    .expect("set")
                    .parse()
                    .expect("a time")
            })
            .collect();
        times.sort();
        times
    };
    // Three of five, all at once, are most of a small zone.
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert!(
        given_up(api).len() <= 2,
        "the first may go before the others are known to fail"
    );
    api.add(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n5"}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }));
    cluster.wait_until(|api| given_up(api).len() == 3).await;
    for pair in given_up(api).windows(2) {
        let apart = pair[1].as_second() - pair[0].as_second();
        assert!(apart >= 10, "{apart} s between two nodes of a zone");
    }
    // Nobody renews: in the end no node is ready, and the fault is taken to be ours.
    cluster.wait_until(|api| given_up(api).is_empty()).await;
}
