//! A kind that a CustomResourceDefinition describes, in one of its versions.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use corral_api::field::{FieldError, FieldErrorKind, FieldPath};
use corral_api::k8s::api::core::v1::ConfigMap;
use corral_api::meta::ObjectMeta;
use corral_api::names;
use corral_cel::budget::Budget;
use corral_cel::rules::Rules;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::path::Path;
use super::structural::Structural;
use super::{defaults, embedded, lists, prune, topology, validate};
use crate::apiextensions::custom_resource_definition::{
    CustomResourceDefinition, Names as DefinitionNames, Spec, Version,
};
use crate::kind::{AnyKind, Column, Names, Object, ScalePaths, Verbs, Words, age};
use crate::scan::Malformed;
use crate::schema::{self, Node, Report, TypeError};
use crate::selectable::Index;

/// An object of a kind that a client has described.
#[derive(Debug, Clone)]
pub struct CustomObject {
    /// Its metadata; what `value` holds of them counts no more.
    pub meta: ObjectMeta,
    /// The object.
    pub value: Value,
}

/// A kind that a client has described, in one version.
pub struct CustomKind {
    group: String,
    version: String,
    names: DefinitionNames,
    namespaced: bool,
    /// The kind in the version in which the store keeps objects; `None` for that very one.
    storage: Option<Arc<CustomKind>>,
    /// Whether somebody else is asked to bring objects from one version into another.
    by_webhook: bool,
    /// The text of the schema; the tree is made when the first object comes.
    source: String,
    /// Whether the schema has rules: asked of every write, before anything is compiled.
    has_expressions: bool,
    structural: OnceLock<Structural>,
    rules: OnceLock<Rules>,
    node: OnceLock<Node>,
    has_status: bool,
    scale: Option<[String; 3]>,
    columns: Vec<(Column, Option<Path>)>,
    selectable: Vec<(String, Option<Path>)>,
    deprecation: Option<String>,
}

/// A path of fields as a JSON pointer.
fn pointer(path: &str) -> String {
    path.replace('~', "~0").replace('/', "~1").replace('.', "/")
}

impl CustomKind {
    /// The kind in one of the versions of its definition, by the names that were accepted.
    /// `storage`: the kind in the version in which the store keeps objects, if that is another one.
    pub fn new(
        definition: &CustomResourceDefinition,
        version: &Version,
        storage: Option<Arc<Self>>,
    ) -> Self {
        let spec = &definition.spec;
        let accepted = definition
            .status
            .as_ref()
            .map(|status| &status.accepted_names);
        let subresources = version.subresources.as_ref();
        let columns = version.additional_printer_columns.iter().flatten();
        let selectable = version.selectable_fields.iter().flatten();
        let source = version.schema().map(Value::to_string).unwrap_or_default();
        Self {
            group: spec.group.clone(),
            version: version.name.clone(),
            names: accepted.unwrap_or(&spec.names).clone(),
            namespaced: spec.scope == "Namespaced",
            storage,
            by_webhook: is_converted_by_webhook(definition),
            has_expressions: source.contains("x-kubernetes-validations"),
            source,
            structural: OnceLock::new(),
            rules: OnceLock::new(),
            node: OnceLock::new(),
            has_status: subresources.is_some_and(|s| s.status.is_some()),
            scale: subresources.and_then(|s| s.scale.as_ref()).map(|scale| {
                [
                    pointer(&scale.spec_replicas_path),
                    pointer(&scale.status_replicas_path),
                    pointer(scale.label_selector_path.as_deref().unwrap_or_default()),
                ]
            }),
            columns: columns
                .map(|column| {
                    let told = column.description.clone().unwrap_or_default();
                    let description = match told.is_empty() {
                        true => format!(
                            "Custom resource definition column (in JSONPath format): {}",
                            column.json_path
                        ),
                        false => told,
                    };
                    let shown = Column {
                        name: Cow::Owned(column.name.clone()),
                        kind: Cow::Owned(column.type_.clone()),
                        format: Cow::Owned(column.format.clone().unwrap_or_default()),
                        description: Cow::Owned(description),
                        priority: column.priority.unwrap_or_default(),
                    };
                    (shown, Path::parse(&column.json_path).ok())
                })
                .collect(),
            selectable: selectable
                .map(|field| {
                    let name = field.json_path.trim_start_matches('.').to_owned();
                    (name, Path::parse(&field.json_path).ok())
                })
                .collect(),
            deprecation: version.deprecated.unwrap_or(false).then(|| {
                let default = || deprecation(spec, version);
                version.deprecation_warning.clone().unwrap_or_else(default)
            }),
        }
    }

