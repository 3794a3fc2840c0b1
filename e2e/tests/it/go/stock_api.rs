//! The stock kube-apiserver, unmodified, in place of Corral's: our controllers, scheduler and agents run a shop on it.
//! `cargo xtask clients-go --peer-binaries DIR` runs it.
//!
//! ```text
//!   server   etcd ◀── kube-apiserver ◀── corral controllers, corral scheduler
//!                          ▲    ▲
//!   node-a   corral agent ─┘    └─ node-b   corral agent
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use corral_e2e::machines::{Links, Machines, SERVER, succeed};
use corral_e2e::{Process, Stream, Transport, corral};

use super::swap::{SHOP, binary};

const CONTROLLERS: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
/// Everything that goes wrong between components and the server.
const LOG: &str = "--log=info,corral_runtime=debug,corral_controllers=debug,corral_scheduler=debug";
const NODES: [&str; 2] = ["node-a", "node-b"];

/// What nodes need beyond the rights of a kubelet: they also do what kube-proxy does.
const NODES_ROUTE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: corral-nodes}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:node-proxier'}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:nodes'}]
";

const MORE: &str = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: minutely, namespace: shop}
spec:
  schedule: '* * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 1
          containers: [{name: tick, image: corral.dev/host, command: [echo, tick]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: nobody, namespace: shop}
spec: {minAvailable: 1, selector: {matchLabels: {app: nobody}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: fleeting, namespace: shop}
spec:
  ttlSecondsAfterFinished: 1
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: fleeting, image: corral.dev/host, command: ['true']}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shelf, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: corral-shelves, labels: {rbac.authorization.k8s.io/aggregate-to-view: 'true'}}
rules: [{apiGroups: [shop.example.com], resources: [shelves], verbs: [get]}]
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: names, namespace: shop}
spec: {hard: {services: '5'}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: guard, namespace: shop}
spec:
  selector: {matchLabels: {app: guard}}
  template:
    metadata: {labels: {app: guard}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: guard, image: corral.dev/host, command: [sleep, '1000']}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: monitor, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: monitor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:monitoring'}
subjects: [{kind: ServiceAccount, name: monitor, namespace: shop}]
";

/// The stock API server on machines of the test's own. Fields are dropped in this order: nodes end while the server is
/// there.
struct Stock {
    machines: Machines,
    controllers: Option<Process>,
    scheduler: Option<Process>,
    api: Option<Process>,
    _etcd: Process,
}

impl Stock {
    fn start() -> Self {
        let machines = Machines::new(&[&[SERVER], &NODES[..]].concat(), Links::Switch);
        let folder = machines.path(SERVER);
        std::fs::create_dir_all(&folder).expect("the directory is ours");
        let address = machines.address(SERVER).to_string();
        certificates(&folder, &address);
        let url = format!("https://{address}:6443");
        for name in ["admin", CONTROLLERS, SCHEDULER] {
            kubeconfig(
                &folder,
                &url,
                name,
                &folder.join(format!("{name}.kubeconfig")),
            );
        }
        let data = folder.join("etcd").display().to_string();
        let etcd = spawn(&machines, "etcd", Path::new("etcd"), &["--data-dir", &data]);
        let mut stock = Self {
            machines,
            controllers: None,
            scheduler: None,
            api: None,
            _etcd: etcd,
        };
        stock.start_api();
        stock
    }

    fn file(&self, name: &str) -> String {
        self.machines.path(SERVER).join(name).display().to_string()
    }

    fn start_api(&mut self) {
        let advertise = format!("--advertise-address={}", self.machines.address(SERVER));
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.file(name));
        let flags = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            advertise,
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            file("client-ca-file", "ca.crt"),
            file("tls-cert-file", "api.crt"),
            file("tls-private-key-file", "api.key"),
            file("kubelet-client-certificate", "kubelet-client.crt"),
            file("kubelet-client-key", "kubelet-client.key"),
            file("service-account-key-file", "sa.key"),
            file("service-account-signing-key-file", "sa.key"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let program = binary("kube-apiserver");
        self.api = Some(spawn(&self.machines, "kube-apiserver", &program, &flags));
        self.machines.await_server();
    }

