//! Rules of a definition: its names, its versions and what they offer. Schemas have files of their own.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::names;
use corral_cel::rules::{self as cel_rules, CompileOptions, Rules};
use serde_json::Value;

use super::types::{
    Conversion, CustomResourceDefinition, Names, PrinterColumn, Scale, SelectableField, Spec,
    Subresources, Version, WebhookConversion,
};
use super::{default_rules, schema_path, schema_rules, structural_rules};
use crate::custom::Structural;
use crate::custom::structural::{DEPTH_MAX, Type};
use crate::rules::{self, Errors};
use crate::webhook_client;

/// Most fields of a version that field selectors may name: each is kept beside every object.
const SELECTABLE_FIELDS_MAX: usize = 8;
/// The versions of the question to a webhook that the server knows.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Who allowed a kind in a group of Kubernetes' own.
const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];

/// How strict the rules are: what an earlier state of the definition broke is not asked of a later one.
#[derive(Debug, Clone, Copy)]
struct Strictness {
    /// Whether the kind is served already, so that its names stay.
    names_stay: bool,
    /// Whether the conversion must name a version of the question that the server knows.
    known_review: bool,
    /// Whether the certificates of the conversion must be readable.
    good_ca: bool,
}

/// Everything wrong with a new definition.
pub(super) fn validate(definition: &CustomResourceDefinition) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = &definition.spec;
    let name = definition.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != format!("{}.{}", spec.names.plural, spec.group) {
        let path = FieldPath::new("metadata").child("name");
        let why = r#"must be spec.names.plural+"."+spec.group"#;
        errors.push(FieldError::invalid(&path, name, why));
    }
    let strictness = Strictness {
        names_stay: false,
        known_review: true,
        good_ca: false,
    };
    validate_spec(&mut errors, spec, None, strictness);
    errors.extend(validate_status(definition));
    validate_stored_versions(&mut errors, definition);
    validate_approval(&mut errors, definition, None);
    errors
}

/// Everything wrong with a changed definition.
pub(super) fn validate_update(
    new: &CustomResourceDefinition,
    old: &CustomResourceDefinition,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let conversion = old
        .spec
        .conversion
        .as_ref()
        .and_then(|c| c.webhook.as_ref());
    let versions = conversion.and_then(|c| c.conversion_review_versions.as_deref());
    let versions = versions.unwrap_or_default();
    let known = |version: &String| REVIEW_VERSIONS.contains(&version.as_str());
    let ca = conversion
        .and_then(|c| c.client_config.as_ref())
        .and_then(|client| client.ca_bundle.as_deref());
    let path = FieldPath::root();
    let was_bad = ca.is_some_and(|ca| !webhook_client::ca_bundle(&path, ca).is_empty());
    let strictness = Strictness {
        names_stay: old.is("Established"),
        known_review: versions.is_empty() || versions.iter().any(known),
        good_ca: old.is("Established") && !was_bad,
    };
    validate_spec(&mut errors, &new.spec, Some(&old.spec), strictness);
    let path = FieldPath::new("spec");
    if strictness.names_stay {
        rules::immutable(
            &mut errors,
            &path.child("scope"),
            &new.spec.scope,
            &old.spec.scope,
        );
        let (kind, before) = (&new.spec.names.kind, &old.spec.names.kind);
        rules::immutable(&mut errors, &path.child("names.kind"), kind, before);
    }
    rules::immutable(
        &mut errors,
        &path.child("group"),
        &new.spec.group,
        &old.spec.group,
    );
    let (plural, before) = (&new.spec.names.plural, &old.spec.names.plural);
    rules::immutable(&mut errors, &path.child("names.plural"), plural, before);
    errors.extend(validate_status(new));
    validate_stored_versions(&mut errors, new);
    validate_approval(&mut errors, new, Some(old));
    errors
}

/// Everything wrong with a status.
pub(super) fn validate_status(definition: &CustomResourceDefinition) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if let Some(status) = &definition.status {
        let path = FieldPath::new("status").child("acceptedNames");
        validate_names(&mut errors, &path, &status.accepted_names);
    }
    errors
}

