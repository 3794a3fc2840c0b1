//! Descriptors from the runtime as asynchronous streams.

use std::os::fd::OwnedFd;

use tokio::net::unix::pipe;

/// The reading end of a pipe.
pub fn reader(fd: OwnedFd) -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

/// The writing end of a pipe.
pub fn writer(fd: OwnedFd) -> std::io::Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(fd)
}
