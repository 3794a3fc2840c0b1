//! Several machines on one: network namespaces stand for them, the control groups are shared.
//!
//! ```text
//! Links::Switch   192.0.2.0/24        middle: a bridge          .1 server   .2 node-a   .3 node-b
//! Links::Router   a /30 for each      middle: a router          no two machines share a link
//! ```
//!
//! Agents are started by `nsenter`, not `ip netns exec`: that one mounts a new `/sys`, without the control groups.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::{LOOK_PERIOD, Said, Stream, WAIT_MAX, corral, flags_of_nodes, kubectl_path};

/// The machine that the control plane runs on; the first one.
pub const SERVER: &str = "server";
const MIDDLE: &str = "middle";
/// The port of the API: each machine has all ports to itself.
const API_PORT: u16 = 6443;

/// What is between the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// One link.
    Switch,
    /// Machines reach each other through a router alone.
    Router,
}

/// The machines and what runs on them; dropping it ends and removes everything.
pub struct Machines {
    directory: tempfile::TempDir,
    id: String,
    links: Links,
    names: Vec<String>,
    processes: BTreeMap<String, Child>,
    /// The arguments that corral was started with on a machine.
    started: BTreeMap<String, Vec<String>>,
}

impl Machines {
    /// Machines of these names, the first of them the server, without anything running.
    pub fn new(names: &[&str], links: Links) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix("corral-machines-")
            .tempdir()
            .expect("a temporary directory");
        let machines = Self {
            directory,
            id: format!("corral-{}-{number}", std::process::id()),
            links,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            processes: BTreeMap::new(),
            started: BTreeMap::new(),
        };
        // What connects them is apart, so that the network of whoever runs the test sees nothing of it.
        let middle = machines.namespace(MIDDLE);
        ip(&["netns", "add", &middle]);
        if links == Links::Switch {
            ip(&["-n", &middle, "link", "add", "sw0", "type", "bridge"]);
            ip(&["-n", &middle, "link", "set", "sw0", "up"]);
        }
        machines.forward(MIDDLE);
        for name in names {
            machines.connect(name);
        }
        machines
    }

    fn connect(&self, name: &str) {
        let (own, middle) = (self.namespace(name), self.namespace(MIDDLE));
        let port = format!("to-{name}");
        let address = self.address(name);
        ip(&["netns", "add", &own]);
        ip(&["-n", &own, "link", "set", "lo", "up"]);
        ip(&[
            "-n", &middle, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &own,
        ]);
        let (prefix, gateway) = match self.links {
            Links::Switch => (24, None),
            Links::Router => (30, Some(Ipv4Addr::from_bits(address.to_bits() - 1))),
        };
        let with_prefix = |address: Ipv4Addr| format!("{address}/{prefix}");
        match gateway {
            None => ip(&["-n", &middle, "link", "set", &port, "master", "sw0", "up"]),
            Some(gateway) => {
                let gateway = with_prefix(gateway);
                ip(&["-n", &middle, "address", "add", &gateway, "dev", &port]);
                ip(&["-n", &middle, "link", "set", &port, "up"]);
            }
        }
        ip(&[
            "-n",
            &own,
            "address",
            "add",
            &with_prefix(address),
            "dev",
            "eth0",
        ]);
        ip(&["-n", &own, "link", "set", "eth0", "up"]);
        if let Some(gateway) = gateway {
            let gateway = gateway.to_string();
            ip(&["-n", &own, "route", "add", "default", "via", &gateway]);
        }
        self.forward(name);
    }

    fn forward(&self, name: &str) {
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        succeed(self.command(name, "sh").args(["-c", forward]));
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// The address of a machine.
    pub fn address(&self, name: &str) -> Ipv4Addr {
        let place = self.names.iter().position(|known| known == name);
        let place = u32::try_from(place.expect("a known machine")).expect("few machines");
        let base = Ipv4Addr::new(192, 0, 2, 0).to_bits();
        Ipv4Addr::from_bits(match self.links {
            Links::Switch => base + 1 + place,
            Links::Router => base + 4 * place + 2,
        })
    }

    /// A file or folder of this test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command on a machine.
    pub fn command(&self, name: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(name)));
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a shell's command on a machine; it must succeed. Answers what it printed.
    #[track_caller]
    pub fn shell(&self, name: &str, command: &str) -> String {
        let said = self.try_shell(name, command);
        assert!(said.ok, "{name}: {command}: {said:?}{}", self.state());
        said.out
    }

    /// Runs a shell's command on a machine.
    pub fn try_shell(&self, name: &str, command: &str) -> Said {
        let output = self.command(name, "sh").args(["-c", command]).output();
        Said::of(output.expect("nsenter is installed"))
    }

    /// Starts a shell's command on a machine whose output is read while it runs.
    pub fn stream(&self, name: &str, command: &str) -> Stream {
        Stream::of(
            self.command(name, "sh")
                .args(["-c", &format!("exec {command}")]),
        )
    }

    /// Starts corral on a machine. It may have run there before.
    pub fn start(&mut self, name: &str, args: &[&str]) {
        let kept = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.started.insert(name.to_owned(), kept);
        self.start_again(name);
    }

    /// Starts what was killed, as it was started before.
    pub fn start_again(&mut self, name: &str) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .expect("a log file");
        let args = &self.started[name];
        let process = self
            .command(name, corral())
            .args(args)
            .args(flags_of_nodes(&args[0]))
            .arg("--data-dir")
            .arg(self.path(name))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nsenter is installed");
        self.processes.insert(name.to_owned(), process);
    }

    /// Starts the control plane, and waits until it answers.
    pub fn start_server(&mut self, verb: &str, args: &[&str]) {
        let listen = format!("{}:{API_PORT}", self.address(SERVER));
        self.start(SERVER, &[&[verb, "--listen", &listen], args].concat());
        self.await_server();
        let token = self.path("token");
        if !token.exists() {
            succeed(
                self.command(SERVER, corral())
                    .args(["token", "create", "--kubeconfig"])
                    .arg(self.kubeconfig())
                    .arg("--out")
                    .arg(&token),
            );
        }
    }

    /// Waits until the API answers.
    #[track_caller]
    pub fn await_server(&self) {
        self.wait("the API", || {
            self.kubeconfig().exists() && self.try_kubectl(&["get", "--raw", "/readyz"]).ok
        });
    }

    /// Starts an agent.
    pub fn start_agent(&mut self, name: &str) {
        let url = format!("https://{}:{API_PORT}", self.address(SERVER));
        let token = self.path("token").display().to_string();
        let args = [
            "agent",
            "--server",
            &url,
            "--token-file",
            &token,
            "--node-name",
            name,
        ];
        self.start(name, &args);
    }

    /// Waits until that many nodes are ready.
    #[track_caller]
    pub fn await_nodes(&self, count: usize) {
        self.wait("the nodes to be ready", || {
            let nodes = self.try_kubectl(&["get", "nodes", "--no-headers"]);
            nodes.out.matches(" Ready ").count() == count
        });
        self.wait("the default service account", || {
            self.try_kubectl(&["get", "sa", "default"]).ok
        });
    }

    /// Ends what runs on a machine as a crash would.
    pub fn kill(&mut self, name: &str) {
        let mut process = self.processes.remove(name).expect("something runs there");
        // nsenter becomes the command, so that this is corral itself.
        process.kill().expect("the process is ours");
        process.wait().expect("the process is ours");
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path(SERVER).join("admin.kubeconfig")
    }

    /// A kubectl on the server that is not started yet.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(SERVER, kubectl_path("1.36"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.env("KUBECACHEDIR", self.path("kube-cache"));
        command.args(args);
        command
    }

    /// Runs kubectl on the server.
    pub fn try_kubectl(&self, args: &[&str]) -> Said {
        let output = self.kubectl_command(args).output();
        Said::of(output.expect("nsenter is installed"))
    }

    /// Runs kubectl on the server; it must succeed. Answers what it printed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        let said = self.try_kubectl(args);
        assert!(said.ok, "{args:?}: {said:?}{}", self.state());
        said.out
    }

    /// Applies a manifest.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let path = self.path("manifest.yaml");
        std::fs::write(&path, manifest).expect("the directory is ours");
        self.kubectl(&["apply", "-f", &path.display().to_string()]);
    }

    /// Runs a program of Python in a pod; it must succeed. Answers what it printed.
    #[track_caller]
    pub fn python(&self, pod: &str, code: &str) -> String {
        self.kubectl(&["exec", pod, "--", "python3", "-c", code])
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + WAIT_MAX;
        while !holds() {
            let late = Instant::now() >= deadline;
            assert!(!late, "waited in vain for {what}{}", self.state());
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    /// What helps to understand a failure.
    pub fn state(&self) -> String {
        let objects = self.try_kubectl(&["get", "nodes,pods,services,events", "-o", "wide"]);
        let mut text = format!("\n{}", objects.out);
        for name in &self.names {
            let log = std::fs::read_to_string(self.path(&format!("{name}.log")));
            text += &format!("\n{name}:\n{}", log.unwrap_or_default());
        }
        text
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // The nodes first: they still tell the server that they stop.
        let server = self.processes.remove(SERVER);
        let nodes = std::mem::take(&mut self.processes);
        for mut process in nodes.into_values().chain(server) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).expect("a pid"));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = process.wait();
        }
        for name in &self.names {
            if self.path(name).join("node").exists() {
                let mut down = self.command(name, corral());
                let said = down
                    .args(["down", "--data-dir"])
                    .arg(self.path(name))
                    .output();
                if !said.as_ref().is_ok_and(|said| said.status.success()) {
                    eprintln!("corral down on {name} failed: {said:?}");
                }
            }
        }
        for name in self.names.iter().map(String::as_str).chain([MIDDLE]) {
            let mut remove = Command::new("ip");
            let _ = remove
                .args(["netns", "delete", &self.namespace(name)])
                .output();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    succeed(Command::new("ip").args(args));
}

/// Runs a command, which must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.output().expect("the command is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The cgroups of a name, in every hierarchy.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    fn visit(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
        // Cgroups of others come and go meanwhile.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                visit(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(Path::new("/sys/fs/cgroup"), name, &mut found);
    found
}