fn validate_spec(errors: &mut Errors, spec: &Spec, old: Option<&Spec>, strictness: Strictness) {
    let path = FieldPath::new("spec");
    let group = path.child("group");
    if spec.group.is_empty() {
        errors.push(FieldError::required(&group, ""));
    } else {
        let complaints = names::dns1123_subdomain(&spec.group);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(
                &group,
                &spec.group,
                complaints.join(","),
            ));
        } else if !spec.group.contains('.') {
            let why = "should be a domain with at least one dot";
            errors.push(FieldError::invalid(&group, &spec.group, why));
        }
    }
    rules::required_of(
        errors,
        &path.child("scope"),
        &spec.scope,
        &["Cluster", "Namespaced"],
    );
    for (index, version) in spec.versions.iter().enumerate() {
        if version.schema().is_none() {
            errors.push(FieldError::required(&schema_path(index), ""));
        }
    }
    let shared = Parts::shared(&spec.versions);
    for (index, version) in spec.versions.iter().enumerate() {
        let path = path.child("versions").index(index);
        label(errors, &path.child("name"), &version.name, "");
        deprecation(errors, &path.child("deprecationWarning"), version);
        let has_status = version.has_status();
        let at = Place {
            path: &path,
            schema: schema_path(index),
            has_status,
            parts: shared.others(),
        };
        validate_version(errors, &at, version, old);
    }
    validate_versions(errors, &path.child("versions"), &spec.versions);
    if let Some(first) = spec.versions.first().filter(|first| !first.name.is_empty()) {
        // Kubernetes keeps the name of the first version once more.
        label(errors, &path.child("version"), &first.name, "");
    }
    let names_path = path.child("names");
    let required = [
        ("plural", Some(&spec.names.plural)),
        ("singular", spec.names.singular.as_ref()),
        ("kind", Some(&spec.names.kind)),
        ("listKind", spec.names.list_kind.as_ref()),
    ];
    for (field, name) in required {
        if name.is_none_or(String::is_empty) {
            errors.push(FieldError::required(&names_path.child(field), ""));
        }
    }
    validate_names(errors, &names_path, &spec.names);
    if let Some(first) = spec.versions.first() {
        let at = Place {
            path: &path,
            schema: path.child("validation").child("openAPIV3Schema"),
            has_status: spec.versions.iter().any(Version::has_status),
            parts: shared,
        };
        validate_version(errors, &at, first, old);
    }
    if spec.preserve_unknown_fields == Some(true) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        let path = path.child("preserveUnknownFields");
        errors.push(FieldError::invalid(&path, true, why));
    }
    if let Some(conversion) = &spec.conversion {
        validate_conversion(errors, &path.child("conversion"), conversion, strictness);
    }
}

fn validate_versions(errors: &mut Errors, path: &FieldPath, versions: &[Version]) {
    let shown = || match versions {
        [] => Value::Null,
        some => rules::json(some),
    };
    let unique: BTreeSet<&str> = versions
        .iter()
        .map(|version| version.name.as_str())
        .collect();
    if unique.len() != versions.len() {
        errors.push(FieldError::invalid(
            path,
            shown(),
            "must contain unique version names",
        ));
    }
    if versions.iter().filter(|version| version.storage).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(path, shown(), why));
    }
}

/// Parts of versions.
#[derive(Debug, Clone, Copy)]
struct Parts {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Parts {
    /// What all versions have alike: Kubernetes looks at that once, and tells it as if it stood outside of them.
    fn shared(versions: &[Version]) -> Self {
        let alike = |same: &dyn Fn(&Version, &Version) -> bool| {
            versions.windows(2).all(|pair| same(&pair[0], &pair[1]))
        };
        Self {
            schema: alike(&|a, b| a.schema == b.schema),
            subresources: alike(&|a, b| a.subresources == b.subresources),
            columns: alike(&|a, b| a.additional_printer_columns == b.additional_printer_columns),
            selectable: alike(&|a, b| a.selectable_fields == b.selectable_fields),
        }
    }

    fn others(self) -> Self {
        Self {
            schema: !self.schema,
            subresources: !self.subresources,
            columns: !self.columns,
            selectable: !self.selectable,
        }
    }
}

/// Where a version, or what all have alike, is told.
struct Place<'a> {
    path: &'a FieldPath,
    schema: FieldPath,
    has_status: bool,
    parts: Parts,
}

fn validate_version(errors: &mut Errors, at: &Place<'_>, version: &Version, old: Option<&Spec>) {
    let Place { path, parts, .. } = at;
    let before = old.and_then(|old| old.versions.iter().find(|v| v.name == version.name));
    if let Some(schema) = version.schema().filter(|_| parts.schema) {
        let old_schema = before.and_then(Version::schema);
        validate_schema(errors, at, schema, old, old_schema);
    }
    if let Some(subresources) = version.subresources.as_ref().filter(|_| parts.subresources) {
        validate_subresources(errors, &path.child("subresources"), subresources);
    }
    let columns = version.additional_printer_columns.iter().flatten();
    for (index, column) in columns.enumerate().filter(|_| parts.columns) {
        let path = path.child("additionalPrinterColumns").index(index);
        validate_column(errors, &path, column);
    }
    let fields = version.selectable_fields.as_deref().unwrap_or_default();
    if fields.is_empty() || !parts.selectable {
        return;
    }
    let kept = before.and_then(|b| b.selectable_fields.as_deref()) == Some(fields);
    let path = path.child("selectableFields");
    match version.schema() {
        None => {
            let why = "may only be set when validations.schema is included";
            errors.push(FieldError::invalid(&path, "", why));
        }
        Some(schema) => {
            validate_selectable(errors, &path, fields, &Structural::parse(schema), kept);
        }
    }
}

