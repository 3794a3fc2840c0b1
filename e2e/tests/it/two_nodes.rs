//! Two nodes that join one control plane: network namespaces on a switch stand for three machines.

use corral_e2e::machines::{Links, Machines, SERVER};

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