    /// The schema as the definition has it; `null` without one.
    pub fn source(&self) -> Value {
        serde_json::from_str(&self.source).unwrap_or(Value::Null)
    }

    /// The schema as a tree.
    pub fn structural(&self) -> &Structural {
        let parse = || Structural::parse(&self.source());
        self.structural.get_or_init(parse)
    }

    /// Everything wrong with an object beyond its metadata.
    fn faults(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let (schema, root) = (self.structural(), FieldPath::root());
        let mut errors = validate::validate(new, old, schema, &root);
        errors.extend(self.scale_faults(new));
        errors.extend(embedded::validate(new, schema, &root));
        let was_good = old.is_none_or(|old| lists::validate(old, schema, &root).is_empty());
        if was_good {
            errors.extend(lists::validate(new, schema, &root));
        }
        errors.extend(self.broken_rules(new, old, &errors));
        errors
    }

    /// The rules of the schema.
    fn rules(&self) -> &Rules {
        let compile = || Rules::of_stored(&self.source(), true);
        self.rules.get_or_init(compile)
    }

    /// What an object breaks of the rules, which can be asked only of objects of the right shape.
    fn broken_rules(
        &self,
        new: &Value,
        old: Option<&Value>,
        errors: &[FieldError],
    ) -> Vec<FieldError> {
        use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        let rules = self.rules();
        if rules.is_empty() {
            return Vec::new();
        }
        let blocks = |error: &FieldError| {
            matches!(
                error.kind,
                NotSupported | Required | TooLong | TooMany | TypeInvalid
            )
        };
        if errors.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to \
                       complete validation";
            return vec![FieldError::invalid(&FieldPath::root(), Value::Null, why)];
        }
        let mut budget = Budget::of_request();
        rules
            .validate(&FieldPath::root(), new, old, &mut budget)
            .errors
    }

    fn scale_faults(&self, new: &Value) -> Vec<FieldError> {
        let Some([spec, status, selector]) = &self.scale else {
            return Vec::new();
        };
        let mut errors = Vec::new();
        let dotted = |pointer: &str| FieldPath::new(&pointer.replace('/', "."));
        for pointer in [spec, status] {
            let path = dotted(pointer);
            if let Some(parent) = parent(new, pointer) {
                let why = accessor(&path, parent, "map[string]interface{}");
                errors.push(FieldError::invalid(&path, 0, why));
            }
            match new.pointer(pointer) {
                None => {}
                Some(value) => match value.as_i64() {
                    None => {
                        let why = accessor(&path, value, "int64");
                        errors.push(FieldError::invalid(&path, 0, why));
                    }
                    Some(n) if n < 0 => {
                        errors.push(FieldError::invalid(
                            &path,
                            n,
                            "should be a non-negative integer",
                        ));
                    }
                    Some(n) if n > i64::from(i32::MAX) => {
                        let why = "should be less than or equal to 2147483647";
                        errors.push(FieldError::invalid(&path, n, why));
                    }
                    Some(_) => {}
                },
            }
        }
        if let Some(value) = new.pointer(selector).filter(|_| !selector.is_empty())
            && !value.is_string()
        {
            let path = dotted(selector);
            let why = accessor(&path, value, "string");
            errors.push(FieldError::invalid(&path, "", why));
        }
        errors
    }

    /// Brings an object into this version and takes out what its schema no longer has; answers whether that changed it.
    /// On the way through the store it also loses what the schema of the store's version does not have.
    fn conform(&self, value: &mut Value) -> bool {
        let changed = self
            .storage
            .as_ref()
            .is_some_and(|storage| storage.conform(value));
        self.conform_to_own(value) | changed
    }

    fn conform_to_own(&self, value: &mut Value) -> bool {
        let api_version = self.names().api_version();
        let changed = value["apiVersion"] != api_version.as_str();
        if changed {
            value["apiVersion"] = api_version.into();
        }
        self.settle(value) | changed
    }

    /// Takes out of an object of this version what the schema no longer has, and sets what it lacks; answers whether that
    /// changed it.
    pub fn settle(&self, value: &mut Value) -> bool {
        let schema = self.structural();
        let pruned = !prune::prune(value, schema).is_empty();
        let dropped = defaults::drop_nulls(value, schema);
        defaults::set(value, schema) | dropped | pruned
    }

    /// Takes out of an object of this version what the schema does not have.
    pub fn prune(&self, value: &mut Value) {
        prune::prune(value, self.structural());
    }

    /// Whether somebody else is asked to bring objects from one version into another.
    pub fn is_converted_by_webhook(&self) -> bool {
        self.by_webhook
    }
}