/// `before`: the definition before an update, whose schema of the same version is `old`.
fn validate_schema(
    errors: &mut Errors,
    at: &Place<'_>,
    schema: &Value,
    before: Option<&Spec>,
    old: Option<&Value>,
) {
    let path = &at.schema;
    if Structural::depth(schema) > DEPTH_MAX {
        let why = format!("must not have more than {DEPTH_MAX} levels");
        errors.push(FieldError::invalid(path, "", why));
        return;
    }
    let n_before = errors.len();
    schema_rules::root(errors, path, schema, at.has_status);
    let structural = structural_rules::validate(schema, path);
    if structural.is_empty() {
        default_rules::validate(errors, path, schema);
    }
    errors.extend(structural);
    let is_good = errors.len() == n_before;
    let n_before = errors.len();
    schema_rules::validate(errors, path, schema);
    let schemas = before.into_iter().flat_map(|before| &before.versions);
    let options = CompileOptions {
        stored_expressions: schemas
            .filter_map(Version::schema)
            .flat_map(cel_rules::expressions_of)
            .collect(),
        // What was accepted once stays acceptable while it does not change.
        unchanged: old == Some(schema),
        schema_errors: errors[n_before..]
            .iter()
            .filter_map(|error| below(path, &error.path))
            .collect(),
        form_only: !is_good,
    };
    let (_, problems) = Rules::compile_with(schema, true, &options);
    let (of_schema, of_rules): (Vec<_>, Vec<_>) =
        problems.iter().partition(|problem| problem.of_schema);
    let problems = of_schema.into_iter().chain(of_rules);
    errors.extend(problems.map(|problem| problem.below(path)));
}

/// A path as it is below another.
fn below(schema: &FieldPath, path: &FieldPath) -> Option<FieldPath> {
    let rest = path.as_str().strip_prefix(schema.as_str())?;
    Some(FieldPath::new(rest.trim_start_matches('.')))
}

fn deprecation(errors: &mut Errors, path: &FieldPath, version: &Version) {
    let Some(warning) = &version.deprecation_warning else {
        return;
    };
    let mut complain = |why: String| errors.push(FieldError::invalid(path, warning.as_str(), why));
    if !version.deprecated.unwrap_or(false) {
        complain("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > 256 {
        complain("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        complain("must not be an empty string".to_owned());
    }
    let unprintable = |c: &(usize, char)| c.1.is_control() || (c.1.is_whitespace() && c.1 != ' ');
    if let Some((index, _)) = warning.char_indices().find(unprintable) {
        complain(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

/// A name of one DNS label, with an introduction to what is wrong with it.
fn label(errors: &mut Errors, path: &FieldPath, name: &str, introduction: &str) {
    let complaints = names::dns1035_label(&match introduction.is_empty() {
        true => name.to_owned(),
        false => name.to_lowercase(),
    });
    if !complaints.is_empty() {
        let why = format!("{introduction}{}", complaints.join(","));
        errors.push(FieldError::invalid(path, name, why));
    }
}

fn validate_names(errors: &mut Errors, path: &FieldPath, names: &Names) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    let singular = names.singular.as_deref().unwrap_or_default();
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    for (field, name, introduction) in [
        ("plural", names.plural.as_str(), ""),
        ("singular", singular, ""),
        ("kind", names.kind.as_str(), MIXED),
        ("listKind", list_kind, MIXED),
    ] {
        if !name.is_empty() {
            label(errors, &path.child(field), name, introduction);
        }
    }
    for (index, name) in names.short_names.iter().flatten().enumerate() {
        label(errors, &path.child("shortNames").index(index), name, "");
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), list_kind, why));
    }
    for (index, name) in names.categories.iter().flatten().enumerate() {
        label(errors, &path.child("categories").index(index), name, "");
    }
}

fn simple_path(errors: &mut Errors, path: &FieldPath, given: &str) -> bool {
    let good = given.starts_with('.');
    if !good {
        let why = "must be a simple json path starting with .";
        errors.push(FieldError::invalid(path, given, why));
    }
    good
}

fn validate_column(errors: &mut Errors, path: &FieldPath, column: &PrinterColumn) {
    if column.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    if column.type_.is_empty() {
        errors.push(FieldError::required(&path.child("type"), types));
    } else if !COLUMN_TYPES.contains(&column.type_.as_str()) {
        errors.push(FieldError::invalid(
            &path.child("type"),
            &column.type_,
            types,
        ));
    }
    let format = column.format.as_deref().unwrap_or_default();
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(FieldError::invalid(&path.child("format"), format, why));
    }
    let at = path.child("JSONPath");
    if column.json_path.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        simple_path(errors, &at, &column.json_path);
    }
}

