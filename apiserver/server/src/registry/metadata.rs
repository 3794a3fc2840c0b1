//! Rules of object metadata, the same for every kind.

use std::collections::HashSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::meta::{GENERATED_SUFFIX_LENGTH, ObjectMeta, generated_name};
use corral_api::names;
use corral_api::status::Status;
use corral_kinds::AnyKind;
use serde_json::{Map, Value};

use super::{Resource, WriteContext, delete, metadata_path};

/// Bytes of all annotations together, as in Kubernetes.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Finalizers without a domain that there are.
const STANDARD_FINALIZERS: [&str; 3] = [
    "kubernetes",
    super::delete::ORPHAN,
    super::delete::FOREGROUND,
];

fn fields(value: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    let Value::Object(map) = value else {
        return Err(Status::bad_request(
            "the body of the request must be an object",
        ));
    };
    let metadata = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    metadata
        .as_object_mut()
        .ok_or_else(|| Status::bad_request("metadata must be an object"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value["metadata"][key].as_str().unwrap_or("")
}

/// Whether the server chooses the name.
pub fn generates_name(value: &Value) -> bool {
    text(value, "name").is_empty() && !text(value, "generateName").is_empty()
}

/// The namespace in an object must be that of the URL.
///
/// # Errors
/// 400 when they differ.
pub fn check_namespace(cx: &WriteContext, value: &Value) -> Result<(), Status> {
    let sent = text(value, "namespace");
    if !sent.is_empty() && sent != cx.namespace {
        let why =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    Ok(())
}

/// Whether an object says of itself what the server said when it was made.
pub fn has_identity_of(value: &Value, stored: &Value) -> bool {
    let same = |key: &str| text(value, key) == text(stored, key);
    same("uid") && same("creationTimestamp")
}

/// Takes out what a client may not say of a new object.
///
/// # Errors
/// 400 when the metadata are not an object.
pub fn drop_system_fields(value: &mut Value) -> Result<(), Status> {
    if value.get("metadata").is_none() {
        return Ok(());
    }
    let metadata = fields(value)?;
    for key in [
        "selfLink",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata.remove(key);
    }
    Ok(())
}

/// Sets what only the server may set on creation.
///
/// # Errors
/// 400 for a namespace other than the URL's, 422 without a name, 500 (as kube-apiserver) for a `resourceVersion`.
pub fn for_create(kind: &dyn AnyKind, cx: &WriteContext, value: &mut Value) -> Result<(), Status> {
    if kind.names().namespaced {
        check_namespace(cx, value)?;
    }
    // It is the store of Kubernetes that refuses a version, and to it what is no number is none.
    let version = text(value, "resourceVersion").parse::<u64>();
    if !cx.dry_run && version.is_ok_and(|version| version > 0) {
        let why = "resourceVersion should not be set on objects to be created";
        return Err(Status::unexpected(why));
    }
    let generate = generates_name(value);
    drop_system_fields(value)?;
    // Limits need no name, as in Kubernetes.
    let identity = kind.names().kind == "LimitRange" && text(value, "name").is_empty() && !generate;
    let metadata = fields(value)?;
    metadata.remove("resourceVersion");
    if kind.names().namespaced {
        metadata.insert("namespace".into(), cx.namespace.clone().into());
    } else {
        metadata.remove("namespace");
    }
    if generate {
        let prefix = metadata["generateName"].as_str().unwrap_or("").to_owned();
        let random: [u8; GENERATED_SUFFIX_LENGTH] = rand::random();
        metadata.insert("name".into(), generated_name(&prefix, random).into());
    }
    if identity {
        metadata.insert("name".into(), uuid::Uuid::new_v4().to_string().into());
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    let created = corral_api::time::format_seconds(cx.now);
    metadata.insert("creationTimestamp".into(), created.into());
    if kind.has_generation() {
        metadata.insert("generation".into(), 1.into());
    }
    Ok(())
}

/// The version that a client wants to change, if it says so.
pub fn wanted_version(value: &Value) -> Option<String> {
    let wanted = text(value, "resourceVersion");
    (!wanted.is_empty()).then(|| wanted.to_owned())
}

/// That a wanted version is one.
///
/// # Errors
/// 500, as kube-apiserver, when it is not a number.
pub fn check_version(wanted: &str) -> Result<(), Status> {
    match wanted.parse::<u64>() {
        Ok(_) => Ok(()),
        Err(_) => {
            let why = "invalid syntax";
            Err(Status::unexpected(format!(
                "strconv.ParseUint: parsing {wanted:?}: {why}"
            )))
        }
    }
}

/// Takes out the version that a change computed from the live object carries along, so that it does not count as the
/// client's wish.
pub fn drop_live_version(value: &mut Value, live: &Value) {
    if text(value, "resourceVersion") == text(live, "resourceVersion")
        && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("resourceVersion");
    }
}

/// Keeps what an update may not change.
///
/// # Errors
/// 409 when the update is about another object of the same name.
pub fn for_update(
    resource: &Resource,
    cx: &WriteContext,
    name: &str,
    value: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    let names = resource.kind.names();
    let (sent, live) = (text(value, "uid").to_owned(), text(old, "uid").to_owned());
    if !sent.is_empty() && sent != live {
        let key = resource.key(text(old, "namespace"), name);
        // What is only tried out is looked for without the prefix of the store.
        let place = match cx.dry_run {
            true => key.as_str().trim_start_matches("/registry"),
            false => key.as_str(),
        };
        return Err(Status::conflict(
            names.group,
            names.plural,
            name,
            &format!(
                "StorageError: invalid object, Code: 4, Key: {place}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {sent}, UID in object meta: {live}"
            ),
        ));
    }
    let metadata = fields(value)?;
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        // What is not there yet is left for validation to refuse.
        if let Some(kept) = old["metadata"].get(key) {
            metadata.insert(key.to_owned(), kept.clone());
        }
    }
    for key in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
        match old["metadata"].get(key) {
            Some(kept) => metadata.insert(key.to_owned(), kept.clone()),
            None => metadata.remove(key),
        };
    }
    for key in ["name", "namespace", "generateName"] {
        if !metadata.contains_key(key)
            && let Some(kept) = old["metadata"].get(key)
        {
            metadata.insert(key.to_owned(), kept.clone());
        }
    }
    Ok(())
}

/// Everything wrong with the metadata of a new object.
pub fn validate(kind: &dyn AnyKind, meta: &ObjectMeta) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = meta.name.as_deref().unwrap_or("");
    if let Some(prefix) = meta.generate_name.as_deref().filter(|p| !p.is_empty()) {
        // A prefix may end in what a name may not, because characters follow.
        let probe = format!("{}a", prefix.trim_end_matches('-'));
        for why in kind.name_errors(&probe) {
            errors.push(FieldError::invalid(
                &metadata_path("generateName"),
                prefix,
                why,
            ));
        }
    }
    if name.is_empty() {
        errors.push(FieldError::required(
            &metadata_path("name"),
            "name or generateName is required",
        ));
    } else {
        for why in kind.name_errors(name) {
            errors.push(FieldError::invalid(&metadata_path("name"), name, why));
        }
    }
    errors.extend(validate_common(kind, meta));
    errors
}