/// Numbers without a fraction are whole, however they are written.
fn whole_numbers(value: &mut Value) {
    /// Up to here every whole number has a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() <= EXACT_MAX {
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// What a deprecated version warns of: that a newer one is there, if one is.
fn deprecation(spec: &Spec, version: &Version) -> String {
    use corral_api::gvk::VersionPriority;
    let (group, kind) = (&spec.group, &spec.names.kind);
    let own = VersionPriority::of(&version.name);
    let better = spec.versions.iter().filter(|other| {
        other.served && !other.deprecated.unwrap_or(false) && VersionPriority::of(&other.name) > own
    });
    let best = better.max_by_key(|other| VersionPriority::of(&other.name));
    let instead = best.map(|best| format!("; use {group}/{} {kind}", best.name));
    let instead = instead.unwrap_or_default();
    format!("{group}/{} {kind} is deprecated{instead}", version.name)
}

/// What on the way to a value is no object.
fn parent<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    let (way, _) = pointer.rsplit_once('/')?;
    let mut here = value;
    for step in way.split('/').skip(1) {
        here = here.get(step)?;
        if !here.is_object() {
            return Some(here);
        }
    }
    None
}

/// A value of the wrong type where `scale` looks for one.
fn accessor(path: &FieldPath, value: &Value, wanted: &str) -> String {
    let shown = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let found = go_type(value);
    format!("{path} accessor error: {shown} is of the type {found}, expected {wanted}")
}

/// What Go calls a value of JSON; messages name it.
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn typed(object: &Object) -> &CustomObject {
    object.get().expect("an object that this kind decoded")
}

fn typed_mut(object: &mut Object) -> &mut CustomObject {
    object.get_mut().expect("an object that this kind decoded")
}

