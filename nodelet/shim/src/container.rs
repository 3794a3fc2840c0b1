//! The libcontainer operations, each in a forked child that reports one line of JSON through a pipe.
//!
//! `as_sibling` makes a container's first process a child of the shim instead of the short-lived operation child. The
//! result ends with a newline because the pipe's write end is shared with the container's process until it executes
//! its program: end of file would come too late.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};

use crate::protocol::ErrorKind;
use crate::{Error, sys};

/// libcontainer's state directory inside the pod directory.
const STATE: &str = "state";

/// The name inside error texts by which a missing or forbidden program is recognised across process borders.
const NOT_EXECUTABLE: &str = "exec: ";

/// The descriptors that become a process's 0, 1 and 2.
#[derive(Default)]
pub(crate) struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// A listening socket's path that receives the terminal's master, instead of the three.
    pub console: Option<PathBuf>,
}

/// An operation under way.
pub(crate) struct Operation {
    /// Becomes readable with the result.
    pub result: OwnedFd,
    /// The forked child.
    pub child: Pid,
}

/// What an operation child reports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Pid(i32),
    Done,
    Failed { message: String, kind: ErrorKind },
}

/// Creates and starts a container from `bundle`.
pub(crate) fn start(
    pod_dir: &Path,
    id: &str,
    bundle: &Path,
    stdio: Stdio,
) -> Result<Operation, Error> {
    let root = pod_dir.join(STATE);
    operate(move || {
        std::fs::create_dir_all(&root).context("cannot make the state directory")?;
        let mut container = builder(id, &root, stdio, None)?
            .as_init(bundle)
            .as_sibling(true)
            .with_systemd(false)
            .with_detach(true)
            .build()?;
        let pid = container
            .pid()
            .context("the container has no process")?
            .as_raw();
        if let Err(error) = container.start() {
            let _ = container.delete(true);
            return Err(error.into());
        }
        Ok(Outcome::Pid(pid))
    })
}

/// Runs one more process, described by the OCI process file, in a running container.
pub(crate) fn exec(
    pod_dir: &Path,
    id: &str,
    bundle: &Path,
    process: &Path,
    stdio: Stdio,
) -> Result<Operation, Error> {
    let root = pod_dir.join(STATE);
    operate(move || {
        let spec = Spec::load(bundle.join("config.json"))?;
        let seccomp = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().clone());
        let capabilities = widen_for_filter(process, seccomp.is_some())?;
        let filter = seccomp.map(|profile| Filter {
            profile,
            capabilities,
        });
        let pid = builder(id, &root, stdio, filter)?
            .as_tenant()
            .as_sibling(true)
            .with_detach(true)
            .with_process(Some(process))
            .build()?;
        Ok(Outcome::Pid(pid.as_raw()))
    })
}

/// Frees an ended container's cgroup and state.
pub(crate) fn delete(pod_dir: &Path, id: &str) -> Result<Operation, Error> {
    let root = pod_dir.join(STATE).join(id);
    operate(move || {
        if root.exists() {
            Container::load(root)?.delete(true)?;
        }
        Ok(Outcome::Done)
    })
}

fn operate(work: impl FnOnce() -> anyhow::Result<Outcome>) -> Result<Operation, Error> {
    let (result, write) = pipe2(OFlag::O_CLOEXEC).map_err(Error::system("pipe2"))?;
    let child = sys::fork_to(move || {
        let outcome = work().unwrap_or_else(|error| failure(&error));
        let mut line = serde_json::to_vec(&outcome).unwrap_or_default();
        line.push(b'\n');
        match nix::unistd::write(&write, &line) {
            Ok(_) => 0,
            Err(_) => 1,
        }
    })
    .map_err(Error::system("fork"))?;
    Ok(Operation { result, child })
}

fn failure(error: &anyhow::Error) -> Outcome {
    // The pipe takes 64 KiB without blocking; an error text is cut long before.
    let mut message = crate::chain(error.as_ref());
    message.truncate(message.floor_char_boundary(8 << 10));
    let kind = match message.find(NOT_EXECUTABLE) {
        Some(at) => {
            message.drain(..at);
            ErrorKind::NotExecutable
        }
        None => ErrorKind::Other,
    };
    Outcome::Failed { message, kind }
}

fn builder(
    id: &str,
    root: &Path,
    stdio: Stdio,
    filter: Option<Filter>,
) -> anyhow::Result<ContainerBuilder> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(root)?
        .with_executor(Program { filter })
        .validate_id()?;
    if let Some(console) = stdio.console {
        return Ok(builder.with_console_socket(Some(console)));
    }
    builder = builder.with_stdin(or_null(stdio.stdin)?);
    builder = builder.with_stdout(or_null(stdio.stdout)?);
    Ok(builder.with_stderr(or_null(stdio.stderr)?))
}

