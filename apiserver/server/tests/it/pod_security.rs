//! Pod security, and which admission plugins run.

use corral_server::admission::Settings;
use corral_server::authn::{MASTERS, User};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture};

const NAMESPACES: &str = "/api/v1/namespaces";
const ESCALATION: &str = "allowPrivilegeEscalation != false (container \"c\" must set \
    securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
    securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
    securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
    securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

/// A namespace with labels of pod security, and the account that pods have.
async fn namespace(fixture: &Fixture, name: &str, labels: &[(&str, &str)]) -> Answer {
    let made = fixture
        .create(
            NAMESPACES,
            json!({"metadata": {"name": name, "labels": labels_of(labels)}}),
        )
        .await;
    let account = json!({"metadata": {"name": "default"}});
    fixture
        .create(&format!("{NAMESPACES}/{name}/serviceaccounts"), account)
        .await;
    // A list is as new as the store, and comes from where admission looks.
    fixture.get(NAMESPACES).await;
    made
}

fn labels_of(labels: &[(&str, &str)]) -> Value {
    let labels = labels
        .iter()
        .map(|(name, value)| (format!("pod-security.kubernetes.io/{name}"), json!(value)));
    Value::Object(labels.collect())
}

fn pod(name: &str, context: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "i", "securityContext": context}]}})
}

fn warnings(answer: &Answer) -> Vec<String> {
    let headers = answer.headers.get_all("warning").iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    let texts = texts.filter_map(|text| text.strip_prefix("299 - \"")?.strip_suffix('"'));
    let texts = texts.map(|text| text.replace("\\\"", "\""));
    texts.filter(|text| !text.contains("this server")).collect()
}

#[tokio::test]
async fn pods_keep_to_what_their_namespace_enforces() {
    let fixture = Fixture::start().await;
    namespace(
        &fixture,
        "strict",
        &[("enforce", "restricted"), ("audit", "baseline")],
    )
    .await;
    let pods = format!("{NAMESPACES}/strict/pods");
    let refused = fixture.create(&pods, pod("p", json!({}))).await;
    assert_eq!(
        (refused.code, refused.body["reason"].as_str()),
        (403, Some("Forbidden"))
    );
    assert_eq!(
        refused.body["message"],
        format!(
            "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": {ESCALATION}"
        )
    );
    assert_eq!(
        refused.body["details"],
        json!({"name": "p", "kind": "pods"})
    );
    let careful = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(fixture.create(&pods, pod("q", careful)).await.code, 201);
    // What is added later is looked at as well.
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let path = format!("{pods}/q/ephemeralcontainers");
    let refused = fixture
        .patch(&path, "strategic-merge-patch+json", debugger)
        .await;
    let message = refused.body["message"].as_str().unwrap_or_default();
    assert!(
        refused.code == 403 && message.contains("container \"d\" must set"),
        "{message}"
    );
    let metrics = fixture.text(User::new("a", &[MASTERS]), "/metrics").await;
    for line in [
        "pod_security_evaluations_total{decision=\"deny\",mode=\"enforce\",policy_level=\"restricted\",\
         policy_version=\"latest\",request_operation=\"create\",resource=\"pod\",subresource=\"\"} 1",
        "pod_security_evaluations_total{decision=\"allow\",mode=\"enforce\",policy_level=\"restricted\",\
         policy_version=\"latest\",request_operation=\"create\",resource=\"pod\",subresource=\"\"} 1",
        "policy_version=\"latest\",request_operation=\"update\",resource=\"pod\",subresource=\"ephemeralcontainers\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn workloads_are_warned_of_what_their_pods_would_break() {
    let fixture = Fixture::start().await;
    namespace(
        &fixture,
        "warned",
        &[
            ("enforce", "baseline"),
            ("warn", "restricted"),
            ("warn-version", "v1.24"),
        ],
    )
    .await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"hostPID": true,
        "containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": template}});
    let path = "/apis/apps/v1/namespaces/warned/deployments";
    let made = fixture.create(path, deployment).await;
    assert_eq!(made.code, 201);
    assert_eq!(
        warnings(&made),
        [format!(
            "would violate PodSecurity \"restricted:v1.24\": host namespaces (hostPID=true), {ESCALATION}"
        )]
    );
    // What does not change the template warns again, as in Kubernetes; what is not of it does not.
    let scale = json!({"spec": {"replicas": 2}});
    let scaled = fixture
        .patch(&format!("{path}/d/scale"), "merge-patch+json", scale)
        .await;
    assert_eq!((scaled.code, warnings(&scaled).len()), (200, 0));
}

