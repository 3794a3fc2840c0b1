//! A redb backend that keeps what is written to itself until the file was looked at: redb repairs in place what a crash
//! has left, and a file that is damaged, or not ours, must stay as it is.
//!
//! Once the file is known, [`Release`] writes what was kept in the order in which redb wrote it, waiting for the disk
//! where redb did, so that a crash meanwhile leaves no more than one of redb's own would. From then on everything goes
//! to the file, and a file that needs repair was read for it once and not twice.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::StorageBackend;

/// Granularity of the kept writes; redb's page size, so that its writes cover whole blocks.
const BLOCK_BYTES: u64 = 4096;

/// The backend, for redb.
#[derive(Debug)]
pub(super) struct Guarded<B>(Arc<Guard<B>>);

/// Lets the writes through.
#[derive(Debug)]
pub(super) struct Release<B>(Arc<Guard<B>>);

#[derive(Debug)]
struct Guard<B> {
    inner: B,
    /// Whether writes go to the file. Set while `kept` is locked.
    is_released: AtomicBool,
    kept: RwLock<Kept>,
}

#[derive(Debug)]
struct Kept {
    length: u64,
    /// What remains readable of the file after a shrink.
    file_length: u64,
    blocks: HashMap<u64, Box<[u8]>>,
    /// What `blocks` and `length` came of, in order.
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Write { offset: u64, data: Box<[u8]> },
    SetLength(u64),
    Sync,
}

/// Holds back what is written to a backend.
pub(super) fn hold<B: StorageBackend>(inner: B) -> io::Result<(Guarded<B>, Release<B>)> {
    let length = inner.len()?;
    let guard = Arc::new(Guard {
        inner,
        is_released: AtomicBool::new(false),
        kept: RwLock::new(Kept {
            length,
            file_length: length,
            blocks: HashMap::new(),
            steps: Vec::new(),
        }),
    });
    Ok((Guarded(guard.clone()), Release(guard)))
}

impl<B: StorageBackend> Release<B> {
    /// Writes what was kept, and keeps nothing any more. After an error the file is what a crash would have left, and
    /// the database must not be used.
    pub(super) fn release(self) -> io::Result<()> {
        let guard = &*self.0;
        let mut kept = guard.kept.write().unwrap_or_else(PoisonError::into_inner);
        for step in std::mem::take(&mut kept.steps) {
            match step {
                Step::Write { offset, data } => guard.inner.write(offset, &data)?,
                Step::SetLength(length) => guard.inner.set_len(length)?,
                Step::Sync => guard.inner.sync_data()?,
            }
        }
        kept.blocks = HashMap::new();
        guard.is_released.store(true, Ordering::Release);
        Ok(())
    }
}