fn or_null(fd: Option<OwnedFd>) -> anyhow::Result<OwnedFd> {
    match fd {
        Some(fd) => Ok(fd),
        None => Ok(crate::open_null()?.into()),
    }
}

/// A seccomp profile that an exec'd process still has to get: libcontainer applies one only to a container's first
/// process.
#[derive(Clone)]
struct Filter {
    profile: LinuxSeccomp,
    /// The capabilities to drop to once the filter is in place.
    capabilities: Option<LinuxCapabilities>,
}

/// Loading a filter needs CAP_SYS_ADMIN (or no_new_privs, which would change what the program may do), so the process
/// is prepared with it and dropped to the real set by [`Program`] right after. Returns the real set.
fn widen_for_filter(process: &Path, filtered: bool) -> anyhow::Result<Option<LinuxCapabilities>> {
    let mut description: oci_spec::runtime::Process =
        serde_json::from_slice(&std::fs::read(process)?)?;
    let real = description.capabilities().clone();
    if !filtered {
        return Ok(real);
    }
    let mut wide = real.clone().unwrap_or_else(no_capabilities);
    let add = |set: &Option<oci_spec::runtime::Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        // SETPCAP is what dropping the bounding set afterwards needs.
        set.extend([Capability::SysAdmin, Capability::Setpcap]);
        Some(set)
    };
    let (bounding, effective, permitted) = (
        add(wide.bounding()),
        add(wide.effective()),
        add(wide.permitted()),
    );
    wide.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    description.set_capabilities(Some(wide));
    std::fs::write(process, serde_json::to_vec(&description)?)?;
    Ok(real)
}

/// Executes a container's program, after a look at whether it can be, with errors a person understands.
#[derive(Clone)]
struct Program {
    filter: Option<Filter>,
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Some(filter) = &self.filter {
            filter.apply()?;
        }
        let arguments = arguments(spec).ok_or(ExecutorError::InvalidArg)?;
        let c_strings: Result<Vec<CString>, _> = arguments
            .iter()
            .map(|text| CString::new(text.as_str()))
            .collect();
        let c_strings = c_strings.map_err(|_| ExecutorError::InvalidArg)?;
        let error = match nix::unistd::execvp(&c_strings[0], &c_strings) {
            Err(error) => error,
            Ok(never) => match never {},
        };
        Err(ExecutorError::Other(format!(
            "{NOT_EXECUTABLE}{:?}: {}",
            arguments[0],
            error.desc().to_lowercase()
        )))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let refuse = |program: &str, why: &str| {
            Err(ExecutorValidationError::ArgValidationError(format!(
                "{NOT_EXECUTABLE}{program:?}: {why}"
            )))
        };
        let Some(arguments) = arguments(spec) else {
            return refuse("", "no command specified");
        };
        let program = arguments[0].as_str();
        let candidates = candidates(program, spec);
        let Some(path) = candidates.iter().find(|path| path.is_file()) else {
            let absolute = program.contains('/');
            return match candidates.iter().any(|path| path.is_dir()) {
                true => refuse(program, "is a directory"),
                false if absolute => refuse(program, "no such file or directory"),
                false => refuse(program, "executable file not found in $PATH"),
            };
        };
        match nix::unistd::access(path, nix::unistd::AccessFlags::X_OK) {
            Ok(()) => Ok(()),
            Err(error) => refuse(program, &error.desc().to_lowercase()),
        }
    }
}

impl Filter {
    fn apply(&self) -> Result<(), ExecutorError> {
        let other = |error: &dyn std::error::Error| ExecutorError::Other(crate::chain(error));
        libcontainer::seccomp::initialize_seccomp(&self.profile).map_err(|error| other(&error))?;
        let syscall = libcontainer::syscall::syscall::create_syscall();
        match &self.capabilities {
            Some(set) => libcontainer::capabilities::drop_privileges(set, syscall.as_ref()),
            None => {
                libcontainer::capabilities::drop_privileges(&no_capabilities(), syscall.as_ref())
            }
        }
        .map_err(|error| other(&error))
    }
}

fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    let empty = || Some(Default::default());
    none.set_bounding(empty())
        .set_effective(empty())
        .set_permitted(empty());
    none.set_inheritable(empty()).set_ambient(empty());
    none
}

fn arguments(spec: &Spec) -> Option<&Vec<String>> {
    spec.process()
        .as_ref()?
        .args()
        .as_ref()
        .filter(|arguments| !arguments.is_empty())
}

/// Where `program` may be, in the order of the search path.
fn candidates(program: &str, spec: &Spec) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let environment = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().as_ref());
    let path =
        environment.and_then(|list| list.iter().find_map(|entry| entry.strip_prefix("PATH=")));
    path.unwrap_or_default()
        .split(':')
        .map(|directory| Path::new(directory).join(program))
        .collect()
}