fn validate_common(kind: &dyn AnyKind, meta: &ObjectMeta) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        let path = metadata_path("generation");
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&path, generation, why));
    }
    errors.extend(validate_labels(
        &metadata_path("labels"),
        meta.labels.iter().flatten(),
    ));
    let path = metadata_path("annotations");
    let mut bytes = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        bytes += key.len() + value.len();
        for why in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(&path, key, why));
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(&path, ANNOTATIONS_BYTES_MAX));
    }
    for owner in meta.owner_references.iter().flatten() {
        // Kubernetes does not say which one.
        let path = metadata_path("ownerReferences");
        for (field, value) in [
            ("apiVersion", &owner.api_version),
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ] {
            let is_version = field == "apiVersion";
            // What has more than a group and a version has neither.
            if value.is_empty() || is_version && value.matches('/').count() > 1 {
                let why = match is_version {
                    true => "version must not be empty",
                    false => "must not be empty",
                };
                errors.push(FieldError::invalid(&path.child(field), value, why));
            }
        }
        if (owner.api_version.as_str(), owner.kind.as_str()) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            let shown = serde_json::to_value(owner).unwrap_or_default();
            errors.push(FieldError::invalid(&path, shown, why));
        }
    }
    let controllers = meta
        .owner_references
        .iter()
        .flatten()
        .filter(|o| o.controller == Some(true));
    let controllers: Vec<String> = controllers
        .map(|o| format!("{}/{}", o.kind, o.name))
        .collect();
    if let [first, second, ..] = controllers.as_slice() {
        errors.push(FieldError::invalid(
            &metadata_path("ownerReferences"),
            serde_json::to_value(&meta.owner_references).unwrap_or_default(),
            format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"),
        ));
    }
    for finalizer in meta.finalizers.iter().flatten() {
        for why in names::qualified_name(finalizer) {
            errors.push(FieldError::invalid(
                &metadata_path("finalizers"),
                finalizer,
                why,
            ));
        }
    }
    let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
    if has(delete::ORPHAN) && has(delete::FOREGROUND) {
        let shown = serde_json::to_value(&meta.finalizers).unwrap_or_default();
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(
            &metadata_path("finalizers"),
            shown,
            why,
        ));
    }
    let finalizers = meta.finalizers.iter().flatten().enumerate();
    for (index, finalizer) in finalizers.filter(|_| kind.checks_finalizers()) {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let path = metadata_path("finalizers").index(index);
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path, finalizer, why));
        }
    }
    errors
}

