//! Flux's kustomize-controller, unmodified: what a source tells of a git repository is applied, kept, pruned and removed.
//!
//! The test stands in for source-controller: it serves archives of a repository, and writes the status of its GitRepository.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use corral_e2e::{Cluster, root};
use serde_json::{Value, json};

use super::envtest::go;
use super::gitops::Repository;

/// How much of the controller's log helps to understand a failure.
const LOG_LINES: usize = 20;

/// The definitions of kinds that a module of Go brings with it.
fn definitions(module: &str) -> PathBuf {
    let output = go()
        .current_dir(root().join("e2e/go").join(module))
        .args(["mod", "download", "-json"])
        .arg(format!("github.com/fluxcd/{module}"))
        .output()
        .expect("Go is there");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let folder = told["Dir"].as_str();
    let folder = folder.unwrap_or_else(|| panic!("{module}: {output:?}"));
    Path::new(folder).join("config/crd/bases")
}

/// Archives by their names, over HTTP.
struct Archives {
    address: SocketAddr,
    kept: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Archives {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let kept = Arc::new(Mutex::new(HashMap::new()));
        let shared = kept.clone();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away asks again.
                let _ = answer(stream, &shared);
            }
        });
        Self { address, kept }
    }

    fn keep(&self, name: &str, archive: Vec<u8>) -> String {
        let mut kept = self.kept.lock().expect("nobody panicked");
        kept.insert(name.to_owned(), archive);
        format!("http://{}/{name}", self.address)
    }
}

fn answer(mut stream: TcpStream, kept: &Mutex<HashMap<String, Vec<u8>>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let name = request.split(' ').nth(1).unwrap_or_default();
    let kept = kept.lock().expect("nobody panicked");
    let (status, body) = match kept.get(name.trim_start_matches('/')) {
        Some(archive) => ("200 OK", archive.as_slice()),
        None => ("404 Not Found", &b""[..]),
    };
    let size = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)
}

/// The controller's process.
struct Controller {
    process: Child,
    folder: tempfile::TempDir,
}

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let log = std::fs::File::create(folder.path().join("log")).expect("the folder is ours");
        let process = Command::new(root().join(".cache/clients/kustomize-controller"))
            .args(["--metrics-addr=0", "--health-addr=0"])
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("RUNTIME_NAMESPACE", "default")
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the controller is built; run cargo xtask clients-go");
        Self { process, folder }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("kustomize-controller:\n{}", last.join("\n"));
        }
        // One that has ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const SOURCE: &str = "
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: bakery}
spec: {interval: 1h, url: 'https://git.example/bakery', ref: {branch: main}}
";
/// The rights of the one in whose name the controller writes.
const BAKER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: baker}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: baker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: ServiceAccount, name: baker}]
";
const KUSTOMIZATION: &str = "
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: corner}
spec:
  interval: 1h
  retryInterval: 1s
  timeout: 50s
  path: ./corner
  prune: true
  wait: true
  targetNamespace: default
  serviceAccountName: baker
  sourceRef: {kind: GitRepository, name: bakery}
  postBuild: {substitute: {price: three}}
";

const MANIFESTS: &str = "
resources: [shop.yaml, flyer.yaml]
configMapGenerator:
- {name: bread, literals: [kind=rye]}
";
const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: a, image: corral.dev/host, command: [sleep, infinity], envFrom: [{configMapRef: {name: bread}}]}
";
const FLYER: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: flyer}\ndata: {price: '${price}'}\n";

/// The ConfigMap that the Deployment takes its environment from.
const REFERENCE: &str = "{..configMapRef.name}";

/// A cluster with Flux in it.
struct Flux {
    cluster: Cluster,
    archives: Archives,
    repository: Repository,
}

impl Flux {
    fn start() -> Self {
        let cluster = Cluster::up();
        for module in ["source-controller", "kustomize-controller"] {
            let folder = definitions(module).display().to_string();
            cluster.kubectl(&["apply", "--server-side", "-f", &folder]);
        }
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
        cluster.apply(BAKER);
        cluster.apply(SOURCE);
        Self {
            cluster,
            archives: Archives::serve(),
            repository: Repository::new(),
        }
    }

    /// Commits a content, and tells it as source-controller does. Answers the revision in Flux's words.
    fn push(&self, files: &[(&str, &str)]) -> String {
        let hash = self.repository.commit(files);
        let archive = self.repository.archive();
        let (size, digest) = (archive.len(), sha256(&archive));
        let path = format!("gitrepository/default/bakery/{hash}.tar.gz");
        let url = self.archives.keep(&path, archive);
        let revision = format!("main@sha1:{hash}");
        let now = "2026-01-01T00:00:00Z";
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored artifact",
            "lastTransitionTime": now, "observedGeneration": 1,
        });
        let status = json!({"status": {
            "observedGeneration": 1, "conditions": [ready],
            "artifact": {
                "path": path, "url": url, "revision": revision, "lastUpdateTime": now, "size": size,
                "digest": format!("sha256:{digest}"),
            },
        }});
        let patch = [
            "patch",
            "gitrepository",
            "bakery",
            "--subresource=status",
            "--type=merge",
        ];
        let status = status.to_string();
        self.cluster
            .kubectl(&[&patch[..], &["-p", &status]].concat());
        revision
    }

    #[track_caller]
    fn await_applied(&self, revision: &str) {
        self.cluster.wait("the revision to be applied", || {
            let path =
                "{.status.lastAppliedRevision} {.status.conditions[?(@.type==\"Ready\")].status}";
            self.get("kustomization", "corner", path) == format!("{revision} True")
        });
    }

    /// Has the controller look again, and waits until it has.
    fn reconcile(&self, request: &str) {
        let note = format!("reconcile.fluxcd.io/requestedAt={request}");
        self.cluster
            .kubectl(&["annotate", "--overwrite", "kustomization", "corner", &note]);
        self.cluster.wait("the request to be handled", || {
            self.get(
                "kustomization",
                "corner",
                "{.status.lastHandledReconcileAt}",
            ) == request
        });
    }

    fn get(&self, kind: &str, name: &str, path: &str) -> String {
        self.cluster.jsonpath(&[kind, name], path)
    }

    /// What carries the controller's label, of the kinds that are in the repository.
    fn applied(&self) -> Vec<String> {
        let label = "kustomize.toolkit.fluxcd.io/name=corner";
        let listed = ["get", "deployments,configmaps", "-l", label, "-o", "name"];
        let listed = self.cluster.kubectl(&listed);
        listed.lines().map(str::to_owned).collect()
    }
}

