//! A running container's streams: output to the log and to attached clients, input from them.
//!
//! Everything is non-blocking and bounded. A client that does not read its output is dropped once
//! [`ATTACH_BACKLOG_MAX`] bytes wait for it, so that it can never hold up the container; input is read from a client
//! only when the container has taken what came before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{read, write};

use crate::exit;
use crate::log::{LogWriter, Stream};
use crate::protocol::Attach;

/// How much output may wait for one attached client: a screenful many times over, and small beside any container.
pub const ATTACH_BACKLOG_MAX: usize = 256 << 10;

/// How much is read at once; also the most input that waits for a container.
const CHUNK: usize = 16 << 10;

/// How often one stream is read per wake-up, so that a container that shouts does not starve the others.
const READS_PER_WAKE: usize = 16;

/// A descriptor of [`Streams`] that the poll loop watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Stdout,
    Stderr,
    Terminal,
    Input,
    AttachedInput(u64),
    AttachedOutput(u64, Stream),
}

pub(crate) struct Streams {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    waiting_input: Vec<u8>,
    log: LogWriter,
    attached: Vec<Attached>,
}

struct Attached {
    connection: u64,
    input: Option<OwnedFd>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

struct Output {
    fd: OwnedFd,
    backlog: Vec<u8>,
}

/// The shim's ends of a container's pipes.
#[derive(Default)]
pub(crate) struct Ends {
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub stdin_once: bool,
}

impl Streams {
    pub(crate) fn new(ends: Ends, log: LogWriter) -> Self {
        for fd in [&ends.stdout, &ends.stderr, &ends.stdin]
            .into_iter()
            .flatten()
        {
            set_nonblocking(fd.as_fd());
        }
        Self {
            stdout: ends.stdout,
            stderr: ends.stderr,
            terminal: None,
            stdin: ends.stdin,
            stdin_once: ends.stdin_once,
            waiting_input: Vec::new(),
            log,
            attached: Vec::new(),
        }
    }

    pub(crate) fn set_terminal(&mut self, master: OwnedFd) {
        set_nonblocking(master.as_fd());
        self.terminal = Some(master);
    }

    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Adds a client; `fds` are those that the request's flags announce, in order.
    pub(crate) fn attach(
        &mut self,
        connection: u64,
        request: &Attach,
        mut fds: impl Iterator<Item = OwnedFd>,
    ) {
        let mut take = |wanted: bool| {
            let fd = if wanted { fds.next() } else { None };
            if let Some(fd) = &fd {
                set_nonblocking(fd.as_fd());
            }
            fd
        };
        let input = take(request.stdin);
        let output = |fd| Output {
            fd,
            backlog: Vec::new(),
        };
        let stdout = take(request.stdout).map(output);
        let stderr = take(request.stderr).map(output);
        self.attached.push(Attached {
            connection,
            input,
            stdout,
            stderr,
        });
    }

    /// Forgets a client whose connection ended.
    pub(crate) fn detach(&mut self, connection: u64) {
        let had_input = self
            .attached
            .iter()
            .any(|client| client.connection == connection && client.input.is_some());
        self.attached
            .retain(|client| client.connection != connection);
        if had_input {
            self.input_ended();
        }
    }

    /// Calls `watch` for everything that the poll loop should look at.
    pub(crate) fn watch<'a>(&'a self, mut watch: impl FnMut(BorrowedFd<'a>, PollFlags, Port)) {
        let outputs = [
            (&self.stdout, Port::Stdout),
            (&self.stderr, Port::Stderr),
            (&self.terminal, Port::Terminal),
        ];
        for (fd, port) in outputs {
            if let Some(fd) = fd {
                watch(fd.as_fd(), PollFlags::POLLIN, port);
            }
        }
        let sink = self.terminal.as_ref().or(self.stdin.as_ref());
        if let (Some(fd), false) = (sink, self.waiting_input.is_empty()) {
            watch(fd.as_fd(), PollFlags::POLLOUT, Port::Input);
        }
        for client in &self.attached {
            if let (Some(fd), true) = (&client.input, self.waiting_input.is_empty()) {
                watch(
                    fd.as_fd(),
                    PollFlags::POLLIN,
                    Port::AttachedInput(client.connection),
                );
            }
            for (output, stream) in [
                (&client.stdout, Stream::Stdout),
                (&client.stderr, Stream::Stderr),
            ] {
                if let Some(output) = output.as_ref().filter(|output| !output.backlog.is_empty()) {
                    watch(
                        output.fd.as_fd(),
                        PollFlags::POLLOUT,
                        Port::AttachedOutput(client.connection, stream),
                    );
                }
            }
        }
    }

