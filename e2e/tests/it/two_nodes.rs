//! Two nodes that join one control plane: network namespaces on a switch stand for three machines.

use std::path::{Path, PathBuf};

use corral_e2e::corral;
use corral_e2e::machines::{Links, Machines, SERVER, cgroups_named, succeed};

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: corral.dev/host
        command: [sh, -c, 'cd /tmp && hostname > index.html && exec python3 -m http.server 8080']
        # What is asked for is what spreads the pods over the nodes.
        resources: {requests: {cpu: 50m}}
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

fn start_cluster() -> Machines {
    let mut machines = Machines::new(&[SERVER, "node-a", "node-b"], Links::Switch);
    machines.start_server("server", &[]);
    machines.start_agent("node-a");
    machines.start_agent("node-b");
    machines.await_nodes(2);
    machines
}

#[test]
fn pods_of_two_nodes_reach_each_other_by_address_service_and_name() {
    let machines = start_cluster();
    machines.apply(MANIFEST);
    machines.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);

    let format =
        "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.podIP}{\"\\n\"}{end}";
    let pods = machines.kubectl(&["get", "pods", "-o", format]);
    let on = |node: &str| {
        let mut all = pods.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let pod = all.find(|pod| pod[0] == node);
        let pod = pod.unwrap_or_else(|| panic!("no pod on {node}:\n{pods}"));
        (pod[1].to_owned(), pod[2].to_owned())
    };
    let (a, b) = (on("node-a"), on("node-b"));
    let fetch = |pod: &str, from: &str| {
        let code = format!(
            "import urllib.request as u; print(u.urlopen('http://{from}', timeout=5).read().decode(), end='')"
        );
        machines.python(pod, &code)
    };
    assert_eq!(fetch(&a.0, &format!("{}:8080", b.1)).trim(), b.0);
    assert_eq!(fetch(&b.0, &format!("{}:8080", a.1)).trim(), a.0);

    let service = machines.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    for pod in [&a.0, &b.0] {
        for target in [service.as_str(), "web", "web.default.svc.cluster.local"] {
            let said = fetch(pod, target);
            assert!(
                pods.contains(said.trim()) && said.starts_with("web-"),
                "{target}: {said}"
            );
        }
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: corral.dev/host, command: [sleep, '1000']}]
";

#[test]
fn a_node_comes_back_without_a_token_and_down_removes_what_it_made() {
    let mut machines = Machines::new(&[SERVER, "node-a"], Links::Switch);
    machines.start_server("server", &[]);
    machines.start_agent("node-a");
    machines.await_nodes(1);
    machines.apply(POD);
    machines.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let before = identity(&machines);

    machines.kill("node-a");
    let deleted = machines.kubectl(&[
        "delete",
        "secrets",
        "--namespace=kube-system",
        "--field-selector=type=bootstrap.kubernetes.io/token",
    ]);
    assert!(deleted.contains("bootstrap-token-"), "{deleted}");
    std::fs::remove_file(machines.path("token")).expect("the token was written");
    let since = renewals(&machines);
    machines.start_agent("node-a");
    // The lease tells that the new process speaks for the node; a node that is silent so shortly is Ready still.
    machines.wait("the node to come back", || renewals(&machines) > since);
    machines.wait("the new process to reach the container", || {
        machines.try_kubectl(&["exec", "p", "--", "true"]).ok
    });
    machines.wait("the pod to be ready", || {
        identity(&machines).ends_with("true")
    });
    assert_eq!(identity(&machines), before);

    let uid = machines.kubectl(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]);
    let cgroups = cgroups_named(&format!("pod{uid}"));
    assert!(!cgroups.is_empty(), "the pod has a cgroup");
    let clusters: Vec<PathBuf> = cgroups
        .iter()
        .filter_map(|pod| pod.parent().map(Path::to_owned))
        .collect();
    let made = made_by_the_node(&machines);
    assert!(
        made.contains("cb-") && made.contains("table ip"),
        "what is looked for below is there: {made}"
    );
    succeed(
        machines
            .command("node-a", corral())
            .args(["down", "--data-dir"])
            .arg(machines.path("node-a")),
    );
    let left: Vec<_> = clusters.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "cgroups are left: {left:?}");
    assert_eq!(made_by_the_node(&machines), "");
}

/// What tells whether a pod goes on as it was.
fn identity(machines: &Machines) -> String {
    let path = "jsonpath={.status.podIP} {.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
    machines.kubectl(&["get", "pod", "p", "-o", path])
}

/// When the node's lease was renewed last.
fn renewals(machines: &Machines) -> String {
    let path = "jsonpath={.spec.renewTime}";
    machines.kubectl(&[
        "get",
        "lease",
        "-n",
        "kube-node-lease",
        "node-a",
        "-o",
        path,
    ])
}

/// Links, tables and routes of a node beyond those that the machine has of itself.
fn made_by_the_node(machines: &Machines) -> String {
    machines.shell(
        "node-a",
        "ip -oneline link | grep -vE ': (lo|eth0)(@[^ ]*)?: '; nft list tables; ip route | grep -v '192[.]0[.]2[.]0/24'; true",
    )
}
