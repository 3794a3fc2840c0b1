//! The stock controller manager and scheduler, unmodified, in place of Corral's, over Corral's API server and node.
//! `cargo xtask clients-go --peer-binaries DIR` runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use corral_e2e::machines::succeed;
use corral_e2e::{Cluster, Process};

/// Where the binaries are.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("CORRAL_PEER_BINARIES")
        .expect("the folder of kube-scheduler and its like");
    Path::new(&folder).join(name)
}

/// Starts a component as the user that it is in Kubernetes, with the rights that this user has by default.
fn start(cluster: &Cluster, folder: &Path, name: &str, flags: &[String]) -> Process {
    let kubeconfig = identify(cluster, folder, name);
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).expect("a file");
    let mut command = Command::new(binary(name));
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args(["--secure-port=0", "--leader-elect=true"]);
    Process::start(command.args(flags).stderr(log))
}

/// The kubeconfig of a component, whose certificate the cluster's own authority signs.
fn identify(cluster: &Cluster, folder: &Path, name: &str) -> PathBuf {
    let file = |end: &str| folder.join(format!("{name}.{end}")).display().to_string();
    let pki = |file: &str| {
        cluster
            .data_dir()
            .join("pki")
            .join(file)
            .display()
            .to_string()
    };
    let key = [
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let mut request = Command::new("openssl");
    request
        .args(key)
        .args(["-keyout", &file("key"), "-out", &file("csr")]);
    succeed(request.args(["-subj", &format!("/CN=system:{name}")]));
    std::fs::write(file("ext"), "extendedKeyUsage=clientAuth\n").expect("a file");
    let mut sign = Command::new("openssl");
    sign.args([
        "x509",
        "-req",
        "-days",
        "1",
        "-in",
        &file("csr"),
        "-out",
        &file("crt"),
        "-extfile",
        &file("ext"),
    ]);
    succeed(sign.args([
        "-CA",
        &pki("ca.crt"),
        "-CAkey",
        &pki("ca.key"),
        "-CAserial",
        &file("srl"),
        "-CAcreateserial",
    ]));
    let config = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{}', certificate-authority: {}}}}}]\n\
         users: [{{name: u, user: {{client-certificate: {}, client-key: {}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        cluster.server(),
        pki("ca.crt"),
        file("crt"),
        file("key"),
    );
    let path = folder.join(format!("{name}.kubeconfig"));
    std::fs::write(&path, config).expect("a file");
    path
}

/// A small shop: a website, a till, a report.
pub const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop, namespace: shop}
data: {title: The Corral Feed Shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: corral.dev/host
        command: [sh, -c, 'cd /tmp && echo $TITLE > index.html && exec python3 -m http.server 8080']
        env: [{name: TITLE, valueFrom: {configMapKeyRef: {name: shop, key: title}}}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: till, namespace: shop}
spec:
  replicas: 2
  serviceName: till
  selector: {matchLabels: {app: till}}
  template:
    metadata: {labels: {app: till}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: till, image: corral.dev/host, command: [sleep, '1000']}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '0 0 1 1 *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 1
          containers: [{name: report, image: corral.dev/host, command: [echo, sold out]}]
";

#[test]
fn the_stock_controller_manager_and_scheduler_run_a_shop_on_our_node() {
    let cluster = Cluster::up_bare(&["--no-controllers", "--no-scheduler"]);
    let folder = tempfile::tempdir().expect("a directory");
    let pki = cluster.data_dir().join("pki");
    // A node of `corral up` brings the addresses of its pods; those of the cluster are around them.
    let pods = ["get", "node", "node-1", "-o", "jsonpath={.spec.podCIDR}"];
    cluster.wait("the node to have addresses", || {
        let said = cluster.try_kubectl(&pods);
        said.ok && !said.out.is_empty()
    });
    let pods = cluster.kubectl(&pods);
    let mut parts = pods.split('.');
    let (first, second) = (
        parts.next().expect("an address"),
        parts.next().expect("an address"),
    );
    let flags = [
        "--use-service-account-credentials".to_owned(),
        "--allocate-node-cidrs".to_owned(),
        format!("--cluster-cidr={first}.{second}.0.0/16"),
        format!("--root-ca-file={}", pki.join("ca.crt").display()),
        format!(
            "--cluster-signing-cert-file={}",
            pki.join("ca.crt").display()
        ),
        format!(
            "--cluster-signing-key-file={}",
            pki.join("ca.key").display()
        ),
        format!(
            "--service-account-private-key-file={}",
            pki.join("sa.key").display()
        ),
    ];
    let _controllers = start(&cluster, folder.path(), "kube-controller-manager", &flags);
    let _scheduler = start(&cluster, folder.path(), "kube-scheduler", &[]);
    cluster.wait("the node to be ready", || {
        let said = cluster.try_kubectl(&["get", "nodes", "--no-headers"]);
        said.ok && said.out.contains(" Ready ")
    });
    cluster.wait("the default service account", || {
        cluster.try_kubectl(&["get", "sa", "default"]).ok
    });
    let anywhere = cluster.client_of("1.36", "");
    anywhere.run_with_input(&["apply", "-f", "-"], SHOP);
    let shop = cluster.client_of("1.36", "shop");
    shop.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    shop.run(&["rollout", "status", "statefulset/till", "--timeout=60s"]);
    let wide = "jsonpath={.items[*].spec.nodeName}";
    let nodes = shop.run(&["get", "pods", "-o", wide]);
    assert_eq!(nodes, "node-1 node-1 node-1 node-1 node-1");
    let slice = [
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
    ];
    let endpoints = shop.run(
        &[
            &slice[..],
            &["-o", "jsonpath={.items[*].endpoints[*].addresses[0]}"],
        ]
        .concat(),
    );
    assert_eq!(endpoints.split(' ').count(), 3, "{endpoints}");
    let page = [
        "exec",
        "deploy/web",
        "--",
        "python3",
        "-c",
        "import urllib.request as r; print(r.urlopen('http://web.shop/').read().decode())",
    ];
    cluster.wait("the shop to answer by its name", || {
        shop.try_run(&page).out.contains("The Corral Feed Shop")
    });

    // A change rolls out, a report runs, and what is deleted takes everything with it.
    shop.run(&["set", "env", "deployment/web", "VERSION=2"]);
    shop.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    shop.run(&["create", "job", "now", "--from=cronjob/report"]);
    shop.run(&[
        "wait",
        "job/now",
        "--for=condition=Complete",
        "--timeout=60s",
    ]);
    assert_eq!(shop.run(&["logs", "job/now"]), "sold out\n");
    shop.run(&[
        "delete",
        "deployment",
        "web",
        "--cascade=foreground",
        "--timeout=60s",
    ]);
    anywhere.run(&["delete", "namespace", "shop", "--timeout=60s"]);
}
