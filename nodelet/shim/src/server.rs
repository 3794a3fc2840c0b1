//! The shim's poll loop: requests, results of operations, output, and the ends of children.
//!
//! One thread owns everything. Each turn collects what to watch, polls, and handles what is ready; handlers never
//! block. A child that ends before its operation has told its process id is remembered in `reaped` until then.

mod connection;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2, read};

use crate::container::{self, Operation, Outcome, Stdio};
use crate::log::LogWriter;
use crate::protocol::{
    Attach, ContainerState, ErrorKind, Exec, ExitRecord, Kill, Request, Resize, Response, SOCKET,
    Start, VERSION,
};
use crate::sandbox::{self, Sandbox};
use crate::stdio::{Ends, Port, Streams};
use crate::{Error, cgroup, exit, sys};

use connection::Connection;

/// The most clients at once: an agent keeps a handful per container; more means it leaks them.
const CONNECTIONS_MAX: usize = 256;

/// The longest result line of an operation child.
const RESULT_LEN_MAX: usize = 64 << 10;

/// A pod's shim.
pub struct Server {
    pod_dir: PathBuf,
    listener: UnixListener,
    children: OwnedFd,
    holder: Option<Pid>,
    hierarchy: cgroup::Hierarchy,
    containers: BTreeMap<String, Container>,
    /// Exec'd processes by process id.
    execs: BTreeMap<i32, Process>,
    operations: BTreeMap<u64, Pending>,
    connections: BTreeMap<u64, Connection>,
    /// Ends of children that nobody asked for yet; kept only while operations are under way.
    reaped: HashMap<i32, (i32, Option<i32>)>,
    next: u64,
    changed: bool,
    stopping: bool,
}

struct Container {
    bundle: PathBuf,
    cgroup: String,
    streams: Streams,
    pid: Option<i32>,
    started_at: Option<String>,
    exit: Option<ExitRecord>,
}

struct Process {
    container: String,
    connection: u64,
    kill_on_close: bool,
    terminal: Option<OwnedFd>,
    started_at: String,
}

struct Pending {
    operation: Operation,
    result: Vec<u8>,
    connection: u64,
    console: Option<Console>,
    purpose: Purpose,
}

enum Purpose {
    Start(String),
    Exec {
        container: String,
        description: PathBuf,
        kill_on_close: bool,
    },
    Delete(String),
}

/// A socket on which libcontainer delivers a terminal.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

#[derive(Clone)]
enum Token {
    Children,
    Listener,
    Connection(u64),
    Operation(u64),
    Streams(String, Port),
}

impl Server {
    /// Makes the pod's namespaces and the socket; the current directory must be the pod directory.
    pub fn new(pod_dir: &Path) -> Result<Self, Error> {
        let sandbox = Sandbox::load(pod_dir)?;
        let holder = sandbox::create(pod_dir, &sandbox)?;
        sys::ignore_terminal_signals();
        let children = sys::sigchld_pipe().map_err(Error::system("sigaction"))?;
        let socket = Path::new(SOCKET);
        let _ = std::fs::remove_file(socket);
        // The relative name keeps the address below the 108 bytes of a socket address, however deep the directory.
        let listener = UnixListener::bind(socket).map_err(Error::file(socket))?;
        listener
            .set_nonblocking(true)
            .map_err(Error::file(socket))?;
        Ok(Self {
            pod_dir: pod_dir.to_owned(),
            listener,
            children,
            holder,
            hierarchy: cgroup::hierarchy(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            operations: BTreeMap::new(),
            connections: BTreeMap::new(),
            reaped: HashMap::new(),
            next: 0,
            changed: false,
            stopping: false,
        })
    }

    /// Serves until a shutdown request.
    pub fn run(mut self) -> Result<(), Error> {
        loop {
            for (token, events) in self.wait()? {
                self.handle(token, events);
            }
            if std::mem::take(&mut self.changed) {
                self.tell_watchers();
            }
            self.connections.retain(|_, connection| connection.flush());
            if self.stopping
                && self
                    .connections
                    .values()
                    .all(|connection| !connection.has_output())
            {
                break;
            }
        }
        let _ = std::fs::remove_file(SOCKET);
        if let Some(holder) = self.holder {
            let _ = kill(holder, Signal::SIGKILL);
        }
        Ok(())
    }

    fn wait(&self) -> Result<Vec<(Token, PollFlags)>, Error> {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut tokens = Vec::new();
        let mut watch = |fd, events, token| {
            fds.push(PollFd::new(fd, events));
            tokens.push(token);
        };
        watch(self.children.as_fd(), PollFlags::POLLIN, Token::Children);
        if self.connections.len() < CONNECTIONS_MAX {
            watch(self.listener.as_fd(), PollFlags::POLLIN, Token::Listener);
        }
        for (id, connection) in &self.connections {
            watch(
                connection.fd(),
                connection.interest(),
                Token::Connection(*id),
            );
        }
        for (id, pending) in &self.operations {
            watch(
                pending.operation.result.as_fd(),
                PollFlags::POLLIN,
                Token::Operation(*id),
            );
        }
        for (id, container) in &self.containers {
            container
                .streams
                .watch(|fd, events, port| watch(fd, events, Token::Streams(id.clone(), port)));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(source) => {
                return Err(Error::System {
                    call: "poll",
                    source,
                });
            }
        }
        let ready = fds.iter().zip(tokens).filter_map(|(fd, token)| {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            (!events.is_empty()).then_some((token, events))
        });
        Ok(ready.collect())
    }

    fn handle(&mut self, token: Token, events: PollFlags) {
        match token {
            Token::Children => self.reap(),
            Token::Listener => self.accept(),
            Token::Connection(id) => self.connection_ready(id, events),
            Token::Operation(id) => self.operation_ready(id),
            Token::Streams(id, port) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.streams.ready(port);
                }
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // Connections

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            let id = self.number();
            self.connections.insert(id, Connection::new(stream));
        }
    }

