//! Bounds on what all requests together may cost: how many at a time, and how much of them is held.
//!
//! A request takes a turn only once its body is there, so that a client that sends slowly holds up nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corral_api::status::Status;
use http::HeaderValue;
use http::header::{RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::authn::{MASTERS, User};
use crate::duration;
use crate::metrics::requests::Lasting as Counted;
use crate::request::{RequestInfo, Verb};
use crate::response::{self, Answer};

mod allocation;
mod demand;
pub mod dump;
pub mod fairness;
pub mod metrics;
mod queues;
mod retry;
mod rules;
mod shuffle;
mod watches;
pub mod width;

use fairness::{Fairness, Schema};
use watches::Open;
use width::Stock;

/// Largest body, as in kube-apiserver (3 MiB).
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How long a request may take in all, of which it waits a quarter for its turn at most, as in kube-apiserver.
const TIME_MAX: Duration = crate::chain::REQUEST_TIMEOUT;
/// How long the seat of a request is held for a client that takes what it is sent slowly.
const SENDING_MAX: Duration = TIME_MAX;
/// What those are told who have no turn.
const REFUSAL: &str = "Too many requests, please try again later.";

/// The bounds, as a server is set up.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Whether requests are told apart by flow schemas and wait at their priority levels.
    pub fair: bool,
    /// Reads answered at a time, where they are not told apart; with `writes` the seats of all levels where they are.
    /// 0 for no bound.
    pub reads: usize,
    /// The same for writes.
    pub writes: usize,
    /// Connections open at a time.
    pub connections: usize,
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
            fair: true,
            // These two as kube-apiserver's defaults.
            reads: 400,
            writes: 200,
            connections: crate::serve::CONNECTIONS_MAX,
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

/// The turn of a request that lasts, for whoever goes on with its connection after the answer.
#[derive(Clone)]
pub struct Turn(#[allow(dead_code, reason = "held, not read")] Arc<Lasting>);

struct Lasting {
    _counted: Counted,
    _permit: OwnedSemaphorePermit,
    _open: Option<Open>,
}

impl Turn {
    /// The turn of a request that has these extensions.
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        extensions.get().cloned()
    }
}

/// The seat of a request, until it is dropped.
pub struct Seat(#[allow(dead_code, reason = "held, not read")] Held);

enum Held {
    Fair(#[allow(dead_code, reason = "held, not read")] fairness::Seat),
    Plain(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    /// Nobody counts.
    Free,
}

/// A seat that is given back after a while in any case: a client that does not take its answer must not keep it.
pub struct Brief {
    seat: Arc<Mutex<Option<Seat>>>,
    timer: AbortHandle,
}

impl Brief {
    /// Holds a seat while something is sent.
    pub fn new(seat: Seat) -> Self {
        let seat = Arc::new(Mutex::new(Some(seat)));
        let held = seat.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(SENDING_MAX).await;
            held.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        let timer = timer.abort_handle();
        Self { seat, timer }
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        self.timer.abort();
        self.seat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// What is taken of the bounds.
pub struct Flow {
    bounds: Bounds,
    /// Where requests are told apart.
    pub fairness: Option<Arc<Fairness>>,
    reads: Option<Arc<Semaphore>>,
    writes: Option<Arc<Semaphore>>,
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

fn busy(after: u64) -> Status {
    Status::too_many_requests(REFUSAL, u32::try_from(after).unwrap_or(u32::MAX))
}

/// What a request is answered with that has no turn: Kubernetes tells it before it knows what the client understands.
pub fn refusal(status: &Status) -> Option<Answer> {
    if status.code != 429 || status.message != REFUSAL {
        return None;
    }
    let mut answer = response::text(429, format!("{REFUSAL}\n"));
    let after = status.details.as_ref().map_or(1, |d| d.retry_after_seconds);
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(after));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Some(answer)
}

impl Flow {
    /// Nothing is taken yet.
    ///
    /// # Errors
    /// When a metric's name is taken.
    pub fn new(bounds: Bounds, registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let fairness = match bounds.fair {
            true => Some(Fairness::new(bounds.reads + bounds.writes, registry)?),
            false => None,
        };
        let bounded = |n: usize| (n > 0).then(|| Arc::new(Semaphore::new(n)));
        Ok(Self {
            fairness,
            reads: bounded(bounds.reads),
            writes: bounded(bounds.writes),
            long_running: Arc::new(Semaphore::new(bounds.long_running)),
            body_bytes: Arc::default(),
            bounds,
        })
    }

    /// The schema of a request, if requests are told apart and this one is: streams of pods are not.
    pub fn classify(&self, share: Share, user: &User, info: &RequestInfo) -> Option<Arc<Schema>> {
        let is_counted = share != Share::LongRunning || info.verb == Verb::Watch;
        let fairness = self.fairness.as_ref().filter(|_| is_counted)?;
        Some(fairness.classify(user, info))
    }

    /// Waits for the seat of a request.
    ///
    /// # Errors
    /// 429 when there is none in time.
    pub async fn seat(
        &self,
        share: Share,
        schema: Option<&Arc<Schema>>,
        user: &Arc<User>,
        info: &Arc<RequestInfo>,
        stock: impl FnOnce() -> Option<Stock>,
    ) -> Result<Seat, Status> {
        if let (Some(fairness), Some(schema)) = (&self.fairness, schema) {
            let work = fairness.estimate(schema, info, stock);
            let seat = fairness.seat(schema, user, info, work, wait_max(info));
            let seat = seat.await.map_err(|refused| busy(refused.after))?;
            return Ok(Seat(Held::Fair(seat)));
        }
        let turns = match share {
            _ if self.fairness.is_some() => None,
            Share::Read => self.reads.as_ref(),
            Share::Write => self.writes.as_ref(),
            Share::LongRunning => None,
        };
        let Some(turns) = turns else {
            return Ok(Seat(Held::Free));
        };
        match turns.clone().try_acquire_owned() {
            Ok(permit) => Ok(Seat(Held::Plain(permit))),
            // Who may do everything is always answered.
            Err(_) if user.groups.iter().any(|group| group == MASTERS) => Ok(Seat(Held::Free)),
            Err(_) => Err(busy(1)),
        }
    }

    /// The turn of a request that lasts as long as its client wants.
    ///
    /// # Errors
    /// 429 when there is none. Nobody waits: the turns may not come back for an hour.
    pub fn last(&self, info: &Arc<RequestInfo>, counted: Counted) -> Result<Turn, Status> {
        let permit = self.long_running.clone().try_acquire_owned();
        let fairness = self.fairness.as_ref();
        let watches = fairness.filter(|_| info.verb == Verb::Watch);
        let lasting = Lasting {
            _counted: counted,
            _permit: permit.map_err(|_| busy(1))?,
            _open: watches.and_then(|fairness| fairness.watches.open(info)),
        };
        Ok(Turn(Arc::new(lasting)))
    }

    /// Requests that wait, and that are answered, reads before writes.
    pub fn current(&self) -> [[i64; 2]; 2] {
        if let Some(fairness) = &self.fairness {
            return fairness.metrics.current();
        }
        let taken = |turns: &Option<Arc<Semaphore>>, max: usize| {
            let taken = turns
                .as_ref()
                .map_or(0, |turns| max - turns.available_permits());
            i64::try_from(taken).unwrap_or(i64::MAX)
        };
        let reads = taken(&self.reads, self.bounds.reads);
        [[0, 0], [reads, taken(&self.writes, self.bounds.writes)]]
    }

    /// The bounds.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// 413 when it is too large, 504 when it does not come in time, 429 when others fill what may be held, 400 when
    /// the connection fails.
    pub async fn body<B>(&self, body: B) -> Result<Whole, Status>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let deadline = Instant::now() + self.bounds.body_time;
        let mut body = std::pin::pin!(body);
        let mut held = Whole {
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
pub struct Whole {
    /// The body.
    pub bytes: Bytes,
    taken: usize,
    total: Arc<AtomicUsize>,
}

impl Whole {
    fn take(&mut self, n: usize, max: usize) -> Result<(), Status> {
        let before = self.total.fetch_add(n, Ordering::Relaxed);
        self.taken += n;
        if before + n > max {
            Err(busy(1))
        } else {
            Ok(())
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.total.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// That the time that a client gives a request is one.
///
/// # Errors
/// 400 otherwise.
pub fn check_time(info: &RequestInfo) -> Result<(), Status> {
    let asked = info.query.get("timeout").filter(|text| !text.is_empty());
    asked
        .map_or(Ok(()), corral_api::duration::check)
        .map_err(|why| {
            Status::bad_request(format!(
                "invalid timeout specified in the request URL - {why}"
            ))
        })
}

/// How long a request waits for its turn: a quarter of the time that it has.
fn wait_max(info: &RequestInfo) -> Duration {
    let asked = info
        .query
        .get("timeout")
        .and_then(|text| duration::parse(text).ok());
    let whole = asked.filter(|time| !time.is_zero()).unwrap_or(TIME_MAX);
    whole.min(TIME_MAX) / 4
}