    fn start_controllers(&mut self) {
        let flags = [
            "controllers".to_owned(),
            LOG.to_owned(),
            format!(
                "--kubeconfig={}",
                self.file(&format!("{CONTROLLERS}.kubeconfig"))
            ),
            "--use-service-account-credentials".to_owned(),
            "--allocate-node-cidrs".to_owned(),
            "--cluster-cidr=10.244.0.0/16".to_owned(),
            format!("--root-ca-file={}", self.file("ca.crt")),
            format!("--cluster-signing-cert-file={}", self.file("ca.crt")),
            format!("--cluster-signing-key-file={}", self.file("ca.key")),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.controllers = Some(spawn(&self.machines, "controllers", &corral(), &flags));
    }

    fn start_scheduler(&mut self) {
        let file = self.file(&format!("{SCHEDULER}.kubeconfig"));
        let flags = ["scheduler", LOG, "--kubeconfig", &file];
        self.scheduler = Some(spawn(&self.machines, "scheduler", &corral(), &flags));
    }

    fn start_agent(&mut self, node: &str) {
        let url = format!("https://{}:6443", self.machines.address(SERVER));
        let file = self.file(&format!("{node}.kubeconfig"));
        let user = format!("system:node:{node}");
        kubeconfig(&self.machines.path(SERVER), &url, &user, Path::new(&file));
        let ca = self.file("ca.crt");
        let flags = [
            "agent",
            "--kubeconfig",
            &file,
            "--client-ca-file",
            &ca,
            "--node-name",
            node,
        ];
        self.machines.start(node, &flags);
    }

    /// Asks for a page of controllers or scheduler: the code, and the page.
    fn page(&self, port: u16, path: &str, token: Option<&str>) -> (String, String) {
        let token = token.map(|token| format!("-H 'Authorization: Bearer {token}'"));
        let said = self.machines.try_shell(
            SERVER,
            &format!(
                "curl -sk -w '%{{http_code}}' {} https://127.0.0.1:{port}{path}",
                token.unwrap_or_default()
            ),
        );
        let at = said.out.len().saturating_sub(3);
        (said.out[at..].to_owned(), said.out[..at].to_owned())
    }

    /// The holder of a lease in kube-system.
    fn holder(&self, lease: &str) -> String {
        let path = "jsonpath={.spec.holderIdentity}";
        let args = ["-n", "kube-system", "get", "lease", lease, "-o", path];
        self.machines.try_kubectl(&args).out
    }

    /// Has a certificate approved and waits until it is signed.
    fn sign_somebody(&self) {
        let request = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null \
                       -subj /CN=somebody 2>/dev/null | base64 -w0";
        let request = self.machines.shell(SERVER, request);
        self.machines.apply(&format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: somebody}}\n\
             spec:\n  request: {request}\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n"
        ));
        self.machines
            .kubectl(&["certificate", "approve", "somebody"]);
        let certificate = [
            "get",
            "csr",
            "somebody",
            "-o",
            "jsonpath={.status.certificate}",
        ];
        self.machines.wait("a signed certificate", || {
            !self.machines.kubectl(&certificate).is_empty()
        });
    }

    fn shop(&self, args: &[&str]) -> String {
        self.machines.kubectl(&[&["-n", "shop"], args].concat())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for name in ["controllers", "scheduler"] {
            let log = std::fs::read_to_string(self.machines.path(&format!("{name}.log")));
            eprintln!("{name}:\n{}", log.unwrap_or_default());
        }
    }
}

/// Starts a program on the server's machine.
fn spawn(machines: &Machines, name: &str, program: &Path, args: &[&str]) -> Process {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(machines.path(&format!("{name}.log")))
        .expect("a log file");
    let mut command = machines.command(SERVER, program);
    Process::start(command.args(args).stderr(log))
}

/// The cluster's authority and who it signs, as kubeadm would make them.
fn certificates(folder: &Path, address: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    let signed = |file: &str, subject: &str, usage: &str| {
        format!(
            "openssl req -x509 {key} -CA ca.crt -CAkey ca.key -keyout {file}.key -out {file}.crt -subj {subject} \
             -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage={usage} \
             -addext subjectAltName=IP:{address},IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes.default.svc"
        )
    };
    let client = |file: &str, subject: &str| signed(file, subject, "clientAuth");
    let mut script = vec![
        "set -e".to_owned(),
        format!(
            "openssl req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=cluster-ca -addext keyUsage=critical,keyCertSign"
        ),
        "openssl ecparam -name prime256v1 -genkey -noout -out sa.key".to_owned(),
        signed("api", "/CN=kube-apiserver", "serverAuth"),
        client(
            "kubelet-client",
            "/O=system:masters/CN=kube-apiserver-kubelet-client",
        ),
        client("admin", "/O=system:masters/CN=admin"),
        client(CONTROLLERS, &format!("/CN={CONTROLLERS}")),
        client(SCHEDULER, &format!("/CN={SCHEDULER}")),
    ];
    for node in NODES {
        let user = format!("system:node:{node}");
        script.push(client(&user, &format!("/O=system:nodes/CN={user}")));
    }
    let mut shell = Command::new("sh");
    succeed(shell.args(["-c", &script.join("\n")]).current_dir(folder));
}

