//! A cluster's objects move from the embedded store to etcd and back, and nobody is told another `resourceVersion`.

use std::path::Path;
use std::process::{Command, Output};

use corral_e2e::{Cluster, corral};
use serde_json::Value;

use crate::etcd::Etcd;

const ALONE: [&str; 2] = ["--no-controllers", "--no-scheduler"];
const KINDS: &str = "configmaps,secrets,namespaces,customresourcedefinitions,clusterroles,services,widgets.example.com";
const DEFINITION: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
const WIDGET: &str =
    "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n";

pub fn migrate(to: &str, etcd: &Etcd, data: &Path) -> Output {
    Command::new(corral())
        .args(["store", "migrate", "--to", to, "--data-dir"])
        .arg(data)
        .args(etcd.flags())
        .output()
        .expect("corral runs")
}

#[track_caller]
pub fn moved(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{said}");
}

/// Every object as it is, in the order of names.
fn objects(cluster: &Cluster) -> Vec<Value> {
    let text = cluster.kubectl(&["get", KINDS, "-A", "-o", "json", "--show-managed-fields"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let items = list["items"].as_array().expect("a list").iter();
    items
        // The API's own Service follows the port of the server that runs.
        .filter(|item| item["metadata"]["name"] != "kubernetes")
        .cloned()
        .collect()
}

#[track_caller]
fn same(now: &[Value], before: &[Value]) {
    for (now, before) in now.iter().zip(before) {
        assert_eq!(now, before);
    }
    assert_eq!(now.len(), before.len());
}

fn list_revision(cluster: &Cluster) -> u64 {
    let text = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let revision = list["metadata"]["resourceVersion"].as_str();
    revision
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

/// The answer to a watch of configmaps from a revision.
fn watch(cluster: &Cluster, from: u64) -> String {
    let path = format!(
        "/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1&resourceVersion={from}"
    );
    let said = cluster.try_kubectl(&["get", "--raw", &path]);
    format!("{}{}", said.out, said.err)
}

#[test]
fn objects_move_to_etcd_and_back() {
    // First, so that it answers when it is needed.
    let etcd = Etcd::start();
    let mut first = Cluster::server_with(&ALONE, None);
    first.apply(DEFINITION);
    first.kubectl(&[
        "wait",
        "--for=condition=established",
        "crd/widgets.example.com",
    ]);
    first.apply(WIDGET);
    first.kubectl(&[
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=key=value",
    ]);
    for name in ["one", "two", "three"] {
        first.kubectl(&["create", "configmap", name]);
    }
    let early = list_revision(&first);
    first.kubectl(&["label", "configmap", "one", "again=yes"]);
    first.kubectl(&["delete", "configmap", "two"]);
    let before = objects(&first);
    let data = first.data_dir();
    refused(&migrate("etcd", &etcd, &data), "is in use by process");
    first.terminate();
    let said = moved(&migrate("etcd", &etcd, &data));
    assert!(
        said.starts_with("moved ") && said.contains(&etcd.url),
        "{said}"
    );
    refused(&migrate("etcd", &etcd, &data), "etcd is not empty");

    let flags = etcd.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(ALONE).collect();
    let mut second = Cluster::server_with(&flags, Some(&first));
    same(&objects(&second), &before);
    let gone = watch(&second, early);
    assert!(
        gone.contains("\"code\":410") || gone.contains("too old"),
        "{gone}"
    );
    let now = list_revision(&second);
    second.kubectl(&["create", "configmap", "four"]);
    let events = watch(&second, now);
    assert_eq!(events.matches("\"type\":\"ADDED\"").count(), 1, "{events}");
    second.kubectl(&["delete", "configmap", "four"]);

    let back = first.data_dir();
    refused(&migrate("embedded", &etcd, &back), "servers use this etcd");
    second.kill();
    refused(&migrate("embedded", &etcd, &back), "is not empty");
    std::fs::remove_dir_all(back.join("store")).expect("the directory is ours");
    moved(&migrate("embedded", &etcd, &back));
    first.start();
    same(&objects(&first), &before);
    let gone = watch(&first, now);
    assert!(
        gone.contains("\"code\":410") || gone.contains("too old"),
        "{gone}"
    );
}
