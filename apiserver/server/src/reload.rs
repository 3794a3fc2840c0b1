//! Files that may change while the server runs.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The changes of a file.
pub struct Changes {
    path: PathBuf,
    period: Duration,
    stop: CancellationToken,
    known: Option<String>,
}

impl Changes {
    /// Looks at a file in a period, until told to stop.
    pub async fn of(path: PathBuf, period: Duration, stop: CancellationToken) -> Self {
        let known = tokio::fs::read_to_string(&path).await.ok();
        Self {
            path,
            period,
            stop,
            known,
        }
    }

    /// What the file says once it says something else; `None` when told to stop.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(self.period) => {}
            }
            match tokio::fs::read_to_string(&self.path).await {
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
