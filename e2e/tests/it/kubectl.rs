//! The rest of kubectl's verbs.

use corral_e2e::Cluster;

#[test]
fn run_expose_label_annotate_set_and_delete_with_each_cascade() {
    let cluster = Cluster::up();
    cluster.kubectl(&[
        "create",
        "deployment",
        "web",
        "--image=corral.dev/host",
        "--port=80",
        "--",
        "sleep",
        "1000",
    ]);
    assert_eq!(
        cluster.kubectl(&["expose", "deployment", "web", "--port=80"]),
        "service/web exposed\n"
    );
    cluster.kubectl(&["label", "deployment", "web", "tier=front"]);
    cluster.kubectl(&["annotate", "deployment", "web", "note=x"]);
    assert_eq!(
        cluster.jsonpath(
            &["deploy", "-l", "tier=front"],
            "{.items[0].metadata.annotations.note}"
        ),
        "x"
    );
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    cluster.kubectl(&["rollout", "pause", "deploy/web"]);
    cluster.kubectl(&["set", "env", "deploy/web", "A=b"]);
    cluster.kubectl(&["rollout", "resume", "deploy/web"]);
    cluster.kubectl(&["rollout", "restart", "deploy/web"]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let described = cluster.kubectl(&["describe", "deploy", "web"]);
    assert!(described.contains("NewReplicaSetAvailable"), "{described}");

    cluster.kubectl(&["delete", "deploy", "web", "--cascade=orphan"]);
    let sets = cluster.kubectl(&["get", "rs", "-o", "name"]);
    assert!(!sets.is_empty(), "orphans stay");
    cluster.kubectl(&[
        "delete",
        "rs",
        "--all",
        "--cascade=foreground",
        "--timeout=60s",
    ]);
    cluster.wait("pods to go", || {
        cluster.kubectl(&["get", "pods", "--no-headers"]).is_empty()
    });
    let wide = cluster.kubectl(&["get", "nodes", "-o", "wide"]);
    assert!(
        wide.contains("INTERNAL-IP") && wide.contains("node-1"),
        "{wide}"
    );
    for form in ["json", "yaml", "name"] {
        assert!(
            cluster
                .kubectl(&["get", "svc", "web", "-o", form])
                .contains("web")
        );
    }
}

#[test]
fn a_node_is_cordoned_and_drained() {
    let cluster = Cluster::up();
    cluster.kubectl(&[
        "create",
        "deployment",
        "web",
        "--image=corral.dev/host",
        "--",
        "sleep",
        "1000",
    ]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let before = cluster.kubectl(&["get", "pods", "-o", "name"]);
    cluster.kubectl(&["drain", "node-1", "--grace-period=1", "--timeout=60s"]);
    cluster.wait("another pod, waiting", || {
        let pods = cluster.kubectl(&["get", "pods", "--no-headers"]);
        pods.lines().count() == 1
            && pods.contains("Pending")
            && !pods.contains(before.trim().trim_start_matches("pod/"))
    });
    cluster.wait("the reason", || {
        cluster
            .kubectl(&["describe", "pods"])
            .contains("0/1 nodes are available: 1 node(s) were unschedulable")
    });
    cluster.kubectl(&["uncordon", "node-1"]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
}

#[test]
fn configuration_reaches_a_container_and_changes_with_its_source() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=key=one"]);
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=word=quiet",
    ]);
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {l: v}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: c\n    image: corral.dev/host\n    command: [sleep, '1000']\n    env:\n    - {name: WORD, valueFrom: {secretKeyRef: {name: s, key: word}}}\n    \
         - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n    envFrom: [{configMapRef: {name: c}}]\n    \
         volumeMounts: [{name: v, mountPath: /config}, {name: d, mountPath: /down}]\n  volumes:\n  - {name: v, configMap: {name: c}}\n  \
         - {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}\n",
    );
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let exec = |command: &str| cluster.kubectl(&["exec", "p", "--", "sh", "-c", command]);
    assert_eq!(exec("echo $WORD $NODE $key"), "quiet node-1 one\n");
    assert_eq!(
        exec("cat /config/key; echo; cat /down/labels"),
        "one\nl=\"v\""
    );
    assert_eq!(
        exec("ls /var/run/secrets/kubernetes.io/serviceaccount"),
        "ca.crt\nnamespace\ntoken\n"
    );
    cluster.kubectl(&["patch", "configmap", "c", "-p", r#"{"data":{"key":"two"}}"#]);
    cluster.wait("the changed file", || exec("cat /config/key") == "two");
}