fn kubeconfig(folder: &Path, url: &str, user: &str, path: &Path) {
    let file = |end: &str| folder.join(format!("{user}.{end}")).display().to_string();
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{url}', certificate-authority: '{}'}}}}]\n\
         users: [{{name: u, user: {{client-certificate: '{}', client-key: '{}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        folder.join("ca.crt").display(),
        file("crt"),
        file("key"),
    );
    std::fs::write(path, text).expect("the directory is ours");
}

/// A shop on the stock API server, converged.
fn open_shop() -> Stock {
    let mut stock = Stock::start();
    stock.machines.apply(NODES_ROUTE);
    stock.start_controllers();
    stock.start_scheduler();
    NODES.iter().for_each(|node| stock.start_agent(node));
    stock.machines.await_nodes(NODES.len());
    stock.machines.apply(&format!("{SHOP}---{MORE}"));
    for workload in ["deployment/web", "statefulset/till", "daemonset/guard"] {
        stock.shop(&["rollout", "status", workload, "--timeout=60s"]);
    }
    stock
}

/// A program in a pod asks the shop, and so does one on the server through a forwarded port.
fn streams_pass(stock: &Stock, transport: Transport) {
    let page = "import urllib.request as r; print(r.urlopen('http://web.shop/', timeout=5).read().decode())";
    let exec = ["exec", "deploy/web", "--", "python3", "-c", page];
    let exec = [&["-n", "shop"], &exec[..]].concat();
    stock.machines.wait("the shop to answer by its name", || {
        let mut command = stock.machines.kubectl_command(&exec);
        transport.set(&mut command);
        let said = command.output().expect("nsenter is installed");
        String::from_utf8_lossy(&said.stdout).contains("The Corral Feed Shop")
    });
    let forward = ["-n", "shop", "port-forward", "deploy/web", "18080:8080"];
    let mut command = stock.machines.kubectl_command(&forward);
    transport.set(&mut command);
    let mut forward = Stream::of(&mut command);
    forward.line_where(|line| line.starts_with("Forwarding from 127.0.0.1"));
    let page = stock
        .machines
        .shell(SERVER, "curl -s http://127.0.0.1:18080/");
    assert!(page.contains("The Corral Feed Shop"), "{page}");
    forward.end();
}

