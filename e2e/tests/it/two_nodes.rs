//! Two nodes that join one control plane: three network namespaces on a switch stand for three machines.
//!
//! Agents are started by `nsenter`, not `ip netns exec`: that one mounts a new `/sys`, without the control groups.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use corral_e2e::{WAIT_MAX, corral, kubectl_path};

const LOOK_PERIOD: Duration = Duration::from_millis(100);
const SERVER: &str = "192.0.2.1";
/// Machines, and the last part of their addresses in 192.0.2.0/24.
const MACHINES: [(&str, u8); 3] = [("server", 1), ("node-a", 2), ("node-b", 3)];
const SWITCH: &str = "switch";

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

/// The machines and what runs on them; dropping it ends and removes everything.
struct Machines {
    directory: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Machines {
    fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("corral-two-")
            .tempdir()
            .expect("a temporary directory");
        let machines = Self {
            directory,
            processes: Vec::new(),
        };
        // The switch is apart, so that the network of whoever runs the test sees nothing of it.
        let switch = namespace(SWITCH);
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "sw0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "sw0", "up"]);
        for (name, number) in MACHINES {
            let (own, port) = (namespace(name), format!("port{number}"));
            let address = format!("192.0.2.{number}/24");
            ip(&["netns", "add", &own]);
            ip(&["-n", &own, "link", "set", "lo", "up"]);
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", &own,
            ]);
            ip(&["-n", &switch, "link", "set", &port, "master", "sw0", "up"]);
            ip(&["-n", &own, "address", "add", &address, "dev", "eth0"]);
            ip(&["-n", &own, "link", "set", "eth0", "up"]);
            let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
            succeed(machine(name, "sh").args(["-c", forward]));
        }
        machines
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&mut self, name: &str, args: &[&str]) {
        let log = File::create(self.path(&format!("{name}.log"))).expect("a log file");
        let process = machine(name, corral())
            .args(args)
            .arg("--data-dir")
            .arg(self.path(name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nsenter is installed");
        self.processes.push(process);
    }

    fn kubeconfig(&self) -> PathBuf {
        self.path("server").join("admin.kubeconfig")
    }

    fn try_kubectl(&self, args: &[&str]) -> Output {
        let mut command = machine("server", kubectl_path("1.36"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.env("KUBECACHEDIR", self.path("kube-cache"));
        command.args(args).stdin(Stdio::null());
        command.output().expect("nsenter is installed")
    }

    #[track_caller]
    fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(
            output.status.success(),
            "{args:?}: {output:?}{}",
            self.state()
        );
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    #[track_caller]
    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + WAIT_MAX;
        while !holds() {
            let late = Instant::now() >= deadline;
            assert!(!late, "waited in vain for {what}{}", self.state());
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    /// What helps to understand a failure.
    fn state(&self) -> String {
        let objects = self.try_kubectl(&["get", "nodes,pods,events", "-o", "wide"]);
        let mut text = format!("\n{}", String::from_utf8_lossy(&objects.stdout));
        for (name, _) in MACHINES {
            let log = std::fs::read_to_string(self.path(&format!("{name}.log")));
            text += &format!("\n{name}:\n{}", log.unwrap_or_default());
        }
        text
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // The nodes first: they still tell the server that they stop.
        for process in self.processes.iter_mut().rev() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).expect("a pid"));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = process.wait();
        }
        for (name, _) in MACHINES {
            if self.path(name).join("node").exists() {
                let mut down = machine(name, corral());
                let said = down
                    .args(["down", "--data-dir"])
                    .arg(self.path(name))
                    .output();
                if !said.as_ref().is_ok_and(|said| said.status.success()) {
                    eprintln!("corral down on {name} failed: {said:?}");
                }
            }
        }
        for name in MACHINES.map(|(name, _)| name).into_iter().chain([SWITCH]) {
            let mut remove = Command::new("ip");
            let _ = remove.args(["netns", "delete", &namespace(name)]).output();
        }
    }
}

fn namespace(name: &str) -> String {
    format!("corral-{}-{name}", std::process::id())
}

/// A command on a machine.
fn machine(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", namespace(name)));
    command.arg("--").arg(program);
    command
}

#[track_caller]
fn ip(args: &[&str]) {
    succeed(Command::new("ip").args(args));
}

#[track_caller]
fn succeed(command: &mut Command) {
    let output = command.output().expect("the command is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn start_cluster() -> Machines {
    let mut machines = Machines::new();
    let listen = format!("{SERVER}:6443");
    machines.start("server", &["server", "--listen", &listen]);
    machines.wait("the API", || {
        machines.kubeconfig().exists()
            && machines
                .try_kubectl(&["get", "--raw", "/readyz"])
                .status
                .success()
    });
    let token = machines.path("token");
    succeed(
        machine("server", corral())
            .args(["token", "create", "--kubeconfig"])
            .arg(machines.kubeconfig())
            .arg("--out")
            .arg(&token),
    );
    let (url, token) = (format!("https://{listen}"), token.display().to_string());
    for name in ["node-a", "node-b"] {
        let args = [
            "agent",
            "--server",
            &url,
            "--token-file",
            &token,
            "--node-name",
            name,
        ];
        machines.start(name, &args);
    }
    machines.wait("both nodes to be ready", || {
        let nodes = machines.try_kubectl(&["get", "nodes", "--no-headers"]);
        String::from_utf8_lossy(&nodes.stdout)
            .matches(" Ready ")
            .count()
            == 2
    });
    machines
}

#[test]
fn pods_of_two_nodes_reach_each_other_by_address_service_and_name() {
    let machines = start_cluster();
    let manifest = machines.path("manifest.yaml");
    std::fs::write(&manifest, MANIFEST).expect("the directory is ours");
    machines.kubectl(&["apply", "-f", &manifest.display().to_string()]);
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
        machines.kubectl(&["exec", pod, "--", "python3", "-c", &code])
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
