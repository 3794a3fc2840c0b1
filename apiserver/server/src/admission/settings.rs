//! What an administrator says of admission: which plugins run, and the file of their configurations
//! (`AdmissionConfiguration`).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::plugins::{self, Plugins};
use super::pod_security::PodSecurityConfig;

/// Versions of the file that are read.
const VERSIONS: [&str; 2] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1alpha1",
];
/// Most bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What an administrator says of admission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The plugins that run.
    pub plugins: Plugins,
    /// Pod security.
    pub pod_security: PodSecurityConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    configuration: Option<Value>,
}

impl Settings {
    /// Reads what the command line says.
    ///
    /// # Errors
    /// What is wrong with a name or a file.
    pub fn read(
        enable: &[String],
        disable: &[String],
        file: Option<&Path>,
    ) -> Result<Self, String> {
        let mut settings = Self {
            plugins: Plugins::of(enable, disable)?,
            ..Self::default()
        };
        let Some(path) = file else {
            return Ok(settings);
        };
        let at = |why: String| format!("{}: {why}", path.display());
        let file: File =
            serde_json::from_value(yaml(path)?).map_err(|error| at(error.to_string()))?;
        if file.kind != "AdmissionConfiguration" || !VERSIONS.contains(&file.api_version.as_str()) {
            return Err(at(format!(
                "no kind {:?} is registered for version {:?}",
                file.kind, file.api_version
            )));
        }
        for plugin in file.plugins {
            if !plugins::is_known(&plugin.name) {
                return Err(at(format!("unknown plugin {:?}", plugin.name)));
            }
            let given = match plugin.configuration {
                Some(given) => given,
                None if plugin.path.as_os_str().is_empty() => continue,
                // As in Kubernetes, beside the file that names it.
                None => yaml(&path.parent().unwrap_or(Path::new(".")).join(&plugin.path))?,
            };
            settings.configure(&plugin.name, given).map_err(at)?;
        }
        Ok(settings)
    }

    fn configure(&mut self, plugin: &str, given: Value) -> Result<(), String> {
        match plugin {
            "PodSecurity" => {
                let read = PodSecurityConfig::read(given);
                self.pod_security = read.map_err(|why| format!("PodSecurity: {why}"))?;
                Ok(())
            }
            other => Err(format!("the plugin {other:?} takes no configuration here")),
        }
    }
}

fn yaml(path: &Path) -> Result<Value, String> {
    let at = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|error| at(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(at(&format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| at(&error))?;
    serde_saphyr::from_str(&text).map_err(|error| at(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_configures_plugins_inline_and_by_path() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("it is ours");
            path
        };
        let own = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\ndefaults: {warn: baseline}\n";
        write("own.yaml", own);
        let frame =
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n";
        let path = write(
            "a.yaml",
            &format!("{frame}- {{name: PodSecurity, path: own.yaml}}\n"),
        );
        let by_path = Settings::read(&[], &[], Some(&path)).expect("settings");
        assert_ne!(by_path.pod_security, PodSecurityConfig::default());
        let inline = own.replace('\n', "\n    ");
        let path = write(
            "b.yaml",
            &format!("{frame}- name: PodSecurity\n  configuration:\n    {inline}\n"),
        );
        assert_eq!(Settings::read(&[], &[], Some(&path)), Ok(by_path));
        let path = write(
            "c.yaml",
            &format!("{frame}- {{name: LimitRanger, configuration: {{a: b}}}}\n"),
        );
        let wrong = Settings::read(&[], &[], Some(&path)).expect_err("refused");
        assert!(
            wrong.ends_with("the plugin \"LimitRanger\" takes no configuration here"),
            "{wrong}"
        );
    }
}