fn validate_subresources(errors: &mut Errors, path: &FieldPath, subresources: &Subresources) {
    let Some(Scale {
        spec_replicas_path,
        status_replicas_path,
        label_selector_path,
    }) = &subresources.scale
    else {
        return;
    };
    let mut below = |field: &str, given: &str, prefixes: &[&str], required: bool, why: &str| {
        let path = path.child("scale").child(field);
        if given.is_empty() {
            if required {
                errors.push(FieldError::required(&path, ""));
            }
        } else if simple_path(errors, &path, given)
            && !prefixes.iter().any(|prefix| given.starts_with(prefix))
        {
            errors.push(FieldError::invalid(&path, given, why));
        }
    };
    let why = "should be a json path under .spec";
    below(
        "specReplicasPath",
        spec_replicas_path,
        &[".spec."],
        true,
        why,
    );
    let why = "should be a json path under .status";
    below(
        "statusReplicasPath",
        status_replicas_path,
        &[".status."],
        true,
        why,
    );
    let why = "should be a json path under either .spec or .status";
    let selector = label_selector_path.as_deref().unwrap_or_default();
    below(
        "labelSelectorPath",
        selector,
        &[".spec.", ".status."],
        false,
        why,
    );
}

/// The shape that a path of plain fields leads to.
fn field_of<'a>(schema: &'a Structural, path: &str) -> Result<&'a Structural, &'static str> {
    let mut here = schema;
    let rest = path.strip_prefix('.').ok_or("expected [ or . but got")?;
    for name in rest.split('.') {
        if name.contains('[') {
            return Err("array notation is not allowed");
        }
        here = here.below(name).ok_or("does not refer to a valid field")?;
    }
    Ok(here)
}

fn validate_selectable(
    errors: &mut Errors,
    path: &FieldPath,
    fields: &[SelectableField],
    schema: &Structural,
    kept: bool,
) {
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let path = path.index(index).child("jsonPath");
        let given = field.json_path.as_str();
        if given.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let found = match field_of(schema, given) {
            Ok(found) => found,
            Err(why) => {
                let why = match given.starts_with('.') {
                    true => why.to_owned(),
                    false => format!(
                        "{why}: {}",
                        given.split(['.', '[', ']']).next().unwrap_or_default()
                    ),
                };
                errors.push(FieldError::invalid(
                    &path,
                    given,
                    format!("is an invalid path: {why}"),
                ));
                continue;
            }
        };
        if given == ".metadata" || given.starts_with(".metadata.") {
            errors.push(FieldError::invalid(
                &path,
                given,
                "must not point to fields in metadata",
            ));
        }
        if !matches!(
            found.kind,
            Some(Type::String | Type::Boolean | Type::Integer)
        ) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
                       are allowed.";
            errors.push(FieldError::invalid(&path, given, why));
        }
        if !seen.insert(given) {
            errors.push(FieldError::duplicate(&path, given));
        }
    }
    if seen.len() > SELECTABLE_FIELDS_MAX && !kept {
        errors.push(FieldError::too_many(
            path,
            seen.len(),
            SELECTABLE_FIELDS_MAX,
        ));
    }
}

