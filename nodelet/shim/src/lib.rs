//! The shim: one small, single-threaded process per pod that makes the pod's containers and outlives the node agent.
//!
//! It is the only caller of libcontainer, which is not thread-safe and changes process-wide state; every libcontainer
//! operation therefore runs in a short-lived forked child ([`container`]), whose containers become children of the
//! shim, so that a plain `waitpid` gives their exit codes. One poll loop ([`server`]) serves a unix socket
//! ([`protocol`]), copies container output into CRI log files ([`log`]), feeds attached clients ([`stdio`]), reaps,
//! and writes exit records ([`exit`]) atomically, so that an agent that was down learns how a container ended.
//!
//! ```text
//!   agent ──unix socket──▶ shim (subreaper) ──fork──▶ operation child ──libcontainer──▶ container init
//!                            ▲      │ reap, exit records, logs                              │
//!                            └──────┴────────────── pipes / terminal ◀───────────────────────┘
//! ```
//!
//! What it does not do: no images, no mounts outside a container, no network configuration, no policy about restarts.
//! Reading order: [`protocol`], [`sandbox`], [`sysctl`], [`container`], [`stdio`], [`log`], [`exit`], [`cgroup`], [`server`], `sys`.

pub mod cgroup;
pub mod container;
pub mod exit;
pub mod log;
pub mod protocol;
pub mod sandbox;
pub mod server;
pub mod stdio;
mod sys;
pub mod sysctl;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// What went wrong while a shim starts or serves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is not `--pod-dir D`.
    #[error("usage: shim --pod-dir DIRECTORY")]
    Usage,
    /// A file of the pod directory could not be used.
    #[error("cannot use {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `sandbox.json` does not parse.
    #[error("sandbox.json is not valid")]
    Sandbox(#[source] serde_json::Error),
    /// A kernel parameter is not one of the pod's own namespaces.
    #[error("{name:?} is not a kernel parameter of this pod's own namespaces")]
    Sysctl {
        /// Its name.
        name: String,
    },
    /// A system call failed.
    #[error("{call} failed")]
    System {
        /// Which call.
        call: &'static str,
        /// The system's reason.
        source: nix::Error,
    },
}

impl Error {
    pub(crate) fn system(call: &'static str) -> impl FnOnce(nix::Error) -> Error {
        move |source| Error::System { call, source }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    }
}

/// The line a shim prints on its standard output once its socket accepts connections.
pub const READY: &str = "READY";

/// Runs a shim: call it before any thread exists, with the arguments that follow the sub-command name.
///
/// The process that calls it ends at once; the shim is its detached grandchild. Standard output stays open until the
/// shim is ready and printed [`READY`], or failed and printed why, so the caller waits for end of file.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("ERROR {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn start(mut args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let (Some(flag), Some(dir), None) = (args.next(), args.next(), args.next()) else {
        return Err(Error::Usage);
    };
    if flag != "--pod-dir" {
        return Err(Error::Usage);
    }
    let dir = std::fs::canonicalize(&dir).map_err(Error::file(Path::new(&dir)))?;
    if let sys::Fork::Parent(_) = sys::fork().map_err(Error::system("fork"))? {
        return Ok(());
    }
    setsid().map_err(Error::system("setsid"))?;
    if let sys::Fork::Parent(_) = sys::fork().map_err(Error::system("fork"))? {
        return Ok(());
    }
    detach(&dir)?;
    let server = server::Server::new(&dir)?;
    println!("{READY} {}", std::process::id());
    std::io::stdout()
        .flush()
        .map_err(Error::file(Path::new("stdout")))?;
    let null = open_null()?;
    dup2_stdout(&null).map_err(Error::system("dup2"))?;
    server.run()
}

/// Cuts the ties to whoever started this process: directory, descriptors, input, signal dispositions.
fn detach(dir: &Path) -> Result<(), Error> {
    sys::close_from(3);
    nix::unistd::chdir(dir).map_err(Error::system("chdir"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let null = open_null()?;
    dup2_stdin(&null).map_err(Error::system("dup2"))?;
    let path = dir.join("shim.err");
    let errors = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(&path)
        .map_err(Error::file(&path))?;
    dup2_stderr(&errors).map_err(Error::system("dup2"))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(Error::system("prctl"))?;
    // The kernel keeps 15 bytes; the name is what `ps` shows beside the full command line.
    let _ = nix::sys::prctl::set_name(c"corral-shim");
    // The shim must be the last thing the kernel kills for memory: without it nobody reaps the pod's containers. A
    // machine that forbids it (no CAP_SYS_RESOURCE) runs without the protection.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    Ok(())
}

fn open_null() -> Result<std::fs::File, Error> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(Error::file(Path::new("/dev/null")))
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}

/// Reads from a non-blocking unix socket, with the descriptors that were passed; for clients of a shim.
pub fn receive_with_fds(
    socket: std::os::fd::BorrowedFd<'_>,
    buffer: &mut [u8],
) -> std::io::Result<(usize, Vec<std::os::fd::OwnedFd>)> {
    Ok(sys::receive(socket, buffer)?)
}
