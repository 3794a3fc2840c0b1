//! The system calls of the node that have no safe wrapper. The crate's only module with unsafe code.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sets an extended attribute on a path itself, not on what a link points to.
pub(crate) fn set_attribute(path: &Path, name: &CStr, value: &[u8]) -> std::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all three buffers live through the call and the lengths are theirs.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Watches a descriptor for readiness.
pub(crate) fn register(
    fd: std::os::fd::OwnedFd,
) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: an owned descriptor always tells the same number, and stays open until it is dropped together with its
    // registration.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(Into::into)
}
