//! `corral scheduler`: the scheduler as a process of its own.

use clap::Args;

use super::component::{Component, ComponentArgs};
use super::work::{self, Candidate, SCHEDULER_LEASE, SCHEDULER_NAME};

/// Where kube-scheduler tells of health and metrics.
const PORT: u16 = 10_259;

/// Start the scheduler alone, for any Kubernetes API server.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    #[command(flatten)]
    component: ComponentArgs,
}

/// Runs until told to stop.
///
/// # Errors
/// When it cannot start, or ends by itself.
pub async fn run(args: SchedulerArgs) -> anyhow::Result<()> {
    let SchedulerArgs { component: args } = args;
    let Some(component) = Component::start(&args, PORT).await? else {
        return Ok(());
    };
    let client = component.api.client()?;
    let candidate = Candidate {
        client: client.clone(),
        component: SCHEDULER_NAME,
        election: args.election.config(SCHEDULER_LEASE)?,
    };
    let work = work::scheduler(&component.shared, client);
    let running = work::run(&component.shared, candidate, work);
    component.run(running).await
}