/// Everything wrong with labels.
pub fn validate_labels<'a>(
    path: &FieldPath,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels {
        for why in names::qualified_name(key) {
            errors.push(FieldError::invalid(path, key, why));
        }
        for why in names::label_value(value) {
            errors.push(FieldError::invalid(path, value, why));
        }
    }
    errors
}

/// Everything wrong with a change of metadata.
pub fn validate_update(kind: &dyn AnyKind, new: &ObjectMeta, old: &ObjectMeta) -> Vec<FieldError> {
    let mut errors = validate_common(kind, new);
    for (field, value, kept) in [
        ("name", &new.name, &old.name),
        ("namespace", &new.namespace, &old.namespace),
    ] {
        if value != kept {
            errors.push(FieldError::invalid(
                &metadata_path(field),
                value.clone(),
                "field is immutable",
            ));
        }
    }
    if let (Some(given), None) = (&new.deletion_timestamp, &old.deletion_timestamp) {
        let path = metadata_path("deletionTimestamp");
        let given = corral_api::time::format_seconds(given.0);
        errors.push(FieldError::invalid(&path, given, "field is immutable"));
    }
    if let (Some(given), None) = (
        new.deletion_grace_period_seconds,
        old.deletion_grace_period_seconds,
    ) {
        let path = metadata_path("deletionGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, given, "field is immutable"));
    }
    if old.deletion_timestamp.is_some() {
        let before: HashSet<&String> = old.finalizers.iter().flatten().collect();
        let added: Vec<&String> = new
            .finalizers
            .iter()
            .flatten()
            .filter(|f| !before.contains(f))
            .collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let list = list.join(", ");
            errors.push(FieldError::forbidden(
                &metadata_path("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"),
            ));
        }
    }
    errors
}

/// Whether an object that is being deleted has nothing left to wait for.
pub fn is_finished(kind: &dyn AnyKind, value: &Value) -> bool {
    let metadata = &value["metadata"];
    let left = |list: &Value| list.as_array().is_some_and(|l| !l.is_empty());
    if metadata.get("deletionTimestamp").is_none() || left(&metadata["finalizers"]) {
        return false;
    }
    if kind.names().kind == "Namespace" && left(&value["spec"]["finalizers"]) {
        return false;
    }
    metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}
