//! How long a client may keep what it has been given waiting: bytes on a connection, and the rest of a body.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::response::{Body, BodyError};

/// A connection that ends when its client takes nothing for too long.
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// A connection whose client has `patience` to take what is written.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let patience = self.patience;
        let start = || Box::pin(tokio::time::sleep(patience));
        let waiting = self.waiting.get_or_insert_with(start);
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.waited(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.waited(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.waited(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.waited(cx, outcome)
    }
}

/// What is left of a body, and when it was last asked for.
struct Rest {
    body: Option<Body>,
    asked: Instant,
}

struct Watched(Arc<Mutex<Rest>>);

/// A body that is dropped when its client takes nothing of it for too long: a list holds the objects that it has not told
/// yet, and a client that reads one stream of a connection can leave another alone.
pub fn watched(body: Body, patience: Duration) -> Body {
    let rest = Arc::new(Mutex::new(Rest {
        body: Some(body),
        asked: Instant::now(),
    }));
    tokio::spawn(watch(Arc::downgrade(&rest), patience));
    Watched(rest).boxed_unsync()
}

async fn watch(rest: Weak<Mutex<Rest>>, patience: Duration) {
    loop {
        let Some(deadline) = rest.upgrade().and_then(|rest| {
            let rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.body.is_some().then_some(rest.asked + patience)
        }) else {
            return;
        };
        tokio::time::sleep_until(deadline).await;
        let Some(rest) = rest.upgrade() else { return };
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        if rest.asked + patience <= Instant::now() {
            rest.body = None;
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rest.asked = Instant::now();
        match &mut rest.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err("the client took nothing for too long".into()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let body = rest.body.as_ref();
        body.map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;
    use crate::response;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn body(kept: &Arc<()>) -> Body {
        let piece = || Ok(Bytes::from_static(b"piece"));
        let body = response::try_stream(stream::repeat_with(piece).take(3));
        watched(response::holding(body, kept.clone()), PATIENCE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_reads_is_dropped() {
        let kept = Arc::new(());
        let mut left = body(&kept);
        assert!(left.frame().await.expect("a frame").is_ok());
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(left.frame().await.expect("a frame").is_ok());
        tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&kept), 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&kept), 1);
        assert!(left.frame().await.expect("a frame").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_nothing_ends() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut ours = Patient::new(ours, PATIENCE);
        ours.write_all(&[0; 10]).await.expect("there is room");
        // One that reads slowly has time for each write.
        let slow = async {
            for _ in 0..3 {
                tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0; 10]).await.expect("written");
            }
        };
        let written = async { ours.write_all(&[0; 30]).await };
        tokio::join!(slow, async { written.await.expect("taken") });
        let started = Instant::now();
        let error = ours.write_all(&[0; 1]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), PATIENCE);
    }
}
