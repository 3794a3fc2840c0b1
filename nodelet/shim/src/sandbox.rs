//! The pod's shared namespaces, held as bind-mounted files so that no process has to stay alive for them.
//!
//! Network, IPC and UTS namespaces live under `<pod-dir>/ns/`. A shared PID namespace is different: it dies with its
//! first process, so a pod that asks for one gets a tiny holder process that only reaps.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::sysctl::{self, Scope};
use crate::{Error, sys};

/// The file that tells a new shim what its pod is, inside the pod directory.
pub const SANDBOX_FILE: &str = "sandbox.json";

/// What a pod's containers share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sandbox {
    /// The host name inside the UTS namespace.
    pub hostname: String,
    /// Make a network namespace (otherwise the node's is used).
    pub network: bool,
    /// Make an IPC namespace.
    pub ipc: bool,
    /// Make a UTS namespace.
    pub uts: bool,
    /// Make one PID namespace for all containers.
    pub pid: bool,
    /// Kernel parameters of the namespaces, set at creation.
    pub sysctls: std::collections::BTreeMap<String, String>,
}

impl Sandbox {
    /// Reads the description from a pod directory.
    pub fn load(pod_dir: &Path) -> Result<Self, Error> {
        let path = pod_dir.join(SANDBOX_FILE);
        let bytes = std::fs::read(&path).map_err(Error::file(&path))?;
        serde_json::from_slice(&bytes).map_err(Error::Sandbox)
    }

    fn flags(&self) -> CloneFlags {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, self.network);
        flags.set(CloneFlags::CLONE_NEWIPC, self.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, self.uts);
        flags
    }

    /// The file of each kernel parameter. The agent refuses such pods earlier and with more words; here the refusal
    /// stands between a mistake of its own and the machine's settings.
    fn parameters(&self) -> Result<Vec<(PathBuf, &str)>, Error> {
        let file = |(name, value)| -> Result<(PathBuf, &str), Error> {
            let (name, value): (&String, &String) = (name, value);
            let own = match sysctl::scope(name) {
                Some(Scope::Network) => self.network,
                Some(Scope::Ipc) => self.ipc,
                None => false,
            };
            let path = sysctl::path(name).filter(|_| own);
            let path = path.ok_or_else(|| Error::Sysctl { name: name.clone() })?;
            Ok((path, value.as_str()))
        };
        self.sysctls.iter().map(file).collect()
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        [("net", self.network), ("ipc", self.ipc), ("uts", self.uts)]
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
    }
}

/// Where the namespace called `name` (net, ipc, uts, pid) of a pod is found.
pub fn namespace_path(pod_dir: &Path, name: &str) -> PathBuf {
    pod_dir.join("ns").join(name)
}

/// Makes the namespaces in a forked child and waits for it: the shim itself stays in the node's.
///
/// Returns the first process of the pod's shared PID namespace, if it has one.
pub(crate) fn create(pod_dir: &Path, sandbox: &Sandbox) -> Result<Option<Pid>, Error> {
    sandbox.parameters()?;
    let directory = pod_dir.join("ns");
    std::fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
    for name in sandbox.names() {
        let path = namespace_path(pod_dir, name);
        std::fs::File::create(&path).map_err(Error::file(&path))?;
    }
    let child = sys::fork_to(|| match enter(pod_dir, sandbox) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("cannot make the pod's namespaces: {}", crate::chain(&error));
            1
        }
    })
    .map_err(Error::system("fork"))?;
    match nix::sys::wait::waitpid(child, None).map_err(Error::system("waitpid"))? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => {}
        _ => {
            return Err(Error::System {
                call: "unshare",
                source: nix::Error::EIO,
            });
        }
    }
    if sandbox.pid {
        hold_pid_namespace(pod_dir).map(Some)
    } else {
        Ok(None)
    }
}

fn enter(pod_dir: &Path, sandbox: &Sandbox) -> Result<(), Error> {
    unshare(sandbox.flags()).map_err(Error::system("unshare"))?;
    if sandbox.uts {
        // The file stands for the UTS namespace of whoever writes it.
        let path = Path::new("/proc/sys/kernel/hostname");
        std::fs::write(path, &sandbox.hostname).map_err(Error::file(path))?;
    }
    if sandbox.network {
        bring_loopback_up()?;
    }
    for (path, value) in sandbox.parameters()? {
        std::fs::write(&path, value).map_err(Error::file(&path))?;
    }
    for name in sandbox.names() {
        pin(
            &PathBuf::from(format!("/proc/self/ns/{name}")),
            &namespace_path(pod_dir, name),
        )?;
    }
    Ok(())
}

/// A new network namespace has its loopback interface down; programs expect 127.0.0.1 to work without any network.
fn bring_loopback_up() -> Result<(), Error> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(Error::system("socket"))?;
    sys::interface_up(&socket, "lo").map_err(Error::system("ioctl SIOCSIFFLAGS"))
}

fn pin(namespace: &Path, target: &Path) -> Result<(), Error> {
    mount(
        Some(namespace),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(Error::system("mount"))
}

/// Starts the process that is PID 1 of the pod's shared PID namespace, and pins the namespace.
fn hold_pid_namespace(pod_dir: &Path) -> Result<Pid, Error> {
    let path = namespace_path(pod_dir, "pid");
    std::fs::File::create(&path).map_err(Error::file(&path))?;
    let (ready, done) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(Error::system("pipe2"))?;
    // The child of a process that has unshared its PID namespace is the new one's first process; the helper in
    // between exits, so the holder becomes a child of the shim, which is a subreaper.
    let helper = sys::fork_to(|| {
        if unshare(CloneFlags::CLONE_NEWPID).is_err() {
            return 1;
        }
        let Ok(holder) = sys::fork_to(|| {
            let _ = nix::sys::prctl::set_name(c"pause");
            sys::reap_forever()
        }) else {
            return 1;
        };
        match nix::unistd::write(&done, &holder.as_raw().to_ne_bytes()) {
            Ok(4) => 0,
            _ => 1,
        }
    })
    .map_err(Error::system("fork"))?;
    nix::sys::wait::waitpid(helper, None).map_err(Error::system("waitpid"))?;
    // Without our copy of the write end, a helper that failed gives end of file instead of an endless wait.
    drop(done);
    let mut bytes = [0; 4];
    if nix::unistd::read(&ready, &mut bytes).map_err(Error::system("read"))? != 4 {
        return Err(Error::System {
            call: "unshare",
            source: nix::Error::EIO,
        });
    }
    let holder = i32::from_ne_bytes(bytes);
    pin(&PathBuf::from(format!("/proc/{holder}/ns/pid")), &path)?;
    Ok(Pid::from_raw(holder))
}

/// Lets go of a pod's namespaces; for the agent, when the pod is torn down.
pub fn release(pod_dir: &Path) -> std::io::Result<()> {
    for name in ["net", "ipc", "uts", "pid"] {
        let path = namespace_path(pod_dir, name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL) | Err(nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
