//! Logs of the long-running roles, to standard error.

use tracing_subscriber::EnvFilter;

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
    /// What is logged, in the syntax of tracing's filters.
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
    let filter = EnvFilter::try_new(filter)?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