    fn connection_ready(&mut self, id: u64, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        match connection.receive() {
            Ok(None) => {}
            Ok(Some(body)) => {
                let fds = connection.take_fds();
                match serde_json::from_slice(&body) {
                    Ok(request) => self.request(id, request, fds),
                    Err(error) => self.refuse(
                        id,
                        ErrorKind::Invalid,
                        &format!("cannot understand: {error}"),
                    ),
                }
            }
            Err(_) => self.hung_up(id),
        }
    }

    fn hung_up(&mut self, id: u64) {
        self.connections.remove(&id);
        for container in self.containers.values_mut() {
            container.streams.detach(id);
        }
        for (pid, process) in &self.execs {
            if process.connection == id && process.kill_on_close {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
    }

    fn answer(&mut self, id: u64, response: &Response) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.queue(response, None);
        }
    }

    fn refuse(&mut self, id: u64, kind: ErrorKind, message: &str) {
        self.answer(
            id,
            &Response::Error {
                message: message.to_owned(),
                kind,
            },
        );
    }

    fn tell_watchers(&mut self) {
        let state = self.state();
        for connection in self
            .connections
            .values_mut()
            .filter(|connection| connection.watches)
        {
            connection.queue(&state, None);
        }
    }

    fn state(&self) -> Response {
        let containers = self
            .containers
            .iter()
            .map(|(id, container)| ContainerState {
                id: id.clone(),
                pid: container.pid,
                started_at: container.started_at.clone(),
                exit: container.exit.clone(),
            });
        Response::State {
            containers: containers.collect(),
        }
    }

    // Requests