fn validate_conversion(
    errors: &mut Errors,
    path: &FieldPath,
    conversion: &Conversion,
    strictness: Strictness,
) {
    rules::required_of(
        errors,
        &path.child("strategy"),
        &conversion.strategy,
        &["None", "Webhook"],
    );
    // Kubernetes tells these places by the names that they have inside the server.
    let client_path = path.child("webhookClientConfig");
    let versions_path = path.child("conversionReviewVersions");
    if conversion.strategy == "Webhook" {
        let webhook = conversion.webhook.clone().unwrap_or_default();
        match &webhook.client_config {
            None => {
                let why = "required when strategy is set to Webhook";
                errors.push(FieldError::required(&client_path, why));
            }
            Some(client) => {
                let service = client.service.as_ref();
                let service = service.map(|s| {
                    (
                        s.name.as_str(),
                        s.namespace.as_str(),
                        s.path.as_deref(),
                        s.port,
                    )
                });
                webhook_client::target(errors, &client_path, client.url.as_deref(), service);
                if let Some(ca) = client.ca_bundle.as_deref().filter(|_| strictness.good_ca) {
                    errors.extend(webhook_client::ca_bundle(
                        &client_path.child("caBundle"),
                        ca,
                    ));
                }
            }
        }
        validate_review_versions(errors, &versions_path, &webhook, strictness);
    } else if let Some(webhook) = &conversion.webhook {
        let why = "should not be set when strategy is not set to Webhook";
        if webhook.client_config.is_some() {
            errors.push(FieldError::forbidden(&client_path, why));
        }
        if webhook
            .conversion_review_versions
            .iter()
            .flatten()
            .next()
            .is_some()
        {
            errors.push(FieldError::forbidden(&versions_path, why));
        }
    }
}

fn validate_review_versions(
    errors: &mut Errors,
    path: &FieldPath,
    webhook: &WebhookConversion,
    strictness: Strictness,
) {
    let versions = webhook
        .conversion_review_versions
        .as_deref()
        .unwrap_or_default();
    if versions.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        if versions[..index].contains(version) {
            errors.push(FieldError::invalid(
                &path,
                version.as_str(),
                "duplicate version",
            ));
            continue;
        }
        rules::complain(errors, &path, version, names::dns1035_label(version));
    }
    let known = |version: &String| REVIEW_VERSIONS.contains(&version.as_str());
    if strictness.known_review && !versions.iter().any(known) {
        let why = format!(
            "must include at least one of {}",
            REVIEW_VERSIONS.join(", ")
        );
        errors.push(FieldError::invalid(path, rules::json(versions), why));
    }
}

fn validate_stored_versions(errors: &mut Errors, definition: &CustomResourceDefinition) {
    let path = FieldPath::new("status").child("storedVersions");
    let stored = definition
        .status
        .as_ref()
        .map(|status| status.stored_versions.as_slice());
    let stored = stored.unwrap_or_default();
    if stored.is_empty() {
        let why = "must have at least one stored version";
        errors.push(FieldError::invalid(&path, Value::Null, why));
        return;
    }
    let versions = &definition.spec.versions;
    for version in versions.iter().filter(|version| version.storage) {
        if !stored.contains(&version.name) {
            let why = format!("must have the storage version {}", version.name);
            errors.push(FieldError::invalid(&path, rules::json(stored), why));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.name == *name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a \
                 storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(&path.index(index), name.as_str(), why));
        }
    }
}

/// Whether a group is of Kubernetes itself, so that its kinds need somebody's word.
pub fn is_protected(group: &str) -> bool {
    let under = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    under("k8s.io") || under("kubernetes.io")
}

/// Who allowed the kind, as an annotation tells: `None` without a valid word, with what is wrong with it.
pub fn approval(definition: &CustomResourceDefinition) -> Result<String, (bool, String)> {
    let annotations = definition.metadata.annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get(APPROVED)) {
        None => Err((
            false,
            format!(
                "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        )),
        Some(word) if word.starts_with("unapproved") => Ok(format!("not approved: {word:?}")),
        Some(word) => {
            let rest = word
                .strip_prefix("https://")
                .or_else(|| word.strip_prefix("http://"));
            let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
            match host.is_some_and(|host| !host.is_empty()) {
                true => Ok(format!("approved in {word}")),
                false => Err((
                    true,
                    format!(
                        "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
                    ),
                )),
            }
        }
    }
}

fn validate_approval(
    errors: &mut Errors,
    new: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
) {
    if !is_protected(&new.spec.group) {
        return;
    }
    let state = approval(new);
    // What is as it was is not asked again.
    let kind = |state: &Result<String, (bool, String)>| match state {
        Ok(word) => (true, word.starts_with("approved")),
        Err((given, _)) => (false, *given),
    };
    if old.is_some_and(|old| kind(&approval(old)) == kind(&state)) {
        return;
    }
    let path = FieldPath::new("metadata")
        .child("annotations")
        .key(APPROVED);
    match state {
        Ok(_) => {}
        Err((false, why)) => errors.push(FieldError::required(&path, why)),
        Err((true, why)) => {
            let annotations = new.metadata.annotations.as_ref();
            let word = annotations.and_then(|a| a.get(APPROVED)).cloned();
            errors.push(FieldError::invalid(&path, word.unwrap_or_default(), why));
        }
    }
}
