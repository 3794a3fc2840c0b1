//! Who decides what users may: in the order of the configuration, and a service among them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corral_server::authn::{Reload, User};
use corral_server::authz::AuthzConfig;
use corral_server::authz::config::{AuthorizerConfig, Mode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, Setup};
use crate::service::{Handler, Service};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

async fn start(authz: AuthzConfig) -> Fixture {
    let setup = Setup {
        authz,
        ..Default::default()
    };
    Fixture::start_with(setup).await
}

async fn code(fixture: &Fixture, user: &str, path: &str) -> u16 {
    let user = User::new(user, &["devs"]);
    let answer = fixture.ask_as(user, "GET", path, "application/json", Value::Null);
    answer.await.code
}

fn configuration(webhook: &std::path::Path, more: &str, rest: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
         - type: Webhook\n  name: service\n  webhook:\n    authorizedTTL: 5m\n    unauthorizedTTL: 5m\n    timeout: 2s\n\
         \x20   subjectAccessReviewVersion: v1\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}\n\
         \x20   {more}\n{rest}",
        webhook.display()
    )
}

/// A service that allows jane, denies joe, and has no opinion of others; it keeps what it was asked.
fn opinions(asked: Arc<Mutex<Vec<Value>>>) -> Handler {
    Arc::new(move |_, body| {
        let review: Value = serde_json::from_slice(body).expect("JSON");
        asked.lock().expect("no panic").push(review.clone());
        let status = match review["spec"]["user"].as_str() {
            Some("jane") => json!({"allowed": true, "reason": "it is jane"}),
            Some("joe") => json!({"allowed": false, "denied": true, "reason": "it is joe"}),
            Some("broken") => return (200, json!("no review")),
            _ => json!({"allowed": false}),
        };
        (
            200,
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}),
        )
    })
}