    fn request(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Ping => self.answer(
                id,
                &Response::Pong {
                    version: VERSION,
                    pid: std::process::id(),
                },
            ),
            Request::Start(start) => self.start(id, start),
            Request::Exec(exec) => self.exec(id, exec, fds),
            Request::Attach(attach) => self.attach(id, &attach, fds),
            Request::Resize(resize) => self.resize(id, &resize),
            Request::Kill(kill) => self.kill(id, &kill),
            Request::State => {
                let state = self.state();
                self.answer(id, &state);
            }
            Request::Watch => {
                let state = self.state();
                self.answer(id, &state);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.watches = true;
                }
            }
            Request::Delete { id: container } => self.delete(id, &container),
            Request::Shutdown => self.shutdown(id),
        }
    }

    fn start(&mut self, id: u64, start: Start) {
        if self.containers.contains_key(&start.id) {
            return self.refuse(id, ErrorKind::Invalid, "a container of this id exists");
        }
        match self.try_start(id, &start) {
            Ok(()) => self.changed = true,
            Err(error) => self.refuse(id, ErrorKind::Other, &crate::chain(&error)),
        }
    }

    fn try_start(&mut self, connection: u64, start: &Start) -> Result<(), Error> {
        let bundle = PathBuf::from(&start.bundle);
        let log =
            LogWriter::open(start.log.clone()).map_err(Error::file(Path::new(&start.log.path)))?;
        let mut stdio = Stdio::default();
        let mut ends = Ends {
            stdin_once: start.stdin_once,
            ..Ends::default()
        };
        let mut console = None;
        if start.terminal {
            console = Some(self.console()?);
            stdio.console = console
                .as_ref()
                .map(|console| self.pod_dir.join(&console.path));
        } else {
            let (read, write) = pipe()?;
            (ends.stdout, stdio.stdout) = (Some(read), Some(write));
            let (read, write) = pipe()?;
            (ends.stderr, stdio.stderr) = (Some(read), Some(write));
            if start.stdin {
                let (read, write) = pipe()?;
                (ends.stdin, stdio.stdin) = (Some(write), Some(read));
            }
        }
        let operation = container::start(&self.pod_dir, &start.id, &bundle, stdio)?;
        let container = Container {
            bundle,
            cgroup: start.cgroup.clone(),
            streams: Streams::new(ends, log),
            pid: None,
            started_at: None,
            exit: None,
        };
        self.containers.insert(start.id.clone(), container);
        self.pend(
            operation,
            connection,
            console,
            Purpose::Start(start.id.clone()),
        );
        Ok(())
    }

    fn exec(&mut self, id: u64, exec: Exec, fds: Vec<OwnedFd>) {
        let running = self
            .containers
            .get(&exec.id)
            .filter(|container| container.exit.is_none());
        let Some(bundle) = running.map(|container| container.bundle.clone()) else {
            return self.refuse(id, ErrorKind::NotRunning, "the container is not running");
        };
        if let Err(error) = self.try_exec(id, exec, &bundle, fds) {
            self.refuse(id, ErrorKind::Other, &crate::chain(&error));
        }
    }

    fn try_exec(
        &mut self,
        connection: u64,
        exec: Exec,
        bundle: &Path,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let description = bundle.join(format!("exec-{}.json", self.number()));
        std::fs::write(&description, exec.process.to_string())
            .map_err(Error::file(&description))?;
        let terminal = exec
            .process
            .get("terminal")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false);
        let mut fds = fds.into_iter();
        let mut stdio = Stdio::default();
        let mut console = None;
        if terminal {
            console = Some(self.console()?);
            stdio.console = console
                .as_ref()
                .map(|console| self.pod_dir.join(&console.path));
        } else {
            stdio.stdin = if exec.stdin { fds.next() } else { None };
            stdio.stdout = if exec.stdout { fds.next() } else { None };
            stdio.stderr = if exec.stderr { fds.next() } else { None };
        }
        let operation = container::exec(&self.pod_dir, &exec.id, bundle, &description, stdio)?;
        let purpose = Purpose::Exec {
            container: exec.id,
            description,
            kill_on_close: exec.kill_on_close,
        };
        self.pend(operation, connection, console, purpose);
        Ok(())
    }

    fn attach(&mut self, id: u64, attach: &Attach, fds: Vec<OwnedFd>) {
        match self
            .containers
            .get_mut(&attach.id)
            .filter(|container| container.exit.is_none())
        {
            Some(container) => {
                container.streams.attach(id, attach, fds.into_iter());
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.attached = Some(attach.id.clone());
                }
                self.answer(id, &Response::Done);
            }
            None => self.refuse(id, ErrorKind::NotRunning, "the container is not running"),
        }
    }

    fn resize(&mut self, id: u64, resize: &Resize) {
        let terminal = match resize.exec {
            Some(pid) => self
                .execs
                .get(&pid)
                .and_then(|process| process.terminal.as_ref())
                .map(AsFd::as_fd),
            None => self
                .containers
                .get(&resize.id)
                .and_then(|container| container.streams.terminal()),
        };
        match terminal.map(|terminal| sys::set_size(terminal, resize.columns, resize.rows)) {
            Some(Ok(())) => self.answer(id, &Response::Done),
            Some(Err(error)) => self.refuse(id, ErrorKind::Other, &error.to_string()),
            None => self.refuse(id, ErrorKind::Invalid, "there is no terminal"),
        }
    }

    fn kill(&mut self, id: u64, request: &Kill) {
        let Ok(signal) = Signal::try_from(request.signal) else {
            return self.refuse(id, ErrorKind::Invalid, "there is no such signal");
        };
        let Some(container) = self.containers.get(&request.id) else {
            return self.refuse(id, ErrorKind::NotRunning, "there is no such container");
        };
        let result = match container.pid.filter(|_| container.exit.is_none()) {
            None => Ok(()),
            Some(_) if request.all => cgroup::signal_all(self.hierarchy, &container.cgroup, signal)
                .map(|_| ())
                .map_err(|e| e.to_string()),
            // The process is our child and not reaped yet, so its id cannot have been given to another.
            Some(pid) => kill(Pid::from_raw(pid), signal).map_err(|e| e.to_string()),
        };
        match result {
            Ok(()) => self.answer(id, &Response::Done),
            Err(message) => self.refuse(id, ErrorKind::Other, &message),
        }
    }

    fn delete(&mut self, id: u64, container: &str) {
        match self.containers.get(container) {
            None => self.answer(id, &Response::Done),
            Some(found) if found.exit.is_none() => {
                self.refuse(id, ErrorKind::Invalid, "the container is still running");
            }
            Some(_) => match container::delete(&self.pod_dir, container) {
                Ok(operation) => {
                    self.pend(operation, id, None, Purpose::Delete(container.to_owned()))
                }
                Err(error) => self.refuse(id, ErrorKind::Other, &crate::chain(&error)),
            },
        }
    }

    fn shutdown(&mut self, id: u64) {
        if self
            .containers
            .values()
            .any(|container| container.exit.is_none())
        {
            return self.refuse(id, ErrorKind::Invalid, "a container is still running");
        }
        self.answer(id, &Response::Done);
        self.stopping = true;
    }

    // Operations

    fn pend(
        &mut self,
        operation: Operation,
        connection: u64,
        console: Option<Console>,
        purpose: Purpose,
    ) {
        let id = self.number();
        self.operations.insert(
            id,
            Pending {
                operation,
                result: Vec::new(),
                connection,
                console,
                purpose,
            },
        );
    }

    fn console(&mut self) -> Result<Console, Error> {
        let path = PathBuf::from(format!("console-{}.sock", self.number()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(Error::file(&path))?;
        listener.set_nonblocking(true).map_err(Error::file(&path))?;
        Ok(Console { listener, path })
    }

    fn operation_ready(&mut self, id: u64) {
        let Some(pending) = self.operations.get_mut(&id) else {
            return;
        };
        let mut chunk = [0; 4096];
        let ended = match read(&pending.operation.result, &mut chunk) {
            Ok(0) => true,
            Ok(n) => {
                pending.result.extend_from_slice(&chunk[..n]);
                pending.result.ends_with(b"\n") || pending.result.len() > RESULT_LEN_MAX
            }
            Err(Errno::EINTR | Errno::EAGAIN) => false,
            Err(_) => true,
        };
        if !ended {
            return;
        }
        let pending = self.operations.remove(&id).expect("looked up above");
        let outcome = serde_json::from_slice(&pending.result).unwrap_or_else(|_| Outcome::Failed {
            message: format!("the operation's process {} died", pending.operation.child),
            kind: ErrorKind::Other,
        });
        let terminal = pending.console.as_ref().and_then(Console::receive);
        match pending.purpose {
            Purpose::Start(container) => {
                self.started(pending.connection, &container, outcome, terminal)
            }
            Purpose::Exec {
                container,
                description,
                kill_on_close,
            } => {
                let _ = std::fs::remove_file(description);
                let process = Process {
                    container,
                    connection: pending.connection,
                    kill_on_close,
                    terminal,
                    started_at: exit::now(),
                };
                self.executed(process, outcome);
            }
            Purpose::Delete(container) => self.deleted(pending.connection, &container, outcome),
        }
        if self.operations.is_empty() {
            self.reaped.clear();
        }
    }

    fn started(&mut self, connection: u64, id: &str, outcome: Outcome, terminal: Option<OwnedFd>) {
        self.changed = true;
        let pid = match outcome {
            Outcome::Pid(pid) => pid,
            Outcome::Done => return,
            Outcome::Failed { message, kind } => {
                self.containers.remove(id);
                return self.refuse(connection, kind, &message);
            }
        };
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let started_at = exit::now();
        container.pid = Some(pid);
        container.started_at = Some(started_at.clone());
        if let Some(terminal) = terminal {
            container.streams.set_terminal(terminal);
        }
        self.answer(connection, &Response::Started { pid, started_at });
        if let Some((code, signal)) = self.reaped.remove(&pid) {
            self.container_ended(id, code, signal);
        }
    }

    fn executed(&mut self, process: Process, outcome: Outcome) {
        let pid = match outcome {
            Outcome::Pid(pid) => pid,
            Outcome::Done => return,
            Outcome::Failed { message, kind } => {
                return self.refuse(process.connection, kind, &message);
            }
        };
        match self.connections.get_mut(&process.connection) {
            Some(connection) => {
                let copy = process
                    .terminal
                    .as_ref()
                    .and_then(|terminal| terminal.try_clone().ok());
                connection.queue(
                    &Response::Started {
                        pid,
                        started_at: process.started_at.clone(),
                    },
                    copy,
                );
            }
            None if process.kill_on_close && !self.reaped.contains_key(&pid) => {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            None => {}
        }
        self.execs.insert(pid, process);
        if let Some((code, signal)) = self.reaped.remove(&pid) {
            self.process_ended(pid, code, signal);
        }
    }

    fn deleted(&mut self, connection: u64, id: &str, outcome: Outcome) {
        match outcome {
            Outcome::Failed { message, kind } => self.refuse(connection, kind, &message),
            _ => {
                self.containers.remove(id);
                self.changed = true;
                self.answer(connection, &Response::Done);
            }
        }
    }

    // Ends

    fn reap(&mut self) {
        let mut drained = [0; 64];
        while matches!(read(&self.children, &mut drained), Ok(n) if n > 0) {}
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let (Some(pid), Some((code, signal))) = (status.pid(), exit::code(status)) else {
                break;
            };
            let pid = pid.as_raw();
            let container = self
                .containers
                .iter()
                .find(|(_, container)| container.pid == Some(pid));
            if let Some(id) = container
                .filter(|(_, found)| found.exit.is_none())
                .map(|(id, _)| id.clone())
            {
                self.container_ended(&id, code, signal);
            } else if self.execs.contains_key(&pid) {
                self.process_ended(pid, code, signal);
            } else if !self.operations.is_empty() {
                self.reaped.insert(pid, (code, signal));
            }
        }
    }

    fn container_ended(&mut self, id: &str, code: i32, signal: Option<i32>) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        // Processes that share the pod's or the node's PID namespace survive their first process; a container does not.
        let _ = cgroup::signal_all(self.hierarchy, &container.cgroup, Signal::SIGKILL);
        container.streams.finish();
        let record = ExitRecord {
            code,
            signal,
            oom_killed: code != 0 && cgroup::oom_kills(self.hierarchy, &container.cgroup) > 0,
            started_at: container.started_at.clone().unwrap_or_else(exit::now),
            finished_at: exit::now(),
        };
        if let Err(error) = exit::write(&container.bundle, &record) {
            eprintln!("cannot write the exit record of {id}: {error}");
        }
        container.exit = Some(record.clone());
        self.changed = true;
        let ended = Response::Exited { exit: record };
        for connection in self
            .connections
            .values_mut()
            .filter(|c| c.attached.as_deref() == Some(id))
        {
            connection.queue(&ended, None);
        }
    }

    fn process_ended(&mut self, pid: i32, code: i32, signal: Option<i32>) {
        let Some(process) = self.execs.remove(&pid) else {
            return;
        };
        let oom_killed = signal == Some(Signal::SIGKILL as i32)
            && self
                .containers
                .get(&process.container)
                .is_some_and(|container| cgroup::oom_kills(self.hierarchy, &container.cgroup) > 0);
        let exit = ExitRecord {
            code,
            signal,
            oom_killed,
            started_at: process.started_at,
            finished_at: exit::now(),
        };
        self.answer(process.connection, &Response::Exited { exit });
    }
}

impl Console {
    /// The terminal's master, which libcontainer has sent by the time its operation has ended.
    fn receive(&self) -> Option<OwnedFd> {
        let (stream, _) = self.listener.accept().ok()?;
        let mut name = [0; 256];
        let (_, fds) = sys::receive(stream.as_fd(), &mut name).ok()?;
        fds.into_iter().next()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC).map_err(Error::system("pipe2"))
}
