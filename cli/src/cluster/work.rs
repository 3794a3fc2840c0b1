//! What controllers and scheduler do, over whichever client they are given: that of the process which serves the API
//! ([`super::clients`]), or one of an API elsewhere ([`super::component`]).

use std::future::Future;
use std::sync::Arc;

use corral_controllers::{ClientFactory, ControllersConfig, Name, SigningCa};
use corral_runtime::leader::{Election, ElectionConfig, run_elected};
use corral_runtime::{CacheFactory, Metrics, Recorder, SystemClock, Tasks};
use corral_scheduler::SchedulerConfig;
use futures::future::BoxFuture;
use kube::Client;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

/// The controllers' lease, named as Kubernetes' own component names it: only one of either kind may work.
pub const CONTROLLERS_LEASE: &str = "kube-controller-manager";
/// The scheduler's lease.
pub const SCHEDULER_LEASE: &str = "kube-scheduler";
/// The only scheduler, and how its events are signed.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// What all components of a process share.
#[derive(Clone)]
pub struct Shared {
    pub registry: Registry,
    /// One cache per kind for everything in this process.
    pub caches: CacheFactory,
    pub tasks: Tasks,
}

impl Shared {
    /// Caches that `client` fills until `stop`.
    pub fn new(client: Client, registry: Registry, stop: CancellationToken) -> Self {
        let tasks = Tasks::new(stop);
        let metrics = Metrics::register(&registry);
        let caches =
            CacheFactory::new(client, metrics, tasks.clone()).trimming(corral_runtime::trim::pod);
        Self {
            registry,
            caches,
            tasks,
        }
    }

    fn stop(&self) -> CancellationToken {
        self.tasks.shutdown().clone()
    }
}

/// What the controllers need of a cluster.
#[derive(Clone)]
pub struct Controllers {
    /// Makes a client for a controller's identity.
    pub clients: ClientFactory,
    pub root_ca: Option<String>,
    pub signing_ca: Option<SigningCa>,
    pub cluster_cidr: Option<String>,
    pub enabled: Vec<Name>,
}

/// What runs for as long as its token lives.
pub type Work = Box<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// Runs the controllers.
pub fn controllers(shared: &Shared, controllers: Controllers) -> Work {
    let shared = shared.clone();
    Box::new(move |shutdown| {
        let controllers = controllers.clone();
        Box::pin(corral_controllers::start(ControllersConfig {
            clients: controllers.clients,
            caches: Some(shared.caches.clone()),
            registry: shared.registry.clone(),
            shutdown,
            root_ca: controllers.root_ca,
            signing_ca: controllers.signing_ca,
            cluster_cidr: controllers.cluster_cidr,
            enabled: controllers.enabled.into_iter().collect(),
            clock: Arc::new(SystemClock),
        }))
    })
}

/// Runs the scheduler.
pub fn scheduler(shared: &Shared, client: Client) -> Work {
    let shared = shared.clone();
    Box::new(move |shutdown| {
        Box::pin(corral_scheduler::start(SchedulerConfig {
            client: client.clone(),
            caches: Some(shared.caches.clone()),
            registry: shared.registry.clone(),
            shutdown,
            scheduler_name: SCHEDULER_NAME.to_owned(),
            clock: Arc::new(SystemClock),
            plugins: corral_scheduler::plugins::Plugins::default(),
        }))
    })
}

/// Who may work.
pub struct Candidate {
    pub client: Client,
    /// How events about the lease are signed.
    pub component: &'static str,
    /// The election; without one the work is done all the time.
    pub election: Option<ElectionConfig>,
}

/// Does `work` until everything stops: now, or whenever the candidate holds the lease.
pub fn run(
    shared: &Shared,
    candidate: Candidate,
    work: Work,
) -> impl Future<Output = ()> + Send + 'static {
    let Candidate {
        client,
        component,
        election,
    } = candidate;
    let clock = Arc::new(SystemClock);
    let stop = shared.stop();
    let election = election.map(|config| {
        let metrics = shared.caches.metrics();
        let events = Recorder::new(
            client.clone(),
            component,
            clock.clone(),
            metrics,
            &shared.tasks,
        );
        Election::new(client, config, clock).with_events(events)
    });
    async move {
        match election {
            Some(election) => run_elected(election, stop, work).await,
            None => work(stop).await,
        }
    }
}

/// The machine's name and something random: two processes of one machine are two candidates.
///
/// # Errors
/// When the machine's name cannot be told.
pub fn identity() -> anyhow::Result<String> {
    use anyhow::Context;
    let host = nix::unistd::gethostname().context("the machine's name cannot be told")?;
    Ok(format!(
        "{}_{:032x}",
        host.to_string_lossy(),
        rand::random::<u128>()
    ))
}
