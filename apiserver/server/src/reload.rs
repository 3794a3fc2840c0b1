//! Files that may change while the server runs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Bytes of a file: tokens of tens of thousands of users. Configurations are much smaller.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A file that may change, as it was when what it says was taken. It may hold tokens, so that it is never shown.
#[derive(Clone)]
pub struct Watched {
    path: PathBuf,
    period: Duration,
    text: String,
}

impl Watched {
    /// Reads a file that is looked at in a period. Whoever takes what it says takes it from this: then no change is missed.
    ///
    /// # Errors
    /// When it cannot be read, or is too long.
    pub fn read(path: PathBuf, period: Duration) -> io::Result<Self> {
        let text = text_of(&path)?;
        Ok(Self { path, period, text })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it said.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says from then on, until told to stop.
    pub fn changes(&self, stop: CancellationToken) -> Changes {
        let Self { path, period, text } = self.clone();
        Changes {
            path,
            period,
            stop,
            known: Some(text),
        }
    }
}

/// The changes of a file.
pub struct Changes {
    path: PathBuf,
    period: Duration,
    stop: CancellationToken,
    known: Option<String>,
}

impl Changes {
    /// What the file says once it says something else; `None` when told to stop.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(self.period) => {}
            }
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || text_of(&path)).await;
            match read.unwrap_or_else(|error| Err(error.into())) {
                Ok(text) if self.known.as_ref() != Some(&text) => {
                    self.known = Some(text.clone());
                    return Some(text);
                }
                Ok(_) => {}
                Err(error) => {
                    if self.known.take().is_some() {
                        tracing::error!(path = %self.path.display(), %error, "a configuration cannot be read; the last one stays");
                    }
                }
            }
        }
    }

    /// Tells whether what the file says was taken.
    pub fn tell(&self, taken: Result<(), String>) {
        let path = self.path.display();
        match taken {
            Ok(()) => tracing::info!(%path, "a configuration has changed and is taken"),
            Err(error) => {
                tracing::error!(%path, error, "a configuration has changed and is refused; the last one stays");
            }
        }
    }
}

fn text_of(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        let why = format!("it is longer than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::other(why));
    }
    std::fs::read_to_string(path)
}
