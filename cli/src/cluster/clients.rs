//! Controllers and scheduler: clients of the API in the process that serves it, all the time or while it leads.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use corral_controllers::{ClientFactory, ControllersConfig, SigningCa};
use corral_runtime::leader::{Election, ElectionConfig, run_elected};
use corral_runtime::{CacheFactory, Metrics, Recorder, SystemClock, Tasks};
use corral_scheduler::SchedulerConfig;
use corral_server::authn::User;
use corral_server::local::Local;
use futures::future::BoxFuture;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control_plane::{ControlPlane, ControlPlaneArgs, DEFAULT_PODS};

/// Who holds the lease of the controllers, and whose watches all components of this process share.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// The scheduler's user.
const SCHEDULER: &str = "system:kube-scheduler";
/// The leases, named as Kubernetes' own components name theirs: only one of either kind may work.
const CONTROLLERS_LEASE: &str = "kube-controller-manager";
const SCHEDULER_LEASE: &str = "kube-scheduler";
/// The only scheduler, and how its events are signed.
const SCHEDULER_NAME: &str = "default-scheduler";

/// The cluster's CA, in the form of the controllers.
fn signing_ca(plane: &ControlPlane) -> SigningCa {
    let identity = plane.server.ca_identity();
    SigningCa {
        certificate: identity.certificate,
        key: identity.key,
    }
}

/// What controllers and scheduler of this process share.
pub struct Clients {
    local: Local,
    root_ca: String,
    signing_ca: SigningCa,
    registry: Registry,
    caches: CacheFactory,
    tasks: Tasks,
    stop: CancellationToken,
    /// Who we are among the candidates; nothing when there is no election.
    identity: Option<String>,
}

impl Clients {
    /// The clients of a control plane.
    ///
    /// # Errors
    /// When there is to be an election and the machine's name cannot be told.
    pub fn of(plane: &ControlPlane, args: &ControlPlaneArgs) -> anyhow::Result<Self> {
        let local = plane.local(User::default());
        let tasks = Tasks::new(plane.clients_stop.clone());
        let client = local
            .clone()
            .with_user(User::new(CONTROLLER_MANAGER, &[]))
            .client();
        Ok(Self {
            local,
            root_ca: plane.server.ca().to_owned(),
            signing_ca: signing_ca(plane),
            registry: plane.registry.clone(),
            // One cache per kind for everything in this process.
            caches: CacheFactory::new(client, Metrics::register(&plane.registry), tasks.clone())
                .trimming(corral_runtime::trim::pod),
            tasks,
            stop: plane.clients_stop.clone(),
            identity: args.elects_leader().then(candidate).transpose()?,
        })
    }

    /// Starts what the flags ask for.
    pub fn start(&self, args: &ControlPlaneArgs, tracker: &TaskTracker) {
        if !args.no_controllers {
            let pods = args.pod_range.map(|range| range.to_string());
            let pods = pods.unwrap_or_else(|| DEFAULT_PODS.to_owned());
            let work = self.controllers(pods);
            self.run(
                tracker,
                CONTROLLERS_LEASE,
                CONTROLLER_MANAGER,
                CONTROLLERS_LEASE,
                work,
            );
        }
        if !args.no_scheduler {
            self.run(
                tracker,
                SCHEDULER_LEASE,
                SCHEDULER,
                SCHEDULER_NAME,
                self.scheduler(),
            );
        }
    }

    /// Runs `work` until the process ends: now, or whenever we hold the lease.
    fn run<F, Fut>(&self, tracker: &TaskTracker, lease: &str, user: &str, component: &str, work: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let Some(identity) = &self.identity else {
            tracker.spawn(work(self.stop.clone()));
            return;
        };
        let client = self.client(user);
        let clock = Arc::new(SystemClock);
        let metrics = self.caches.metrics();
        let events = Recorder::new(
            client.clone(),
            component,
            clock.clone(),
            metrics,
            &self.tasks,
        );
        let config = ElectionConfig::new(lease, identity);
        let election = Election::new(client, config, clock).with_events(events);
        tracker.spawn(run_elected(election, self.stop.clone(), work));
    }

    fn controllers(
        &self,
        cluster_cidr: String,
    ) -> impl Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync + 'static {
        let local = self.local.clone();
        let clients: ClientFactory = Arc::new(move |name: &str| {
            let user = User::service_account("kube-system", name);
            local.clone().with_user(user).client()
        });
        let (caches, registry) = (self.caches.clone(), self.registry.clone());
        let (root_ca, signing_ca) = (self.root_ca.clone(), self.signing_ca.clone());
        move |shutdown| {
            Box::pin(corral_controllers::start(ControllersConfig {
                clients: Arc::clone(&clients),
                caches: Some(caches.clone()),
                registry: registry.clone(),
                shutdown,
                root_ca: Some(root_ca.clone()),
                signing_ca: Some(signing_ca.clone()),
                cluster_cidr: Some(cluster_cidr.clone()),
                enabled: corral_controllers::Name::ALL.iter().copied().collect(),
                clock: Arc::new(SystemClock),
            }))
        }
    }

    fn scheduler(
        &self,
    ) -> impl Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync + 'static {
        let client = self.client(SCHEDULER);
        let (caches, registry) = (self.caches.clone(), self.registry.clone());
        move |shutdown| {
            Box::pin(corral_scheduler::start(SchedulerConfig {
                client: client.clone(),
                caches: Some(caches.clone()),
                registry: registry.clone(),
                shutdown,
                scheduler_name: SCHEDULER_NAME.to_owned(),
                clock: Arc::new(SystemClock),
                plugins: corral_scheduler::plugins::Plugins::default(),
            }))
        }
    }

    fn client(&self, user: &str) -> kube::Client {
        let user = User::new(user, &[]);
        self.local.clone().with_user(user).client()
    }
}

/// The machine's name and something random: two processes of one machine are two candidates.
fn candidate() -> anyhow::Result<String> {
    let host = nix::unistd::gethostname().context("the machine's name cannot be told")?;
    Ok(format!(
        "{}_{:032x}",
        host.to_string_lossy(),
        rand::random::<u128>()
    ))
}
