//! Leader election by Lease: of several processes with the same controllers, one works.
//!
//! A leader that cannot renew stops its work before anybody else may take the lease: the time that it allows itself
//! counts from the start of the last renewal that went through, the time that the others wait from when they saw it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use corral_api::k8s::api::core::v1::ObjectReference;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::time::MicroTime;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::EventType;
use crate::{Clock, Error, Recorder};

/// A renewal that was under way when the leader stopped may come between reading the lease and handing it back.
const RELEASE_ATTEMPTS_MAX: usize = 3;

/// How an election is held; the defaults are those of Kubernetes' own components.
#[derive(Debug, Clone)]
pub struct ElectionConfig {
    /// Where the lease lives.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who we are; unique among the candidates.
    pub identity: String,
    /// How long a lease is good after its last renewal.
    pub lease_duration: Duration,
    /// The leader gives up when it has not managed to renew for this long; shorter than the lease.
    pub renew_deadline: Duration,
    /// How often to try.
    pub retry_period: Duration,
}

impl ElectionConfig {
    /// An election in `kube-system`.
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What was last seen of the lease, and when by our own clock: other machines' clocks are not trusted.
struct Observed {
    spec: LeaseSpec,
    at: Instant,
}

/// A candidate.
pub struct Election {
    config: ElectionConfig,
    leases: Api<Lease>,
    clock: Arc<dyn Clock>,
    events: Option<Recorder>,
    observed: Option<Observed>,
    uid: Option<String>,
    /// When the last attempt that held the lease began.
    held_at: Instant,
    /// Why attempts fail, as it was told last.
    told: String,
}

impl Election {
    /// A candidate who has not run yet.
    pub fn new(client: Client, config: ElectionConfig, clock: Arc<dyn Clock>) -> Self {
        let leases = Api::namespaced(client, &config.namespace);
        Self {
            config,
            leases,
            clock,
            events: None,
            observed: None,
            uid: None,
            held_at: Instant::now(),
            told: String::new(),
        }
    }

    /// Tells of changes of leadership in events about the lease. The recorder must outlive the work of the leader.
    #[must_use]
    pub fn with_events(mut self, events: Recorder) -> Self {
        self.events = Some(events);
        self
    }

    /// Waits until we lead.
    pub async fn acquire(&mut self) {
        loop {
            // An attempt that takes longer says nothing about who holds the lease now.
            let bound = self.config.renew_deadline;
            match tokio::time::timeout(bound, self.try_hold()).await {
                Ok(Ok(true)) => {
                    self.told.clear();
                    return;
                }
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => self.not_acquired(&error),
            }
            tokio::time::sleep(self.config.retry_period).await;
        }
    }

    /// Tells why, once: a candidate that lacks rights would wait in silence otherwise. That another was faster is no news.
    fn not_acquired(&mut self, error: &Error) {
        let text = error.to_string();
        if error.is_conflict() || self.told == text {
            tracing::debug!(lease = self.config.name, %error, "lease not acquired");
        } else {
            tracing::warn!(lease = self.config.name, %error, "lease not acquired; trying again");
            self.told = text;
        }
    }

