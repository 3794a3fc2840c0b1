//! Admission plugins that run where an administrator says so.

use std::sync::{Arc, Mutex};

use corral_server::admission::Settings;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, config_map};
use crate::service::{Handler, Service};

/// A server with a plugin, which has a configuration.
async fn with(plugin: &str, configuration: Option<Value>) -> Fixture {
    let settings = settings(plugin, configuration).expect("settings");
    Fixture::start_admitting(settings).await
}

fn settings(plugin: &str, configuration: Option<Value>) -> Result<Settings, String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("admission.yaml");
    let plugins = configuration.map(|given| json!({"name": plugin, "configuration": given}));
    let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": plugins.into_iter().collect::<Vec<_>>()});
    std::fs::write(&path, file.to_string()).expect("it is ours");
    let disabled = ["ServiceAccount".to_owned()];
    Settings::read(&[plugin.to_owned()], &disabled, Some(&path))
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_namespace_is_made_for_what_is_created_in_it() {
    let fixture = with("NamespaceAutoProvision", None).await;
    let path = "/api/v1/namespaces/made/configmaps";
    let tried = format!("{path}?dryRun=All");
    let tried = fixture.create(&tried, config_map("a", "1")).await;
    assert_eq!(tried.code, 404, "a rehearsal makes nothing");
    assert_eq!(fixture.get("/api/v1/namespaces/made").await.code, 404);
    let made = fixture.create(path, config_map("a", "1")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(fixture.get("/api/v1/namespaces/made").await.code, 200);
    assert_eq!(fixture.create(path, config_map("b", "1")).await.code, 201);
    let path = "/api/v1/namespaces/No_Name/configmaps";
    let refused = fixture.create(path, config_map("a", "1")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert!(
        message(&refused).starts_with("configmaps \"a\" is forbidden: "),
        "{}",
        message(&refused)
    );
}

fn event(name: &str) -> Value {
    json!({"metadata": {"name": name}, "reason": "Seen", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "source": {"component": "test"}})
}

#[tokio::test]
async fn events_beyond_their_rate_are_refused() {
    let limits = json!([{"type": "Namespace", "qps": 1, "burst": 2},
        {"type": "SourceAndObject", "qps": 1, "burst": 2, "cacheSize": 10}]);
    let configuration = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
        "limits": limits});
    let fixture = with("EventRateLimit", Some(configuration)).await;
    let path = "/api/v1/namespaces/default/events";
    // The server may run slowly: then tokens come back meanwhile.
    let mut refused = None;
    for index in 0..100 {
        let told = fixture.create(path, event(&format!("e{index}"))).await;
        if told.code != 201 {
            refused = Some(told);
            break;
        }
    }
    let refused = refused.expect("there are too many at last");
    assert_eq!(
        (refused.code, refused.body["reason"].as_str()),
        (429, Some("TooManyRequests"))
    );
    assert_eq!(
        message(&refused),
        "Too many requests: [limit reached on type Namespace for key default, limit reached on type SourceAndObject for \
         key testPoddefaultp]"
    );
    // Others have tokens of their own, and what is no Event needs none.
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    assert_eq!(
        settings("EventRateLimit", None).expect_err("refused"),
        "failed to initialize admission: couldn't init admission plugin \"EventRateLimit\": limits: Invalid value: null: \
         must not be empty"
    );
}

