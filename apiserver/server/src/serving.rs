//! How the server serves, beyond what requests may cost: what it tells of itself, and how it leaves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::tls::KeyFiles;
use crate::traces::TracingConfig;

/// How a server serves.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// The flags that the process was started with, and their values.
    pub flags: BTreeMap<String, String>,
    /// How long it goes on serving after it has told that it is not ready any more, so that those who distribute requests
    /// learn of it in time.
    pub shutdown_delay: Duration,
    /// Whether `/debug/pprof` is served.
    pub profiling: bool,
    /// A certificate of the administrator's, shown to those who ask for a name in it.
    pub certificate: Option<KeyFiles>,
    /// Authorities that sign certificates of clients, besides the cluster's own.
    pub client_ca: Option<PathBuf>,
    /// Where traces are sent; `None` for nowhere.
    pub tracing: Option<TracingConfig>,
}
