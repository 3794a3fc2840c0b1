//! The real runtime: one shim process per pod, spoken to over its unix socket.
//!
//! Sandboxes live in `<data>/pods/<uid>/`. A shim is started by running this program's own executable with `shim
//! --pod-dir …`; it detaches and outlives this process, which finds it again by its socket.

mod fit;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use corral_shim::cgroup;
use corral_shim::protocol::{
    Attach, ErrorKind, Exec, ExitRecord, Kill, LogTarget, Request, Resize, Response, SOCKET, Start,
    body_len, encode,
};
use corral_shim::sandbox::{SANDBOX_FILE, Sandbox, namespace_path, release};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use super::{ContainerRuntime, ContainerSpec, Error, ExecSpec, SandboxSpec, SandboxState, Session};
use crate::cgroup::Cgroups;

/// A log file is rotated at this size, as kubelets do by default.
const LOG_SIZE_MAX: u64 = 10 << 20;

/// How many log files of one container instance are kept.
const LOG_FILES_MAX: u32 = 5;

/// How long a shim may take to answer: starting a container on a machine under heavy load takes seconds at worst.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long killed processes may take to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where and how shims are made.
#[derive(Debug, Clone)]
pub struct ShimConfig {
    /// The program and first arguments that run a shim (`["/proc/self/exe", "shim"]`).
    pub command: Vec<String>,
    /// The directory of all pods.
    pub pods_dir: PathBuf,
    /// The node's cgroups.
    pub cgroups: Cgroups,
}

/// Runs containers through shims.
#[derive(Debug, Clone)]
pub struct ShimRuntime {
    config: ShimConfig,
}

impl ShimRuntime {
    /// A runtime for the pods of one directory.
    pub fn new(config: ShimConfig) -> Self {
        Self { config }
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.pods_dir.join(uid)
    }

    fn bundle(&self, uid: &str, id: &str) -> PathBuf {
        self.pod_dir(uid).join("containers").join(id)
    }

    async fn connect(&self, uid: &str) -> Result<Connection, Error> {
        Connection::open(&self.pod_dir(uid)).await
    }

    async fn ask(&self, uid: &str, request: &Request) -> Result<Response, Error> {
        let mut connection = self.connect(uid).await?;
        connection.send(request, &[]).await?;
        match tokio::time::timeout(ANSWER_TIMEOUT, connection.receive()).await {
            Ok(answer) => refused(answer?.0),
            Err(_) => Err(Error::Lost),
        }
    }