fn sha256(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("the file is ours");
    let said = Command::new("sha256sum").arg(file.path()).output();
    let said = String::from_utf8(said.expect("coreutils").stdout).expect("hexadecimal");
    said.split(' ').next().expect("a digest").to_owned()
}

#[test]
fn what_is_in_a_repository_is_applied_kept_pruned_and_removed_with_flux() {
    let flux = Flux::start();
    let _controller = Controller::start(&flux.cluster);
    let first = flux.push(&[
        ("corner/kustomization.yaml", MANIFESTS),
        ("corner/shop.yaml", SHOP),
        ("corner/flyer.yaml", FLYER),
    ]);
    flux.cluster.apply(KUSTOMIZATION);
    flux.await_applied(&first);
    let rye = flux.get("deployment", "shop", REFERENCE);
    installed(&flux, &rye);

    let wheat = MANIFESTS
        .replace("rye", "wheat")
        .replace(", flyer.yaml", "");
    let second = flux.push(&[
        ("corner/kustomization.yaml", &wheat),
        ("corner/shop.yaml", SHOP),
    ]);
    flux.await_applied(&second);
    let wheat = flux.get("deployment", "shop", REFERENCE);
    assert_ne!(wheat, rye);
    assert_eq!(flux.get("configmap", &wheat, "{.data.kind}"), "wheat");
    assert_eq!(flux.applied(), shop_and(&[&wheat]));

    drift(&flux, &wheat);
    refusal(&flux);

    flux.cluster
        .kubectl(&["delete", "kustomization", "corner", "--timeout=60s"]);
    assert!(flux.applied().is_empty(), "{:?}", flux.applied());
    flux.get("gitrepository", "bakery", "{.status.artifact.revision}");
}

fn shop_and(maps: &[&str]) -> Vec<String> {
    let maps = maps.iter().map(|name| format!("configmap/{name}"));
    std::iter::once("deployment.apps/shop".to_owned())
        .chain(maps)
        .collect()
}

/// What the first revision has made.
fn installed(flux: &Flux, rye: &str) {
    assert!(rye.starts_with("bread-"), "{rye}");
    assert_eq!(flux.applied(), shop_and(&[rye, "flyer"]));
    // The health of what it applies is waited for.
    let ready = flux.get("deployment", "shop", "{.status.readyReplicas}");
    assert_eq!(ready, "1");
    assert_eq!(flux.get("configmap", "flyer", "{.data.price}"), "three");
    let owner = "{.metadata.managedFields[?(@.operation==\"Apply\")].manager}";
    let owner = flux
        .cluster
        .jsonpath(&["deployment", "shop", "--show-managed-fields"], owner);
    assert_eq!(owner, "kustomize-controller");
    let entries = "{.status.inventory.entries[*].id}";
    let inventory = flux.get("kustomization", "corner", entries);
    let mut inventory: Vec<&str> = inventory.split(' ').collect();
    inventory.sort_unstable();
    let bread = format!("default_{rye}__ConfigMap");
    let others = ["default_flyer__ConfigMap", "default_shop_apps_Deployment"];
    assert_eq!(inventory, [&[bread.as_str()], &others[..]].concat());
}

/// What others change is put back when the controller looks.
fn drift(flux: &Flux, bread: &str) {
    let patch = ["--type=merge", "-p", r#"{"spec":{"replicas":4}}"#];
    flux.cluster
        .kubectl(&[&["patch", "deployment", "shop"], &patch[..]].concat());
    flux.cluster.kubectl(&["delete", "configmap", bread]);
    flux.reconcile("first");
    assert_eq!(flux.get("deployment", "shop", "{.spec.replicas}"), "1");
    assert_eq!(flux.get("configmap", bread, "{.data.kind}"), "wheat");
    let version = || flux.get("deployment", "shop", "{.metadata.generation}");
    let before = version();
    flux.reconcile("second");
    assert_eq!(version(), before, "there was nothing to do");
}

/// What the account may not do is told, and nothing of it is done.
fn refusal(flux: &Flux) {
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: greedy}\nrules: []\n";
    let manifests = "resources: [role.yaml]\n";
    flux.push(&[
        ("corner/kustomization.yaml", manifests),
        ("corner/role.yaml", role),
    ]);
    let ready = |path: &str| {
        let path = format!("{{.status.conditions[?(@.type==\"Ready\")].{path}}}");
        flux.get("kustomization", "corner", &path)
    };
    flux.cluster
        .wait("the refusal", || ready("status") == "False");
    let told = ready("message");
    assert!(
        told.contains("system:serviceaccount:default:baker"),
        "{told}"
    );
    assert_eq!(
        flux.applied().len(),
        2,
        "nothing is pruned for a revision that failed"
    );
    let gone = flux.cluster.try_kubectl(&["get", "clusterrole", "greedy"]);
    assert!(gone.err.contains("NotFound"), "{gone:?}");
}
