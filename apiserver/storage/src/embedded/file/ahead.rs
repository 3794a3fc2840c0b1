//! Reading a file ahead of those who are about to read all of it, page by page and in an order of their own: after a
//! machine has started, a page that is waited for takes the disk a hundred times as long as one of a long read.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Bytes that are asked for at once. Linux takes no more of a piece of advice than a device's read-ahead, which is this
/// where nobody has changed it.
const PIECE_BYTES: u64 = 128 << 10;

/// Bytes of a file that are read ahead. A server holds all objects in memory, so larger stores are on machines that
/// have this to spare; the rest is read when it is asked for.
const BYTES_MAX: u64 = 8 << 30;

/// Has the kernel read a file into its cache, from a thread that ends by itself. What does not work out is read later.
pub(super) fn read(path: &Path) {
    let reading = File::open(path).and_then(|file| {
        let length = file.metadata()?.len().min(BYTES_MAX);
        let thread = std::thread::Builder::new().name("store-ahead".to_owned());
        thread.spawn(move || advise(&file, length))
    });
    if let Err(error) = reading {
        tracing::debug!(%error, "the store's file is not read ahead");
    }
}

fn advise(file: impl AsFd, length: u64) {
    for offset in (0..length).step_by(PIECE_BYTES as usize) {
        let piece = (offset.cast_signed(), PIECE_BYTES.cast_signed());
        let advised = posix_fadvise(
            &file,
            piece.0,
            piece.1,
            PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        );
        if let Err(error) = advised {
            let error = io::Error::from(error);
            return tracing::debug!(%error, "the store's file is not read ahead");
        }
    }
}
