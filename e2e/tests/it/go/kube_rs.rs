//! kube-rs, as it is published: an operator with a derived kind, a controller, a finalizer and reflectors. It is no program
//! of Go, but takes minutes to build as well.

use std::process::Command;

use corral_e2e::{Cluster, Stream, root};
use serde_json::{Value, json};

/// Waits until a reflector holds just these.
fn await_shelf(operator: &mut Stream, reflector: &str, names: &[&str]) {
    let wanted = json!({reflector: names});
    operator.line_where(|line| serde_json::from_str(line).is_ok_and(|said: Value| said == wanted));
}

fn loaf(spec: &str) -> String {
    format!("apiVersion: bakery.example/v1\nkind: Loaf\nmetadata: {{name: loaf}}\nspec: {spec}\n")
}

#[test]
fn reflectors_of_kube_rs_see_the_same() {
    let cluster = Cluster::server_with(&[], None);
    let map = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{shelf: 'yes'}}}}\n"
        )
    };
    let names = ["a", "b", "c", "d", "e"];
    cluster.apply(&names.map(map).concat());
    for reflector in ["paged", "streamed", "metadata"] {
        let mut operator = start(&cluster);
        await_shelf(&mut operator, reflector, &names);
        cluster.kubectl(&["delete", "configmap", "e"]);
        await_shelf(&mut operator, reflector, &names[..4]);
        cluster.apply(&map("e"));
        await_shelf(&mut operator, reflector, &names);
    }
}

#[test]
fn an_operator_of_kube_rs_does_its_work() {
    let cluster = Cluster::server_with(&[], None);
    let _operator = start(&cluster);
    let get = |kind: &str, path: &str| cluster.jsonpath(&[kind, "loaf"], path);
    cluster.wait("the kind to be served", || {
        cluster.try_kubectl(&["get", "loaves"]).ok
    });
    let refused = cluster.kubectl_with_input(&["apply", "-f", "-"], &loaf("{grain: chalk}"));
    assert!(
        refused.err.contains("failed rule: self != 'chalk'"),
        "{refused:?}"
    );
    let refused =
        cluster.kubectl_with_input(&["apply", "-f", "-"], &loaf("{grain: rye, slices: 51}"));
    assert!(
        refused.err.contains("less than or equal to 50"),
        "{refused:?}"
    );

    cluster.apply(&loaf("{grain: rye}"));
    let holds = |what: &str| {
        cluster.wait("the bread", || {
            let said = cluster.try_kubectl(&["get", "cm", "loaf", "-o", "jsonpath={.data.holds}"]);
            said.ok && said.out == what
        });
    };
    holds("12 of rye");
    cluster.wait("the status", || get("lf", "{.status.baked}") == "12 of rye");
    assert_eq!(
        get("lf", "{.metadata.finalizers[*]}"),
        "bakery.example/oven"
    );
    assert_eq!(get("cm", "{.metadata.ownerReferences[0].kind}"), "Loaf");
    cluster.wait("the event", || {
        let events = [
            "get",
            "events.events.k8s.io",
            "-o",
            "jsonpath={.items[*].reason}",
        ];
        cluster.kubectl(&events).contains("Baked")
    });
    let row = cluster.kubectl(&["get", "lf", "--no-headers"]);
    assert!(row.starts_with("loaf   rye"), "{row}");

    cluster.apply(&loaf("{grain: wheat, slices: 9}"));
    holds("9 of wheat");
    // What it owns is put back.
    cluster.kubectl(&[
        "patch",
        "cm",
        "loaf",
        "--type=merge",
        "-p",
        r#"{"data":{"holds":"stones"}}"#,
    ]);
    holds("9 of wheat");
    cluster.kubectl(&["delete", "cm", "loaf"]);
    holds("9 of wheat");

    cluster.kubectl(&["delete", "lf", "loaf", "--timeout=60s"]);
    assert_eq!(
        cluster.jsonpath(&["cm", "crumbs-of-loaf"], "{.data.holds}"),
        "crumbs"
    );
    cluster.wait("what it owned to be collected", || {
        let left = cluster.try_kubectl(&["get", "cm", "loaf"]);
        left.err.contains("NotFound")
    });
}

fn start(cluster: &Cluster) -> Stream {
    let mut operator = Command::new(root().join(".cache/clients/kube-rs"));
    Stream::of(operator.env("KUBECONFIG", cluster.kubeconfig()))
}
