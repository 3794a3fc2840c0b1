//! Reading container logs: across rotated files, filtered, from the end, and as they grow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

/// How often a followed log is looked at: a quarter of a second is immediate to a reader and nothing to the machine.
pub const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// A piece of a log ends with the first line beyond this: no reader holds more of a log in memory, however long it is.
pub const PIECE_LEN: usize = 64 << 10;

/// How often a log that is rotated while it is opened is opened again: rotations are minutes apart.
const OPEN_ATTEMPTS_MAX: usize = 5;

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

/// A log being read, piece by piece.
pub struct LogReader {
    path: PathBuf,
    options: Options,
    opened: bool,
    /// Files to read after the present one, in their order; open, so that a rotation takes nothing away.
    later: VecDeque<BufReader<File>>,
    /// The file in use, and how far it was read; a rotated file is finished before its successor is begun.
    file: Option<BufReader<File>>,
    /// Entries that `tail` leaves out.
    skip: usize,
    /// The beginning of an entry that is not complete yet.
    pending: Vec<u8>,
    left: Option<usize>,
    /// The last entry was partial: its continuation gets no time stamp of its own.
    in_line: bool,
}

impl LogReader {
    /// A reader of the log of a container instance, rotated files included.
    pub fn new(path: &Path, options: Options) -> Self {
        let left = options.limit_bytes;
        Self {
            path: path.to_owned(),
            options,
            opened: false,
            later: VecDeque::new(),
            file: None,
            skip: 0,
            pending: Vec::new(),
            left,
            in_line: false,
        }
    }

    /// The next lines, about [`PIECE_LEN`] bytes of them; none when everything that is there now has been read.
    pub fn read(&mut self) -> std::io::Result<Vec<u8>> {
        if !self.opened {
            self.opened = true;
            self.later = open_all(&self.path)?
                .into_iter()
                .map(BufReader::new)
                .collect();
            if let Some(tail) = self.options.tail {
                self.skip = self.count()?.saturating_sub(tail);
            }
        }
        let mut again = false;
        loop {
            let bytes = self.piece()?;
            if !bytes.is_empty() {
                return Ok(self.limited(bytes));
            }
            if let Some(next) = self.later.pop_front() {
                self.begin(next);
            } else if !self.was_rotated() {
                return Ok(Vec::new());
            } else if !again && self.file.is_some() {
                // The old file may have got its last lines between the read above and the rename.
                again = true;
                continue;
            } else {
                self.later = self.successors()?;
                if self.later.is_empty() {
                    return Ok(Vec::new());
                }
            }
            again = false;
        }
    }

    fn begin(&mut self, file: BufReader<File>) {
        self.pending.clear();
        self.file = Some(file);
    }

    /// How many lines there are by all options but `tail`. A second reading costs less than keeping them.
    fn count(&mut self) -> std::io::Result<usize> {
        let mut count = 0;
        let mut files = std::mem::take(&mut self.later);
        for file in &mut files {
            while self.entry(file)? {
                let entry = std::mem::take(&mut self.pending);
                count += usize::from(self.render(&entry).is_some());
            }
            self.pending.clear();
            file.rewind()?;
        }
        self.later = files;
        self.in_line = false;
        Ok(count)
    }

    fn piece(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(mut file) = self.file.take() else {
            return Ok(bytes);
        };
        while bytes.len() < PIECE_LEN && self.entry(&mut file)? {
            let entry = std::mem::take(&mut self.pending);
            match self.render(&entry) {
                Some(_) if self.skip > 0 => self.skip -= 1,
                Some(line) => bytes.extend_from_slice(&line),
                None => {}
            }
        }
        self.file = Some(file);
        Ok(bytes)
    }

    /// The files that came after the one in use.
    fn successors(&self) -> std::io::Result<VecDeque<BufReader<File>>> {
        let present = self.file.as_ref().map(|file| inode(file.get_ref()));
        let all = open_all(&self.path)?;
        let known = all.iter().position(|file| Some(inode(file)) == present);
        let after = known.map_or(0, |at| at + 1);
        Ok(all.into_iter().skip(after).map(BufReader::new).collect())
    }

    /// The byte limit has been reached.
    pub fn exhausted(&self) -> bool {
        self.left == Some(0)
    }

    fn was_rotated(&self) -> bool {
        let now = std::fs::metadata(&self.path).map(|metadata| metadata.ino());
        match (&self.file, now) {
            (None, Ok(_)) => true,
            (Some(file), Ok(now)) => inode(file.get_ref()) != now,
            (_, Err(_)) => false,
        }
    }

    fn limited(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        bytes
    }

