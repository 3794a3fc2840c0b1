//! A redb backend that reads a file and keeps every write in memory, so that a file can be examined, repair
//! included, without being touched.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use redb::StorageBackend;

/// Granularity of the kept writes; redb's page size, so that its writes cover whole blocks.
const BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    /// Guards the length and the blocks that were written.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// What remains readable of the file after a shrink.
    file_length: u64,
    blocks: HashMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            state: Mutex::new(State {
                length,
                file_length: length,
                blocks: HashMap::new(),
            }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the file itself, zeroes behind its end.
    fn read_file(&self, state: &State, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = state.file_length.saturating_sub(offset);
        let n = usize::try_from(there).map_or(out.len(), |there| there.min(out.len()));
        self.file.read_exact_at(&mut out[..n], offset)?;
        out[n..].fill(0);
        Ok(())
    }
}

/// The pieces of `length` bytes from `offset`, cut at block borders: block, offset in it, range in the buffer.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES) as usize;
        let n = (BLOCK_BYTES as usize - within).min(length - done);
        let range = done..done + n;
        done += n;
        Some((at / BLOCK_BYTES, within, range))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.state().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.state();
        if offset + out.len() as u64 > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(&state, offset, out)?;
        for (block, within, range) in pieces(offset, out.len()) {
            if let Some(written) = state.blocks.get(&block) {
                let n = range.len();
                out[range].copy_from_slice(&written[within..within + n]);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let mut state = self.state();
        state.length = length;
        if length < state.file_length {
            state.file_length = length;
            state.blocks.retain(|block, _| block * BLOCK_BYTES < length);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.state();
        for (block, within, range) in pieces(offset, data.len()) {
            if !state.blocks.contains_key(&block) {
                let mut bytes = vec![0; BLOCK_BYTES as usize];
                self.read_file(&state, block * BLOCK_BYTES, &mut bytes)?;
                state.blocks.insert(block, bytes.into_boxed_slice());
            }
            let n = range.len();
            let bytes = state.blocks.get_mut(&block).expect("inserted above");
            bytes[within..within + n].copy_from_slice(&data[range]);
        }
        Ok(())
    }
}
