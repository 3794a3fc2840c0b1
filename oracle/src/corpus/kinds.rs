//! The kinds of the corpus, each with a small object that is right: `objects/*.yaml`.

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use super::fields::Path;
use super::{hash, is_common};

/// The kinds, as files.
const FILES: [&str; 17] = [
    include_str!("../../objects/extensions.yaml"),
    include_str!("../../objects/custom.yaml"),
    include_str!("../../objects/admission.yaml"),
    include_str!("../../objects/apps.yaml"),
    include_str!("../../objects/autoscaling.yaml"),
    include_str!("../../objects/batch.yaml"),
    include_str!("../../objects/certificates.yaml"),
    include_str!("../../objects/core.yaml"),
    include_str!("../../objects/limits.yaml"),
    include_str!("../../objects/devices.yaml"),
    include_str!("../../objects/flow.yaml"),
    include_str!("../../objects/network.yaml"),
    include_str!("../../objects/networking.yaml"),
    include_str!("../../objects/rbac.yaml"),
    include_str!("../../objects/reviews.yaml"),
    include_str!("../../objects/storage.yaml"),
    include_str!("../../objects/workloads.yaml"),
];

/// A kind of the corpus.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kind {
    /// The path of its objects.
    pub collection: String,
    /// A right object.
    pub object: Value,
    /// Whether it is kept, so that updates can be tried.
    #[serde(default = "yes")]
    pub stored: bool,
    /// Whether it has a status subresource.
    #[serde(default)]
    pub status: bool,
    /// Whether updates are merge patches: of kinds whose updates must name a version, or hold an identity.
    #[serde(default)]
    pub patched: bool,
    /// Whether all fields of the metadata are tried on this kind.
    #[serde(default)]
    pub metadata: bool,
    /// Fields in which a second object differs from the first, besides its name.
    #[serde(default)]
    pub fresh: Value,
    /// The CustomResourceDefinition of a kind that is not Kubernetes' own.
    #[serde(default)]
    pub definition: Option<Value>,
    /// Parts that another kind tries; of them one field in eight is left, by hash.
    #[serde(default)]
    pub seldom: Vec<String>,
}

fn yes() -> bool {
    true
}

/// One in so many fields of the parts that another kind tries.
const SELDOM: u64 = 8;

impl Kind {
    /// Its group and version.
    pub fn api_version(&self) -> String {
        self.object["apiVersion"].as_str().unwrap_or("").to_owned()
    }

    /// Its name.
    pub fn kind(&self) -> String {
        self.object["kind"].as_str().unwrap_or("").to_owned()
    }

    /// Where its schema is, below `/openapi/v3`.
    pub fn document(&self) -> String {
        match self.api_version() {
            version if version.contains('/') => format!("apis/{version}"),
            version => format!("api/{version}"),
        }
    }

    /// Its schema, as a document of `/openapi/v3` would have it, if the kind is not Kubernetes' own.
    pub fn own_schema(&self) -> Option<Value> {
        let definition = self.definition.as_ref()?;
        let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let (version, kind) = (self.api_version(), self.kind());
        let (group, version) = version.split_once('/')?;
        schema["x-kubernetes-group-version-kind"] =
            serde_json::json!([{"group": group, "version": version, "kind": kind}]);
        Some(serde_json::json!({"components": {"schemas": {"own": schema}}}))
    }

    /// What its requests are called by: its plural, with the group where there is one.
    pub fn label(&self) -> String {
        let plural = self.collection.rsplit('/').next().unwrap_or("");
        match self.api_version().split_once('/') {
            Some((group, _)) => format!("{plural}.{group}"),
            None => plural.to_owned(),
        }
    }

    /// Whether a field is tried on this kind.
    pub fn wants(&self, path: &Path) -> bool {
        // Whose they are is tried by sequences.
        if path.starts_with("metadata.managedFields") {
            return false;
        }
        let other = self.seldom.iter().any(|part| path.starts_with(part))
            || (!self.metadata && is_common(path));
        !other || hash(&path.to_string()).is_multiple_of(SELDOM)
    }
}

/// All kinds.
///
/// # Errors
/// When a file is wrong.
pub fn all() -> anyhow::Result<Vec<Kind>> {
    let mut found = Vec::new();
    for file in FILES {
        let kinds: Vec<Kind> = serde_saphyr::from_str(file)
            .with_context(|| file.lines().next().unwrap_or_default().to_owned())?;
        found.extend(kinds);
    }
    Ok(found)
}
