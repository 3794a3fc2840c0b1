//! Two clusters on one machine, with the same objects, do not meet.

use corral_e2e::{Cluster, corral};

/// A server that says which cluster it is of, and a client beside it.
fn manifest(cluster: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: corral.dev/host
        command: [sh, -c, 'cd /tmp && echo {cluster} > index.html && exec python3 -m http.server 8080']
        readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: only-{cluster}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}

fn started(name: &str) -> Cluster {
    let cluster = Cluster::up();
    cluster.apply(&manifest(name));
    cluster
}

/// What a pod of a cluster prints.
fn python(cluster: &Cluster, code: &str) -> String {
    cluster.kubectl(&["exec", "deploy/web", "--", "python3", "-c", code])
}

fn fetch(cluster: &Cluster, place: &str) -> String {
    let code = format!(
        "import urllib.request as u; print(u.urlopen('http://{place}', timeout=5).read().decode(), end='')"
    );
    python(cluster, &code).trim().to_owned()
}

/// The addresses of a name, as a pod of a cluster finds them.
fn resolve(cluster: &Cluster, name: &str) -> String {
    let code = format!(
        "
import socket
try: print(socket.gethostbyname('{name}'))
except socket.gaierror as error: print('unknown' if error.errno == socket.EAI_NONAME else error)
"
    );
    python(cluster, &code).trim().to_owned()
}

#[test]
fn each_of_two_clusters_serves_its_own_pods_and_outlives_the_other() {
    let clusters = [("red", started("red")), ("blue", started("blue"))];
    for (_, cluster) in &clusters {
        cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    }
    let address = |cluster: &Cluster, service: &str| {
        cluster.jsonpath(&["service", service], "{.spec.clusterIP}")
    };
    for (name, cluster) in &clusters {
        let (_, other) = clusters
            .iter()
            .find(|(other, _)| other != name)
            .expect("two");
        let own = address(cluster, "web");
        assert_ne!(own, address(other, "web"));
        assert_eq!(resolve(cluster, "web"), own);
        assert_eq!(fetch(cluster, "web.default.svc.cluster.local"), *name);
        assert_eq!(fetch(cluster, &own), *name);
        assert_eq!(resolve(other, &format!("only-{name}")), "unknown");
        assert_eq!(
            resolve(cluster, &format!("only-{name}")),
            address(cluster, &format!("only-{name}"))
        );
    }

    let [(_, mut red), (_, blue)] = clusters;
    let containers = "{.items[*].status.containerStatuses[*].containerID}";
    let before = blue.jsonpath(&["pods"], containers);
    let down = std::process::Command::new(corral())
        .args(["down", "--data-dir"])
        .arg(red.data_dir())
        .output()
        .expect("the corral binary is built");
    assert!(down.status.success(), "{down:?}");
    let said = String::from_utf8_lossy(&down.stdout);
    assert!(said.contains("stopped 2 pods"), "{said}");
    red.terminate();
    assert_eq!(fetch(&blue, "web"), "blue");
    assert_eq!(blue.jsonpath(&["pods"], containers), before);
    // What it does anew works too: a pod, its address, its name.
    blue.kubectl(&["rollout", "restart", "deploy/web"]);
    blue.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    // kubectl may choose one that is about to end.
    blue.wait("the old pods to be gone", || {
        blue.jsonpath(&["pods"], "{.items[*].metadata.name}")
            .split(' ')
            .count()
            == 2
    });
    assert_eq!(fetch(&blue, "web"), "blue");
}
