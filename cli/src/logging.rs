//! Logs of the long-running roles, to standard error.

use anyhow::Context;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// What is logged unless `--log` says otherwise.
pub const DEFAULT_FILTER: &str =
    "info,hyper=warn,h2=warn,rustls=warn,kube=warn,netlink_proto=warn,hickory_server=warn";

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What every long-running role can be told of its log.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), and others for parts of the program.
    #[arg(long, default_value = DEFAULT_FILTER, value_name = "FILTER")]
    log: String,
    /// The shape of log lines.
    #[arg(
        long,
        visible_alias = "logging-format",
        value_enum,
        default_value = "text"
    )]
    log_format: LogFormat,
}

impl LogArgs {
    /// Starts logging.
    ///
    /// # Errors
    /// As [`start`].
    pub fn start(&self) -> anyhow::Result<()> {
        start(&self.log, self.log_format)
    }
}

/// Starts logging.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    // Not `EnvFilter`, whose patterns for values nobody needs: they bring along automata that every pattern of a
    // definition would be compiled into, too.
    let filter: Targets = filter.parse().with_context(|| {
        format!("--log {filter}: it is a level, or a list such as info,corral_server=debug")
    })?;
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    Ok(())
}
