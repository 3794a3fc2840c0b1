//! Files that may change while the server runs.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Looks at a file until told to stop, and hands it on whenever its content has changed. What is refused, or cannot be read,
/// is told once and leaves everything as it is.
pub async fn watch(
    path: &Path,
    period: Duration,
    stop: CancellationToken,
    take: impl Fn(&str) -> Result<(), String>,
) {
    let mut known = tokio::fs::read_to_string(path).await.ok();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let text = match tokio::fs::read_to_string(path).await {
            Ok(text) => text,
            Err(error) => {
                if known.take().is_some() {
                    tracing::error!(path = %path.display(), %error, "a configuration cannot be read; the last one stays");
                }
                continue;
            }
        };
        if known.as_deref() == Some(&text) {
            continue;
        }
        match take(&text) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "a configuration has changed and is taken")
            }
            Err(error) => {
                tracing::error!(path = %path.display(), error, "a configuration has changed and is refused; the last one stays");
            }
        }
        known = Some(text);
    }
}
