//! Audit events for a service of the administrator's: in batches, from a buffer of bounded length and size.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::outbound::Service;

/// Bytes that the buffer holds, whatever their number of events: bodies of lists are long.
pub const BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Batches that are under way at a time, as in kube-apiserver.
const BATCHES_AT_ONCE_MAX: usize = 10;
/// How often a batch is sent before it is lost.
const TRIES_MAX: u32 = 5;
/// How much longer each pause between tries is than the one before.
const PAUSE_GROWTH: f64 = 1.5;
/// How long a batch may take to be taken.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last batches may take when the server stops.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// The service, and how it is sent events. The defaults are kube-apiserver's.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where the service is, and who asks, as a kubeconfig file.
    pub kubeconfig: PathBuf,
    /// Events that wait; those beyond are lost.
    pub buffer_events_max: usize,
    /// Events of a batch.
    pub batch_events_max: usize,
    /// How long the first event of a batch waits for others.
    pub batch_wait_max: Duration,
    /// Batches for each second, or no limit.
    pub throttle: Option<Throttle>,
    /// The pause before a batch is sent again.
    pub initial_backoff: Duration,
}

/// A rate of batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// Batches for each second.
    pub qps: f64,
    /// Batches that may be sent at once when there were few before.
    pub burst: usize,
}

impl WebhookConfig {
    /// The service of a kubeconfig file.
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            buffer_events_max: 10_000,
            batch_events_max: 400,
            batch_wait_max: Duration::from_secs(30),
            throttle: Some(Throttle {
                qps: 10.0,
                burst: 15,
            }),
            initial_backoff: Duration::from_secs(10),
        }
    }
}

/// Events that wait to be sent.
pub struct Webhook {
    config: WebhookConfig,
    service: Service,
    // The events that wait. Held for a push or the taking of a batch.
    waiting: Mutex<VecDeque<Vec<u8>>>,
    bytes: AtomicUsize,
    news: Notify,
    lost: IntCounter,
}

impl Webhook {
    /// Opens the service of a configuration. Whether it answers is found out by the first batch.
    ///
    /// # Errors
    /// When the kubeconfig file cannot be used.
    pub async fn open(config: WebhookConfig, lost: IntCounter) -> Result<Arc<Self>, String> {
        let service = Service::of_kubeconfig(&config.kubeconfig, TIMEOUT).await?;
        Ok(Arc::new(Self {
            config,
            service,
            waiting: Mutex::default(),
            bytes: AtomicUsize::new(0),
            news: Notify::new(),
            lost,
        }))
    }

    /// Adds an event, unless the buffer is full.
    pub fn send(&self, item: Vec<u8>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes.load(Ordering::Relaxed) + item.len();
        if waiting.len() >= self.config.buffer_events_max || bytes > BUFFER_BYTES_MAX {
            drop(waiting);
            if self.lost.get() == 0 {
                tracing::error!("the audit webhook is slower than requests; events are lost");
            }
            self.lost.inc();
            return;
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        waiting.push_back(item);
        let wakes = waiting.len() == 1 || waiting.len() >= self.config.batch_events_max;
        drop(waiting);
        if wakes {
            self.news.notify_one();
        }
    }

    fn waits(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.len()
    }

    /// Sends batches until told to stop, then what is left.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let under_way = Arc::new(Semaphore::new(BATCHES_AT_ONCE_MAX));
        let tasks = TaskTracker::new();
        let mut rate = self.config.throttle.map(Rate::new);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.gather() => {}
            }
            if let Some(rate) = &mut rate {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = rate.turn() => {}
                }
            }
            let permit = tokio::select! {
                () = stop.cancelled() => break,
                permit = under_way.clone().acquire_owned() => permit,
            };
            let (batch, count) = self.batch();
            let (webhook, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                let _permit = permit;
                webhook.deliver(batch, count, &stop).await;
            });
        }
        tasks.close();
        let last = async {
            tasks.wait().await;
            while self.waits() > 0 {
                let (batch, count) = self.batch();
                self.deliver(batch, count, &stop).await;
            }
        };
        if tokio::time::timeout(LAST_TIMEOUT, last).await.is_err() {
            tracing::error!("the audit webhook did not take the last events in time");
        }
    }

    /// Waits for a full batch, or for the first event to have waited long enough.
    async fn gather(&self) {
        while self.waits() == 0 {
            self.news.notified().await;
        }
        let deadline = Instant::now() + self.config.batch_wait_max;
        while self.waits() < self.config.batch_events_max {
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }

    /// Takes a batch out, as a list of events.
    fn batch(&self) -> (Vec<u8>, u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(self.config.batch_events_max);
        let items: Vec<Vec<u8>> = waiting.drain(..count).collect();
        drop(waiting);
        let bytes: usize = items.iter().map(Vec::len).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut out = Vec::with_capacity(bytes + count + 100);
        out.extend_from_slice(
            br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#,
        );
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(item);
        }
        out.extend_from_slice(b"]}");
        (out, count as u64)
    }

    async fn deliver(&self, batch: Vec<u8>, count: u64, stop: &CancellationToken) {
        let mut pause = self.config.initial_backoff;
        for attempt in 1..=TRIES_MAX {
            let error = match self.service.post(batch.clone()).await {
                Ok(_) => return,
                Err(error) => error,
            };
            if attempt == TRIES_MAX || !error.is_passing() || stop.is_cancelled() {
                tracing::error!(events = count, %error, "the audit webhook did not take a batch");
                break;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = pause.mul_f64(PAUSE_GROWTH);
        }
        self.lost.inc_by(count);
    }
}

/// Tokens that come at a rate.
struct Rate {
    throttle: Throttle,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(throttle: Throttle) -> Self {
        Self {
            throttle,
            tokens: throttle.burst as f64,
            at: Instant::now(),
        }
    }

    async fn turn(&mut self) {
        let now = Instant::now();
        let come = now.duration_since(self.at).as_secs_f64() * self.throttle.qps;
        self.at = now;
        self.tokens = (self.tokens + come).min(self.throttle.burst as f64);
        self.tokens -= 1.0;
        if self.tokens < 0.0 {
            let wait = Duration::from_secs_f64(-self.tokens / self.throttle.qps);
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_come_at_their_rate() {
        let mut rate = Rate::new(Throttle {
            qps: 10.0,
            burst: 3,
        });
        let started = Instant::now();
        for _ in 0..3 {
            rate.turn().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            rate.turn().await;
        }
        let took = started.elapsed().as_secs_f64();
        assert!((0.99..1.02).contains(&took), "{took}");
    }
}
