//! Limits and quotas of a namespace. What the quota controller would count is written here by hand.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::fixture::{Fixture, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const RANGES: &str = "/api/v1/namespaces/default/limitranges";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn start() -> Fixture {
    let fixture = Fixture::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "default"}});
    assert_eq!(fixture.create(accounts, account).await.code, 201);
    fixture
}

/// A quota that has been counted, and that admission has heard of.
async fn quota(fixture: &Fixture, spec: Value, used: Value) {
    let made = fixture
        .create(QUOTAS, json!({"metadata": {"name": "q"}, "spec": spec}))
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    let counted = fixture
        .patch(&format!("{QUOTAS}/q/status"), "merge-patch+json", status)
        .await;
    assert_eq!(counted.code, 200, "{}", counted.body);
    // A list is as new as the store, and comes from where admission looks.
    let listed = fixture.get(QUOTAS).await.body;
    assert_eq!(listed["items"][0]["status"]["hard"], spec["hard"]);
}

async fn used(fixture: &Fixture) -> Value {
    fixture.get(&format!("{QUOTAS}/q")).await.body["status"]["used"].clone()
}

fn pod(name: &str, resources: Value) -> Value {
    let containers = json!([{"name": "c", "image": "i", "resources": resources}]);
    json!({"metadata": {"name": name}, "spec": {"containers": containers}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_never_exceed_a_quota() {
    const HARD: usize = 5;
    const WRITERS: usize = 40;
    let fixture = start().await;
    let hard = json!({"count/configmaps": HARD.to_string()});
    quota(
        &fixture,
        json!({"hard": hard}),
        json!({"count/configmaps": "0"}),
    )
    .await;
    let writers = (0..WRITERS).map(|n| {
        let fixture = &fixture;
        async move {
            fixture
                .create(MAPS, config_map(&format!("m{n}"), "v"))
                .await
        }
    });
    let answers = join_all(writers).await;
    let made: Vec<&str> = answers
        .iter()
        .filter(|answer| answer.code == 201)
        .filter_map(|answer| answer.body["metadata"]["name"].as_str())
        .collect();
    assert_eq!(made.len(), HARD);
    let refused: BTreeSet<u16> = answers.iter().map(|answer| answer.code).collect();
    assert_eq!(refused, BTreeSet::from([201, 403]));
    assert_eq!(used(&fixture).await, json!({"count/configmaps": "5"}));

    // Those that go make room for as many others, and no more.
    let swaps = made.iter().map(|name| {
        let fixture = &fixture;
        async move {
            fixture
                .ask("DELETE", &format!("{MAPS}/{name}"), Value::Null)
                .await
        }
    });
    assert!(join_all(swaps).await.iter().all(|gone| gone.code == 200));
    assert_eq!(used(&fixture).await, json!({"count/configmaps": "0"}));
    let dry = format!("{MAPS}?dryRun=All");
    assert_eq!(fixture.create(&dry, config_map("dry", "v")).await.code, 201);
    assert_eq!(used(&fixture).await, json!({"count/configmaps": "0"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_two_servers_never_exceed_a_quota() {
    // Fewer than a write is tried again: each failure is somebody else's success.
    const HARD: usize = 10;
    const WRITERS: usize = 30;
    let fixture = start().await;
    let other = fixture.beside().await;
    let hard = json!({"configmaps": HARD.to_string()});
    quota(&fixture, json!({"hard": hard}), json!({"configmaps": "0"})).await;
    // A list is as new as the store: the other server has heard of the quota, too.
    assert!(other.get(QUOTAS).await.body["items"][0]["status"]["used"].is_object());
    let writers = (0..WRITERS).map(|n| {
        let server = if n % 2 == 0 { &fixture } else { &other };
        async move { server.create(MAPS, config_map(&format!("m{n}"), "v")).await }
    });
    let answers = join_all(writers).await;
    let codes: Vec<u16> = answers.iter().map(|answer| answer.code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 201).count(),
        HARD,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 403).count(),
        WRITERS - HARD,
        "{codes:?}"
    );
    assert_eq!(used(&fixture).await, json!({"configmaps": "10"}));
}

#[tokio::test]
async fn a_pod_says_what_it_needs_and_gets_no_more_than_is_left() {
    let fixture = start().await;
    let hard = json!({"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"});
    let nothing = json!({"pods": "0", "requests.cpu": "0", "limits.memory": "0"});
    quota(&fixture, json!({"hard": hard}), nothing.clone()).await;

    let silent = fixture.create(PODS, pod("a", json!({}))).await;
    assert_eq!(silent.code, 403);
    assert_eq!(
        silent.body["message"],
        "pods \"a\" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c"
    );
    let asking = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": "512Mi"}});
    assert_eq!(
        fixture.create(PODS, pod("a", asking("600m"))).await.code,
        201
    );
    let more = fixture.create(PODS, pod("b", asking("500m"))).await;
    assert_eq!(
        more.body["message"],
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    assert_eq!(
        used(&fixture).await,
        json!({"pods": "1", "requests.cpu": "600m", "limits.memory": "512Mi"})
    );

    // What has ended needs nothing more, and is not given back again as it goes.
    let ended = json!({"status": {"phase": "Succeeded"}});
    let path = format!("{PODS}/a/status");
    assert_eq!(
        fixture.patch(&path, "merge-patch+json", ended).await.code,
        200
    );
    assert_eq!(used(&fixture).await, nothing);
    let gone = fixture
        .ask(
            "DELETE",
            &format!("{PODS}/a"),
            json!({"gracePeriodSeconds": 0}),
        )
        .await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    assert_eq!(used(&fixture).await, nothing);
}

#[tokio::test]
async fn an_object_with_a_finalizer_is_given_back_when_it_is_gone() {
    let fixture = start().await;
    let hard = json!({"secrets": "1"});
    quota(&fixture, json!({"hard": hard}), json!({"secrets": "0"})).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let kept = json!({"metadata": {"name": "s", "finalizers": ["example.com/kept"]}});
    assert_eq!(fixture.create(secrets, kept).await.code, 201);
    let path = format!("{secrets}/s");
    assert_eq!(fixture.ask("DELETE", &path, Value::Null).await.code, 200);
    assert_eq!(used(&fixture).await, json!({"secrets": "1"}));
    let released = json!({"metadata": {"finalizers": null}});
    assert_eq!(
        fixture
            .patch(&path, "merge-patch+json", released)
            .await
            .code,
        200
    );
    assert_eq!(fixture.get(&path).await.code, 404);
    assert_eq!(used(&fixture).await, json!({"secrets": "0"}));
}

#[tokio::test]
async fn a_quota_that_counts_quotas_goes_like_any_other() {
    let fixture = start().await;
    let hard = json!({"resourcequotas": "2"});
    quota(
        &fixture,
        json!({"hard": hard}),
        json!({"resourcequotas": "1"}),
    )
    .await;
    let second = json!({"metadata": {"name": "second", "finalizers": ["example.com/kept"]}});
    assert_eq!(fixture.create(QUOTAS, second).await.code, 201);
    let third = json!({"metadata": {"name": "third"}});
    assert_eq!(fixture.create(QUOTAS, third).await.code, 403);
    assert_eq!(used(&fixture).await, json!({"resourcequotas": "2"}));
    let kept = json!({"metadata": {"finalizers": ["example.com/kept"]}});
    let path = format!("{QUOTAS}/q");
    assert_eq!(
        fixture.patch(&path, "merge-patch+json", kept).await.code,
        200
    );
    for name in ["second", "q"] {
        let path = format!("{QUOTAS}/{name}");
        assert_eq!(fixture.ask("DELETE", &path, Value::Null).await.code, 200);
        let released = json!({"metadata": {"finalizers": null}});
        let gone = fixture.patch(&path, "merge-patch+json", released).await;
        assert_eq!(gone.code, 200, "{}", gone.body);
        assert_eq!(fixture.get(&path).await.code, 404);
    }
}

#[tokio::test]
async fn a_service_that_changes_its_type_is_charged_the_difference() {
    let fixture = start().await;
    let hard = json!({"services": "3", "services.nodeports": "1"});
    let nothing = json!({"services": "0", "services.nodeports": "0"});
    quota(&fixture, json!({"hard": hard}), nothing).await;
    for name in ["a", "b"] {
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        assert_eq!(fixture.create(SERVICES, service).await.code, 201);
    }
    let to = |service_type: &str| json!({"spec": {"type": service_type}});
    let change = async |name: &str, service_type: &str| {
        let path = format!("{SERVICES}/{name}");
        fixture
            .patch(&path, "merge-patch+json", to(service_type))
            .await
    };
    assert_eq!(change("a", "NodePort").await.code, 200);
    let second = change("b", "NodePort").await;
    assert_eq!(
        second.body["message"],
        "services \"b\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"
    );
    assert_eq!(change("a", "ClusterIP").await.code, 200);
    assert_eq!(change("b", "NodePort").await.code, 200);
    assert_eq!(
        used(&fixture).await,
        json!({"services": "2", "services.nodeports": "1"})
    );
}

#[tokio::test]
async fn what_is_not_counted_yet_is_unknown() {
    let fixture = start().await;
    let hard = json!({"count/configmaps": "5"});
    quota(&fixture, json!({"hard": hard}), json!({})).await;
    let answer = fixture.config_map("a", "v").await;
    assert_eq!(
        answer.body["message"],
        "configmaps \"a\" is forbidden: status unknown for quota: q, resources: count/configmaps"
    );
}

#[tokio::test]
async fn limits_of_a_namespace_fill_pods_and_refuse_those_beyond() {
    let fixture = start().await;
    let limits = json!([{"type": "Container", "default": {"cpu": "500m"}, "max": {"cpu": "1"}}]);
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": limits}});
    assert_eq!(fixture.create(RANGES, range).await.code, 201);
    assert_eq!(
        fixture.get(RANGES).await.body["items"][0]["metadata"]["name"],
        "r"
    );

    let made = fixture.create(PODS, pod("a", json!({}))).await.body;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let beyond = fixture
        .create(PODS, pod("b", json!({"limits": {"cpu": "2"}})))
        .await;
    assert_eq!(
        beyond.body["message"],
        "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}