#[test]
fn our_controllers_scheduler_and_nodes_run_a_shop_on_the_stock_api_server() {
    let stock = open_shop();
    let version = stock.machines.kubectl(&["version"]);
    assert!(version.contains("Server Version: v1.36.3\n"), "{version}");
    let slices = "jsonpath={.items[*].endpoints[*].addresses[0]}";
    let of_web = "kubernetes.io/service-name=web";
    let endpoints = stock.shop(&["get", "endpointslices", "-l", of_web, "-o", slices]);
    assert_eq!(endpoints.split(' ').count(), 3, "{endpoints}");
    let old = stock.shop(&[
        "get",
        "endpoints",
        "web",
        "-o",
        "jsonpath={.subsets[*].addresses[*].ip}",
    ]);
    assert_eq!(old.split(' ').count(), 3, "{old}");
    for transport in [Transport::WebSocket, Transport::Spdy] {
        streams_pass(&stock, transport);
    }

    // Its claim is held by a finalizer that only a controller takes off: see the end of the namespace.
    let shelf = ["pvc/shelf", "-o", "jsonpath={.metadata.finalizers}"];
    let held = stock.shop(&[&["get"], &shelf[..]].concat());
    assert_eq!(held, "[\"kubernetes.io/pvc-protection\"]");
    stock.shop(&["wait", "job/fleeting", "--for=delete", "--timeout=60s"]);
    stock.machines.wait("what events tell", || {
        let events = stock.shop(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        [
            "NoPods",
            "Scheduled",
            "SuccessfulCreate",
            "ScalingReplicaSet",
            "Started",
        ]
        .iter()
        .all(|reason| events.contains(reason))
    });
    stock.machines.wait("a role that others add to", || {
        let view = [
            "get",
            "clusterrole",
            "view",
            "-o",
            "jsonpath={.rules[*].resources}",
        ];
        stock.machines.kubectl(&view).contains("shelves")
    });
    for (what, path, wanted) in [
        ("pdb/web", "{.status.disruptionsAllowed}", "1"),
        ("quota/names", "{.status.used.services}", "1"),
        (
            "configmap/kube-root-ca.crt",
            "{.metadata.name}",
            "kube-root-ca.crt",
        ),
    ] {
        let output = format!("jsonpath={path}");
        let args = ["-n", "shop", "get", what, "-o", &output];
        stock
            .machines
            .wait(what, || stock.machines.try_kubectl(&args).out == wanted);
    }

    // A change rolls out, jobs run, and what is deleted takes everything with it.
    stock.shop(&["set", "env", "deployment/web", "VERSION=2"]);
    stock.shop(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    stock.shop(&["create", "job", "now", "--from=cronjob/report"]);
    let complete = "--for=condition=Complete";
    stock.shop(&["wait", "job/now", complete, "--timeout=60s"]);
    assert_eq!(stock.shop(&["logs", "job/now"]), "sold out\n");
    let foreground = "--cascade=foreground";
    stock.shop(&["delete", "deployment", "web", foreground, "--timeout=60s"]);
    assert_eq!(
        stock.shop(&["get", "pods,replicasets", "-l", "app=web", "-o", "name"]),
        ""
    );
    stock.shop(&["delete", "statefulset", "till"]);
    stock.machines.wait("the till's pods to follow it", || {
        let pods = stock.shop(&["get", "pods", "-l", "app=till", "-o", "name"]);
        pods.is_empty()
    });
    let cron =
        "jsonpath={.items[?(@.metadata.ownerReferences[0].name==\"minutely\")].status.succeeded}";
    stock.machines.wait("the job of the minute", || {
        stock.shop(&["get", "jobs", "-o", cron]).starts_with('1')
    });
    stock
        .machines
        .kubectl(&["delete", "namespace", "shop", "--timeout=60s"]);

    // Nobody was refused for want of rights.
    for name in ["controllers", "scheduler"] {
        let log = stock.machines.path(&format!("{name}.log"));
        let log = std::fs::read_to_string(log).expect("a log");
        let refused = log.lines().find(|line| line.contains("forbidden: User"));
        assert_eq!(refused, None);
        assert!(!log.contains("Unauthorized"), "{log}");
    }
}

#[test]
fn our_components_outlive_the_stock_api_server_and_hand_their_leases_on() {
    let mut stock = open_shop();
    let token = stock.shop(&["create", "token", "monitor"]);
    for port in [10_257, 10_259] {
        assert_eq!(
            stock.page(port, "/healthz", None),
            ("200".to_owned(), "ok".to_owned())
        );
        assert_eq!(stock.page(port, "/metrics", None).0, "403");
        assert_eq!(stock.page(port, "/metrics", Some("wrong")).0, "401");
        let (code, page) = stock.page(port, "/metrics", Some(token.trim()));
        assert_eq!(code, "200", "{page}");
        assert!(page.contains("corral_cache_lists_total"), "{page}");
    }

    stock.sign_somebody();

    // The server goes as in a crash, and comes back.
    drop(stock.api.take());
    stock.start_api();
    stock.shop(&["scale", "deployment/web", "--replicas=4"]);
    stock.shop(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    // A second candidate waits until the first hands its lease back.
    let first = stock.controllers.take().expect("they run");
    let leases = ["kube-controller-manager", "kube-scheduler"];
    let holders = leases.map(|lease| stock.holder(lease));
    stock.start_controllers();
    assert!(first.terminate(), "the controllers end in order");
    stock.machines.wait("the other candidate to lead", || {
        let holder = stock.holder(leases[0]);
        !holder.is_empty() && holder != holders[0]
    });
    let scheduler = stock.scheduler.take().expect("it runs");
    assert!(scheduler.terminate(), "the scheduler ends in order");
    assert_eq!(stock.holder(leases[1]), "");
    stock.start_scheduler();
    stock.shop(&["scale", "deployment/web", "--replicas=5"]);
    stock.shop(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    let refused = |kubeconfig: PathBuf| {
        let mut command = stock.machines.command(SERVER, corral());
        let said = command
            .arg("scheduler")
            .arg("--secure-port=0")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .output();
        let said = said.expect("nsenter is installed");
        assert!(!said.status.success());
        String::from_utf8_lossy(&said.stderr).into_owned()
    };
    let file = stock.machines.path("wrong.kubeconfig");
    assert!(refused(file.clone()).contains("cannot use the kubeconfig"));
    let right = std::fs::read_to_string(stock.file("admin.kubeconfig")).expect("a file");
    let user = right.find("users:").expect("it names users");
    let context = right.find("contexts:").expect("it names contexts");
    let nobody = "users: [{name: u, user: {token: wrong}}]\n";
    std::fs::write(
        &file,
        format!("{}{nobody}{}", &right[..user], &right[context..]),
    )
    .expect("a file");
    assert!(refused(file.clone()).contains("does not know the user"));
    let other = right.replace("/ca.crt", "/admin.crt");
    std::fs::write(&file, other).expect("a file");
    assert!(refused(file).contains("is not the server that the kubeconfig"));
}
