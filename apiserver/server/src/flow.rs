//! Bounds on what all requests together may cost: how many at a time, and how much of them is held.
//!
//! A request takes a turn only once its body is there, so that a client that sends slowly holds up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corral_api::status::Status;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Largest body, as in kube-apiserver (3 MiB).
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How long a request waits for its turn before it is told to come back.
const TURN_WAIT_MAX: Duration = Duration::from_secs(15);
/// Requests that may wait for their turn.
const WAITING_MAX: usize = 4_096;

/// The bounds, as a server is set up.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Reads answered at a time.
    pub reads: usize,
    /// Writes answered at a time.
    pub writes: usize,
    /// Watches and streams of pods at a time.
    pub long_running: usize,
    /// Bytes of bodies held at a time.
    pub body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// How long a client may take for the head of a request.
    pub head_time: Duration,
    /// How long a client may leave what it is sent.
    pub patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // These two as kube-apiserver's defaults.
            reads: 400,
            writes: 200,
            // 50,000 nodes with four watches each, and as much again for controllers and people would be 250,000;
            // one costs some kilobytes.
            long_running: 250_000,
            // More than all turns together hold if their bodies are of the usual few kilobytes.
            body_bytes: 256 * 1024 * 1024,
            // As long as a request may take in all.
            body_time: Duration::from_secs(60),
            // As kube-apiserver.
            head_time: Duration::from_secs(32),
            // As long as a request may take in all, for each piece; watches that are quiet are not sent anything.
            patience: Duration::from_secs(60),
        }
    }
}

/// The turn of a request, for whoever goes on with its connection after the answer.
#[derive(Debug, Clone)]
pub struct Turn(#[allow(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

impl Turn {
    /// The turn of a request that has these extensions.
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        extensions.get().cloned()
    }
}

/// What is taken of the bounds.
pub struct Flow {
    bounds: Bounds,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    waiting: Semaphore,
    long_running: Arc<Semaphore>,
    body_bytes: Arc<AtomicUsize>,
}

/// What kind of turn a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// It changes nothing.
    Read,
    /// It may change something.
    Write,
    /// It lasts as long as the client wants.
    LongRunning,
}

fn busy() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

impl Flow {
    /// Nothing is taken yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(bounds.reads)),
            writes: Arc::new(Semaphore::new(bounds.writes)),
            waiting: Semaphore::new(WAITING_MAX),
            long_running: Arc::new(Semaphore::new(bounds.long_running)),
            body_bytes: Arc::default(),
            bounds,
        }
    }

    /// The bounds.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Waits for a turn, which lasts until it is dropped.
    ///
    /// # Errors
    /// 429 when there is none in time, or too many wait. Long-running requests do not wait: the turns they wait for
    /// may not come back for an hour.
    pub async fn turn(&self, share: Share) -> Result<Turn, Status> {
        let turns = match share {
            Share::Read => &self.reads,
            Share::Write => &self.writes,
            Share::LongRunning => &self.long_running,
        };
        if let Ok(turn) = turns.clone().try_acquire_owned() {
            return Ok(Turn(Arc::new(turn)));
        }
        if share == Share::LongRunning {
            return Err(busy());
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        match tokio::time::timeout(TURN_WAIT_MAX, turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn(Arc::new(turn))),
            _ => Err(busy()),
        }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// 413 when it is too large, 504 when it does not come in time, 429 when others fill what may be held, 400 when
    /// the connection fails.
    pub async fn body<B>(&self, body: B) -> Result<Held, Status>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let deadline = Instant::now() + self.bounds.body_time;
        let mut body = std::pin::pin!(body);
        let mut held = Held {
            bytes: Bytes::new(),
            taken: 0,
            total: self.body_bytes.clone(),
        };
        // Most bodies are one piece, which needs no copy.
        let mut more: Option<BytesMut> = None;
        loop {
            let frame = tokio::time::timeout_at(deadline, body.frame())
                .await
                .map_err(|_| Status::timeout("the body of the request did not arrive in time"))?;
            let Some(frame) = frame else { break };
            let frame = frame
                .map_err(|_| Status::bad_request("the body of the request could not be read"))?;
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            if held.taken + piece.len() > BODY_BYTES_MAX {
                return Err(Status::too_large(BODY_BYTES_MAX));
            }
            held.take(piece.len(), self.bounds.body_bytes)?;
            match &mut more {
                Some(more) => more.extend_from_slice(&piece),
                None if held.bytes.is_empty() => held.bytes = piece,
                None => {
                    let mut joined = BytesMut::from(held.bytes.as_ref());
                    joined.extend_from_slice(&piece);
                    more = Some(joined);
                }
            }
        }
        if let Some(more) = more {
            held.bytes = more.freeze();
        }
        Ok(held)
    }
}

/// A body, and its part of what may be held, which is given back when it is dropped.
pub struct Held {
    /// The body.
    pub bytes: Bytes,
    taken: usize,
    total: Arc<AtomicUsize>,
}

impl Held {
    fn take(&mut self, n: usize, max: usize) -> Result<(), Status> {
        let before = self.total.fetch_add(n, Ordering::Relaxed);
        self.taken += n;
        if before + n > max {
            Err(busy())
        } else {
            Ok(())
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.taken, Ordering::Relaxed);
    }
}