#[tokio::test]
async fn labels_of_a_namespace_are_read_and_its_pods_looked_at() {
    let fixture = Fixture::start().await;
    let refused = namespace(
        &fixture,
        "n",
        &[("enforce", "tight"), ("warn-version", "1.2")],
    )
    .await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.body["message"],
        "Namespace \"n\" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"tight\": must \
         be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid \
         value: \"1.2\": must be \"latest\" or \"v1.x\"]"
    );
    assert_eq!(namespace(&fixture, "n", &[]).await.code, 201);
    let pods = format!("{NAMESPACES}/n/pods");
    for (name, privileged) in [("b", true), ("a", true), ("c", true), ("plain", false)] {
        let made = fixture
            .create(&pods, pod(name, json!({"privileged": privileged})))
            .await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    fixture.get(&pods).await;
    let label = |labels: &[(&str, &str)]| json!({"metadata": {"labels": labels_of(labels)}});
    let path = format!("{NAMESPACES}/n");
    let told = fixture
        .patch(&path, "merge-patch+json", label(&[("enforce", "baseline")]))
        .await;
    assert_eq!(
        warnings(&told),
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): privileged",
        ]
    );
    // What is no stricter needs no look.
    let told = fixture
        .patch(
            &path,
            "merge-patch+json",
            label(&[("enforce", "privileged")]),
        )
        .await;
    assert_eq!(warnings(&told).len(), 0);
    let told = fixture
        .patch(
            &path,
            "merge-patch+json",
            label(&[("enforce-version", "v1.20")]),
        )
        .await;
    assert_eq!(warnings(&told).len(), 0);
}

/// Admission as files and flags say.
fn settings(enable: &[&str], disable: &[&str], pod_security: Option<Value>) -> Settings {
    let owned = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("admission.yaml");
    let plugins = pod_security.map(|given| json!({"name": "PodSecurity", "configuration": given}));
    let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": plugins.into_iter().collect::<Vec<_>>()});
    std::fs::write(&path, file.to_string()).expect("it is ours");
    Settings::read(&owned(enable), &owned(disable), Some(&path)).expect("settings")
}

