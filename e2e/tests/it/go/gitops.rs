//! Argo CD's engine, unmodified: a namespace follows a git repository, in waves, with hooks, and drift is undone.

use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use corral_e2e::machines::succeed;
use corral_e2e::{Cluster, Stream, root};
use serde_json::Value;

/// A git repository of a test's own.
pub struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let repository = Self { folder };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Commits a whole new content, and answers the revision.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        self.git(&["rm", "-r", "--quiet", "--ignore-unmatch", "."]);
        for (name, text) in files {
            let path = self.path().join(name);
            let folder = path.parent().expect("a file is in a folder");
            std::fs::create_dir_all(folder).expect("the folder is ours");
            std::fs::write(path, text).expect("the folder is ours");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=a revision"]);
        let hash = self.output(&["rev-parse", "HEAD"]);
        String::from_utf8_lossy(&hash).trim().to_owned()
    }

    /// What is committed, as a compressed archive.
    pub fn archive(&self) -> Vec<u8> {
        self.output(&["archive", "--format=tar.gz", "HEAD^{tree}"])
    }

    fn output(&self, args: &[&str]) -> Vec<u8> {
        let output = self.command(args).output().expect("git is installed");
        assert!(output.status.success(), "{args:?}: {output:?}");
        output.stdout
    }

    fn git(&self, args: &[&str]) {
        succeed(&mut self.command(args));
    }

    /// Git with nothing of whoever runs the tests.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(self.path()).args(args);
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "baker");
            command.env(format!("GIT_{who}_EMAIL"), "baker@example.com");
        }
        command
    }
}

/// The program of `e2e/go/gitops`.
struct Agent {
    lines: Stream,
    input: ChildStdin,
}

impl Agent {
    fn start(cluster: &Cluster, repository: &Repository, server_side: bool) -> Self {
        let mut command = Command::new(root().join(".cache/clients/gitops"));
        command
            .arg("--repository")
            .arg(repository.path())
            .arg(format!("--server-side={server_side}"))
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdin(Stdio::piped());
        let mut lines = Stream::of(&mut command);
        let input = lines.input().expect("a pipe");
        Self { lines, input }
    }

    /// Has it take what is committed, and answers what the sync did to each object.
    fn pull(&mut self, revision: &str) -> Value {
        writeln!(self.input).expect("the agent runs");
        self.next(|said| said["synced"] == revision)
    }

    /// The next that it says which fits.
    fn next(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let read = |line: &str| serde_json::from_str(line).unwrap_or(Value::Null);
        let line = self.lines.line_where(|line| fits(&read(line)));
        read(&line)
    }
}

/// What became of an object in a sync.
fn outcome<'a>(synced: &'a Value, object: &str) -> &'a Value {
    let outcomes = synced["outcomes"].as_array().expect("a list");
    let mut found = outcomes.iter().filter(|one| one["object"] == object);
    let one = found.next().unwrap_or_else(|| panic!("{object}: {synced}"));
    assert!(found.next().is_none(), "{object}: {synced}");
    one
}

const HOOKS: &str = "
apiVersion: batch/v1
kind: Job
metadata:
  name: sweep
  annotations: {argocd.argoproj.io/hook: PreSync, argocd.argoproj.io/hook-delete-policy: BeforeHookCreation}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: a, image: corral.dev/host, command: ['true']}]
---
apiVersion: batch/v1
kind: Job
metadata:
  name: open
  annotations: {argocd.argoproj.io/hook: PostSync, argocd.argoproj.io/hook-delete-policy: HookSucceeded}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: a, image: corral.dev/host, command: ['true']}]
";
const SHOP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: bread, annotations: {argocd.argoproj.io/sync-wave: '-1'}}
data: {kind: rye}
---
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
      containers: [{name: a, image: corral.dev/host, command: [sleep, infinity]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: sign, annotations: {argocd.argoproj.io/sync-wave: '1'}}
data: {says: open}
";
const FLYER: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: flyer}\ndata: {price: '3'}\n";

#[test]
fn a_namespace_follows_a_repository_with_argo_cds_engine() {
    follow(false);
}

#[test]
fn a_namespace_follows_a_repository_with_argo_cds_engine_and_server_side_apply() {
    follow(true);
}

