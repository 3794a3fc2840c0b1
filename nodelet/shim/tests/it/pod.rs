//! A pod directory with a running shim, and a blocking client for its socket.

use std::io::{IoSlice, IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use corral_shim::protocol::{ExitRecord, LogTarget, Request, Response, SOCKET, Start, encode};
use corral_shim::sandbox::{SANDBOX_FILE, Sandbox, namespace_path, release};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Pod {
    name: String,
    cgroup: String,
    directory: tempfile::TempDir,
}

/// What a shim says that does not start for this sandbox.
pub fn refused(sandbox: &Sandbox) -> String {
    let directory = tempfile::tempdir().expect("temporary directory");
    let text = serde_json::to_string(sandbox).expect("serialises");
    std::fs::write(directory.path().join(SANDBOX_FILE), text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_corral-shim"))
        .arg("--pod-dir")
        .arg(directory.path())
        .output()
        .expect("the shim runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.starts_with(corral_shim::READY), "{said}");
    said
}

impl Pod {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub fn with(name: &str, change: impl FnOnce(&mut Sandbox)) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut sandbox = Sandbox {
            hostname: format!("pod-{name}"),
            network: true,
            ipc: true,
            uts: true,
            ..Sandbox::default()
        };
        change(&mut sandbox);
        let text = serde_json::to_string(&sandbox).expect("serialises");
        std::fs::write(directory.path().join(SANDBOX_FILE), text).expect("written");
        make_root(directory.path());
        let output = Command::new(env!("CARGO_BIN_EXE_corral-shim"))
            .arg("--pod-dir")
            .arg(directory.path())
            .output()
            .expect("the shim runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.starts_with(corral_shim::READY),
            "{said}{}",
            errors(directory.path())
        );
        let cgroup = format!("/corral-shimtest-{}-{name}", std::process::id());
        Self {
            name: name.to_owned(),
            cgroup,
            directory,
        }
    }

    pub fn namespace(&self, name: &str) -> PathBuf {
        namespace_path(self.directory.path(), name)
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.directory.path().join("containers").join(id)
    }

    pub fn start(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<(), Response> {
        self.start_container(id, args, false, change)
    }

    pub fn start_with_stdin(&self, id: &str, args: &[&str]) -> Result<(), Response> {
        self.start_container(id, args, true, |_| {})
    }

    fn start_container(
        &self,
        id: &str,
        args: &[&str],
        stdin: bool,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), Response> {
        let bundle = self.bundle(id);
        std::fs::create_dir_all(&bundle).expect("bundle");
        let cgroup = format!("{}/{id}", self.cgroup);
        let mut spec = self.spec(args, &cgroup);
        change(&mut spec);
        std::fs::write(bundle.join("config.json"), spec.to_string()).expect("spec");
        let start = Start {
            id: id.into(),
            bundle: bundle.to_string_lossy().into_owned(),
            cgroup,
            log: LogTarget {
                path: bundle.join("log").to_string_lossy().into_owned(),
                size_max: 10 << 20,
                files_max: 3,
            },
            terminal: false,
            stdin,
            stdin_once: stdin,
        };
        match self.ask(&Request::Start(start)) {
            Response::Started { .. } => Ok(()),
            other => Err(other),
        }
    }

    fn spec(&self, args: &[&str], cgroup: &str) -> Value {
        let at = |name| self.namespace(name).to_string_lossy().into_owned();
        json!({
            "ociVersion": "1.0.2",
            "process": process(args, false),
            "root": {"path": self.directory.path().join("root"), "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]},
            ],
            "linux": {
                "cgroupsPath": cgroup,
                "resources": {},
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"},
                    {"type": "network", "path": at("net")},
                    {"type": "ipc", "path": at("ipc")},
                    {"type": "uts", "path": at("uts")},
                ],
            },
        })
    }

    pub fn ask(&self, request: &Request) -> Response {
        self.send(request, &[]).next().0
    }

    pub fn send(&self, request: &Request, fds: &[OwnedFd]) -> Connection {
        let stream = UnixStream::connect(self.directory.path().join(SOCKET)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let frame = encode(request);
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&frame)],
            control,
            MsgFlags::empty(),
            None,
        );
        assert_eq!(sent, Ok(frame.len()));
        Connection { stream }
    }

    pub fn wait(&self, id: &str) -> ExitRecord {
        let mut watch = self.send(&Request::Watch, &[]);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let (Response::State { containers }, _) = watch.next() else {
                panic!("no state")
            };
            let found = containers.into_iter().find(|container| container.id == id);
            if let Some(exit) = found.and_then(|container| container.exit) {
                return exit;
            }
        }
        panic!("{id} does not end");
    }

    pub fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.bundle(id).join("log")).expect("log")
    }

    pub fn wait_for_log(&self, id: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log(id).contains(text) {
            assert!(
                Instant::now() < deadline,
                "{text:?} never appears: {}",
                self.log(id)
            );
            // The log is a file: there is nothing to wait for but its content.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "shim of {} said: {}",
                self.name,
                errors(self.directory.path())
            );
        }
        let hierarchy = corral_shim::cgroup::hierarchy();
        let _ = corral_shim::cgroup::signal_all(
            hierarchy,
            &self.cgroup,
            nix::sys::signal::Signal::SIGKILL,
        );
        if let Ok(stream) = UnixStream::connect(self.directory.path().join(SOCKET)) {
            drop(stream);
            if let (Response::State { containers }, _) = self.send(&Request::State, &[]).next() {
                for container in containers {
                    self.wait(&container.id);
                    self.ask(&Request::Delete { id: container.id });
                }
            }
            self.ask(&Request::Shutdown);
        }
        let _ = release(self.directory.path());
        let _ = umount2(&self.directory.path().join("root"), MntFlags::MNT_DETACH);
        let _ = umount2(&self.directory.path().join("upper"), MntFlags::MNT_DETACH);
        for controller in corral_shim::cgroup::controllers(hierarchy) {
            let _ = std::fs::remove_dir(corral_shim::cgroup::directory(
                hierarchy,
                &controller,
                &self.cgroup,
            ));
        }
    }
}

pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub fn next(&mut self) -> (Response, Vec<OwnedFd>) {
        let mut prefix = [0; 4];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut fds = Vec::new();
        {
            let mut slices = [IoSliceMut::new(&mut prefix)];
            let message = recvmsg::<()>(
                self.stream.as_raw_fd(),
                &mut slices,
                Some(&mut space),
                MsgFlags::MSG_WAITALL,
            )
            .expect("a frame");
            assert_eq!(message.bytes, 4, "the connection ended");
            for control in message.cmsgs().expect("control messages") {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    fds.extend(raw.into_iter().map(own));
                }
            }
        }
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut body).expect("a body");
        (serde_json::from_slice(&body).expect("a response"), fds)
    }

    pub fn closed_within(&mut self, patience: Duration) -> bool {
        self.stream
            .set_read_timeout(Some(patience))
            .expect("timeout");
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn process(args: &[&str], terminal: bool) -> Value {
    let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
    })
}

pub fn set_namespace(spec: &mut Value, kind: &str, path: &Path) {
    let list = spec["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces");
    let entry = list
        .iter_mut()
        .find(|entry| entry["type"] == kind)
        .expect("namespace");
    entry["path"] = json!(path);
}

/// The machine's root under an empty upper layer on a tmpfs, so that mount points can be made.
fn make_root(directory: &Path) {
    let (upper, root) = (directory.join("upper"), directory.join("root"));
    std::fs::create_dir_all(&upper).expect("upper");
    std::fs::create_dir_all(&root).expect("root");
    mount(
        Some("tmpfs"),
        &upper,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=1m"),
    )
    .expect("tmpfs");
    for name in ["up", "work"] {
        std::fs::create_dir(upper.join(name)).expect("layer");
    }
    let options = format!(
        "lowerdir=/,upperdir={0}/up,workdir={0}/work",
        upper.display()
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .expect("overlay");
}

fn errors(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("shim.err")).unwrap_or_default()
}
