//! Services and what stands behind them; what every namespace has.

use corral_controllers::Name;
use serde_json::json;

use crate::cluster::{Cluster, deployment};

#[tokio::test(start_paused = true)]
async fn endpoints_follow_the_pods_behind_a_service() {
    let names = [
        Name::Deployment,
        Name::ReplicaSet,
        Name::Endpoints,
        Name::EndpointSlice,
    ];
    let cluster = Cluster::start(&names);
    cluster.run_pods();
    cluster.world.api.add(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"]},
    }));
    cluster.world.api.add(deployment(3, "v1"));
    cluster
        .wait_until(|api| {
            let slices = api.objects("/apis/discovery.k8s.io/v1/endpointslices");
            let ready = slices
                .iter()
                .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
            let endpoints = api.objects("/api/v1/endpoints");
            let addresses = endpoints
                .first()
                .and_then(|e| e["subsets"][0]["addresses"].as_array().map(Vec::len));
            ready
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .count()
                == 3
                && addresses == Some(3)
        })
        .await;
    cluster
        .world
        .api
        .remove("/api/v1/namespaces/ns/services/web");
    cluster
        .wait_until(|api| api.objects("/api/v1/endpoints").is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn every_namespace_gets_an_account_and_the_certificate_back() {
    let cluster = Cluster::start(&[Name::ServiceAccount, Name::RootCa]);
    cluster
        .world
        .api
        .add(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}));
    let there = |api: &corral_runtime::testing::FakeApi| {
        api.objects("/api/v1/serviceaccounts").len() == 1
            && api
                .objects("/api/v1/configmaps")
                .iter()
                .any(|map| map["data"]["ca.crt"] == "test certificate")
    };
    cluster.wait_until(there).await;
    cluster
        .world
        .api
        .remove("/api/v1/namespaces/ns/serviceaccounts/default");
    let map = "/api/v1/namespaces/ns/configmaps/kube-root-ca.crt";
    cluster
        .world
        .api
        .merge(map, json!({"data": {"ca.crt": "forged"}}));
    cluster.wait_until(there).await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_a_service_without_selector_are_mirrored() {
    let cluster = Cluster::start(&[
        Name::Endpoints,
        Name::EndpointSlice,
        Name::EndpointSliceMirroring,
    ]);
    let api = &cluster.world.api;
    api.add(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "ns"},
        "spec": {"ports": [{"port": 5432}], "ipFamilies": ["IPv4"]},
    }));
    api.add(json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db", "namespace": "ns"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}],
    }));
    let addresses = |api: &corral_runtime::testing::FakeApi| {
        let slices = api.objects("/apis/discovery.k8s.io/v1/endpointslices");
        let endpoints = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned());
        let addresses = endpoints.flatten().map(|e| e["addresses"][0].clone());
        addresses.collect::<Vec<_>>()
    };
    cluster
        .wait_until(|api| addresses(api) == ["192.0.2.1"])
        .await;
    let moved =
        json!({"subsets": [{"addresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5433}]}]});
    api.merge("/api/v1/namespaces/ns/endpoints/db", moved);
    cluster
        .wait_until(|api| addresses(api) == ["192.0.2.2"])
        .await;
    api.remove("/api/v1/namespaces/ns/endpoints/db");
    cluster.wait_until(|api| addresses(api).is_empty()).await;
}
