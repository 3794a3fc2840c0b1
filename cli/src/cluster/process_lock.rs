//! One process per data directory: a file that it locks as long as it lives, and that tells its pid.
//!
//! The kernel gives the lock back when the process ends, however it ends, so that a pid that went to another program
//! is never taken for ours.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("corral.pid")
}

/// Held by the process that runs on a data directory.
pub struct ProcessLock {
    _file: Flock<File>,
}

impl ProcessLock {
    /// Makes the directory if it is not there, and takes it.
    ///
    /// # Errors
    /// As [`ProcessLock::take`].
    pub fn create(data_dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        Self::take(data_dir)
    }

    /// Takes the directory, which must exist.
    ///
    /// # Errors
    /// When another process has it; the error names that process.
    pub fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let path = path(data_dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}", std::process::id())?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => bail!(
                "the data directory {} is in use by process {}; stop it with corral down --data-dir {}, or choose another directory",
                data_dir.display(),
                read_pid(&mut file).map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
                data_dir.display()
            ),
            Err((_, why)) => Err(why).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// The process that has a directory; `None` if nobody does.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn holder(data_dir: &Path) -> anyhow::Result<Option<Pid>> {
        let path = path(data_dir);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(why) => {
                return Err(why).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_free) => Ok(None),
            Err((mut file, Errno::EWOULDBLOCK)) => match read_pid(&mut file) {
                Some(pid) => Ok(Some(pid)),
                None => bail!(
                    "a process holds {} that has not told its pid yet; try again",
                    path.display()
                ),
            },
            Err((_, why)) => Err(why).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

fn read_pid(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert!(ProcessLock::holder(path).expect("free").is_none());
        let first = ProcessLock::take(path).expect("free");
        let me = Pid::this();
        assert_eq!(ProcessLock::holder(path).expect("held"), Some(me));
        let refused = ProcessLock::take(path).err().expect("held").to_string();
        assert!(refused.contains(&format!("process {me}")), "{refused}");
        drop(first);
        // What a dead process left behind holds nothing.
        assert!(ProcessLock::holder(path).expect("free").is_none());
        assert!(ProcessLock::take(path).is_ok());
    }
}
