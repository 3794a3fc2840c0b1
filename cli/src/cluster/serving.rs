//! How the API is served: flags named as kube-apiserver names them.

use anyhow::ensure;
use clap::Args;
use corral_server::flow::Bounds;

/// How much is served at a time.
#[derive(Debug, Clone, Args)]
pub struct ServingArgs {
    /// Reads answered at a time (0: no bound). Together with the next flag, the seats of all priority levels.
    #[arg(long, default_value_t = 400, value_name = "N")]
    max_requests_inflight: u32,
    /// Writes answered at a time (0: no bound).
    #[arg(long, default_value_t = 200, value_name = "N")]
    max_mutating_requests_inflight: u32,
    /// Whether requests wait their turn at priority levels, as FlowSchemas and PriorityLevelConfigurations say; otherwise
    /// those beyond the bounds are refused.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    enable_priority_and_fairness: bool,
}

impl ServingArgs {
    /// What requests may cost.
    pub fn bounds(&self) -> anyhow::Result<Bounds> {
        let Self {
            max_requests_inflight,
            max_mutating_requests_inflight,
            enable_priority_and_fairness,
        } = self.clone();
        let (reads, writes) = (
            usize::try_from(max_requests_inflight)?,
            usize::try_from(max_mutating_requests_inflight)?,
        );
        ensure!(
            !enable_priority_and_fairness || reads + writes > 0,
            "--max-requests-inflight and --max-mutating-requests-inflight must not both be 0 with priority and fairness"
        );
        Ok(Bounds {
            fair: enable_priority_and_fairness,
            reads,
            writes,
            ..Bounds::default()
        })
    }
}