impl<B: StorageBackend> Guard<B> {
    /// What is kept, unless everything goes to the file.
    fn kept(&self) -> Option<RwLockReadGuard<'_, Kept>> {
        if self.is_released.load(Ordering::Acquire) {
            return None;
        }
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        (!self.is_released.load(Ordering::Acquire)).then_some(kept)
    }

    /// The same, to keep more.
    fn kept_mut(&self) -> Option<RwLockWriteGuard<'_, Kept>> {
        if self.is_released.load(Ordering::Acquire) {
            return None;
        }
        let kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        (!self.is_released.load(Ordering::Acquire)).then_some(kept)
    }

    /// The bytes of the file itself, zeroes behind its end.
    fn read_file(&self, kept: &Kept, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = kept.file_length.saturating_sub(offset);
        let n = usize::try_from(there).map_or(out.len(), |there| there.min(out.len()));
        if n > 0 {
            self.inner.read(offset, &mut out[..n])?;
        }
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

impl<B: StorageBackend> StorageBackend for Guarded<B> {
    fn len(&self) -> Result<u64, io::Error> {
        match self.0.kept() {
            None => self.0.inner.len(),
            Some(kept) => Ok(kept.length),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let Some(kept) = self.0.kept() else {
            return self.0.inner.read(offset, out);
        };
        if offset + out.len() as u64 > kept.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_file(&kept, offset, out)?;
        for (block, within, range) in pieces(offset, out.len()) {
            if let Some(written) = kept.blocks.get(&block) {
                let n = range.len();
                out[range].copy_from_slice(&written[within..within + n]);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let Some(mut kept) = self.0.kept_mut() else {
            return self.0.inner.set_len(length);
        };
        kept.length = length;
        kept.file_length = kept.file_length.min(length);
        // What is cut off is zeroes if the file grows again.
        kept.blocks.retain(|block, bytes| {
            let there = length.saturating_sub(block * BLOCK_BYTES).min(BLOCK_BYTES);
            bytes[there as usize..].fill(0);
            there > 0
        });
        kept.steps.push(Step::SetLength(length));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let Some(mut kept) = self.0.kept_mut() else {
            return self.0.inner.sync_data();
        };
        kept.steps.push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let Some(mut kept) = self.0.kept_mut() else {
            return self.0.inner.write(offset, data);
        };
        for (block, within, range) in pieces(offset, data.len()) {
            if !kept.blocks.contains_key(&block) {
                let mut bytes = vec![0; BLOCK_BYTES as usize];
                self.0.read_file(&kept, block * BLOCK_BYTES, &mut bytes)?;
                kept.blocks.insert(block, bytes.into_boxed_slice());
            }
            let n = range.len();
            let bytes = kept.blocks.get_mut(&block).expect("inserted above");
            bytes[within..within + n].copy_from_slice(&data[range]);
        }
        kept.steps.push(Step::Write {
            offset,
            data: data.into(),
        });
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        self.0.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    const LENGTH: u64 = 20_000;

    /// Takes down what is done to a file in memory.
    #[derive(Debug, Default)]
    struct Watched {
        file: InMemoryBackend,
        done: Mutex<Vec<Done>>,
    }

    #[derive(Debug, Clone, PartialEq)]
    enum Done {
        Write(u64, Vec<u8>),
        SetLength(u64),
        Sync,
    }

    impl Done {
        fn to(&self, backend: &impl StorageBackend) {
            match self {
                Self::Write(offset, data) => backend.write(*offset, data),
                Self::SetLength(length) => backend.set_len(*length),
                Self::Sync => backend.sync_data(),
            }
            .expect("memory takes everything");
        }
    }

    impl Watched {
        fn done(&self) -> std::sync::MutexGuard<'_, Vec<Done>> {
            self.done.lock().expect("no panic")
        }
    }

    impl StorageBackend for Watched {
        fn len(&self) -> Result<u64, io::Error> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
            self.file.read(offset, out)
        }

        fn set_len(&self, length: u64) -> Result<(), io::Error> {
            self.done().push(Done::SetLength(length));
            self.file.set_len(length)
        }

        fn sync_data(&self) -> Result<(), io::Error> {
            self.done().push(Done::Sync);
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
            self.done().push(Done::Write(offset, data.to_vec()));
            self.file.write(offset, data)
        }
    }

    fn content(backend: &impl StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; backend.len().expect("a length") as usize];
        backend.read(0, &mut bytes).expect("all of it");
        bytes
    }

    /// What a database may do to a file of [`LENGTH`]: writes stay within the length that it has set.
    fn steps() -> impl Strategy<Value = Vec<Done>> {
        let step = prop_oneof![
            (0..40_000_u64, 1..9_000_usize, any::<u8>())
                .prop_map(|(offset, n, byte)| Done::Write(offset, vec![byte; n])),
            (1..50_000_u64).prop_map(Done::SetLength),
            Just(Done::Sync),
        ];
        proptest::collection::vec(step, 0..24).prop_map(|steps| {
            let mut length = LENGTH;
            let steps = steps.into_iter().filter(|step| match step {
                Done::Write(offset, data) => offset + data.len() as u64 <= length,
                Done::SetLength(new) => {
                    length = *new;
                    true
                }
                Done::Sync => true,
            });
            steps.collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_is_written_before_the_release_and_all_of_it_in_order_then(
            before in steps(),
            after in steps(),
        ) {
            let first = (0..LENGTH).map(|at| (at % 251) as u8).collect();
            let begin = [Done::SetLength(LENGTH), Done::Write(0, first)];
            let plain = InMemoryBackend::new();
            let watched = Watched::default();
            for step in &begin {
                step.to(&plain);
                step.to(&watched.file);
            }
            let untouched = content(&watched.file);
            let (guarded, release) = hold(watched).expect("memory has a length");
            let watched = release.0.clone();
            for step in &before {
                step.to(&guarded);
                step.to(&plain);
                prop_assert_eq!(content(&guarded), content(&plain));
            }
            prop_assert_eq!(content(&watched.inner), untouched);
            release.release().expect("memory takes everything");
            prop_assert_eq!(content(&watched.inner), content(&plain));
            for step in begin[..1].iter().chain(&after) {
                step.to(&guarded);
                step.to(&plain);
                prop_assert_eq!(content(&guarded), content(&plain));
            }
            let steps = [&before[..], &begin[..1], &after].concat();
            prop_assert_eq!(&*watched.inner.done(), &steps);
        }
    }
}
