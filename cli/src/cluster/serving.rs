//! How the API is served: flags named as kube-apiserver names them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use clap::Args;
use corral_server::duration;
use corral_server::flow::Bounds;
use corral_server::serving::Serving;
use corral_server::tls::KeyFiles;
use corral_server::traces::TracingConfig;

/// How much is served at a time, and how it ends.
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
    /// How long the API goes on being served after `/readyz` has begun to fail, when the process is told to stop.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration::parse)]
    shutdown_delay_duration: Duration,
    /// A certificate, with those that signed it, for clients that ask for a name in it (and by addresses, if it has any); the
    /// cluster's own is shown to all others. It is read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Authorities that sign certificates of clients, besides the cluster's own. They are read again when they change.
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Whether profiles of this process can be had at `/debug/pprof/`, by those who may get that path.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    profiling: bool,
    /// Send traces where this TracingConfiguration says, to a collector that speaks OpenTelemetry's protocol over gRPC.
    #[arg(long, value_name = "FILE")]
    tracing_config_file: Option<PathBuf>,
    /// All flags of the command, for `/flagz`.
    #[arg(skip)]
    pub flags: BTreeMap<String, String>,
}

impl ServingArgs {
    /// What requests may cost.
    pub fn bounds(&self) -> anyhow::Result<Bounds> {
        let Self {
            max_requests_inflight,
            max_mutating_requests_inflight,
            enable_priority_and_fairness,
            ..
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

    /// How the API is served.
    pub fn serving(&self) -> anyhow::Result<Serving> {
        let tracing = self.tracing_config_file.as_deref().map(|path| {
            let told = |error: String| anyhow!("tracing configuration {}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
            TracingConfig::parse(&text).map_err(told)
        });
        let certificate = self
            .tls_cert_file
            .clone()
            .zip(self.tls_private_key_file.clone());
        Ok(Serving {
            flags: self.flags.clone(),
            shutdown_delay: self.shutdown_delay_duration,
            profiling: self.profiling,
            tracing: tracing.transpose()?,
            certificate: certificate.map(|(certificate, key)| KeyFiles { certificate, key }),
            client_ca: self.client_ca_file.clone(),
        })
    }
}