    /// Does what a ready descriptor allows.
    pub(crate) fn ready(&mut self, port: Port) {
        match port {
            Port::Stdout | Port::Stderr | Port::Terminal => {
                self.copy(port, READS_PER_WAKE);
            }
            Port::Input => self.write_input(),
            Port::AttachedInput(connection) => self.read_input(connection),
            Port::AttachedOutput(connection, stream) => self.flush_output(connection, stream),
        }
    }

    /// Takes what the container left behind, after it ended, and closes its streams.
    pub(crate) fn finish(&mut self) {
        for port in [Port::Stdout, Port::Stderr, Port::Terminal] {
            // A straggler that keeps writing must not hold up the exit record: what one pipe holds is enough.
            self.copy(port, 1 << 10);
        }
        if let Err(error) = self.log.finish(&exit::now()) {
            eprintln!("cannot write a log: {error}");
        }
        self.stdout = None;
        self.stderr = None;
        self.terminal = None;
        self.stdin = None;
        self.attached.clear();
    }

    fn slot(&mut self, port: Port) -> &mut Option<OwnedFd> {
        match port {
            Port::Stderr => &mut self.stderr,
            Port::Terminal => &mut self.terminal,
            _ => &mut self.stdout,
        }
    }

    fn copy(&mut self, port: Port, reads_max: usize) {
        let stream = if port == Port::Stderr {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        let mut chunk = [0; CHUNK];
        for _ in 0..reads_max {
            let Some(fd) = self.slot(port).as_ref() else {
                return;
            };
            match read(fd, &mut chunk) {
                // A terminal whose last user closed it gives EIO instead of end of file. For a container that still
                // runs this may pass (the terminal is opened again), but polling it would spin, so it is let go.
                Ok(0) | Err(Errno::EIO) => {
                    *self.slot(port) = None;
                    return;
                }
                Ok(n) => self.deliver(stream, &chunk[..n]),
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            }
        }
    }

    fn deliver(&mut self, stream: Stream, bytes: &[u8]) {
        if let Err(error) = self.log.write(stream, bytes, &exit::now()) {
            // Losing log lines on a full disk is better than stopping the container.
            eprintln!("cannot write a log: {error}");
        }
        for client in &mut self.attached {
            let output = client.output(stream);
            if let Some(open) = output {
                let keep = open.send(bytes);
                if !keep {
                    *output = None;
                }
            }
        }
    }

    fn flush_output(&mut self, connection: u64, stream: Stream) {
        if let Some(client) = self
            .attached
            .iter_mut()
            .find(|client| client.connection == connection)
        {
            let output = client.output(stream);
            if let Some(open) = output {
                let keep = open.send(&[]);
                if !keep {
                    *output = None;
                }
            }
        }
    }

    fn read_input(&mut self, connection: u64) {
        let Some(client) = self
            .attached
            .iter_mut()
            .find(|client| client.connection == connection)
        else {
            return;
        };
        let Some(fd) = &client.input else { return };
        let mut chunk = [0; CHUNK];
        match read(fd, &mut chunk) {
            Ok(0) => {
                client.input = None;
                self.input_ended();
            }
            Ok(n) => {
                self.waiting_input.extend_from_slice(&chunk[..n]);
                self.write_input();
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => client.input = None,
        }
    }

    fn write_input(&mut self) {
        let Some(fd) = self.terminal.as_ref().or(self.stdin.as_ref()) else {
            self.waiting_input.clear();
            return;
        };
        match write(fd, &self.waiting_input) {
            Ok(n) => {
                self.waiting_input.drain(..n);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.waiting_input.clear(),
        }
    }

    fn input_ended(&mut self) {
        if !self.stdin_once {
            return;
        }
        // What still waits is delivered first if the container takes it at once; beyond that the client is gone.
        if !self.waiting_input.is_empty() {
            self.write_input();
        }
        self.stdin = None;
    }
}

impl Attached {
    fn output(&mut self, stream: Stream) -> &mut Option<Output> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Output {
    /// Sends or queues `bytes`; false when the client is gone or too slow.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.backlog.extend_from_slice(bytes);
        while !self.backlog.is_empty() {
            match write(&self.fd, &self.backlog) {
                Ok(n) => {
                    self.backlog.drain(..n);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return self.backlog.len() <= ATTACH_BACKLOG_MAX,
                Err(_) => return false,
            }
        }
        true
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) {
    if let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) {
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        let _ = fcntl(fd, FcntlArg::F_SETFL(flags));
    }
}