    /// Renews for as long as that works, then cancels `lost`: whatever works in our name must stop.
    pub async fn hold(&mut self, lost: &CancellationToken) {
        let left =
            |held_at: Instant, deadline: Duration| deadline.saturating_sub(held_at.elapsed());
        let deadline = self.config.renew_deadline;
        loop {
            let wait = self.config.retry_period.min(left(self.held_at, deadline));
            tokio::time::sleep(wait).await;
            let left = left(self.held_at, deadline);
            if left.is_zero() {
                break;
            }
            match tokio::time::timeout(left, self.try_hold()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => break,
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.config.name, %error, "lease not renewed")
                }
            }
        }
        tracing::warn!(lease = self.config.name, "leadership lost");
        lost.cancel();
    }

    /// Hands the lease back so that the next leader need not wait for it to expire.
    ///
    /// # Errors
    /// When the server cannot be reached or someone else holds the lease.
    pub async fn release(&mut self) -> Result<(), Error> {
        for _ in 1..RELEASE_ATTEMPTS_MAX {
            match self.try_release().await {
                Err(error) if error.is_conflict() => {}
                outcome => return outcome,
            }
        }
        self.try_release().await
    }

    async fn try_release(&mut self) -> Result<(), Error> {
        let Some(mut lease) = self.leases.get_opt(&self.config.name).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.config.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.leases
            .replace(&self.config.name, &PostParams::default(), &lease)
            .await?;
        Ok(())
    }

    /// One attempt to take or renew the lease.
    ///
    /// # Errors
    /// When the server cannot be reached, or another candidate was faster.
    pub async fn try_hold(&mut self) -> Result<bool, Error> {
        let began = Instant::now();
        let now = self.clock.now();
        let Some(lease) = self.leases.get_opt(&self.config.name).await? else {
            let lease = self.new_lease(now);
            let lease = self.leases.create(&PostParams::default(), &lease).await?;
            self.note(&lease);
            self.held_at = began;
            return Ok(true);
        };
        self.note(&lease);
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let ours = holder == self.config.identity;
        if !ours && !holder.is_empty() && !self.has_expired(&spec) {
            return Ok(false);
        }
        let renewed = Lease {
            spec: Some(self.renewed(spec, ours, now)),
            ..lease
        };
        let renewed = self
            .leases
            .replace(&self.config.name, &PostParams::default(), &renewed)
            .await?;
        self.note(&renewed);
        self.held_at = began;
        Ok(true)
    }

    /// Tells of a change of leadership, in the words of client-go.
    fn tell(&self, what: &str) {
        let Some(events) = &self.events else { return };
        let about = ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            namespace: Some(self.config.namespace.clone()),
            name: Some(self.config.name.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        };
        let text = format!("{} {what}", self.config.identity);
        events.note_ref(about, EventType::Normal, "LeaderElection", text);
    }

    fn note(&mut self, lease: &Lease) {
        self.uid.clone_from(&lease.metadata.uid);
        let spec = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|seen| seen.spec != spec) {
            self.observed = Some(Observed {
                spec,
                at: Instant::now(),
            });
        }
    }

    fn has_expired(&self, spec: &LeaseSpec) -> bool {
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let duration = Duration::from_secs(seconds);
        self.observed
            .as_ref()
            .is_some_and(|seen| seen.at.elapsed() >= duration)
    }

    fn renewed(&self, spec: LeaseSpec, ours: bool, now: Timestamp) -> LeaseSpec {
        let transitions = spec.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(self.seconds()),
            acquire_time: if ours {
                spec.acquire_time
            } else {
                Some(MicroTime(now))
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if ours { transitions } else { transitions + 1 }),
            ..spec
        }
    }

    fn new_lease(&self, now: Timestamp) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.config.name.clone()),
            namespace: Some(self.config.namespace.clone()),
            ..ObjectMeta::default()
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(self.seconds()),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        Lease {
            metadata,
            spec: Some(spec),
        }
    }

    fn seconds(&self) -> i32 {
        i32::try_from(self.config.lease_duration.as_secs()).unwrap_or(i32::MAX)
    }
}

/// Runs `work` while we lead: waits for the lease, starts the work with a token of its own, cancels the token when the
/// lease is lost, hands the lease back once the work has ended, and begins again. Work that ends by itself, as after a
/// panic, gives others the chance to do better. Returns after `shutdown`.
pub async fn run_elected<F, Fut>(mut election: Election, shutdown: CancellationToken, work: F)
where
    F: Fn(CancellationToken) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    while shutdown
        .run_until_cancelled(election.acquire())
        .await
        .is_some()
    {
        tracing::info!(lease = election.config.name, "became leader");
        election.tell("became leader");
        let term = shutdown.child_token();
        // Also when this future is dropped nothing may go on in our name.
        let _ends_with_us = term.clone().drop_guard();
        let mut working = tokio::spawn(work(term.clone()));
        let ended = tokio::select! {
            ended = &mut working => Some(ended),
            () = election.hold(&term) => None,
            () = shutdown.cancelled() => None,
        };
        term.cancel();
        let ended = match ended {
            Some(ended) => ended,
            None => working.await,
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the work of a leader panicked");
        }
        election.tell("stopped leading");
        let bound = election.config.renew_deadline;
        match tokio::time::timeout(bound, election.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "lease not handed back"),
            Err(_) => tracing::debug!("lease not handed back in time"),
        }
        let pause = tokio::time::sleep(election.config.retry_period);
        shutdown.run_until_cancelled(pause).await;
    }
}
