//! The few system calls that have no safe wrapper: fork, a signal handler, descriptors out of a message, terminal size.
//!
//! This is the crate's only module with unsafe code.

#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{ForkResult, Pid, pipe2};

/// Which side of a fork runs.
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks; the process must have one thread.
pub(crate) fn fork() -> nix::Result<Fork> {
    // SAFETY: the shim never starts a thread, so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Forks a child that runs `work` with default signal handling and ends with the code it returns.
pub(crate) fn fork_to(work: impl FnOnce() -> i32) -> nix::Result<Pid> {
    match fork()? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            restore_signals();
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: `_exit` ends this process and touches no memory; exit handlers belong to the parent.
            unsafe { libc::_exit(code) }
        }
    }
}

/// The write end of the self-pipe, for the signal handler.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_child(_: libc::c_int) {
    let errno = Errno::last_raw();
    let fd = WAKE.load(Ordering::Relaxed);
    // SAFETY: write is async-signal-safe, and the byte outlives the call. A full pipe is fine: a wake-up is pending.
    unsafe { libc::write(fd, b"c".as_ptr().cast(), 1) };
    Errno::set_raw(errno);
}

/// Makes SIGCHLD readable: the returned pipe has a byte after each child's end.
pub(crate) fn sigchld_pipe() -> nix::Result<OwnedFd> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // The handler needs the descriptor until the process ends, so it is given away.
    WAKE.store(write.into_raw_fd(), Ordering::Relaxed);
    let action = SigAction::new(
        SigHandler::Handler(on_child),
        SaFlags::SA_RESTART | SaFlags::SA_NOCLDSTOP,
        SigSet::empty(),
    );
    // SAFETY: the handler calls only async-signal-safe functions and restores errno.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    Ok(read)
}

/// Gives the calling process default handling of every signal that the shim (or the Rust runtime) changed, and an
/// empty mask: a container would inherit ignored and blocked signals.
pub(crate) fn restore_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        Signal::SIGHUP,
        Signal::SIGTERM,
        Signal::SIGINT,
    ] {
        // SAFETY: default dispositions run no code of ours.
        let _ = unsafe { sigaction(signal, &default) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Sends bytes together with one descriptor.
pub(crate) fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: BorrowedFd<'_>,
) -> nix::Result<usize> {
    let fds = [fd.as_raw_fd()];
    let control = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
    let slices = [std::io::IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::sendmsg::<()>(socket.as_raw_fd(), &slices, &control, flags, None)
}

/// Makes the shim deaf to the signals that an operator's Ctrl-C or logout may spray over process groups.
pub(crate) fn ignore_terminal_signals() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT] {
        // SAFETY: ignoring a signal runs no code.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
}

/// Reads bytes and the descriptors that came with them.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; crate::protocol::FDS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just installed these descriptors for us and nobody else knows them.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok((message.bytes, fds))
}

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);

/// Sets the size of a terminal.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open and the structure lives through the call.
    unsafe { tiocswinsz(terminal.as_raw_fd(), &size) }?;
    Ok(())
}

/// Closes every descriptor from `first` up: what the starter leaked must not stay open for the life of a pod.
pub(crate) fn close_from(first: RawFd) {
    // SAFETY: called before the shim owns any descriptor above `first`; a kernel without the call leaves them open.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

nix::ioctl_read_bad!(siocgifflags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Sets the UP flag of a network interface of the calling process's namespace.
pub(crate) fn interface_up(socket: &OwnedFd, name: &str) -> nix::Result<()> {
    // SAFETY: ifreq is plain data for which all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes())
        .take(libc::IFNAMSIZ - 1)
    {
        *to = from as libc::c_char;
    }
    // SAFETY: the request names an interface with a terminated string and lives through both calls; the flags member
    // of the union is the one that these two requests use.
    unsafe {
        siocgifflags(socket.as_raw_fd(), &mut request)?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        siocsifflags(socket.as_raw_fd(), &request)?;
    }
    Ok(())
}

/// The whole life of a PID namespace's first process: it reaps orphans, and ends only by SIGKILL from outside.
pub(crate) fn reap_forever() -> i32 {
    // Standard output may be the pipe on which the agent waits for the shim's readiness.
    close_from(0);
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let _ = children.thread_block();
    loop {
        let flag = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
        while let Ok(status) = nix::sys::wait::waitpid(None, flag) {
            if status == nix::sys::wait::WaitStatus::StillAlive {
                break;
            }
        }
        let _ = children.wait();
    }
}
