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

#[test]
fn an_object_is_edited_in_an_editor_and_a_wrong_edit_comes_back() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=key=one"]);
    let edit = |editor: &str, args: &[&str]| {
        let mut command = cluster.kubectl_command(&[&["edit"], args].concat());
        let output = command.env("KUBE_EDITOR", editor).output();
        let output = output.expect("kubectl is built; run scripts/clients");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (out, err) = edit("sed -i 's/key: one/key: two/'", &["configmap", "c"]);
    assert_eq!(out, "configmap/c edited\n", "{err}");
    assert_eq!(cluster.jsonpath(&["cm", "c"], "{.data.key}"), "two");
    let (out, err) = edit("true", &["configmap", "c"]);
    assert!(
        out.is_empty() && err.contains("cancelled, no changes made"),
        "{out}{err}"
    );
    let scaled = ["deployment", "web", "--subresource=status"];
    cluster.kubectl(&[
        "create",
        "deployment",
        "web",
        "--image=corral.dev/host",
        "--replicas=0",
    ]);
    let (out, err) = edit(
        "sed -i 's/observedGeneration: .*/observedGeneration: 7/'",
        &scaled,
    );
    assert!(out.contains("deployment.apps/web edited"), "{out}{err}");

    // Once: the second time the editor finds the reason on top, and gives up by changing nothing.
    let (out, err) = edit("sed -i 's/^data:/datta:/'", &["configmap", "c"]);
    let refused = !out.contains("edited") && err.contains("configmaps \"c\" is invalid");
    assert!(refused, "{out}{err}");
    // kubectl keeps the edit, with the reason on top.
    let kept = err.split('"').find(|part| part.ends_with(".yaml"));
    let kept = kept.expect("kubectl tells where the edit is");
    let edit = std::fs::read_to_string(kept).expect("the edit is there");
    std::fs::remove_file(kept).expect("ours to remove");
    assert!(edit.contains("unknown field \"datta\""), "{edit}");
    assert_eq!(cluster.jsonpath(&["cm", "c"], "{.data.key}"), "two");
}

#[test]
fn tokens_are_made_and_what_is_not_there_is_said_clearly() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "serviceaccount", "robot"]);
    let token = cluster.kubectl(&["create", "token", "robot", "--duration=10m"]);
    let whoami = [
        "--kubeconfig=/dev/null",
        "--token",
        token.trim(),
        "--insecure-skip-tls-verify",
        "--server",
        &cluster.server(),
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ];
    assert_eq!(
        cluster.kubectl(&whoami),
        "system:serviceaccount:default:robot"
    );
    let short = cluster.try_kubectl(&["create", "token", "robot", "--duration=1s"]);
    assert!(
        short
            .err
            .contains("may not specify a duration less than 10 minutes"),
        "{}",
        short.err
    );
    let top = cluster.try_kubectl(&["top", "nodes"]);
    assert_eq!(
        (top.err.as_str(), top.ok),
        ("error: Metrics API not available\n", false)
    );
    let nothing = cluster.try_kubectl(&["get", "nothing"]);
    assert_eq!(
        nothing.err,
        "error: the server doesn't have a resource type \"nothing\"\n"
    );
}

#[test]
fn a_cordoned_node_takes_no_pods_and_keeps_those_it_has() {
    let cluster = Cluster::up();
    let create = |name: &str| {
        cluster.kubectl(&[
            "create",
            "deployment",
            name,
            "--image=corral.dev/host",
            "--",
            "sleep",
            "1000",
        ]);
    };
    create("before");
    cluster.kubectl(&["rollout", "status", "deploy/before", "--timeout=60s"]);
    assert_eq!(
        cluster.kubectl(&["cordon", "node-1"]),
        "node/node-1 cordoned\n"
    );
    assert!(
        cluster
            .kubectl(&["get", "nodes"])
            .contains("Ready,SchedulingDisabled")
    );
    create("after");
    cluster.kubectl(&[
        "wait",
        "pod",
        "-l",
        "app=after",
        "--for=jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].reason}=Unschedulable",
        "--timeout=60s",
    ]);
    assert_eq!(
        cluster.jsonpath(&["deploy", "before"], "{.status.readyReplicas}"),
        "1"
    );
    cluster.kubectl(&["uncordon", "node-1"]);
    cluster.kubectl(&["rollout", "status", "deploy/after", "--timeout=60s"]);
    // The cascade that nobody names: at once, and what is owned goes in the background.
    let deleted = [
        "delete",
        "deploy",
        "before",
        "after",
        "--cascade=background",
    ];
    cluster.kubectl(&deleted);
    cluster.wait("what they own to go", || {
        cluster
            .kubectl(&["get", "rs,pods", "-o", "name"])
            .is_empty()
    });
}