fn follow(server_side: bool) {
    let cluster = Cluster::up();
    let repository = Repository::new();
    let mut agent = Agent::start(&cluster, &repository, server_side);
    let first = repository.commit(&[
        ("hooks.yaml", HOOKS),
        ("shop.yaml", SHOP),
        ("flyer.yaml", FLYER),
    ]);
    let synced = agent.pull(&first);
    installed(&cluster, &synced, server_side);
    let healthy = agent.next(|said| said["states"]["Deployment/shop"]["health"] == "Healthy");
    let tree = &healthy["states"]["Deployment/shop"]["tree"];
    assert_eq!(
        *tree,
        serde_json::json!(["Deployment", "Pod", "ReplicaSet"])
    );

    let changed = SHOP.replace("replicas: 1", "replicas: 2");
    let changed = changed.replace("kind: rye", "kind: wheat");
    let second = repository.commit(&[("shop.yaml", &changed)]);
    let synced = agent.pull(&second);
    assert_eq!(outcome(&synced, "ConfigMap/flyer")["result"], "Pruned");
    assert_eq!(outcome(&synced, "ConfigMap/bread")["result"], "Synced");
    let gone = cluster.try_kubectl(&["get", "configmap", "flyer"]);
    assert!(gone.err.contains("NotFound"), "{gone:?}");
    // The hook is none of ours, so that it stays.
    cluster.kubectl(&["get", "job", "sweep"]);
    let value = |kind: &str, name: &str, path: &str| cluster.jsonpath(&[kind, name], path);
    assert_eq!(value("cm", "bread", "{.data.kind}"), "wheat");
    cluster.wait("two replicas", || {
        value("deploy", "shop", "{.status.readyReplicas}") == "2"
    });

    drift(&cluster, &mut agent);
}

/// What the first revision has made.
fn installed(cluster: &Cluster, synced: &Value, server_side: bool) {
    let sweep = outcome(synced, "Job/sweep");
    assert_eq!(
        (&sweep["hook"], &sweep["phase"]),
        (&"PreSync".into(), &"Succeeded".into())
    );
    let open = outcome(synced, "Job/open");
    assert_eq!(
        (&open["hook"], &open["phase"]),
        (&"PostSync".into(), &"Succeeded".into())
    );
    let names = [
        "ConfigMap/bread",
        "ConfigMap/flyer",
        "Deployment/shop",
        "ConfigMap/sign",
    ];
    for name in names {
        assert_eq!(outcome(synced, name)["result"], "Synced", "{synced}");
    }
    assert_eq!(synced["waves"], 5, "one before, three, one after: {synced}");

    // One wave waits for the one before it to be healthy.
    let time = |kind: &str, name: &str, path: &str| {
        let time = cluster.jsonpath(&[kind, name], path);
        assert!(!time.is_empty(), "{kind} {name} {path}");
        time
    };
    let created = |kind: &str, name: &str| time(kind, name, "{.metadata.creationTimestamp}");
    let available = "{.status.conditions[?(@.type==\"Available\")].lastTransitionTime}";
    let order = [
        time("job", "sweep", "{.status.completionTime}"),
        created("configmap", "bread"),
        created("deployment", "shop"),
        time("deployment", "shop", available),
        created("configmap", "sign"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    let gone = cluster.try_kubectl(&["get", "job", "open"]);
    assert!(gone.err.contains("NotFound"), "{gone:?}");

    let owners = "{.metadata.managedFields[?(@.operation==\"Apply\")].manager}";
    let owners = cluster.jsonpath(&["configmap", "bread", "--show-managed-fields"], owners);
    assert_eq!(owners, if server_side { "gitops" } else { "" });
}

/// What others change is put back.
fn drift(cluster: &Cluster, agent: &mut Agent) {
    for (kind, name, patch, path, value) in [
        (
            "ConfigMap",
            "bread",
            r#"{"data":{"kind":"white"}}"#,
            "{.data.kind}",
            "wheat",
        ),
        (
            "Deployment",
            "shop",
            r#"{"spec":{"replicas":5}}"#,
            "{.spec.replicas}",
            "2",
        ),
    ] {
        let version = "jsonpath={.metadata.resourceVersion}";
        let version = cluster.kubectl(&[
            "patch",
            kind,
            name,
            "--type=merge",
            "-p",
            patch,
            "-o",
            version,
        ]);
        // The Deployment's controller may have written meanwhile.
        let seen = format!("{kind}/{name} is at ");
        agent.next(|said| {
            let lines = said["drift"].as_array().into_iter().flatten();
            let mut versions = lines.filter_map(|line| line.as_str()?.strip_prefix(&seen));
            let number = |version: &str| version.parse::<u64>().expect("a number");
            versions.any(|at| number(at) >= number(&version))
        });
        cluster.wait("the change to be undone", || {
            cluster.jsonpath(&[kind, name], path) == value
        });
    }
    let uid = || cluster.jsonpath(&["configmap", "sign"], "{.metadata.uid}");
    let before = uid();
    cluster.kubectl(&["delete", "configmap", "sign"]);
    agent.next(|said| said["drift"].to_string().contains("ConfigMap/sign is gone"));
    cluster.wait("the object to be made again", || {
        cluster.try_kubectl(&["get", "configmap", "sign"]).ok
    });
    assert_ne!(uid(), before);
}