#[tokio::test]
async fn a_service_decides_where_it_has_an_opinion() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = Arc::default();
    let service = Service::http(opinions(Arc::clone(&asked))).await;
    let kubeconfig = service.kubeconfig(&folder, "/authorize");
    let path = folder.path().join("authorization.yaml");
    let rest = "- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n";
    let text = configuration(&kubeconfig, "failurePolicy: NoOpinion", rest);
    std::fs::write(&path, text).expect("written");
    let fixture = start(AuthzConfig::File(path, Reload::default())).await;
    let binding = json!({"metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "rita", "apiGroup": "rbac.authorization.k8s.io"},
            {"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(fixture.create(bindings, binding).await.code, 201);
    let selected = format!("{CMS}?fieldSelector=metadata.name%3Da&labelSelector=x%20in%20(y,z),!w");
    for _ in 0..2 {
        assert_eq!(code(&fixture, "jane", &selected).await, 200);
        assert_eq!(code(&fixture, "joe", CMS).await, 403);
        assert_eq!(code(&fixture, "nobody", CMS).await, 403);
        assert_eq!(code(&fixture, "broken", CMS).await, 403);
    }
    // What roles give becomes known within milliseconds.
    while code(&fixture, "rita", CMS).await != 200 {
        tokio::task::yield_now().await;
    }
    let joe = User::new("joe", &[]);
    let refused = fixture
        .ask_as(joe, "GET", CMS, "application/json", Value::Null)
        .await;
    let message = refused.body["message"].as_str().expect("a message");
    assert!(
        message.ends_with("in the namespace \"default\": it is joe"),
        "{message}"
    );

    let asked = asked.lock().expect("no panic").clone();
    let of = |user: &'static str| {
        asked
            .iter()
            .filter(move |review| review["spec"]["user"] == user)
    };
    assert_eq!(of("jane").count(), 1, "the answer is kept");
    assert!(of("broken").count() > 1, "no answer is not kept");
    let review = of("jane").next().expect("one");
    assert_eq!(
        review["spec"],
        json!({
            "user": "jane", "groups": ["devs", "system:authenticated"],
            "resourceAttributes": {
                "namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps", "name": "a",
                "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]},
                "labelSelector": {"requirements": [
                    {"key": "x", "operator": "In", "values": ["y", "z"]}, {"key": "w", "operator": "DoesNotExist"},
                ]},
            },
        })
    );
    assert!(
        of("admin").next().is_none(),
        "masters may everything, and nobody is asked"
    );
}

#[tokio::test]
async fn what_no_answer_means_is_told_by_the_policy_and_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let failing = Arc::new(AtomicUsize::new(0));
    let counter = failing.clone();
    let service = Service::http(Arc::new(move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        (500, json!({}))
    }))
    .await;
    let kubeconfig = service.kubeconfig(&folder, "/authorize");
    let path = folder.path().join("authorization.yaml");
    let allow = "- {type: AlwaysAllow, name: all}\n";
    let denying = configuration(&kubeconfig, "failurePolicy: Deny", allow);
    std::fs::write(&path, &denying).expect("written");
    let reload = Reload(Duration::from_millis(20));
    let fixture = start(AuthzConfig::File(path.clone(), reload)).await;
    assert_eq!(code(&fixture, "jane", CMS).await, 403);
    assert!(
        failing.load(Ordering::Relaxed) > 1,
        "a failure that may pass is tried again"
    );
    // What makes no sense changes nothing.
    std::fs::write(&path, "kind: Nonsense").expect("written");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(code(&fixture, "jane", CMS).await, 403);
    let passing = configuration(&kubeconfig, "failurePolicy: NoOpinion", allow);
    std::fs::write(&path, passing).expect("written");
    while code(&fixture, "jane", CMS).await != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn modes_are_as_given() {
    let given = |modes: &[Mode]| {
        let authorizers = modes.iter().copied().map(AuthorizerConfig::of_mode);
        AuthzConfig::Given(authorizers.collect())
    };
    let open = start(given(&[Mode::AlwaysAllow])).await;
    assert_eq!(code(&open, "jane", CMS).await, 200);
    let closed = start(given(&[Mode::AlwaysDeny])).await;
    assert_eq!(code(&closed, "jane", CMS).await, 403);
    assert_eq!(closed.get(CMS).await.code, 200);
    let roles = start(given(&[Mode::Rbac])).await;
    assert_eq!(code(&roles, "jane", "/version").await, 200);
    assert_eq!(code(&roles, "jane", CMS).await, 403);
    let setup = Setup {
        authz: given(&[Mode::Rbac, Mode::Rbac]),
        ..Default::default()
    };
    assert!(Fixture::try_start(setup).await.is_err());
}

#[tokio::test]
async fn a_service_is_asked_only_where_its_conditions_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = Arc::default();
    let service = Service::http(opinions(Arc::clone(&asked))).await;
    let kubeconfig = service.kubeconfig(&folder, "/authorize");
    let path = folder.path().join("authorization.yaml");
    let conditions = "failurePolicy: Deny\n    matchConditionSubjectAccessReviewVersion: v1\n    matchConditions:\n\
        \x20   - expression: has(request.resourceAttributes)\n\
        \x20   - expression: request.resourceAttributes.resource == 'configmaps'\n";
    let rest = "- {type: RBAC, name: rbac}\n";
    std::fs::write(&path, configuration(&kubeconfig, conditions, rest)).expect("written");
    let fixture = start(AuthzConfig::File(path.clone(), Reload::default())).await;
    assert_eq!(code(&fixture, "joe", "/version").await, 200);
    assert_eq!(
        code(&fixture, "jane", "/api/v1/namespaces/default/secrets").await,
        403
    );
    assert_eq!(asked.lock().expect("no panic").len(), 0);
    assert_eq!(code(&fixture, "jane", CMS).await, 200);
    assert_eq!(asked.lock().expect("no panic").len(), 1);
    let wrong = conditions.replace("'configmaps'", "5");
    std::fs::write(&path, configuration(&kubeconfig, &wrong, rest)).expect("written");
    let setup = Setup {
        authz: AuthzConfig::File(path, Reload::default()),
        ..Default::default()
    };
    let error = Fixture::try_start(setup)
        .await
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("matchConditions[1].expression"), "{error}");
}
