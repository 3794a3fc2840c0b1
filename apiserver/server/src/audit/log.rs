//! The audit log in a file: a line of JSON for each event, in files of bounded size, number and age.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

/// Megabytes of a file where nobody says otherwise, as in kube-apiserver.
pub const SIZE_MEGABYTES: u64 = 100;

/// Where the log is, and how much of it is kept.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Bytes of a file before the next is begun.
    pub size_max: u64,
    /// Old files that are kept; `None` keeps all that are young enough.
    pub backups_max: Option<usize>,
    /// Age of old files that are kept; `None` keeps them whatever their age.
    pub age_max: Option<Duration>,
    /// Whether old files are compressed.
    pub compress: bool,
    /// Whether a request is refused whose first event cannot be written.
    pub strict: bool,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    // The file that is written. Held for one write, so that lines are whole.
    open: Mutex<Open>,
}

#[derive(Debug)]
enum Open {
    Output,
    File { file: File, size: u64 },
}

impl Log {
    /// Opens the log, after what is there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(config: LogConfig) -> io::Result<Self> {
        let open = match config.path.as_os_str() == "-" {
            true => Open::Output,
            false => Open::file(&config.path)?,
        };
        let log = Self {
            config,
            open: Mutex::new(open),
        };
        log.clean();
        Ok(log)
    }

    /// Whether a request is refused whose first event cannot be written.
    pub fn is_strict(&self) -> bool {
        self.config.strict
    }

    /// Writes a line.
    ///
    /// # Errors
    /// When it is not written.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, size) = match &mut *open {
            Open::Output => return io::stdout().lock().write_all(line),
            Open::File { file, size } => (file, size),
        };
        let length = line.len() as u64;
        if *size > 0 && *size + length > self.config.size_max {
            self.rotate()?;
            *open = Open::file(&self.config.path)?;
            let Open::File { file, size } = &mut *open else {
                return Ok(());
            };
            *size += length;
            return file.write_all(line);
        }
        *size += length;
        file.write_all(line)
    }

    /// Puts the full file aside under the time.
    fn rotate(&self) -> io::Result<()> {
        let path = &self.config.path;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f");
        let (stem, extension) = parts(path);
        let mut aside = path.with_file_name(format!("{stem}{now}{extension}"));
        // Two within a millisecond must not become one.
        let mut again = 0;
        while aside.exists() {
            again += 1;
            aside = path.with_file_name(format!("{stem}{now}-{again}{extension}"));
        }
        std::fs::rename(path, &aside)?;
        if self.config.compress
            && let Err(error) = compress(&aside)
        {
            tracing::warn!(path = %aside.display(), %error, "an old audit log cannot be compressed");
        }
        self.clean();
        Ok(())
    }

    /// Removes old files beyond what is kept.
    fn clean(&self) {
        let mut old = self.old();
        old.sort();
        let excess = match self.config.backups_max {
            Some(max) => old.len().saturating_sub(max),
            None => 0,
        };
        let now = SystemTime::now();
        let is_old = |path: &PathBuf| {
            let modified = path.metadata().and_then(|meta| meta.modified()).ok();
            let age = modified.and_then(|at| now.duration_since(at).ok());
            age.zip(self.config.age_max)
                .is_some_and(|(age, max)| age > max)
        };
        for (index, path) in old.iter().enumerate() {
            if index < excess || is_old(path) {
                // Somebody else may have removed it.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn old(&self) -> Vec<PathBuf> {
        let path = &self.config.path;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let entries = std::fs::read_dir(folder.unwrap_or(Path::new(".")));
        let (stem, extension) = parts(path);
        let is_ours = |path: &PathBuf| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            let name = name.strip_suffix(".gz").unwrap_or(name);
            let time = name
                .strip_prefix(&stem)
                .and_then(|n| n.strip_suffix(&extension));
            time.is_some_and(|time| time.len() >= 23 && time.as_bytes()[10] == b'T')
        };
        let paths = entries.into_iter().flatten().flatten();
        paths.map(|entry| entry.path()).filter(is_ours).collect()
    }
}

/// What stands before and after the time in the names of old files.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let extension = match path.extension() {
        Some(extension) => format!(".{}", extension.to_string_lossy()),
        None => String::new(),
    };
    (format!("{}-", text(path.file_stem())), extension)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let target = private(
        OpenOptions::new().create_new(true).write(true),
        Path::new(&name),
    )?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(path)
}

/// What people asked for is nobody else's business.
fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).open(path)
}

impl Open {
    fn file(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = private(OpenOptions::new().create(true).append(true), path)?;
        let size = file.metadata()?.len();
        Ok(Self::File { file, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, backups_max: Option<usize>, compress: bool) -> Log {
        let config = LogConfig {
            path: folder.join("audit.log"),
            size_max: 100,
            backups_max,
            age_max: None,
            compress,
            strict: false,
        };
        Log::open(config).expect("opens")
    }

    fn lines(folder: &Path) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(folder).expect("there");
        let mut out: Vec<_> = entries
            .map(|entry| {
                let entry = entry.expect("readable");
                let size = entry.metadata().expect("there").len();
                (entry.file_name().into_string().expect("text"), size)
            })
            .collect();
        out.sort();
        out
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), Some(2), false);
        for _ in 0..20 {
            log.write(&[b'x'; 40]).expect("written");
        }
        let found = lines(folder.path());
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|(_, size)| *size == 80), "{found:?}");
        // A line that is longer than a file has one of its own.
        log.write(&[b'x'; 500]).expect("written");
        log.write(&[b'x'; 40]).expect("written");
        assert_eq!(lines(folder.path()).len(), 3);
        assert_eq!(
            folder
                .path()
                .join("audit.log")
                .metadata()
                .expect("there")
                .len(),
            40
        );
    }

    #[test]
    fn a_log_is_gone_on_with_and_old_files_may_be_compressed() {
        let folder = tempfile::tempdir().expect("a folder");
        log(folder.path(), None, true)
            .write(&[b'a'; 60])
            .expect("written");
        let again = log(folder.path(), None, true);
        again.write(&[b'b'; 60]).expect("written");
        let found = lines(folder.path());
        assert_eq!(found.len(), 2, "{found:?}");
        let packed = found.iter().find(|(name, _)| name.ends_with(".log.gz"));
        assert!(packed.is_some(), "{found:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &folder
                .path()
                .join("audit.log")
                .metadata()
                .expect("there")
                .permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}