#[tokio::test]
async fn an_administrator_says_what_holds_by_default_and_what_is_exempt() {
    let config = json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline"},
        "exemptions": {"namespaces": ["free"], "usernames": ["root"]},
    });
    let fixture = Fixture::start_admitting(settings(&[], &[], Some(config))).await;
    let made = namespace(&fixture, "free", &[("enforce", "restricted")]).await;
    assert_eq!(
        warnings(&made),
        [
            "namespace \"free\" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored"
        ]
    );
    namespace(&fixture, "plain", &[]).await;
    let privileged = |name: &str| pod(name, json!({"privileged": true}));
    let plain = format!("{NAMESPACES}/plain/pods");
    assert_eq!(fixture.create(&plain, privileged("p")).await.code, 403);
    assert_eq!(
        fixture
            .create(&format!("{NAMESPACES}/free/pods"), privileged("p"))
            .await
            .code,
        201
    );
    let root = User::new("root", &[MASTERS]);
    let made = fixture
        .ask_as(root, "POST", &plain, "application/json", privileged("p"))
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let metrics = fixture.text(User::new("a", &[MASTERS]), "/metrics").await;
    let line = "pod_security_exemptions_total{request_operation=\"create\",resource=\"pod\",subresource=\"\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn plugins_run_as_the_administrator_says() {
    let enable = [
        "AlwaysPullImages",
        "DenyServiceExternalIPs",
        "LimitPodHardAntiAffinityTopology",
        "ExtendedResourceToleration",
    ];
    let settings = settings(&enable, &["PodSecurity", "DefaultTolerationSeconds"], None);
    let fixture = Fixture::start_admitting(settings).await;
    namespace(&fixture, "n", &[("enforce", "restricted")]).await;
    let pods = format!("{NAMESPACES}/n/pods");
    let mut wanted = pod("p", json!({"privileged": true}));
    let container = &mut wanted["spec"]["containers"][0];
    container["imagePullPolicy"] = "Never".into();
    container["resources"] = json!({"limits": {"example.com/gpu": "1"}});
    let made = fixture.create(&pods, wanted).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(
        made.body["spec"]["containers"][0]["imagePullPolicy"],
        "Always"
    );
    let toleration =
        json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(made.body["spec"]["tolerations"], json!([toleration]));
    let mut apart = pod("q", json!({}));
    apart["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {}}]}});
    let refused = fixture.create(&pods, apart).await;
    let why = "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed";
    assert_eq!(
        refused.body["message"],
        format!("pods \"q\" is forbidden: {why}")
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}], "externalIPs": ["192.0.2.7"]}});
    let refused = fixture
        .create(&format!("{NAMESPACES}/n/services"), service)
        .await;
    assert_eq!(
        refused.body["message"],
        "services \"s\" is forbidden: Use of external IPs is denied by admission control"
    );
}

#[tokio::test]
async fn owners_are_named_by_those_who_may() {
    let settings = settings(&["OwnerReferencesPermissionEnforcement"], &[], None);
    let fixture = Fixture::start_admitting(settings).await;
    namespace(&fixture, "n", &[]).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/n";
    let allow = async |name: &str, resource: &str, verbs: &[&str]| {
        let rules = json!([{"apiGroups": [""], "resources": [resource], "verbs": verbs}]);
        let role = json!({"metadata": {"name": name}, "rules": rules});
        let role = fixture.create(&format!("{rbac}/roles"), role).await;
        assert_eq!(role.code, 201, "{}", role.body);
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
        let binding = fixture
            .create(&format!("{rbac}/rolebindings"), binding)
            .await;
        assert_eq!(binding.code, 201, "{}", binding.body);
        for kind in ["roles", "rolebindings"] {
            fixture.get(&format!("{rbac}/{kind}")).await;
        }
    };
    allow("write", "configmaps", &["get", "create", "update"]).await;
    let maps = format!("{NAMESPACES}/n/configmaps");
    let owned = |name: &str, kind: &str, blocks: bool| {
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": "o", "uid": "u", "blockOwnerDeletion": blocks});
        json!({"metadata": {"name": name, "ownerReferences": [owner]}})
    };
    let ask = async |method: &str, path: &str, body: Value| {
        let bob = User::new("bob", &[]);
        let answer = fixture.ask_as(bob, method, path, "application/json", body);
        let answer = answer.await;
        let text = answer.body["message"].as_str().unwrap_or_default();
        (answer.code, text.to_owned())
    };
    let refused = |name: &str, why: &str| {
        let text = format!("configmaps \"{name}\" is forbidden: cannot set {why}");
        (403, text)
    };
    let deletion = "an ownerRef on a resource you can't delete: , <nil>";
    let finalizers = "blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";
    let unknown = "blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion v1 Kind Nothing: no matches for kind \"Nothing\" in version \"v1\"";
    let a = format!("{maps}/a");
    assert_eq!(
        ask("POST", &maps, owned("a", "ConfigMap", false)).await,
        (201, String::new())
    );
    assert_eq!(
        ask("PUT", &a, json!({"metadata": {"name": "a"}})).await,
        refused("a", deletion)
    );
    assert_eq!(
        ask("POST", &maps, owned("b", "ConfigMap", true)).await,
        refused("b", finalizers)
    );
    assert_eq!(
        ask("POST", &maps, owned("b", "Node", true)).await,
        refused("b", finalizers)
    );
    assert_eq!(
        ask("POST", &maps, owned("b", "Nothing", true)).await,
        refused("b", unknown)
    );
    allow("delete", "configmaps", &["delete"]).await;
    allow("finalize", "configmaps/finalizers", &["update"]).await;
    assert_eq!(
        ask("PUT", &a, owned("a", "ConfigMap", true)).await,
        (200, String::new())
    );
}

