//! Drives the real binary with real clients: what end-to-end tests share.
//!
//! A [`Cluster`] is a `corral up` of its own on a free port and in a temporary directory; dropping it stops its pods
//! and removes what it made. [`Cluster::kubectl`] runs the unmodified kubectl that `scripts/clients` built.

pub mod machines;
mod process;

pub use process::Process;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long anything is waited for; generous, because test machines are slow and shared.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often something outside is looked at that cannot be awaited.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the project")
        .to_owned()
}

/// The `corral` binary next to the test's own.
pub fn corral() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let target = test
        .ancestors()
        .nth(2)
        .expect("tests live in target/PROFILE/deps");
    target.join("corral")
}

/// Flags that every `corral` with a node is started with beside its verb: what a test sees must not depend on how full
/// the disk of its machine is. When nodes evict for want of it is tested where the disk is made up, in the node's tests.
fn flags_of_nodes(verb: &str) -> &'static [&'static str] {
    match verb {
        "up" | "agent" => &["--eviction-hard", "memory.available<100Mi"],
        _ => &[],
    }
}

/// The kubectl of a minor version, such as `1.36`.
pub fn kubectl_path(version: &str) -> PathBuf {
    root()
        .join(".cache/clients")
        .join(format!("kubectl-{version}"))
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A cluster of a test's own.
pub struct Cluster {
    directory: tempfile::TempDir,
    process: Option<Child>,
    /// The verb of `corral` and flags beyond those that every cluster is started with.
    args: Vec<String>,
}

impl Cluster {
    /// Starts a cluster and waits until its node is ready.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// Starts a cluster with flags of its own, and waits until its node is ready.
    pub fn up_with(flags: &[&str]) -> Self {
        let mut cluster = Self::new(&[&["up", "--node-name", "node-1"], flags].concat());
        cluster.start();
        cluster.wait("the node to be ready", || {
            let said = cluster.try_kubectl(&["get", "nodes", "--no-headers"]);
            said.ok && said.out.contains(" Ready ")
        });
        cluster.wait("the default service account", || {
            cluster.try_kubectl(&["get", "sa", "default"]).ok
        });
        cluster
    }

    /// Starts a cluster with flags of its own, and waits until its API answers, but for nothing that controllers do.
    pub fn up_bare(flags: &[&str]) -> Self {
        let mut cluster = Self::new(&[&["up", "--node-name", "node-1"], flags].concat());
        cluster.start();
        cluster
    }

    /// Starts a control plane without a node, and waits until it answers. It has the keys of another if one is given.
    pub fn server_with(flags: &[&str], keys_of: Option<&Self>) -> Self {
        let mut cluster = Self::new(&[&["server"], flags].concat());
        if let Some(other) = keys_of {
            std::fs::create_dir_all(cluster.data_dir()).expect("the directory is ours");
            let mut copy = Command::new("cp");
            copy.arg("-r")
                .arg(other.data_dir().join("pki"))
                .arg(cluster.data_dir());
            machines::succeed(&mut copy);
        }
        cluster.start();
        cluster
    }

    fn new(args: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("corral-e2e-")
            .tempdir()
            .expect("a temporary directory");
        Self {
            directory,
            process: None,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        }
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// What the cluster logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Starts the cluster's process; its data directory may hold an earlier life.
    pub fn start(&mut self) {
        let open = |name: &str| {
            let path = self.directory.path().join(name);
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .expect("a log file")
        };
        let _ = std::fs::remove_file(self.kubeconfig());
        let process = Command::new(corral())
            .args(&self.args)
            .args(flags_of_nodes(&self.args[0]))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(open("out"))
            .stderr(open("log"))
            .spawn()
            .expect("the corral binary is built; run scripts/test");
        self.process = Some(process);
        self.wait("the API to be ready", || {
            self.try_kubectl(&["get", "--raw", "/readyz"]).ok
        });
    }

    /// Ends the cluster's process as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("the process is ours");
            process.wait().expect("the process is ours");
        }
    }

    /// Tells the cluster's process to end in order.
    pub fn tell_to_end(&self) {
        if let Some(process) = &self.process {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).expect("a pid"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
                .expect("the process is ours");
        }
    }

    /// Ends the cluster's process in order.
    pub fn terminate(&mut self) {
        self.tell_to_end();
        if let Some(mut process) = self.process.take() {
            process.wait().expect("the process is ours");
        }
    }

    /// The client whose version is the server's, in the namespace `default`.
    pub fn client(&self) -> Kubectl<'_> {
        self.client_of("1.36", "default")
    }

    /// kubectl of a minor version, in a namespace.
    pub fn client_of<'a>(&'a self, version: &'a str, namespace: &'a str) -> Kubectl<'a> {
        Kubectl {
            cluster: self,
            version,
            namespace,
            transport: Transport::WebSocket,
        }
    }

    /// Runs kubectl.
    pub fn try_kubectl(&self, args: &[&str]) -> Said {
        self.client().try_run(args)
    }

    /// A kubectl that is not started yet.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        self.client().command(args)
    }

    /// Runs kubectl, which must succeed, and answers what it printed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.client().run(args)
    }

    /// Applies a manifest.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.client()
            .run_with_input(&["apply", "-f", "-"], manifest)
    }

    /// Runs kubectl with input.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Said {
        self.client().try_run_with_input(args, input)
    }

    /// A value out of an object.
    #[track_caller]
    pub fn jsonpath(&self, what: &[&str], path: &str) -> String {
        let output = format!("jsonpath={path}");
        let mut args = vec!["get"];
        args.extend(what);
        args.extend(["-o", &output]);
        self.kubectl(&args)
    }

    /// The address of the API.
    pub fn server(&self) -> String {
        self.kubectl(&[
            "config",
            "view",
            "-o",
            "jsonpath={.clusters[0].cluster.server}",
        ])
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + WAIT_MAX;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}\n{}\nlog:\n{}",
                self.try_kubectl(&["get", "pods,events", "-A", "-o", "wide"])
                    .out,
                self.log_tail()
            );
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// kubectl of one version, in one namespace of a cluster.
#[derive(Clone, Copy)]
pub struct Kubectl<'a> {
    cluster: &'a Cluster,
    version: &'a str,
    namespace: &'a str,
    transport: Transport,
}

