//! ReplicationControllers, StatefulSets, the history of DaemonSets, and budgets of disruptions.

use corral_e2e::Cluster;

fn pods_of(app: &str, command: &str) -> String {
    format!(
        "  template:\n    metadata: {{labels: {{app: {app}}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - {{name: c, image: corral.dev/host, command: [sh, -c, '{command}']}}\n"
    )
}

fn ready(cluster: &Cluster, what: &str, count: &str) {
    cluster.wait("all pods to be ready", || {
        cluster.jsonpath(&[what], "{.status.readyReplicas}") == count
    });
}

#[test]
fn a_replication_controller_scales_and_leaves_its_pods_behind() {
    let cluster = Cluster::up();
    let pods = pods_of("old", "sleep 1000");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: old}}\nspec:\n  replicas: 2\n{pods}"
    ));
    ready(&cluster, "rc/old", "2");
    cluster.kubectl(&["scale", "rc/old", "--replicas=3", "--current-replicas=2"]);
    ready(&cluster, "rc/old", "3");
    let row = cluster.kubectl(&["get", "rc", "old", "--no-headers", "-o", "wide"]);
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..4], ["old", "3", "3", "3"], "{row}");
    assert_eq!(cells[5..], ["c", "corral.dev/host", "app=old"], "{row}");

    // Clients that say nothing leave the pods, as in the days when clients deleted them.
    let path = "/api/v1/namespaces/default/replicationcontrollers/old";
    cluster.kubectl(&["delete", "--raw", path]);
    cluster.wait("the controller to be gone", || {
        cluster.kubectl(&["get", "rc", "-o", "name"]).is_empty()
    });
    let owners = cluster.jsonpath(
        &["pods", "-l", "app=old"],
        "{.items[*].metadata.ownerReferences}",
    );
    assert_eq!(owners, "");
    let names = cluster.kubectl(&["get", "pods", "-l", "app=old", "-o", "name"]);
    assert_eq!(names.lines().count(), 3, "{names}");
}

#[test]
fn a_daemon_set_has_a_history_and_goes_back_in_it() {
    let cluster = Cluster::up();
    let set = |command: &str| {
        let pods = pods_of("agent", command);
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec:\n  revisionHistoryLimit: 1\n  \
             selector: {{matchLabels: {{app: agent}}}}\n{pods}"
        )
    };
    let rolled_out = || cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    for command in ["sleep 1000", "sleep 2000", "sleep 3000"] {
        cluster.apply(&set(command));
        rolled_out();
    }
    let revisions = || {
        let path = "{range .items[*]}{.revision} {end}";
        cluster.jsonpath(&["controllerrevisions", "--sort-by=.revision"], path)
    };
    cluster.wait("the history to be within its limit", || {
        revisions() == "2 3 "
    });
    let old = cluster.kubectl(&["rollout", "history", "ds/agent", "--revision=2"]);
    assert!(old.contains("sleep 2000"), "{old}");

    cluster.kubectl(&["rollout", "undo", "ds/agent"]);
    rolled_out();
    let command = "{.spec.template.spec.containers[0].command[2]}";
    assert_eq!(cluster.jsonpath(&["ds", "agent"], command), "sleep 2000");
    cluster.wait("the state to be the newest again", || revisions() == "3 4 ");
    let again = cluster.kubectl(&["rollout", "undo", "ds/agent", "--to-revision=4"]);
    assert!(again.contains("already matches"), "{again}");

    let label = "{.metadata.labels.controller-revision-hash}";
    let newest = "{.items[?(@.revision==4)].metadata.labels.controller-revision-hash}";
    let hash = cluster.jsonpath(&["controllerrevisions"], newest);
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=agent", "-o", "name"]);
    assert_eq!(cluster.jsonpath(&[pod.trim()], label), hash);
}

#[test]
fn a_stateful_set_keeps_its_names_and_updates_from_the_last() {
    let cluster = Cluster::up();
    let set = |command: &str| {
        let pods = pods_of("db", command);
        format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  replicas: 2\n  serviceName: db\n  \
             selector: {{matchLabels: {{app: db}}}}\n{pods}"
        )
    };
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, selector: {app: db}}\n",
    );
    cluster.apply(&set("sleep 1000"));
    let rolled_out = || cluster.kubectl(&["rollout", "status", "sts/db", "--timeout=60s"]);
    rolled_out();
    let row = cluster.kubectl(&["get", "sts", "db", "--no-headers"]);
    assert_eq!(row.split_whitespace().nth(1), Some("2/2"), "{row}");
    let name = cluster.kubectl(&["exec", "db-1", "--", "sh", "-c", "hostname"]);
    assert_eq!(name.trim(), "db-1");
    let uid = "{.metadata.uid}";
    let first = cluster.jsonpath(&["pod", "db-0"], uid);

    // Only what is not below the partition is replaced.
    let hold = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":1}}}}"#;
    cluster.kubectl(&["patch", "sts", "db", "-p", hold]);
    let change = r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","command":["sh","-c","sleep 2000"]}]}}}}"#;
    cluster.kubectl(&["patch", "sts", "db", "-p", change]);
    rolled_out();
    let command = "{.spec.containers[0].command[2]}";
    assert_eq!(cluster.jsonpath(&["pod", "db-1"], command), "sleep 2000");
    assert_eq!(cluster.jsonpath(&["pod", "db-0"], uid), first);

    let release = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}"#;
    cluster.kubectl(&["patch", "sts", "db", "-p", release]);
    rolled_out();
    assert_eq!(cluster.jsonpath(&["pod", "db-0"], command), "sleep 2000");
    cluster.kubectl(&["rollout", "undo", "sts/db"]);
    rolled_out();
    assert_eq!(cluster.jsonpath(&["pod", "db-0"], command), "sleep 1000");

    cluster.kubectl(&["scale", "sts/db", "--replicas=1"]);
    cluster.wait("the last pod to be gone", || {
        let names = cluster.kubectl(&["get", "pods", "-l", "app=db", "-o", "name"]);
        names == "pod/db-0\n"
    });
}

#[test]
fn a_drain_waits_for_the_budget() {
    let cluster = Cluster::up();
    let pods = pods_of("web", "sleep 1000");
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 2\n  \
         selector: {{matchLabels: {{app: web}}}}\n{pods}"
    ));
    cluster.apply(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec:\n  \
         minAvailable: 1\n  selector: {matchLabels: {app: web}}\n",
    );
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let status = |path: &str| cluster.jsonpath(&["pdb", "web"], &format!("{{.status.{path}}}"));
    cluster.wait("a pod to be dispensable", || {
        status("disruptionsAllowed") == "1"
    });
    assert_eq!(status("expectedPods"), "2");

    // Cordoned, so that what is evicted does not come back, and the second pod must stay.
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]);
    let drain = cluster.try_kubectl(&["drain", node.trim(), "--timeout=15s"]);
    assert!(!drain.ok, "{}", drain.err);
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(drain.err.contains(refused), "{}", drain.err);
    cluster.wait("one pod to be left", || {
        let running = ["get", "pods", "--field-selector=status.phase=Running"];
        let running = cluster.kubectl(&[&running[..], &["-o", "name"]].concat());
        running.lines().count() == 1
    });
    assert_eq!(status("disruptionsAllowed"), "0");

    cluster.kubectl(&["delete", "pdb", "web"]);
    cluster.kubectl(&["drain", node.trim(), "--timeout=60s"]);
}
