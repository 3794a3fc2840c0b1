//! Controllers or scheduler as a process of its own, over any Kubernetes API: `corral controllers`, `corral scheduler`.
//!
//! ```text
//!   api       the kubeconfig, and whether the server behind it takes us
//!   accounts  clients in the names of ServiceAccounts, for controllers
//!   election  flags of the lease
//!   endpoint  health and metrics
//!   shown     flags of certificates
//! ```
//!
//! A server that goes away is waited for: caches watch on where they were, the lease is campaigned for again.

pub mod accounts;
pub mod api;
pub mod election;
pub mod endpoint;
pub mod shown;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use corral_runtime::Tasks;
use tokio_util::sync::CancellationToken;

use self::api::RemoteApi;
use super::signals;
use super::work::Shared;
use crate::logging::LogArgs;

/// How long work may take to end in order.
const END_MAX: Duration = Duration::from_secs(10);

/// What every component can be told.
#[derive(Debug, Clone, Args)]
pub struct ComponentArgs {
    /// The kubeconfig of the API, and of the user to act as.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    #[command(flatten)]
    endpoint: endpoint::EndpointArgs,
    #[command(flatten)]
    pub election: election::ElectionArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// A component that has found its API.
pub struct Component {
    pub api: RemoteApi,
    pub shared: Shared,
    /// Cancelled by signals.
    told: CancellationToken,
}

impl Component {
    /// Starts logging, reaches the API, and begins to tell of health and metrics at `port` unless the flags name another.
    /// Answers nothing when told to stop meanwhile.
    ///
    /// # Errors
    /// When the kubeconfig, the flags or the API do not fit.
    pub async fn start(args: &ComponentArgs, port: u16) -> anyhow::Result<Option<Self>> {
        args.log.start()?;
        args.election.validate()?;
        let told = signals::stop_token()?;
        let api = RemoteApi::open(&args.kubeconfig).await?;
        let client = api.client()?;
        // A panic ends the work, and with it the process; `told` tells the difference.
        let stop = told.child_token();
        let shared = Shared::new(client.clone(), prometheus::Registry::new(), stop);
        let endpoint = args.endpoint.open(port)?;
        if let Some(endpoint) = endpoint {
            println!("health      https://{}/healthz", endpoint.address());
            let registry = shared.registry.clone();
            shared
                .tasks
                .spawn("health and metrics", endpoint.run(client, registry));
        }
        let reached = told.run_until_cancelled(api.reach()).await;
        match reached.transpose()? {
            Some(()) => {
                println!("API         {}", api.url());
                Ok(Some(Self { api, shared, told }))
            }
            None => Ok(None),
        }
    }

    /// The set of tasks that end with the component.
    pub fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    /// Runs `work` until a signal comes.
    ///
    /// # Errors
    /// When it ends by itself.
    pub async fn run(self, work: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let mut running = tokio::spawn(work);
        let stop = self.shared.tasks.shutdown().clone();
        tokio::select! {
            _ = &mut running => {}
            () = stop.cancelled() => {
                // The lease is handed back here.
                let ended = tokio::time::timeout(END_MAX, &mut running).await;
                if ended.is_err() {
                    tracing::warn!("the work does not end");
                    running.abort();
                }
            }
        }
        ensure!(
            self.told.is_cancelled(),
            "the work has ended by itself; the log tells why"
        );
        Ok(())
    }
}
