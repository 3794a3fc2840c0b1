//! Controllers and scheduler as processes of their own, over our own API server.

use std::path::Path;
use std::process::Command;

use corral_e2e::{Cluster, Process, corral};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: corral.dev/host, command: [sleep, '1000']}]
";

/// Starts a part of Corral over the server of a cluster.
fn start(folder: &Path, role: &str, cluster: &Cluster, flags: &[&str]) -> Process {
    let log = std::fs::File::create(folder.join(format!("{role}.log"))).expect("a file");
    let mut command = Command::new(corral());
    command
        .args([role, "--secure-port=0", "--kubeconfig"])
        .arg(cluster.kubeconfig())
        .args(flags)
        .stderr(log);
    Process::start(&mut command)
}

#[test]
fn controllers_and_scheduler_run_apart_from_the_server_and_hand_their_leases_back() {
    let cluster = Cluster::up_bare(&["--no-controllers", "--no-scheduler"]);
    let folder = tempfile::tempdir().expect("a directory");
    let accounts = ["--use-service-account-credentials"];
    let controllers = start(folder.path(), "controllers", &cluster, &accounts);
    let scheduler = start(folder.path(), "scheduler", &cluster, &[]);
    cluster.wait("the default service account", || {
        cluster.try_kubectl(&["get", "sa", "default"]).ok
    });
    cluster.apply(WEB);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    let holder = |lease: &str| {
        let lease = ["lease", lease, "-n", "kube-system"];
        cluster.jsonpath(&lease, "{.spec.holderIdentity}")
    };
    for (component, lease) in [
        (controllers, "kube-controller-manager"),
        (scheduler, "kube-scheduler"),
    ] {
        assert_ne!(holder(lease), "");
        assert!(component.terminate(), "it ends in order");
        assert_eq!(holder(lease), "", "{lease}");
    }
    for name in ["controllers", "scheduler"] {
        let log = folder.path().join(format!("{name}.log"));
        let log = std::fs::read_to_string(log).expect("a log");
        assert!(
            !log.contains("forbidden") && !log.contains("panicked"),
            "{log}"
        );
    }
}
