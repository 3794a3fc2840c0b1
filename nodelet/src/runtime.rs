//! The edge to whatever runs containers.
//!
//! A *sandbox* is a pod's shared namespaces and the shim that owns its containers; it is a directory on disk, named by
//! the pod's uid, which outlives this process. [`ContainerRuntime`] is implemented by [`shim::ShimRuntime`]; tests of
//! the layers above use [`testing::FakeRuntime`].

pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod testing;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use async_trait::async_trait;
use corral_shim::protocol::{ContainerState, ErrorKind, ExitRecord};
use tokio::sync::{oneshot, watch};

/// What a pod's containers share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The pod's uid.
    pub uid: String,
    /// The host name of the pod.
    pub hostname: String,
    /// Use the node's network instead of an own one.
    pub host_network: bool,
    /// Use the node's IPC namespace.
    pub host_ipc: bool,
    /// All containers see each other's processes.
    pub share_pids: bool,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// A container ready to be started: its OCI bundle's specification and its streams.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// The container's id, unique within the sandbox for ever (`web-0`, `web-1`).
    pub id: String,
    /// The OCI runtime specification.
    pub oci: serde_json::Value,
    /// Its cgroup path.
    pub cgroup: String,
    /// Its log file.
    pub log_path: PathBuf,
    /// It has a terminal.
    pub terminal: bool,
    /// Its stdin stays open.
    pub stdin: bool,
    /// Its stdin closes with the first client's.
    pub stdin_once: bool,
}

/// A process to run in a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It gets a terminal.
    pub terminal: bool,
    /// It is given input.
    pub stdin: bool,
    /// Its output is wanted.
    pub stdout: bool,
    /// Its error output is wanted.
    pub stderr: bool,
    /// It dies when the session is dropped.
    pub kill_on_drop: bool,
}

/// The streams of an exec or attach session, and its end.
#[derive(Debug)]
pub struct Session {
    /// Write here what goes to stdin.
    pub stdin: Option<OwnedFd>,
    /// Read stdout here.
    pub stdout: Option<OwnedFd>,
    /// Read stderr here.
    pub stderr: Option<OwnedFd>,
    /// The terminal, instead of the three (exec only).
    pub terminal: Option<OwnedFd>,
    /// The exec'd process, for [`ContainerRuntime::resize`]; `None` for an attached container.
    pub pid: Option<i32>,
    /// How it ended; an error when the shim went away.
    pub exit: oneshot::Receiver<ExitRecord>,
}

/// The state of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub enum SandboxState {
    /// The shim answers; these are its containers.
    Alive(Vec<ContainerState>),
    /// The shim is gone. What it ran must be cleaned up with [`ContainerRuntime::remove_sandbox`].
    Lost,
}

/// Why the runtime could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shim refused or failed.
    #[error("{message}")]
    Refused {
        /// For programs.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// The sandbox's shim does not answer.
    #[error("the pod's shim is gone")]
    Lost,
    /// The file system or a system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let action = action.into();
        move |source| Error::System { action, source }
    }
}

/// Makes sandboxes and runs containers in them.
#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Makes a sandbox; one of the same uid must not exist.
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<(), Error>;
    /// The uids of all sandboxes on disk, those of earlier processes included.
    async fn sandboxes(&self) -> Result<Vec<String>, Error>;
    /// Follows a sandbox's state; the first value is the present one.
    async fn watch(&self, uid: &str) -> Result<watch::Receiver<SandboxState>, Error>;
    /// Kills what runs in a sandbox and forgets it; its directory stays.
    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error>;
    /// Where a namespace (`net`, `pid`…) of a sandbox is found.
    fn namespace(&self, uid: &str, name: &str) -> PathBuf;
    /// Creates and starts a container and says when it started.
    async fn start(&self, uid: &str, container: &ContainerSpec) -> Result<String, Error>;
    /// Sends a signal to a container's first process, or to all of them.
    async fn signal(&self, uid: &str, id: &str, signal: i32, all: bool) -> Result<(), Error>;
    /// Forgets an ended container.
    async fn remove(&self, uid: &str, id: &str) -> Result<(), Error>;
    /// Runs a process in a container.
    async fn exec(&self, uid: &str, id: &str, exec: &ExecSpec) -> Result<Session, Error>;
    /// Joins a container's streams.
    async fn attach(&self, uid: &str, id: &str, streams: &ExecSpec) -> Result<Session, Error>;
    /// Sets a terminal's size: that of an exec'd process or the container's own.
    async fn resize(
        &self,
        uid: &str,
        id: &str,
        pid: Option<i32>,
        columns: u16,
        rows: u16,
    ) -> Result<(), Error>;
}