impl AnyKind for CustomKind {
    fn names(&self) -> Names<'_> {
        Names {
            group: &self.group,
            version: &self.version,
            kind: &self.names.kind,
            plural: &self.names.plural,
            singular: self.names.singular.as_deref().unwrap_or_default(),
            short_names: Words::Owned(self.names.short_names.as_deref().unwrap_or_default()),
            categories: Words::Owned(self.names.categories.as_deref().unwrap_or_default()),
            namespaced: self.namespaced,
        }
    }
    fn verbs(&self) -> Verbs {
        Verbs::All
    }
    fn has_status(&self) -> bool {
        self.has_status
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn scale(&self) -> Option<ScalePaths<'_>> {
        self.scale
            .as_ref()
            .map(|[spec, status, selector]| ScalePaths {
                spec_replicas: spec,
                status_replicas: status,
                selector,
            })
    }
    fn checks_finalizers(&self) -> bool {
        false
    }
    fn list_kind(&self) -> String {
        self.names.list_kind.clone().unwrap_or_default()
    }
    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
    fn decode(&self, value: Value) -> Result<Object, serde_json::Error> {
        let meta = match value.get("metadata") {
            Some(Value::Null) | None => ObjectMeta::default(),
            Some(metadata) => serde_json::from_value(metadata.clone())?,
        };
        Ok(Object::new(CustomObject { meta, value }))
    }
    fn decode_kept(&self, value: &Value) -> Result<Object, serde_json::Error> {
        self.decode(value.clone())
    }
    fn decode_slice(&self, json: &[u8]) -> Result<Object, serde_json::Error> {
        self.decode(serde_json::from_slice(json)?)
    }
    fn encode(&self, object: &Object) -> Result<Value, serde_json::Error> {
        let object = typed(object);
        let mut value = object.value.clone();
        value["metadata"] = serde_json::to_value(&object.meta)?;
        Ok(value)
    }
    fn meta<'a>(&self, object: &'a Object) -> &'a ObjectMeta {
        &typed(object).meta
    }
    fn meta_mut<'a>(&self, object: &'a mut Object) -> &'a mut ObjectMeta {
        &mut typed_mut(object).meta
    }
    fn default(&self, object: &mut Object) {
        let value = &mut typed_mut(object).value;
        defaults::drop_nulls(value, self.structural());
        defaults::set(value, self.structural());
    }
    fn default_applied(&self, object: &mut Object) {
        defaults::set(&mut typed_mut(object).value, self.structural());
    }
    fn prepare_create(&self, _object: &mut Object) {}
    fn prepare_update(&self, _new: &mut Object, _old: &Object) {}
    fn prepare_status_update(&self, _new: &mut Object, _old: &Object) {}
    fn prepare_approval_update(&self, _new: &mut Object, _old: &Object) {}
    fn validate_approval_update(&self, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    fn has_approval(&self) -> bool {
        false
    }
    fn keeps_status_at_creation(&self) -> bool {
        false
    }
    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }
    fn updates_unconditionally(&self) -> bool {
        false
    }
    fn orphans_by_default(&self) -> bool {
        false
    }
    fn validate(&self, object: &Object) -> Vec<FieldError> {
        self.faults(&typed(object).value, None)
    }
    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        self.faults(&typed(new).value, Some(&typed(old).value))
    }
    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let (new, old) = (&typed(new).value, &typed(old).value);
        let path = FieldPath::new("status");
        let mut errors = match (
            new.get("status"),
            self.structural().properties.get("status"),
        ) {
            (Some(status), Some(schema)) => {
                validate::validate(status, old.get("status"), schema, &path)
            }
            _ => Vec::new(),
        };
        errors.extend(self.scale_faults(new));
        errors.extend(self.broken_rules(new, Some(old), &errors));
        errors
    }
    fn warnings(&self, object: &Object) -> Vec<String> {
        let finalizers = typed(object).meta.finalizers.iter().flatten();
        let unqualified = finalizers.filter(|finalizer| {
            !finalizer.contains('/')
                && !matches!(
                    finalizer.as_str(),
                    "orphan" | "foregroundDeletion" | "kubernetes"
                )
        });
        let warning = |finalizer: &String| {
            let including = if finalizer.contains('.') {
                " including a path (/)"
            } else {
                ""
            };
            format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{including} to avoid accidental \
                 conflicts with other finalizer writers"
            )
        };
        let mut unqualified: Vec<&String> = unqualified.collect();
        unqualified.sort();
        unqualified.into_iter().map(warning).collect()
    }
    fn default_grace_period(&self, _object: &Object) -> Option<i64> {
        None
    }
    fn begin_deletion(&self, _value: &mut Value, _now: Timestamp) -> bool {
        false
    }
    fn indexed_field(&self) -> Option<&str> {
        None
    }
    fn index<'j>(&self, json: &'j [u8]) -> Result<Index<'j>, Malformed> {
        let mut index = Index::read(&[], json)?;
        if self.selectable.is_empty() {
            return Ok(index);
        }
        let value: Value = serde_json::from_slice(json)
            .map_err(|_| Malformed("the bytes of an object are not JSON"))?;
        let field = |(_, path): &(String, Option<Path>)| {
            let found = path
                .as_ref()
                .and_then(|path| path.find(&value).into_iter().next());
            match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            }
        };
        index.fields = self.selectable.iter().map(field).map(Cow::Owned).collect();
        Ok(index)
    }
    fn selectable_field_names(&self) -> Vec<&str> {
        self.selectable
            .iter()
            .map(|(name, _)| name.as_str())
            .collect()
    }
    fn converts(&self) -> bool {
        true
    }
    fn to_stored(&self, mut value: Value) -> Value {
        if let Some(storage) = &self.storage {
            storage.conform(&mut value);
        }
        value
    }
    fn from_stored(&self, mut value: Value) -> Value {
        self.conform(&mut value);
        value
    }
    fn columns(&self) -> Vec<Column> {
        let own = self.columns.iter().map(|(column, _)| column.clone());
        let all: Vec<Column> = std::iter::once(Column::NAME).chain(own).collect();
        match all.len() {
            1 => vec![Column::NAME, Column::date("Age", AGE_TOLD)],
            _ => all,
        }
    }
    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let object = typed(object);
        let mut cells = vec![object.meta.name.clone().into()];
        if self.columns.is_empty() {
            cells.push(age(&object.meta, now));
        }
        for (column, path) in &self.columns {
            let found = path
                .as_ref()
                .and_then(|path| path.find(&object.value).into_iter().next());
            cells.push(found.map_or(Value::Null, |value| cell(&column.kind, value, now)));
        }
        cells
    }
    fn schema(&self) -> Node {
        let build = || topology::of_object(&self.names.kind, self.structural());
        self.node.get_or_init(build).clone()
    }
    fn check(&self, value: &mut Value) -> Result<Report, TypeError> {
        // Metadata are of the same shape everywhere; the rest is only pruned, and its types are told with the other faults.
        let mut unknown = Vec::new();
        if let Some(metadata) = value.get_mut("metadata") {
            let mut whole = json!({"metadata": metadata.take()});
            let report = schema::of_metadata().check(&mut whole);
            // Go reads the metadata by themselves, and tells their fields so.
            let report = report.map_err(|error| {
                TypeError(error.0.replace("ObjectMeta.metadata.", "ObjectMeta."))
            })?;
            *metadata = whole["metadata"].take();
            unknown = report.unknown;
        }
        embedded::read(value, self.structural(), &mut String::new(), &mut unknown)?;
        whole_numbers(value);
        unknown.extend(prune::prune(value, self.structural()));
        Ok(Report { unknown })
    }
    fn storage_version(&self) -> (&str, &str) {
        let stored = self
            .storage
            .as_ref()
            .map_or(&self.version, |storage| &storage.version);
        (&self.group, stored)
    }
    fn shape_text(&self) -> &str {
        &self.source
    }
    fn has_expressions(&self) -> bool {
        self.has_expressions
    }
    fn is_custom(&self) -> bool {
        true
    }
    fn openapi(&self) -> (Value, Map<String, Value>) {
        // What every object has is told as a kind of Kubernetes tells it.
        let (_, mut definitions) = schema::raw_type::<ConfigMap>();
        let common = definitions.remove(CONFIG_MAP).unwrap_or_default();
        let mut own = match self.source() {
            Value::Object(map) => map,
            _ => Map::from_iter([("type".to_owned(), "object".into())]),
        };
        let properties = own.entry("properties").or_insert_with(|| json!({}));
        if !self.source.is_empty() {
            for name in ["apiVersion", "kind", "metadata"] {
                properties[name] = common["properties"][name].clone();
            }
        }
        let mut group: Vec<&str> = self.group.split('.').collect();
        group.reverse();
        let name = format!("{}.{}.{}", group.join("."), self.version, self.names.kind);
        definitions.insert(name.clone(), Value::Object(own));
        (
            json!({"$ref": format!("#/definitions/{name}")}),
            definitions,
        )
    }
    fn own_form(&self, stored: &[u8]) -> Result<Option<Value>, serde_json::Error> {
        let mut value: Value = serde_json::from_slice(stored)?;
        if self.by_webhook {
            // One of another version stays as it is: only somebody else can bring it into this one.
            let is_own = value["apiVersion"] == self.names().api_version().as_str();
            return Ok((is_own && self.settle(&mut value)).then_some(value));
        }
        Ok(self.conform(&mut value).then_some(value))
    }
}

