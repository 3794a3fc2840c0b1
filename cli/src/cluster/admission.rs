//! What the command line says of admission.

use std::path::PathBuf;

use clap::Args;
use corral_server::admission::Settings;

/// Admission.
#[derive(Debug, Clone, Args)]
pub struct AdmissionArgs {
    /// Admission plugins that run besides the default ones.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    enable_admission_plugins: Vec<String>,
    /// Default admission plugins that do not run.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    disable_admission_plugins: Vec<String>,
    /// A file with configurations of admission plugins (AdmissionConfiguration).
    #[arg(long, value_name = "FILE")]
    admission_control_config_file: Option<PathBuf>,
}

impl AdmissionArgs {
    /// What they mean.
    ///
    /// # Errors
    /// A name or a file that is wrong.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let Self {
            enable_admission_plugins,
            disable_admission_plugins,
            admission_control_config_file,
        } = self;
        let file = admission_control_config_file.as_deref();
        Settings::read(enable_admission_plugins, disable_admission_plugins, file)
            .map_err(anyhow::Error::msg)
    }
}