    async fn spawn(&self, directory: &Path) -> Result<(), Error> {
        let (program, arguments) = self.config.command.split_first().ok_or(Error::Lost)?;
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .arg("--pod-dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .output()
            .await
            .map_err(Error::system("start a shim"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match said.strip_prefix(corral_shim::READY) {
            Some(pid) => {
                // In a cgroup of its own the shim is not stopped together with the agent's service.
                if let Ok(pid) = pid.trim().parse() {
                    self.config.cgroups.adopt_shim(pid);
                }
                Ok(())
            }
            None => Err(Error::Refused {
                kind: ErrorKind::Other,
                message: said.trim().to_owned(),
            }),
        }
    }

    /// The OCI process of an exec: the container's own with another command.
    fn exec_process(
        &self,
        uid: &str,
        id: &str,
        exec: &ExecSpec,
    ) -> Result<serde_json::Value, Error> {
        let path = self.bundle(uid, id).join("config.json");
        let text =
            std::fs::read(&path).map_err(Error::system("read the container's specification"))?;
        let mut spec: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| Error::system("parse the container's specification")(error.into()))?;
        let mut process = spec["process"].take();
        process["args"] = exec.command.clone().into();
        process["terminal"] = exec.terminal.into();
        Ok(process)
    }

    async fn session(
        &self,
        uid: &str,
        request: Request,
        streams: &ExecSpec,
        exec: bool,
    ) -> Result<Session, Error> {
        let mut pipes = Pipes::default();
        if !(exec && streams.terminal) {
            pipes.open(streams.stdin, streams.stdout, streams.stderr)?;
        }
        let mut connection = self.connect(uid).await?;
        connection.send(&request, &pipes.theirs).await?;
        pipes.theirs.clear();
        let (answer, fds) = connection.receive().await?;
        let pid = match refused(answer)? {
            Response::Started { pid, .. } => Some(pid),
            _ => None,
        };
        let (sender, exit) = oneshot::channel();
        let keep = streams.kill_on_drop;
        tokio::spawn(async move { await_exit(connection, sender, keep).await });
        Ok(Session {
            stdin: pipes.stdin,
            stdout: pipes.stdout,
            stderr: pipes.stderr,
            terminal: fds.into_iter().next(),
            pid,
            exit,
        })
    }

    /// Kills everything in the pod's cgroup and waits until it is empty.
    async fn kill_stragglers(&self, uid: &str) {
        let path = self.config.cgroups.pod(uid);
        let deadline = tokio::time::Instant::now() + KILL_TIMEOUT;
        while tokio::time::Instant::now() < deadline {
            match cgroup::signal_all(cgroup::hierarchy(), &path, Signal::SIGKILL) {
                Ok(0) | Err(_) => return,
                // A killed process leaves its cgroup when the kernel is done with it; nothing announces that on v1.
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Waits for the end of a session. Dropping the receiver drops the connection when `stop_with_receiver`.
async fn await_exit(
    mut connection: Connection,
    mut sender: oneshot::Sender<ExitRecord>,
    stop_with_receiver: bool,
) {
    loop {
        let answer = if stop_with_receiver {
            tokio::select! {
                answer = connection.receive() => answer,
                () = sender.closed() => return,
            }
        } else {
            connection.receive().await
        };
        match answer {
            Ok((Response::Exited { exit }, _)) => {
                let _ = sender.send(exit);
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[async_trait]
impl ContainerRuntime for ShimRuntime {
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<(), Error> {
        let directory = self.pod_dir(&spec.uid);
        std::fs::create_dir_all(&directory).map_err(Error::system("make the pod's directory"))?;
        let sandbox = Sandbox {
            hostname: spec.hostname.clone(),
            network: !spec.host_network,
            ipc: !spec.host_ipc,
            uts: !spec.host_network,
            pid: spec.share_pids,
            sysctls: spec.sysctls.clone(),
        };
        let text = serde_json::to_vec(&sandbox).expect("plain data serialises");
        std::fs::write(directory.join(SANDBOX_FILE), text)
            .map_err(Error::system("write sandbox.json"))?;
        self.spawn(&directory).await
    }

    async fn sandboxes(&self) -> Result<Vec<String>, Error> {
        let mut uids = Vec::new();
        let entries = match std::fs::read_dir(&self.config.pods_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(uids),
            Err(error) => return Err(Error::system("list the pods' directory")(error)),
        };
        for entry in entries.flatten() {
            if entry.path().join(SANDBOX_FILE).exists() {
                uids.extend(entry.file_name().into_string());
            }
        }
        Ok(uids)
    }

    async fn watch(&self, uid: &str) -> Result<watch::Receiver<SandboxState>, Error> {
        let mut connection = match self.connect(uid).await {
            Ok(connection) => connection,
            Err(Error::Lost) => return Ok(watch::channel(SandboxState::Lost).1),
            Err(error) => return Err(error),
        };
        connection.send(&Request::Watch, &[]).await?;
        let Ok((Response::State { containers }, _)) = connection.receive().await else {
            return Ok(watch::channel(SandboxState::Lost).1);
        };
        let (sender, receiver) = watch::channel(SandboxState::Alive(containers));
        tokio::spawn(async move {
            loop {
                let state = tokio::select! {
                    answer = connection.receive() => match answer {
                        Ok((Response::State { containers }, _)) => SandboxState::Alive(containers),
                        Ok(_) => continue,
                        Err(_) => SandboxState::Lost,
                    },
                    () = sender.closed() => return,
                };
                let lost = state == SandboxState::Lost;
                if sender.send(state).is_err() || lost {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.kill_stragglers(uid).await;
        if let Ok(Response::State { containers }) = self.ask(uid, &Request::State).await {
            for container in containers {
                // The shim may still be draining the output of what was just killed.
                if let Err(error) = self.remove(uid, &container.id).await {
                    tracing::debug!(%uid, id = container.id, %error, "container not removed with its sandbox");
                }
            }
            let _ = self.ask(uid, &Request::Shutdown).await;
        }
        let directory = self.pod_dir(uid);
        release(&directory).map_err(Error::system("release the pod's namespaces"))?;
        let _ = std::fs::remove_file(directory.join(SOCKET));
        match std::fs::remove_file(directory.join(SANDBOX_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::system("remove sandbox.json")(error))
            }
            _ => Ok(()),
        }
    }

    fn namespace(&self, uid: &str, name: &str) -> PathBuf {
        namespace_path(&self.pod_dir(uid), name)
    }

    async fn start(&self, uid: &str, container: &ContainerSpec) -> Result<String, Error> {
        let bundle = self.bundle(uid, &container.id);
        std::fs::create_dir_all(&bundle)
            .map_err(Error::system("make the container's directory"))?;
        let mut oci = container.oci.clone();
        fit::to_libcontainer(&mut oci);
        fit::to_machine(&mut oci, &fit::Allowance::read());
        std::fs::write(bundle.join("config.json"), oci.to_string())
            .map_err(Error::system("write the container's specification"))?;
        if let Some(directory) = container.log_path.parent() {
            std::fs::create_dir_all(directory).map_err(Error::system("make the log directory"))?;
        }
        let start = Start {
            id: container.id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            cgroup: container.cgroup.clone(),
            log: LogTarget {
                path: container.log_path.to_string_lossy().into_owned(),
                size_max: LOG_SIZE_MAX,
                files_max: LOG_FILES_MAX,
            },
            terminal: container.terminal,
            stdin: container.stdin,
            stdin_once: container.stdin_once,
        };
        match self.ask(uid, &Request::Start(start)).await? {
            Response::Started { started_at, .. } => Ok(started_at),
            _ => Err(Error::Lost),
        }
    }

    async fn signal(&self, uid: &str, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        self.ask(
            uid,
            &Request::Kill(Kill {
                id: id.to_owned(),
                signal,
                all,
            }),
        )
        .await
        .map(|_| ())
    }

    async fn remove(&self, uid: &str, id: &str) -> Result<(), Error> {
        let mut watch = self.watch(uid).await?;
        let ended = watch.wait_for(|state| match state {
            SandboxState::Lost => true,
            SandboxState::Alive(list) => list
                .iter()
                .all(|found| found.id != id || found.exit.is_some()),
        });
        let _ = tokio::time::timeout(KILL_TIMEOUT, ended).await;
        self.ask(uid, &Request::Delete { id: id.to_owned() })
            .await
            .map(|_| ())
    }

    async fn exec(&self, uid: &str, id: &str, exec: &ExecSpec) -> Result<Session, Error> {
        let request = Request::Exec(Exec {
            id: id.to_owned(),
            process: self.exec_process(uid, id, exec)?,
            stdin: exec.stdin,
            stdout: exec.stdout,
            stderr: exec.stderr,
            kill_on_close: exec.kill_on_drop,
        });
        self.session(uid, request, exec, true).await
    }

    async fn attach(&self, uid: &str, id: &str, streams: &ExecSpec) -> Result<Session, Error> {
        let request = Request::Attach(Attach {
            id: id.to_owned(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        });
        // The connection of an attached client must end with it, or the shim keeps its streams.
        let streams = ExecSpec {
            kill_on_drop: true,
            ..streams.clone()
        };
        self.session(uid, request, &streams, false).await
    }

    async fn resize(
        &self,
        uid: &str,
        id: &str,
        pid: Option<i32>,
        columns: u16,
        rows: u16,
    ) -> Result<(), Error> {
        let resize = Resize {
            id: id.to_owned(),
            exec: pid,
            columns,
            rows,
        };
        self.ask(uid, &Request::Resize(resize)).await.map(|_| ())
    }
}

fn refused(response: Response) -> Result<Response, Error> {
    match response {
        Response::Error { message, kind } => Err(Error::Refused { kind, message }),
        other => Ok(other),
    }
}

/// Pipes for a session: our ends by name, theirs in the order in which they are passed.
#[derive(Default)]
struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    fn open(&mut self, stdin: bool, stdout: bool, stderr: bool) -> Result<(), Error> {
        let pipe = || {
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
                .map_err(|error| Error::system("make a pipe")(error.into()))
        };
        if stdin {
            let (read, write) = pipe()?;
            self.theirs.push(read);
            self.stdin = Some(write);
        }
        for (wanted, ours) in [(stdout, &mut self.stdout), (stderr, &mut self.stderr)] {
            if wanted {
                let (read, write) = pipe()?;
                self.theirs.push(write);
                *ours = Some(read);
            }
        }
        Ok(())
    }
}

/// One connection to a shim.
struct Connection {
    stream: UnixStream,
}

impl Connection {
    async fn open(pod_dir: &Path) -> Result<Self, Error> {
        // A socket address holds 108 bytes; through a descriptor of the directory any depth fits.
        let directory = match std::fs::File::open(pod_dir) {
            Ok(directory) => directory,
            Err(_) => return Err(Error::Lost),
        };
        let address = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        match UnixStream::connect(&address).await {
            Ok(stream) => Ok(Self { stream }),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    Err(Error::Lost)
                }
                _ => Err(Error::system("connect to a shim")(error)),
            },
        }
    }

    async fn send(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<(), Error> {
        let frame = encode(request);
        let mut rest = frame.as_slice();
        let mut fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        while !rest.is_empty() {
            let written = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    send_once(self.stream.as_fd(), rest, &fds)
                })
                .await
                .map_err(|_| Error::Lost)?;
            fds.clear();
            rest = &rest[written..];
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<(Response, Vec<OwnedFd>), Error> {
        let mut prefix = [0; 4];
        let mut read = 0;
        let mut fds = Vec::new();
        while read < 4 {
            let (n, mut passed) = self
                .stream
                .async_io(Interest::READABLE, || {
                    corral_shim::receive_with_fds(self.stream.as_fd(), &mut prefix[read..])
                })
                .await
                .map_err(|_| Error::Lost)?;
            if n == 0 {
                return Err(Error::Lost);
            }
            read += n;
            fds.append(&mut passed);
        }
        let length = body_len(prefix).ok_or(Error::Lost)?;
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .await
            .map_err(|_| Error::Lost)?;
        let response = serde_json::from_slice(&body)
            .map_err(|error| Error::system("understand a shim's answer")(error.into()))?;
        Ok((response, fds))
    }
}

fn send_once(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<usize> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let slices = [std::io::IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(
        socket.as_raw_fd(),
        &slices,
        control,
        flags,
        None,
    )?)
}
