//! What an administrator says of admission: which plugins run, and the file of their configurations
//! (`AdmissionConfiguration`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::event_rate_limit::{self, Limit};
use super::image_policy::ImagePolicyConfig;
use super::plugins::{self, Plugins};
use super::pod_security::PodSecurityConfig;
use super::pod_toleration_restriction::Tolerations;

/// Versions of the file that are read.
const VERSIONS: [&str; 2] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1alpha1",
];
const KIND: &str = "AdmissionConfiguration";
/// Most bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What an administrator says of admission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The plugins that run.
    pub plugins: Plugins,
    /// Pod security.
    pub pod_security: PodSecurityConfig,
    /// What pods tolerate, and may.
    pub tolerations: Tolerations,
    /// How many Events are taken.
    pub event_limits: Vec<Limit>,
    /// Who says which images may run.
    pub image_policy: Option<ImagePolicyConfig>,
    /// Configurations of plugins, as they were given.
    given: BTreeMap<String, Value>,
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
        if let Some(path) = file {
            settings.read_file(path)?;
        }
        if settings.plugins.run("EventRateLimit") {
            let checked = event_rate_limit::check(&settings.event_limits);
            checked.map_err(|why| {
                format!("failed to initialize admission: couldn't init admission plugin \"EventRateLimit\": {why}")
            })?;
        }
        if !settings.plugins.run("ImagePolicyWebhook") {
            settings.image_policy = None;
        } else if settings.image_policy.is_none() {
            return Err("failed to initialize admission: couldn't init admission plugin \"ImagePolicyWebhook\": no config specified".to_owned());
        }
        Ok(settings)
    }

    /// The plugins that run, with the configurations that they were given, as a file would write them.
    pub fn configuration(&self) -> Value {
        let plugins = self.plugins.names().map(|name| {
            let mut plugin = json!({"name": name});
            if let Some(given) = self.given.get(name) {
                plugin["configuration"] = given.clone();
            }
            plugin
        });
        let plugins: Vec<Value> = plugins.collect();
        json!({"apiVersion": VERSIONS[0], "kind": KIND, "plugins": plugins})
    }

    /// Reads what a file says.
    fn read_file(&mut self, path: &Path) -> Result<(), String> {
        let at = |why: String| format!("{}: {why}", path.display());
        let file: File =
            serde_json::from_value(yaml(path)?).map_err(|error| at(error.to_string()))?;
        if file.kind != KIND || !VERSIONS.contains(&file.api_version.as_str()) {
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
            self.configure(&plugin.name, given.clone()).map_err(at)?;
            self.given.insert(plugin.name, given);
        }
        Ok(())
    }

    fn configure(&mut self, plugin: &str, given: Value) -> Result<(), String> {
        match plugin {
            "PodSecurity" => {
                let read = PodSecurityConfig::read(given);
                self.pod_security = read.map_err(|why| format!("PodSecurity: {why}"))?;
                Ok(())
            }
            "PodTolerationRestriction" => {
                let read = Tolerations::read(given);
                self.tolerations = read.map_err(|why| format!("{plugin}: {why}"))?;
                Ok(())
            }
            "ImagePolicyWebhook" => {
                let read = ImagePolicyConfig::read(given);
                self.image_policy = Some(read.map_err(|why| format!("{plugin}: {why}"))?);
                Ok(())
            }
            "EventRateLimit" => {
                let read = event_rate_limit::read(given);
                self.event_limits = read.map_err(|why| format!("{plugin}: {why}"))?;
                Ok(())
            }
            other => Err(format!("the plugin {other:?} takes no configuration here")),
        }
    }
}

/// Whether a configuration is the only one that its plugin knows.
pub(super) fn check_kind(api_version: &str, kind: &str, version: &str) -> Result<(), String> {
    if kind == "Configuration" && api_version == version {
        return Ok(());
    }
    Err(format!(
        "no kind {kind:?} is registered for version {api_version:?}"
    ))
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
