//! Controllers and scheduler as processes of their own, over our own API server.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use corral_e2e::{Cluster, corral};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// A process that ends with the test.
struct Component(Child);

impl Component {
    fn start(folder: &Path, role: &str, cluster: &Cluster, flags: &[&str]) -> Self {
        let log = std::fs::File::create(folder.join(format!("{role}.log"))).expect("a file");
        let mut command = Command::new(corral());
        command
            .args([role, "--secure-port=0", "--kubeconfig"])
            .arg(cluster.kubeconfig())
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Self(command.spawn().expect("the corral binary is built"))
    }

    /// Tells it to end, and answers whether it ended in order.
    fn terminate(mut self) -> bool {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("the process is ours");
        self.0.wait().expect("the process is ours").success()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn controllers_and_scheduler_run_apart_from_the_server_and_hand_their_leases_back() {
    let cluster = Cluster::up_bare(&["--no-controllers", "--no-scheduler"]);
    let folder = tempfile::tempdir().expect("a directory");
    let accounts = ["--use-service-account-credentials"];
    let controllers = Component::start(folder.path(), "controllers", &cluster, &accounts);
    let scheduler = Component::start(folder.path(), "scheduler", &cluster, &[]);
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
