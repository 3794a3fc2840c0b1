//! Servers of tests, used as tests use them: by kube-rs alone.

use std::time::{Duration, Instant};

use corral_api::k8s::api::core::v1::{ConfigMap, Pod};
use corral_api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use corral_testing::TestServer;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("it fits")
}

#[tokio::test]
async fn servers_do_not_know_each_other() {
    let (one, other) = tokio::join!(TestServer::start(), TestServer::start());
    let (one, other) = (one.expect("a server"), other.expect("a server"));
    assert_ne!(one.url(), other.url());
    let map: ConfigMap = from(json!({"metadata": {"name": "a"}}));
    let maps = Api::<ConfigMap>::default_namespaced(one.client().await.expect("a client"));
    maps.create(&PostParams::default(), &map)
        .await
        .expect("made");
    let others = Api::<ConfigMap>::default_namespaced(other.client().await.expect("a client"));
    assert!(others.get_opt("a").await.expect("an answer").is_none());
    // Without an account and a node a pod is an object as any other.
    let pods = Api::<Pod>::default_namespaced(one.client().await.expect("a client"));
    let pod: Pod = from(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    );
    let made = pods
        .create(&PostParams::default(), &pod)
        .await
        .expect("made");
    assert_eq!(
        made.status.and_then(|status| status.phase).as_deref(),
        Some("Pending")
    );
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_described_kind_is_served_and_applied() {
    let server = TestServer::start().await.expect("a server");
    let client = server.client().await.expect("a client");
    let definition: CustomResourceDefinition = from(json!({
        "metadata": {"name": "widgets.tests.example"},
        "spec": {"group": "tests.example", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "size": {"type": "integer", "maximum": 5}}}}}}}]},
    }));
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .expect("made");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("tests.example", "v1", "Widget"));
    let widgets = Api::<DynamicObject>::default_namespaced_with(client, &resource);
    let deadline = Instant::now() + Duration::from_secs(30);
    while widgets.list(&ListParams::default()).await.is_err() {
        assert!(Instant::now() < deadline, "the kind is not served");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let widget = |size: i64| {
        Patch::Apply(
            json!({"apiVersion": "tests.example/v1", "kind": "Widget", "metadata": {"name": "w"},
            "spec": {"size": size}}),
        )
    };
    let by = PatchParams::apply("a-test");
    let made = widgets.patch("w", &by, &widget(3)).await.expect("applied");
    assert_eq!(made.data["spec"]["size"], 3);
    let refused = widgets.patch("w", &by, &widget(6)).await;
    let refused = refused.expect_err("six is too many").to_string();
    assert!(
        refused.contains("should be less than or equal to 5"),
        "{refused}"
    );
}