/// What the column of ages tells where the definition names no columns.
const AGE_TOLD: &str = "When the object was created.";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";

/// A value as a cell of a column of some type.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        (_, Value::Null) => match kind {
            "string" => "<nil>".into(),
            _ => Value::Null,
        },
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => {
            let truncated = || n.as_f64().map(|f| f.trunc() as i64);
            n.as_i64().or_else(truncated).into()
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(then) => crate::kind::since(Some(then), now),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// Whether a definition names somebody who converts.
pub fn is_converted_by_webhook(definition: &CustomResourceDefinition) -> bool {
    let conversion = definition.spec.conversion.as_ref();
    conversion.is_some_and(|conversion| conversion.strategy == "Webhook")
}

/// A kind of a definition in one version.
pub struct Described {
    /// The kind.
    pub kind: Arc<CustomKind>,
    /// Whether clients may use it.
    pub served: bool,
    /// Whether the store keeps objects in it.
    pub stored: bool,
}

/// The kinds of a definition, one for each version, the preferred one first.
pub fn described(definition: &CustomResourceDefinition) -> Vec<Described> {
    let mut versions: Vec<&Version> = definition.spec.versions.iter().collect();
    versions.sort_by_key(|version| {
        std::cmp::Reverse(corral_api::gvk::VersionPriority::of(&version.name))
    });
    let storage = versions.iter().find(|version| version.storage);
    let storage = storage.map(|version| Arc::new(CustomKind::new(definition, version, None)));
    let described = versions.into_iter().map(|version| {
        let kind = match &storage {
            Some(storage) if version.storage => storage.clone(),
            storage => Arc::new(CustomKind::new(definition, version, storage.clone())),
        };
        Described {
            kind,
            served: version.served,
            stored: version.storage,
        }
    });
    described.collect()
}
