//! One client's connection: a frame being read, descriptors that came with it, and answers waiting to go out.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;

use crate::protocol::{FDS_MAX, Response, body_len, encode};
use crate::sys;

/// How many bytes of answers may wait for a client before it is given up: a watcher that does not read.
const OUTPUT_LEN_MAX: usize = 1 << 20;

pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
    output: Vec<u8>,
    /// Goes out with the next byte.
    passed: Option<OwnedFd>,
    /// Gets the pod's state after every change.
    pub watches: bool,
    /// Joined the streams of this container.
    pub attached: Option<String>,
}

/// The client closed the connection, or broke the protocol.
pub(super) struct Closed;

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            fds: Vec::new(),
            output: Vec::new(),
            passed: None,
            watches: false,
            attached: None,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn interest(&self) -> PollFlags {
        if self.output.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(super) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Reads what is there; gives a frame's body once it is whole.
    pub(super) fn receive(&mut self) -> Result<Option<Vec<u8>>, Closed> {
        let mut chunk = [0; 16 << 10];
        match sys::receive(self.stream.as_fd(), &mut chunk) {
            Ok((0, _)) => return Err(Closed),
            Ok((n, fds)) => {
                self.input.extend_from_slice(&chunk[..n]);
                self.fds.extend(fds);
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(_) => return Err(Closed),
        }
        if self.fds.len() > FDS_MAX {
            return Err(Closed);
        }
        let Some(prefix) = self.input.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = body_len(*prefix).ok_or(Closed)?;
        if self.input.len() < 4 + length {
            return Ok(None);
        }
        let body = self.input[4..4 + length].to_vec();
        self.input.drain(..4 + length);
        Ok(Some(body))
    }

    /// Adds an answer, with a descriptor to pass along.
    pub(super) fn queue(&mut self, response: &Response, passed: Option<OwnedFd>) {
        self.output.extend_from_slice(&encode(response));
        if passed.is_some() {
            self.passed = passed;
        }
    }

    /// Writes what the client takes; false when it is gone or too slow.
    pub(super) fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            let written = match &self.passed {
                Some(fd) => sys::send_with(self.stream.as_fd(), &self.output, fd.as_fd())
                    .map_err(Into::into),
                None => self.stream.write(&self.output),
            };
            match written {
                Ok(n) => {
                    self.passed = None;
                    self.output.drain(..n);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return self.output.len() <= OUTPUT_LEN_MAX;
                }
                Err(_) => return false,
            }
        }
        true
    }
}
