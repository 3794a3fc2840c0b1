//! Reading container logs: across rotated files, filtered, from the end, and as they grow.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

/// How often a followed log is looked at: a quarter of a second is immediate to a reader and nothing to the machine.
pub const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// The most lines that `tail` keeps in memory.
const TAIL_MAX: usize = 1_000_000;

/// What is wanted of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Only what was written since.
    pub since: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// No more bytes than this.
    pub limit_bytes: Option<usize>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
    /// Go on as the log grows.
    pub follow: bool,
}

/// A log being read.
pub struct LogReader {
    path: PathBuf,
    options: Options,
    /// The file in use, and how far it was read; a rotated file is finished before its successor is opened.
    file: Option<BufReader<std::fs::File>>,
    /// The beginning of an entry that is not complete yet.
    pending: Vec<u8>,
    left: Option<usize>,
    /// The last entry was partial: its continuation gets no time stamp of its own.
    in_line: bool,
}

impl LogReader {
    /// Opens the log of a container instance, rotated files included.
    pub fn open(path: &Path, options: Options) -> Self {
        let left = options.limit_bytes;
        Self {
            path: path.to_owned(),
            options,
            file: None,
            pending: Vec::new(),
            left,
            in_line: false,
        }
    }

    /// What is there now: everything that the options ask for.
    pub fn start(&mut self) -> std::io::Result<Vec<u8>> {
        let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
        let mut whole = Vec::new();
        let tail = self.options.tail.map(|tail| tail.min(TAIL_MAX));
        for path in rotated(&self.path) {
            let mut file = BufReader::new(std::fs::File::open(&path)?);
            self.entries(&mut file, |line| match tail {
                Some(0) => {}
                Some(tail) => {
                    lines.push_back(line);
                    if lines.len() > tail {
                        lines.pop_front();
                    }
                }
                None => whole.extend_from_slice(&line),
            })?;
        }
        match std::fs::File::open(&self.path) {
            Ok(file) => {
                let mut file = BufReader::new(file);
                self.entries(&mut file, |line| match tail {
                    Some(0) => {}
                    Some(tail) => {
                        lines.push_back(line);
                        if lines.len() > tail {
                            lines.pop_front();
                        }
                    }
                    None => whole.extend_from_slice(&line),
                })?;
                self.file = Some(file);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let bytes = if tail.is_some() {
            lines.into_iter().flatten().collect()
        } else {
            whole
        };
        Ok(self.limited(bytes))
    }

    /// What was written since the last call.
    pub fn more(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(mut file) = self.file.take() {
            self.entries(&mut file, |line| bytes.extend_from_slice(&line))?;
            self.file = Some(file);
        }
        if self.was_rotated() {
            // The old file may have got its last lines between the read above and the rename.
            if let Some(mut file) = self.file.take() {
                self.entries(&mut file, |line| bytes.extend_from_slice(&line))?;
            }
            self.pending.clear();
            if let Ok(file) = std::fs::File::open(&self.path) {
                let mut file = BufReader::new(file);
                self.entries(&mut file, |line| bytes.extend_from_slice(&line))?;
                self.file = Some(file);
            }
        }
        Ok(self.limited(bytes))
    }

    /// The byte limit has been reached.
    pub fn exhausted(&self) -> bool {
        self.left == Some(0)
    }

    fn was_rotated(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let inode = |metadata: std::io::Result<std::fs::Metadata>| {
            metadata.map(|metadata| metadata.ino()).ok()
        };
        match (&self.file, inode(std::fs::metadata(&self.path))) {
            (None, Some(_)) => true,
            (Some(file), Some(now)) => inode(file.get_ref().metadata()) != Some(now),
            (_, None) => false,
        }
    }

    fn limited(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        bytes
    }

    fn entries(
        &mut self,
        file: &mut impl BufRead,
        mut emit: impl FnMut(Vec<u8>),
    ) -> std::io::Result<()> {
        loop {
            let n = file.read_until(b'\n', &mut self.pending)?;
            if n == 0 || !self.pending.ends_with(b"\n") {
                return Ok(());
            }
            let entry = std::mem::take(&mut self.pending);
            if let Some(line) = self.render(&entry) {
                emit(line);
            }
        }
    }

    /// An entry as a reader sees it, if it is wanted.
    fn render(&mut self, entry: &[u8]) -> Option<Vec<u8>> {
        let mut parts = entry.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag, text) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if self
            .options
            .stream
            .as_ref()
            .is_some_and(|wanted| wanted.as_bytes() != stream)
        {
            return None;
        }
        if let Some(since) = self.options.since {
            let at: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if at < since {
                return None;
            }
        }
        let mut line = Vec::with_capacity(entry.len());
        if self.options.timestamps && !self.in_line {
            line.extend_from_slice(time);
            line.push(b' ');
        }
        let partial = tag == b"P";
        line.extend_from_slice(if partial {
            text.strip_suffix(b"\n").unwrap_or(text)
        } else {
            text
        });
        self.in_line = partial;
        Some(line)
    }
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = (1..)
        .map(|number| PathBuf::from(format!("{}.{number}", path.display())))
        .take_while(|path| path.exists())
        .collect();
    found.reverse();
    found
}

/// The end of a log as text, for a termination message.
pub fn tail_text(path: &Path, bytes_max: usize) -> String {
    let Ok(mut file) = std::fs::File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    // Entries carry some forty bytes of their own each, so lines of ten bytes still fill the message.
    let window = 8 * bytes_max as u64;
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(window)));
    let mut bytes = Vec::new();
    let _ = file.take(window).read_to_end(&mut bytes);
    let mut reader = LogReader::open(path, Options::default());
    let mut text = Vec::new();
    let _ = reader.entries(&mut BufReader::new(bytes.as_slice()), |line| {
        text.extend_from_slice(&line)
    });
    let cut = text.len().saturating_sub(bytes_max);
    String::from_utf8_lossy(&text[cut..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str, text: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("corral-logs-{name}-{}.log", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).expect("written");
        path
    }

    const TEXT: &str = "2026-01-02T03:04:05.000000000Z stdout F one\n\
                        2026-01-02T03:04:06.000000000Z stderr P tw\n\
                        2026-01-02T03:04:06.500000000Z stderr F o\n\
                        2026-01-02T03:04:07.000000000Z stdout F three\n";

    fn read(path: &Path, options: Options) -> String {
        String::from_utf8(LogReader::open(path, options).start().expect("readable")).expect("text")
    }

    #[test]
    fn options_choose_and_decorate_lines() {
        let path = log("options", TEXT);
        assert_eq!(read(&path, Options::default()), "one\ntwo\nthree\n");
        assert_eq!(
            read(
                &path,
                Options {
                    tail: Some(1),
                    ..Options::default()
                }
            ),
            "three\n"
        );
        let since = Some("2026-01-02T03:04:06Z".parse().expect("a time"));
        assert_eq!(
            read(
                &path,
                Options {
                    since,
                    ..Options::default()
                }
            ),
            "two\nthree\n"
        );
        assert_eq!(
            read(
                &path,
                Options {
                    limit_bytes: Some(5),
                    ..Options::default()
                }
            ),
            "one\nt"
        );
        assert_eq!(
            read(
                &path,
                Options {
                    stream: Some("stderr".into()),
                    ..Options::default()
                }
            ),
            "two\n"
        );
        let stamped = read(
            &path,
            Options {
                timestamps: true,
                ..Options::default()
            },
        );
        assert!(stamped.starts_with(
            "2026-01-02T03:04:05.000000000Z one\n2026-01-02T03:04:06.000000000Z two\n"
        ));
        assert_eq!(tail_text(&path, 32), "one\ntwo\nthree\n");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_followed_log_survives_rotation() {
        let path = log("follow", TEXT);
        let mut reader = LogReader::open(&path, Options::default());
        assert_eq!(reader.start().expect("readable").len(), 14);
        let old = PathBuf::from(format!("{}.1", path.display()));
        std::fs::rename(&path, &old).expect("renamed");
        std::fs::write(&path, "2026-01-02T03:04:08.000000000Z stdout F four\n").expect("written");
        assert_eq!(reader.more().expect("readable"), b"four\n");
        assert_eq!(reader.more().expect("readable"), b"");
        assert_eq!(read(&path, Options::default()), "one\ntwo\nthree\nfour\n");
        std::fs::remove_file(path).expect("removed");
        std::fs::remove_file(old).expect("removed");
    }
}