#[tokio::test]
async fn a_namespace_says_where_its_pods_run() {
    let enable = ["PodNodeSelector", "NamespaceExists"];
    let settings = settings(&enable, &["NamespaceLifecycle"], None);
    let fixture = Fixture::start_admitting(settings).await;
    let key = "scheduler.alpha.kubernetes.io/node-selector";
    namespace(&fixture, "n", &[]).await;
    let path = format!("{NAMESPACES}/n");
    let select = async |labels: &str| {
        let given = json!({"metadata": {"annotations": {key: labels}}});
        let changed = fixture.patch(&path, "merge-patch+json", given).await;
        assert_eq!(changed.code, 200, "{}", changed.body);
        fixture.get(NAMESPACES).await;
    };
    select("a=b, c = d").await;
    let pods = format!("{NAMESPACES}/n/pods");
    let selecting = |name: &str, labels: Value| {
        let mut pod = pod(name, json!({}));
        pod["spec"]["nodeSelector"] = labels;
        pod
    };
    let made = fixture.create(&pods, selecting("p", json!({"a": "b", "e": "f"})));
    assert_eq!(
        made.await.body["spec"]["nodeSelector"],
        json!({"a": "b", "c": "d", "e": "f"})
    );
    let refused = fixture
        .create(&pods, selecting("q", json!({"a": "x"})))
        .await;
    assert_eq!(
        refused.body["message"],
        "pods \"q\" is forbidden: pod node label selector conflicts with its namespace node label selector"
    );
    select("a=b=c").await;
    let refused = fixture.create(&pods, selecting("q", json!({}))).await;
    assert_eq!(refused.body["message"], "invalid selector: [a b c]");
    assert_eq!(refused.code, 500);
    let path = format!("{NAMESPACES}/none/configmaps");
    let map = json!({"metadata": {"name": "a"}});
    let nowhere = fixture.create(&path, map).await;
    assert_eq!(nowhere.body["message"], "namespaces \"none\" not found");
}

#[tokio::test]
async fn pods_know_the_zone_of_their_node_and_do_not_outgrow_it() {
    let fixture = Fixture::start().await;
    namespace(&fixture, "n", &[]).await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    let node = json!({"metadata": {"name": "node", "labels": labels}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
    assert_eq!(fixture.create("/api/v1/nodes", node).await.code, 201);
    fixture.get("/api/v1/nodes").await;
    let pods = format!("{NAMESPACES}/n/pods");
    let zone = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    assert_eq!(
        fixture.create(&pods, pod("bound", json!({}))).await.code,
        201
    );
    let binding =
        json!({"metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "node"}});
    assert_eq!(
        fixture
            .create(&format!("{pods}/bound/binding"), binding)
            .await
            .code,
        201
    );
    assert_eq!(
        fixture.get(&format!("{pods}/bound")).await.body["metadata"]["labels"],
        zone
    );
    let mut given = pod("given", json!({}));
    given["spec"]["nodeName"] = "node".into();
    given["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "1", "memory": "1Mi"}});
    assert_eq!(
        fixture.create(&pods, given).await.body["metadata"]["labels"],
        zone
    );
    let resize = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    let path = format!("{pods}/given/resize");
    let grown = fixture
        .patch(&path, "strategic-merge-patch+json", resize("2"))
        .await;
    assert_eq!(
        (grown.code, grown.body["metadata"]["generation"].as_i64()),
        (200, Some(2)),
        "{}",
        grown.body
    );
    let refused = fixture
        .patch(&path, "strategic-merge-patch+json", resize("3"))
        .await;
    assert_eq!(
        refused.body["message"],
        "pods \"given\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"
    );
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{"reason": "NodeCapacity"}])
    );
}