fn pod(name: &str, tolerations: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"tolerations": tolerations,
        "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_namespace_says_what_its_pods_tolerate() {
    let configuration = json!({"apiVersion": "podtolerationrestriction.admission.k8s.io/v1alpha1",
        "kind": "Configuration", "default": [{"key": "everywhere", "operator": "Exists"}],
        "whitelist": [{"key": "everywhere", "operator": "Exists"}, {"operator": "Exists", "effect": "NoExecute"}]});
    let fixture = with("PodTolerationRestriction", Some(configuration)).await;
    let annotations = json!({
        "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\": \"here\", \"operator\": \"Exists\"}]",
        "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "",
    });
    let namespace = json!({"metadata": {"name": "own", "annotations": annotations}});
    let made = fixture.create("/api/v1/namespaces", namespace).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let keys = |answer: &Answer| -> Vec<String> {
        let tolerations = answer.body["spec"]["tolerations"].as_array();
        let keys = tolerations.into_iter().flatten();
        keys.filter_map(|one| one["key"].as_str().map(str::to_owned))
            .filter(|key| !key.starts_with("node.kubernetes.io/"))
            .collect()
    };
    let pods = "/api/v1/namespaces/default/pods";
    let made = fixture.create(pods, pod("a", json!([]))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(keys(&made), ["everywhere"]);
    let other = json!([{"key": "other", "operator": "Exists"}]);
    let refused = fixture.create(pods, pod("b", other.clone())).await;
    assert_eq!(refused.code, 500);
    assert_eq!(
        message(&refused),
        "pod tolerations (possibly merged with namespace default tolerations) conflict with its cluster whitelist"
    );
    // The namespace's own say takes the place of the administrator's.
    let made = fixture
        .create("/api/v1/namespaces/own/pods", pod("a", other))
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(keys(&made), ["other", "here"]);
    let mut modest = pod("c", json!([]));
    modest["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1Mi"}});
    let made = fixture.create("/api/v1/namespaces/own/pods", modest).await;
    let tolerations = made.body["spec"]["tolerations"].to_string();
    assert!(
        tolerations.contains("node.kubernetes.io/memory-pressure"),
        "{tolerations}"
    );
}

/// A service that lets all images run but those of one registry; it keeps what it was asked.
fn reviewing(asked: Arc<Mutex<Vec<Value>>>) -> Handler {
    Arc::new(move |_, body| {
        let mut review: Value = serde_json::from_slice(body).expect("JSON");
        let spec = review["spec"].clone();
        let is_bad = spec.to_string().contains("evil.example.com");
        review["status"] = json!({"allowed": !is_bad});
        if is_bad {
            review["status"]["reason"] = "an evil image".into();
        }
        asked.lock().expect("no panic").push(spec);
        (200, review)
    })
}

#[tokio::test]
async fn a_service_says_which_images_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = Arc::default();
    let service = Service::http(reviewing(Arc::clone(&asked))).await;
    let configuration = |kubeconfig: &std::path::Path, default_allow: bool| json!({"imagePolicy": {"kubeConfigFile": kubeconfig, "retryBackoff": 1, "defaultAllow": default_allow}});
    let kubeconfig = service.kubeconfig(&folder, "/review");
    let fixture = with(
        "ImagePolicyWebhook",
        Some(configuration(&kubeconfig, false)),
    )
    .await;
    let pods = "/api/v1/namespaces/default/pods";
    let of = |name: &str, image: &str| {
        let mut pod = pod(name, json!([]));
        pod["metadata"]["annotations"] =
            json!({"own.image-policy.k8s.io/ticket": "1", "other": "2"});
        pod["spec"]["containers"][0]["image"] = image.into();
        pod["spec"]["initContainers"] = json!([{"name": "i", "image": "first"}]);
        pod
    };
    let made = fixture.create(pods, of("a", "good")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    // The answer is kept for a while.
    assert_eq!(fixture.create(pods, of("b", "good")).await.code, 201);
    let refused = fixture.create(pods, of("c", "evil.example.com/i")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        message(&refused),
        "pods \"c\" is forbidden: image policy webhook backend denied one or more images: an evil image"
    );
    let spec = |image: &str| {
        json!({"containers": [{"image": image}, {"image": "first"}],
            "annotations": {"own.image-policy.k8s.io/ticket": "1"}, "namespace": "default"})
    };
    let told = asked.lock().expect("no panic").clone();
    assert_eq!(told, [spec("good"), spec("evil.example.com/i")]);
    // What nobody answers for runs or not, as the administrator says.
    let failing = Service::http(Arc::new(|_, _| (500, Value::Null))).await;
    let kubeconfig = failing.kubeconfig(&folder, "/review");
    for (default_allow, code) in [(false, 403), (true, 201)] {
        let configuration = configuration(&kubeconfig, default_allow);
        let fixture = with("ImagePolicyWebhook", Some(configuration)).await;
        let answer = fixture.create(pods, of("a", "good")).await;
        assert_eq!(answer.code, code, "{}", answer.body);
    }
    let missing = settings("ImagePolicyWebhook", None).expect_err("refused");
    assert!(missing.ends_with("no config specified"), "{missing}");
}
