//! `/configz`: the configurations in effect, which change with their files.

use std::time::Duration;

use corral_server::admission::Settings;
use corral_server::audit::AuditConfig;
use corral_server::audit::log::{LogConfig, SIZE_MEGABYTES};
use corral_server::authn::{AuthnConfig, Reload, User};
use corral_server::authz::AuthzConfig;
use corral_server::serving::Serving;
use corral_server::traces::TracingConfig;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Setup};

const RELOAD: Reload = Reload(Duration::from_millis(20));
const WAIT_MAX: Duration = Duration::from_secs(30);
const GROUP: &str = "apiserver.config.k8s.io/v1";

async fn told(fixture: &Fixture) -> Value {
    fixture.get("/configz").await.body
}

/// Waits until what a file says is in effect, and told.
async fn becomes(fixture: &Fixture, name: &str, configuration: &Value) {
    let becomes = async {
        while told(fixture).await[name] != *configuration {
            tokio::task::yield_now().await;
        }
    };
    let became = tokio::time::timeout(WAIT_MAX, becomes).await;
    became.unwrap_or_else(|_| panic!("{name} does not follow its file"));
}

#[tokio::test]
async fn without_files_the_defaults_are_told_to_who_may_see_them() {
    let fixture = Fixture::start().await;
    let nobody = User::new("nobody", &["system:authenticated"]);
    let refused = fixture.ask_as(nobody, "GET", "/configz", "application/json", Value::Null);
    assert_eq!(refused.await.code, 403);
    let answer = fixture.get("/configz").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let mut told = answer.body;
    let plugins = told["admission"]["plugins"].take();
    let names = plugins.as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(|p| p["name"].as_str()).collect();
    assert!(names.contains(&"LimitRanger") && !names.contains(&"AlwaysDeny"));
    assert_eq!(
        told,
        json!({
            "admission": {"apiVersion": GROUP, "kind": "AdmissionConfiguration", "plugins": null},
            "authentication": {"apiVersion": GROUP, "kind": "AuthenticationConfiguration", "anonymous": {"enabled": true}},
            "authorization": {
                "apiVersion": GROUP, "kind": "AuthorizationConfiguration",
                "authorizers": [{"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}],
            },
        })
    );
}

#[tokio::test]
async fn what_files_say_is_told_as_they_would_write_it_and_follows_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, content.to_string()).expect("written");
        path
    };
    let pod_security = json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"warn": "baseline"},
    });
    let admission = json!({
        "apiVersion": GROUP, "kind": "AdmissionConfiguration",
        "plugins": [{"name": "PodSecurity", "configuration": pod_security}],
    });
    let mut authentication = json!({
        "apiVersion": GROUP, "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        "jwt": [{
            "issuer": {"url": "https://issuer.example", "audiences": ["corral"]},
            "claimValidationRules": [{"claim": "team", "requiredValue": "a"}],
            "claimMappings": {
                "username": {"claim": "sub", "prefix": ""}, "groups": {"expression": "claims.groups"}, "uid": {"claim": "id"},
                "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}],
            },
            "userValidationRules": [{"expression": "user.username != 'x'", "message": "x is nobody"}],
        }],
    });
    let kubeconfig = file(
        "service.kubeconfig",
        &json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"token": "a-secret-token"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }),
    );
    let mut authorization = json!({
        "apiVersion": GROUP, "kind": "AuthorizationConfiguration",
        "authorizers": [
            {"type": "RBAC", "name": "roles"},
            {"type": "Webhook", "name": "service", "webhook": {
                "authorizedTTL": "5m0s", "cacheAuthorizedRequests": false, "unauthorizedTTL": "1m30s",
                "cacheUnauthorizedRequests": true, "timeout": "2s", "subjectAccessReviewVersion": "v1",
                "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": "NoOpinion",
                "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
                "matchConditions": [{"expression": "request.user != 'x'"}],
            }},
        ],
    });
    let audit = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "omitManagedFields": true,
        "rules": [{"level": "None", "resources": [{"group": "", "resources": ["events"]}]}, {"level": "Metadata"}],
    });
    let authorization_file = file("authorization.json", &authorization);
    let fixture = Fixture::start_with(Setup {
        admission: Settings::read(&[], &[], Some(&file("admission.json", &admission)))
            .expect("settings"),
        audit: AuditConfig {
            policy: Some(file("policy.json", &audit)),
            log: Some(LogConfig {
                path: folder.path().join("audit.log"),
                size_max: SIZE_MEGABYTES * 1024 * 1024,
                backups_max: None,
                age_max: None,
                compress: false,
                strict: false,
            }),
            webhook: None,
        },
        authn: AuthnConfig {
            configuration: Some(file("authentication.json", &authentication)),
            reload: RELOAD,
            ..Default::default()
        },
        authz: AuthzConfig::File(authorization_file.clone(), RELOAD),
        serving: Serving {
            tracing: Some(TracingConfig {
                endpoint: "127.0.0.1:1".to_owned(),
                per_million: 0,
            }),
            ..Serving::default()
        },
        ..Setup::default()
    })
    .await;
    let first = told(&fixture).await;
    assert_eq!(first["authentication"], authentication);
    assert_eq!(first["authorization"], authorization);
    assert_eq!(first["audit"], audit);
    let tracing = json!({
        "apiVersion": GROUP, "kind": "TracingConfiguration", "endpoint": "127.0.0.1:1", "samplingRatePerMillion": 0,
    });
    assert_eq!(first["tracing"], tracing);
    let plugins = first["admission"]["plugins"].as_array().expect("plugins");
    let configured = plugins
        .iter()
        .filter(|plugin| plugin.get("configuration").is_some());
    let expected = json!([{"name": "PodSecurity", "configuration": pod_security}]);
    assert_eq!(json!(configured.collect::<Vec<_>>()), expected);
    assert!(!first.to_string().contains("a-secret-token"));

    authorization["authorizers"] = json!([{"type": "RBAC", "name": "others"}]);
    file("authorization.json", &authorization);
    becomes(&fixture, "authorization", &authorization).await;
    // What makes no sense changes nothing, while the other file, which is looked at as often, changes time and again.
    file("authorization.json", &json!({"kind": "Nonsense"}));
    authentication
        .as_object_mut()
        .expect("an object")
        .remove("jwt");
    for is_open in [false, true, false] {
        authentication["anonymous"] = json!({"enabled": is_open});
        file("authentication.json", &authentication);
        becomes(&fixture, "authentication", &authentication).await;
        assert_eq!(told(&fixture).await["authorization"], authorization);
    }
}
