//! Small writes of many streams become one.
//!
//! HTTP/2 hands every frame to the connection by itself and flushes after it; encrypting and sending each alone costs ten
//! times what the frame itself does, and a change that a thousand watches wait for is a thousand frames at once. So a
//! connection keeps what is written until its task has nothing more to write, and then sends it together.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::together::Together;

/// Bytes that are kept before they are sent: four TLS records, which the kernel takes in one call.
const KEPT_MAX: usize = 64 * 1024;
/// A buffer larger than this is given back once it is sent: most connections are quiet for most of the time.
const BUFFER_IDLE_MAX: usize = 4 * 1024;

struct State<S> {
    stream: S,
    kept: Vec<u8>,
    /// How much of `kept` was sent.
    sent: usize,
    /// Nothing is kept: nobody would send it.
    direct: bool,
}

impl<S: AsyncWrite + Unpin> State<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let left = &self.kept[self.sent..];
            let n_sent = ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
            if n_sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n_sent;
        }
        self.sent = 0;
        self.kept.clear();
        if self.kept.capacity() > BUFFER_IDLE_MAX {
            self.kept = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Keeps what there is room for.
    fn keep<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> usize {
        let before = self.kept.len();
        for piece in pieces {
            let room = KEPT_MAX - self.kept.len();
            let n_kept = piece.len().min(room);
            self.kept.extend_from_slice(&piece[..n_kept]);
            if n_kept < piece.len() {
                break;
            }
        }
        self.kept.len() - before
    }
}

/// A connection that keeps what is written to it until [`Served`] sends it.
pub struct Gathered<S>(Arc<Mutex<State<S>>>);

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Gathered<S> {
    /// Over a connection.
    pub fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(State {
            stream,
            kept: Vec::new(),
            sent: 0,
            direct: false,
        })))
    }

    /// From now on nothing is kept: the connection is about to become another protocol's, which flushes by itself.
    pub fn go_direct(&self) {
        self.state().direct = true;
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.state().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        if state.direct {
            ready!(state.poll_send(cx))?;
            return Pin::new(&mut state.stream).poll_write_vectored(cx, bytes);
        }
        if state.kept.len() == KEPT_MAX {
            ready!(state.poll_send(cx))?;
        }
        Poll::Ready(Ok(state.keep(bytes.iter().map(|piece| &**piece))))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.direct {
            return state.poll_flush(cx);
        }
        // `Served` does it, once everything is there.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        ready!(state.poll_send(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

/// What serves a connection, and sends what that has written.
pub struct Served<F, S> {
    serving: Pin<Box<F>>,
    connection: Gathered<S>,
    together: Together,
}

impl<F, S> Served<F, S> {
    /// `serving` writes to `connection`, and hands over streams to be polled `together`.
    pub fn new(serving: F, connection: Gathered<S>, together: Together) -> Self {
        Self {
            serving: Box::pin(serving),
            connection,
            together,
        }
    }

    /// What serves.
    pub fn serving(&mut self) -> Pin<&mut F> {
        self.serving.as_mut()
    }
}

impl<F: Future, S: AsyncWrite + Unpin> Future for Served<F, S> {
    /// Nothing: whatever went wrong, the connection is over.
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // First, so that what they tell is sent with the rest.
        self.together.poll(cx);
        let ended = self.serving.as_mut().poll(cx).is_ready();
        let connection = self.connection.clone();
        let mut state = connection.state();
        if ended {
            // The connection is shut down, or belongs to another protocol.
            return Poll::Ready(());
        }
        if state.kept.is_empty() {
            return Poll::Pending;
        }
        match state.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            // While the client takes nothing, the connection wakes this task when it does.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::serve::together::Streams;

    /// Counts writes.
    struct Counted<S>(S, Arc<AtomicUsize>);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_a_task_writes_at_once_is_sent_at_once_and_nothing_is_lost() {
        for n_pieces in [100, 5_000] {
            let (ours, mut theirs) = tokio::io::duplex(KEPT_MAX);
            let n_writes = Arc::new(AtomicUsize::new(0));
            let connection = Gathered::new(Counted(ours, n_writes.clone()));
            let mut writer = connection.clone();
            let work = async move {
                for index in 0..n_pieces {
                    writer.write_all(format!("{index:05},").as_bytes()).await?;
                    writer.flush().await?;
                }
                // What is left is sent although the work goes on.
                std::future::pending::<io::Result<()>>().await
            };
            let served = Served::new(work, connection, Together::new(&Streams::default()));
            let mut told = vec![0; n_pieces * 6];
            tokio::select! {
                () = served => unreachable!("the work never ends"),
                read = theirs.read_exact(&mut told) => drop(read.expect("all of it")),
            }
            let expected: String = (0..n_pieces).map(|index| format!("{index:05},")).collect();
            assert_eq!(String::from_utf8(told).expect("text"), expected);
            let n_expected = (n_pieces * 6).div_ceil(KEPT_MAX);
            assert_eq!(n_writes.load(Ordering::Relaxed), n_expected);
        }
    }

    #[tokio::test]
    async fn another_protocol_flushes_by_itself() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut connection = Gathered::new(ours);
        connection.write_all(b"kept,").await.expect("written");
        connection.go_direct();
        connection.write_all(b"direct").await.expect("written");
        let mut told = [0; 11];
        theirs.read_exact(&mut told).await.expect("both");
        assert_eq!(&told, b"kept,direct");
    }
}
