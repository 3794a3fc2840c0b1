//! What policies are told of their expressions, compared with what kube-apiserver and kube-controller-manager v1.36.3 tell.
//!
//! The data are their answers, but for the numbers at the end of the names of types, which Kubernetes takes from a clock:
//! here it is 1 for the objects' and 2 for the parameters'.

use corral_e2e::Cluster;
use serde_json::{Value, json};

const ANSWERS: &str = include_str!("admission_types.json");
/// Who writes the status, and by which of its fields.
const OWNER: &str = "{.metadata.managedFields[?(@.subresource==\"status\")].manager}";

fn manifest<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    let documents: Vec<String> = objects.into_iter().map(Value::to_string).collect();
    documents.join("\n---\n")
}

fn policy(name: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// The policies, once all of them have been checked at their generation.
fn checked(cluster: &Cluster) -> Vec<Value> {
    let mut policies = Vec::new();
    cluster.wait("all policies to be checked", || {
        let said = cluster.kubectl(&["get", "validatingadmissionpolicies", "-o", "json"]);
        let said: Value = serde_json::from_str(&said).expect("kubectl prints JSON");
        policies = said["items"].as_array().cloned().unwrap_or_default();
        let observed = |p: &Value| p["status"]["observedGeneration"].clone();
        let done = |p: &Value| observed(p) == p["metadata"]["generation"];
        !policies.is_empty() && policies.iter().all(done)
    });
    policies
}

#[test]
fn policies_are_told_what_the_types_of_resources_say_of_their_expressions() {
    let cluster = Cluster::server_with(&[], None);
    let answers: Value = serde_json::from_str(ANSWERS).expect("they are JSON");
    let definitions = answers["definitions"].as_array().expect("a list");
    cluster.apply(&manifest(definitions));
    for definition in definitions {
        let name = definition["metadata"]["name"].as_str().expect("a name");
        let name = format!("crd/{name}");
        cluster.kubectl(&["wait", "--for=condition=Established", &name]);
    }
    let theirs = answers["policies"].as_array().expect("a list");
    let policies = theirs.iter().map(|p| policy(&p["name"], &p["spec"]));
    let policies: Vec<Value> = policies.collect();
    cluster.apply(&manifest(&policies));
    let ours = checked(&cluster);
    assert_eq!(ours.len(), theirs.len());
    let mut different = Vec::new();
    for their in theirs {
        let our = ours.iter().find(|p| p["metadata"]["name"] == their["name"]);
        let our = &our.expect("it was made")["status"]["typeChecking"];
        let our = our.get("expressionWarnings").cloned().unwrap_or(json!([]));
        if our != their["expressionWarnings"] {
            let theirs = &their["expressionWarnings"];
            different.push(format!(
                "{}:\n theirs {theirs:#}\n ours {our:#}",
                their["name"]
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));

    // A policy that changes is looked at again, and warnings that are none any more go.
    let resource = &["validatingadmissionpolicy", "wrong-field"];
    let warnings = "{.status.typeChecking.expressionWarnings[*].fieldRef}";
    let before = cluster.jsonpath(resource, warnings);
    assert_eq!(
        before,
        "spec.validations[0].expression spec.validations[2].expression"
    );
    let rules = json!([{"expression": "object.spec.replicas == 'x'"}]);
    let patch = json!({"spec": {"validations": rules}}).to_string();
    let mut args = vec!["patch", "--type=merge", "-p", &patch];
    args.extend(resource);
    cluster.kubectl(&args);
    checked(&cluster);
    let after = cluster.jsonpath(resource, warnings);
    assert_eq!(after, "spec.validations[0].expression");
    let owner = cluster.jsonpath(resource, OWNER);
    assert_eq!(owner, "validatingadmissionpolicy-status");
}
