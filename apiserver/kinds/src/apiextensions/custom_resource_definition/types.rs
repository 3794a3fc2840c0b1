//! What a definition says. Schemas stay JSON as the client wrote it: a typed form would change numbers and lose what later
//! versions of Kubernetes add.

use std::borrow::Cow;

use corral_api::k8s;
use corral_api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1 as published;
use corral_api::meta::ObjectMeta;
use corral_api::schemars;
use corral_api::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The description of a kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomResourceDefinition {
    /// Always the same.
    #[serde(default)]
    api_version: ApiVersion,
    /// Always the same.
    #[serde(default)]
    kind: KindName,
    /// Metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: Spec,
    /// What is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// The version of the API, which objects carry and which is never another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct ApiVersion;

/// The name of the kind, the same way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct KindName;

impl Serialize for ApiVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(<CustomResourceDefinition as k8s::Resource>::API_VERSION)
    }
}

impl Serialize for KindName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(<CustomResourceDefinition as k8s::Resource>::KIND)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl<'de> Deserialize<'de> for KindName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// API group.
    #[serde(default)]
    pub group: String,
    /// Names of the kind and its resource.
    #[serde(default)]
    pub names: Names,
    /// `Cluster` or `Namespaced`.
    #[serde(default)]
    pub scope: String,
    /// The versions.
    #[serde(default, deserialize_with = "nullable")]
    pub versions: Vec<Version>,
    /// How objects get from one version to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<Conversion>,
    /// Whether fields that no schema has are kept; only `false` is allowed.
    #[serde(default, skip_serializing_if = "is_not_set")]
    pub preserve_unknown_fields: Option<bool>,
}

fn is_not_set(flag: &Option<bool>) -> bool {
    !flag.unwrap_or(false)
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Names of a kind and its resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// The resource in URLs.
    #[serde(default)]
    pub plural: String,
    /// What kubectl accepts for one.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub singular: Option<String>,
    /// Abbreviations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_names: Option<Vec<String>>,
    /// The kind.
    #[serde(default)]
    pub kind: String,
    /// The kind of lists.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub list_kind: Option<String>,
    /// Groups of resources such as `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub categories: Option<Vec<String>>,
}

fn is_empty(text: &Option<String>) -> bool {
    text.as_deref().unwrap_or_default().is_empty()
}

/// A version of the kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Whether clients may use it.
    #[serde(default)]
    pub served: bool,
    /// Whether the store keeps objects in it.
    #[serde(default)]
    pub storage: bool,
    /// Whether answers warn of it.
    #[serde(default, skip_serializing_if = "is_not_set")]
    pub deprecated: Option<bool>,
    /// The warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecation_warning: Option<String>,
    /// The shape of objects: `{"openAPIV3Schema": {…}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Parts with owners of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresources: Option<Subresources>,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_printer_columns: Option<Vec<PrinterColumn>>,
    /// What field selectors may name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selectable_fields: Option<Vec<SelectableField>>,
}

impl Version {
    /// Whether `status` is a subresource.
    pub fn has_status(&self) -> bool {
        let subresources = self.subresources.as_ref();
        subresources.is_some_and(|subresources| subresources.status.is_some())
    }

    /// The schema, if there is one.
    pub fn schema(&self) -> Option<&Value> {
        let schema = self.schema.as_ref()?.get("openAPIV3Schema")?;
        schema.is_object().then_some(schema)
    }
}

/// Parts with owners of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Subresources {
    /// Whether `status` is one; its value says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// Where the numbers of `scale` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
}

/// Where the numbers of `scale` are, as paths with dots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scale {
    /// The number wanted.
    #[serde(default)]
    pub spec_replicas_path: String,
    /// The number there is.
    #[serde(default)]
    pub status_replicas_path: String,
    /// The selector, a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector_path: Option<String>,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrinterColumn {
    /// Heading.
    #[serde(default)]
    pub name: String,
    /// OpenAPI type.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// OpenAPI format.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub format: Option<String>,
    /// What it tells.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub description: Option<String>,
    /// 0 is always shown, above 0 only with `-o wide`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: Option<i32>,
    /// Where the values are.
    #[serde(default, rename = "jsonPath")]
    pub json_path: String,
}

fn is_zero(number: &Option<i32>) -> bool {
    number.unwrap_or_default() == 0
}

/// What field selectors may name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectableField {
    /// Where the value is.
    #[serde(default, rename = "jsonPath")]
    pub json_path: String,
}

/// How objects get from one version to another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversion {
    /// `None` changes nothing but the version, `Webhook` asks somebody.
    #[serde(default)]
    pub strategy: String,
    /// Whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookConversion>,
}

/// Who converts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookConversion {
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_config: Option<WebhookClientConfig>,
    /// The versions of the question that are understood there.
    #[serde(default)]
    pub conversion_review_versions: Option<Vec<String>>,
}

/// Where somebody answers for the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookClientConfig {
    /// By URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// By Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceReference>,
    /// Who signs its certificate, PEM in base64.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub ca_bundle: Option<String>,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReference {
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The path of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// What is served.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What holds.
    #[serde(default)]
    pub conditions: Option<Vec<Condition>>,
    /// The names under which the kind is served.
    #[serde(default)]
    pub accepted_names: Names,
    /// Versions that objects in the store may have.
    #[serde(default, deserialize_with = "nullable")]
    pub stored_versions: Vec<String>,
    /// The generation of the definition that was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// What holds of a definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// Since when.
    #[serde(default)]
    pub last_transition_time: Option<Time>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub reason: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub message: Option<String>,
    /// The generation of the definition of which it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl CustomResourceDefinition {
    /// Whether a condition holds.
    pub fn is(&self, condition: &str) -> bool {
        let conditions = self
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .flatten();
        conditions
            .filter(|c| c.type_ == condition)
            .any(|c| c.status == "True")
    }
}

impl k8s::Resource for CustomResourceDefinition {
    const API_VERSION: &'static str = "apiextensions.k8s.io/v1";
    const GROUP: &'static str = "apiextensions.k8s.io";
    const KIND: &'static str = "CustomResourceDefinition";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "customresourcedefinitions";
    type Scope = k8s::ClusterResourceScope;
}

impl k8s::Metadata for CustomResourceDefinition {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl schemars::JsonSchema for CustomResourceDefinition {
    fn schema_name() -> Cow<'static, str> {
        published::CustomResourceDefinition::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        published::CustomResourceDefinition::json_schema(generator)
    }
}
