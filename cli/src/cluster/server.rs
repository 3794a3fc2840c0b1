//! `corral server`.

use clap::Args;

use super::control_plane::{ControlPlane, ControlPlaneArgs};
use super::signals;
use crate::footprint;

/// Start the control plane alone.
#[derive(Debug, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub control_plane: ControlPlaneArgs,
}

/// Runs until told to stop.
pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let ServerArgs { control_plane } = args;
    footprint::begin();
    control_plane.log.start()?;
    let stop = signals::stop_token()?;
    let lock = super::process_lock::ProcessLock::create(&control_plane.data_dir)?;
    let plane = ControlPlane::start(&control_plane).await?;
    println!("API         https://{}", plane.server.address());
    println!("kubeconfig  {}", plane.kubeconfig.display());
    tokio::spawn(footprint::settle());
    stop.cancelled().await;
    plane.leave().await;
    plane.stop().await;
    drop(lock);
    Ok(())
}
