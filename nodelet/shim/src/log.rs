//! Container output as CRI log lines: `2026-01-02T03:04:05.000000000Z stdout F text`.
//!
//! A line longer than [`LINE_MAX`] is written in several entries, all but the last with the tag `P` (partial). A file
//! that has grown to its limit is renamed to `.1` (older ones move up, the oldest is removed) and a new one begun;
//! rotation happens only between entries.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::protocol::LogTarget;

/// The longest text of one entry; what is longer is split. The CRI runtimes use the same bound.
pub const LINE_MAX: usize = 16 << 10;

/// Which stream an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Writes one container's log.
pub struct LogWriter {
    target: LogTarget,
    file: Option<File>,
    length: u64,
    /// The beginning of a line whose end has not been seen, per stream.
    partial: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens (and appends to) the file that `target` names.
    pub fn open(target: LogTarget) -> io::Result<Self> {
        let file = append(Path::new(&target.path))?;
        let length = file.metadata()?.len();
        Ok(Self {
            target,
            file: Some(file),
            length,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what a stream produced at `now` (RFC 3339); whole lines go to the file at once.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8], now: &str) -> io::Result<()> {
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        let partial = &mut self.partial[stream as usize];
        while !bytes.is_empty() {
            let room = LINE_MAX - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                entry(&mut entries, now, stream, 'F', &[partial, &window[..end]]);
                partial.clear();
                bytes = &bytes[end + 1..];
            } else if window.len() == room {
                entry(&mut entries, now, stream, 'P', &[partial, window]);
                partial.clear();
                bytes = &bytes[room..];
            } else {
                partial.extend_from_slice(window);
                break;
            }
        }
        self.put(&entries)
    }

    /// Writes what is left of lines without an end, when a stream has ended: as partial, so that readers add no end.
    pub fn finish(&mut self, now: &str) -> io::Result<()> {
        let mut entries = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                entry(&mut entries, now, stream, 'P', &[&partial]);
            }
        }
        self.put(&entries)
    }

    fn put(&mut self, entries: &[u8]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.length >= self.target.size_max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.file = Some(append(Path::new(&self.target.path))?);
        }
        let file = self.file.as_mut().expect("opened above");
        file.write_all(entries)?;
        self.length += entries.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let rotated = |number: u32| PathBuf::from(format!("{}.{number}", self.target.path));
        for number in (1..self.target.files_max.saturating_sub(1)).rev() {
            ignore_absent(std::fs::rename(rotated(number), rotated(number + 1)))?;
        }
        if self.target.files_max > 1 {
            ignore_absent(std::fs::rename(&self.target.path, rotated(1)))?;
        } else {
            ignore_absent(std::fs::remove_file(&self.target.path))?;
        }
        self.length = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn entry(out: &mut Vec<u8>, now: &str, stream: Stream, tag: char, parts: &[&[u8]]) {
    out.extend_from_slice(now.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(&[b' ', tag as u8, b' ']);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05.000000000Z";

    fn writer(directory: &Path, size_max: u64, files_max: u32) -> LogWriter {
        let path = directory.join("0.log").to_string_lossy().into_owned();
        LogWriter::open(LogTarget {
            path,
            size_max,
            files_max,
        })
        .expect("opens")
    }

    fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("corral-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary directory");
        path
    }

    #[test]
    fn lines_are_tagged_and_long_ones_split() {
        let directory = temporary("lines");
        let mut log = writer(&directory, 1 << 20, 2);
        log.write(Stream::Stdout, b"one\ntw", NOW).expect("writes");
        log.write(Stream::Stderr, b"bad\n", NOW).expect("writes");
        log.write(Stream::Stdout, b"o\n", NOW).expect("writes");
        log.write(Stream::Stdout, &vec![b'x'; LINE_MAX + 1], NOW)
            .expect("writes");
        log.finish(NOW).expect("finishes");
        let text = std::fs::read_to_string(directory.join("0.log")).expect("log");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("{NOW} stdout F one"));
        assert_eq!(lines[1], format!("{NOW} stderr F bad"));
        assert_eq!(lines[2], format!("{NOW} stdout F two"));
        assert!(lines[3].starts_with(&format!("{NOW} stdout P xxx")));
        assert_eq!(lines[4], format!("{NOW} stdout P x"));
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn only_so_many_files_are_kept() {
        let directory = temporary("rotation");
        let mut log = writer(&directory, 40, 3);
        for number in 0..10 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), NOW)
                .expect("writes");
        }
        let mut names: Vec<String> = std::fs::read_dir(&directory)
            .expect("directory")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("utf-8")
            })
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        assert!(
            std::fs::read_to_string(directory.join("0.log"))
                .expect("log")
                .contains("line 9")
        );
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