    /// Reads one entry into `pending`; says whether it is whole.
    fn entry(&mut self, file: &mut impl BufRead) -> std::io::Result<bool> {
        file.read_until(b'\n', &mut self.pending)?;
        Ok(self.pending.ends_with(b"\n"))
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

fn inode(file: &File) -> u64 {
    // A file that cannot be looked at is none of those on disk.
    file.metadata().map_or(0, |metadata| metadata.ino())
}

/// All files of a log, oldest first, as they were at one moment.
fn open_all(path: &Path) -> std::io::Result<Vec<File>> {
    let mut files = Vec::new();
    for _ in 0..OPEN_ATTEMPTS_MAX {
        let mut paths = rotated(path);
        paths.push(path.to_owned());
        files.clear();
        for path in &paths {
            match File::open(path) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let now = paths.iter().filter_map(|path| std::fs::metadata(path).ok());
        if files
            .iter()
            .map(inode)
            .eq(now.map(|metadata| metadata.ino()))
        {
            break;
        }
    }
    Ok(files)
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
    let Ok(mut file) = File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    // Entries carry some forty bytes of their own each, so lines of ten bytes still fill the message.
    let window = 8 * bytes_max as u64;
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(window)));
    let mut bytes = Vec::new();
    let _ = file.take(window).read_to_end(&mut bytes);
    let mut reader = LogReader::new(path, Options::default());
    let mut text = Vec::new();
    let mut window = bytes.as_slice();
    while let Ok(true) = reader.entry(&mut window) {
        let entry = std::mem::take(&mut reader.pending);
        text.extend(reader.render(&entry).unwrap_or_default());
    }
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
        let mut reader = LogReader::new(path, options);
        let mut all = Vec::new();
        loop {
            let piece = reader.read().expect("readable");
            if piece.is_empty() {
                return String::from_utf8(all).expect("text");
            }
            assert!(piece.len() < 2 * PIECE_LEN, "{}", piece.len());
            all.extend(piece);
        }
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
        let mut reader = LogReader::new(&path, Options::default());
        assert_eq!(reader.read().expect("readable").len(), 14);
        assert_eq!(reader.read().expect("readable"), b"");
        let old = PathBuf::from(format!("{}.1", path.display()));
        std::fs::rename(&path, &old).expect("renamed");
        std::fs::write(&path, "2026-01-02T03:04:08.000000000Z stdout F four\n").expect("written");
        assert_eq!(reader.read().expect("readable"), b"four\n");
        assert_eq!(reader.read().expect("readable"), b"");
        assert_eq!(read(&path, Options::default()), "one\ntwo\nthree\nfour\n");
        std::fs::remove_file(path).expect("removed");
        std::fs::remove_file(old).expect("removed");
    }

    #[test]
    fn a_log_that_is_rotated_twice_while_it_is_read_loses_nothing() {
        let path = log("twice", TEXT);
        let rotated = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
        let mut reader = LogReader::new(&path, Options::default());
        assert_eq!(reader.read().expect("readable"), b"one\ntwo\nthree\n");
        std::fs::rename(&path, rotated(2)).expect("renamed");
        for (path, text) in [(rotated(1), "four"), (path.clone(), "five")] {
            let line = format!("2026-01-02T03:04:08.000000000Z stdout F {text}\n");
            std::fs::write(path, line).expect("written");
        }
        assert_eq!(reader.read().expect("readable"), b"four\n");
        assert_eq!(reader.read().expect("readable"), b"five\n");
        assert_eq!(reader.read().expect("readable"), b"");
        for path in [rotated(1), rotated(2), path.clone()] {
            std::fs::remove_file(path).expect("removed");
        }
    }

    #[test]
    fn a_long_log_is_read_in_pieces_and_its_end_found_without_keeping_it() {
        let path = log("long", "");
        let old = PathBuf::from(format!("{}.1", path.display()));
        let mut wanted = String::new();
        for (file, numbers) in [(&old, 0..20_000), (&path, 20_000..40_000)] {
            let mut text = String::new();
            for number in numbers {
                text += &format!("2026-01-02T03:04:05.000000000Z stdout F line {number}\n");
                wanted += &format!("line {number}\n");
            }
            std::fs::write(file, text).expect("written");
        }
        assert_eq!(read(&path, Options::default()), wanted);
        let end = Options {
            tail: Some(20_001),
            ..Options::default()
        };
        let from = wanted.find("line 19999\n").expect("there");
        assert_eq!(read(&path, end), &wanted[from..]);
        for path in [path, old] {
            std::fs::remove_file(path).expect("removed");
        }
    }
}
