//! The roles and bindings that a cluster begins with, beside those of kube-apiserver v1.36.3.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::fixture::{Fixture, answers};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// What is ours: objects of Corral's own, and rights beyond those of Kubernetes' roles, with the reason.
const OWN: [(&str, &str); 5] = [
    (
        "clusterroles/corral:node-certificates",
        "nodes renew their certificates by themselves",
    ),
    ("clusterrolebindings/corral:node-certificates", "the same"),
    (
        "clusterrolebindings/corral:node-autoapprove-certificate-rotation",
        "what kubeadm binds",
    ),
    (
        "clusterrolebindings/corral:nodes",
        "a node does what kube-proxy and a network plugin do elsewhere",
    ),
    (
        "clusterrolebindings/system:node-bootstrapper",
        "what kubeadm binds: tokens add nodes",
    ),
];
/// Rights of Kubernetes' roles that only ours have: nodes join by a request of our own.
const OWN_RIGHTS: [(&str, &str); 1] = [(
    "clusterroles/system:node-bootstrapper",
    "path /corral/v1/node-certificates post",
)];

type ByName = BTreeMap<String, Value>;

fn by_name(kind: &str, items: &Value) -> ByName {
    let items = items.as_array().expect("items").iter();
    items
        .map(|item| {
            let namespace = item["metadata"]["namespace"].as_str();
            let name = item["metadata"]["name"].as_str().expect("a name");
            let place = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
            (format!("{kind}/{place}{name}"), item.clone())
        })
        .collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What a role gives, each as one line.
fn rights(role: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let names = texts(&rule["resourceNames"]);
        let names = if names.is_empty() { vec![""] } else { names };
        for verb in texts(&rule["verbs"]) {
            for path in texts(&rule["nonResourceURLs"]) {
                out.insert(format!("path {path} {verb}"));
            }
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for name in &names {
                        out.insert(format!("{group}/{resource} {name} {verb}"));
                    }
                }
            }
        }
    }
    out
}

/// What the roles that one gathers from give together: without controllers, kube-apiserver's own is empty.
fn gathered(role: &Value, all: &ByName) -> BTreeSet<String> {
    let label = &role["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
    let Some(label) = label.as_object().and_then(|labels| labels.keys().next()) else {
        return rights(role);
    };
    let parts = all.values();
    let parts = parts.filter(|part| part["metadata"]["labels"][label] == "true");
    // One that is a part gathers itself.
    parts.flat_map(|part| gathered(part, all)).collect()
}

async fn ours(fixture: &Fixture, kind: &str) -> ByName {
    let list = fixture.get(&format!("{RBAC}/{kind}")).await.body;
    by_name(kind, &list["items"])
}

fn compare(kind: &str, ours: &ByName, theirs: &ByName) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, role) in theirs {
        let Some(own) = ours.get(name) else {
            differences.push(format!("{name} is missing"));
            continue;
        };
        for field in ["labels", "annotations"] {
            if own["metadata"][field] != role["metadata"][field] {
                differences.push(format!("{name}: {field} {}", own["metadata"][field]));
            }
        }
        for field in ["aggregationRule", "roleRef", "subjects"] {
            if own[field] != role[field] {
                differences.push(format!("{name}: {field} {} != {}", own[field], role[field]));
            }
        }
        let (gives, wanted) = (rights(own), gathered(role, theirs));
        let more = gives.difference(&wanted);
        let more = more.filter(|right| !OWN_RIGHTS.contains(&(name.as_str(), right.as_str())));
        differences.extend(more.map(|right| format!("{name}: only ours gives {right}")));
        let less = wanted.difference(&gives);
        differences.extend(less.map(|right| format!("{name}: only theirs gives {right}")));
    }
    let is_own = |name: &String| OWN.iter().any(|(own, _)| own == name);
    let more = ours.keys().filter(|name| !theirs.contains_key(*name));
    differences.extend(
        more.filter(|name| !is_own(name))
            .map(|name| format!("{name} is new")),
    );
    let gone = OWN.iter().map(|(own, _)| *own);
    let gone = gone.filter(|own| own.starts_with(&format!("{kind}/")) && !ours.contains_key(*own));
    differences.extend(gone.map(|own| format!("{own} is gone")));
    differences
}

#[tokio::test]
async fn default_roles_give_what_those_of_kubernetes_give() {
    let fixture = Fixture::start().await;
    let kept = answers("rbac.json.gz");
    let mut differences = Vec::new();
    let mut compared = 0;
    for kind in [
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
    ] {
        let (ours, theirs) = (ours(&fixture, kind).await, by_name(kind, &kept[kind]));
        compared += theirs.len();
        differences.extend(compare(kind, &ours, &theirs));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared > 130, "{compared} are not all of them");
}

#[tokio::test]
async fn roles_get_back_what_they_lack_when_a_server_starts() {
    let mut fixture = Fixture::start().await;
    let path = format!("{RBAC}/namespaces/kube-system/roles/system:controller:token-cleaner");
    let own = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let body = json!({"rules": [own]});
    let changed = fixture.patch(&path, "merge-patch+json", body).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    fixture.restart().await;
    let rules = fixture.get(&path).await.body["rules"].clone();
    assert!(texts(&rules[1]["verbs"]).contains(&"delete"), "{rules}");
    assert_eq!(rules[0], own);
    // A second start finds nothing to do.
    fixture.restart().await;
    assert_eq!(fixture.get(&path).await.body["rules"], rules);
}