/// What kubectl carries streams of pods over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As it does unasked.
    WebSocket,
    /// As older clients, and controllers written in Go, do.
    Spdy,
}

impl Transport {
    /// Tells a kubectl that is not started yet.
    pub fn set(self, command: &mut Command) {
        if self == Self::Spdy {
            command
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
                .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
    }
}

impl Kubectl<'_> {
    /// The same with streams carried otherwise.
    #[must_use]
    pub fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// A kubectl that is not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(kubectl_path(self.version));
        command
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .args(["--namespace", self.namespace])
            .args(args)
            .stdin(Stdio::null());
        // Discovery is cached per host and port, and ports are used again.
        let cache = format!("kube-cache-{}", self.version);
        command.env("KUBECACHEDIR", self.cluster.directory.path().join(cache));
        self.transport.set(&mut command);
        command
    }

    /// Runs it.
    pub fn try_run(&self, args: &[&str]) -> Said {
        self.command(args)
            .output()
            .map(Said::of)
            .expect("kubectl is built; run scripts/clients")
    }

    /// Runs it; it must succeed. Answers what it printed.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        self.succeeded(args, self.try_run(args))
    }

    /// Runs it with input.
    pub fn try_run_with_input(&self, args: &[&str], input: &str) -> Said {
        use std::io::Write;
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is built; run scripts/clients");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin
            .write_all(input.as_bytes())
            .expect("kubectl reads its input");
        drop(stdin);
        Said::of(child.wait_with_output().expect("kubectl ends"))
    }

    /// Runs it with input; it must succeed. Answers what it printed.
    #[track_caller]
    pub fn run_with_input(&self, args: &[&str], input: &str) -> String {
        self.succeeded(args, self.try_run_with_input(args, input))
    }

    /// Starts it, for output that is read while it runs.
    pub fn stream(&self, args: &[&str]) -> Stream {
        Stream::of(&mut self.command(args))
    }

    #[track_caller]
    fn succeeded(&self, args: &[&str], said: Said) -> String {
        assert!(
            said.ok,
            "kubectl {} {args:?} failed\n{}{}\nlog:\n{}",
            self.version,
            said.out,
            said.err,
            self.cluster.log_tail()
        );
        said.out
    }
}

/// A client that goes on running; dropping it ends it.
pub struct Stream {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Stream {
    /// Starts a command.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("clients are built; run scripts/clients");
        let out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, lines) = mpsc::channel();
        // A thread, because a pipe cannot be read with a deadline. It ends with the client's output.
        std::thread::spawn(move || {
            let mut lines = out.lines().map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// Its standard input, if that was piped and not taken yet.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Ends it, and answers the lines that were not read.
    pub fn end(mut self) -> Vec<String> {
        // One that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lines.iter().collect()
    }

    /// The next line, or nothing at the end.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(WAIT_MAX) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line comes and no end"),
        }
    }

    /// Reads until a line fits; what came before it is skipped.
    #[track_caller]
    pub fn line_where(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        let deadline = Instant::now() + WAIT_MAX;
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if fits(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("the line did not come, only:\n{}", seen.join("\n"));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.terminate();
        let down = Command::new(corral())
            .arg("down")
            .arg("--data-dir")
            .arg(self.data_dir())
            .output();
        if !down.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("corral down failed: {down:?}");
        }
    }
}
