//! Addresses of Services are objects that come and go with them.

use corral_storage::{Key, Operation};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::fixture::Fixture;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, address: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
}

async fn holder(fixture: &Fixture, address: &str) -> Value {
    let answer = fixture.get(&format!("{ADDRESSES}/{address}")).await;
    answer.body["spec"]["parentRef"].clone()
}

#[tokio::test]
async fn a_service_holds_its_address_as_long_as_it_is_there() {
    let fixture = Fixture::start().await;
    let made = fixture.create(SERVICES, service("web", Value::Null)).await;
    let address = made.body["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
    assert_eq!(holder(&fixture, &address).await, parent);

    let second = fixture
        .create(SERVICES, service("second", json!(address)))
        .await;
    assert_eq!(second.code, 422, "{}", second.body);
    let path = format!("{SERVICES}/web");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.example.com", "clusterIP": null}});
    let changed = fixture.patch(&path, "merge-patch+json", external).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(
        fixture.get(&format!("{ADDRESSES}/{address}")).await.code,
        404
    );

    assert_eq!(
        fixture
            .create(SERVICES, service("third", json!(address)))
            .await
            .code,
        201
    );
    let gone = fixture
        .ask("DELETE", &format!("{SERVICES}/third"), Value::Null)
        .await;
    assert_eq!(gone.code, 200);
    assert_eq!(
        fixture.get(&format!("{ADDRESSES}/{address}")).await.code,
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_writers_gets_an_address() {
    let fixture = Fixture::start().await;
    let writers = (0..16).map(|n| {
        let fixture = &fixture;
        async move {
            let body = service(&format!("s{n}"), json!("10.96.7.7"));
            fixture.create(SERVICES, body).await.code
        }
    });
    let codes = join_all(writers).await;
    assert_eq!(
        codes.iter().filter(|code| **code == 201).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 422).count(),
        15,
        "{codes:?}"
    );
}

#[tokio::test]
async fn an_address_that_somebody_else_holds_is_taken() {
    let fixture = Fixture::start().await;
    let parent = json!({"group": "example.com", "resource": "widgets", "name": "w"});
    let body = json!({"metadata": {"name": "10.96.7.7"}, "spec": {"parentRef": parent}});
    assert_eq!(fixture.create(ADDRESSES, body).await.code, 201);
    let refused = fixture
        .create(SERVICES, service("web", json!("10.96.7.7")))
        .await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(
        refused.body["message"]
            .as_str()
            .is_some_and(|m| m.contains("provided IP is already allocated")),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn what_an_administrator_deletes_is_made_again() {
    let mut fixture = Fixture::start().await;
    let range = fixture.get(&format!("{RANGES}/kubernetes")).await.body;
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
    let parent = json!({"resource": "services", "namespace": "default", "name": "kubernetes"});
    assert_eq!(holder(&fixture, "10.96.0.1").await, parent);

    for path in [
        format!("{RANGES}/kubernetes"),
        format!("{ADDRESSES}/10.96.0.1"),
    ] {
        assert_eq!(
            fixture.ask("DELETE", &path, Value::Null).await.code,
            200,
            "{path}"
        );
        assert_eq!(fixture.get(&path).await.code, 404, "{path}");
    }
    fixture.restart().await;
    assert_eq!(holder(&fixture, "10.96.0.1").await, parent);
    let range = fixture.get(&format!("{RANGES}/kubernetes")).await.body;
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn a_service_keeps_addresses_that_another_server_gave_it() {
    let fixture = Fixture::start().await;
    fixture.create(SERVICES, service("web", Value::Null)).await;
    // kube-apiserver gives them out of further ranges, and of two families.
    let key = Key::from("/registry/services/specs/default/web");
    let stored = fixture.storage().get(&key).await.expect("read");
    let stored = stored.expect("there");
    let mut object: Value = serde_json::from_slice(&stored.value).expect("JSON");
    let addresses = json!(["192.0.2.7", "2001:db8::7"]);
    object["spec"]["clusterIP"] = addresses[0].clone();
    object["spec"]["clusterIPs"] = addresses.clone();
    object["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    object["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    object["spec"]["type"] = json!("NodePort");
    object["spec"]["ports"][0]["nodePort"] = json!(20_000);
    let written = Operation::Update {
        key,
        value: object.to_string().into(),
        expected: stored.revision,
    };
    let written = fixture.storage().commit(vec![written]).await;
    written.expect("written");
    let path = format!("{SERVICES}/web");
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    let changed = fixture.patch(&path, "merge-patch+json", change).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(changed.body["metadata"]["labels"]["a"], "b");
    assert_eq!(changed.body["spec"]["clusterIPs"], addresses);
    assert_eq!(changed.body["spec"]["ports"][0]["nodePort"], 20_000);
}
