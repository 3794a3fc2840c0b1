//! Environment variables, and references to fields of the pod and to resources of a container.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    Container, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector,
};
use corral_api::names;
use corral_api::quantity::Quantity;

use super::every_container;
use crate::rules::{self, Errors, text};

/// Fields that a variable may refer to.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file of a downward API volume may refer to.
pub(super) const VOLUME_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.labels",
    "metadata.annotations",
    "metadata.uid",
];
/// Every field that has a name in the downward API.
const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];
const BYTE_DIVISORS: &[&str] = &[
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// `env`.
pub(super) fn variables(errors: &mut Errors, path: &FieldPath, container: &Container) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let path = path.index(index);
        let name = &variable.name;
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            rules::complain(errors, &path.child("name"), name, names::env_var_name(name));
        }
        if let Some(from) = &variable.value_from {
            value_from(errors, &path.child("valueFrom"), variable, from);
        }
    }
}

fn value_from(errors: &mut Errors, path: &FieldPath, variable: &EnvVar, from: &EnvVarSource) {
    let mut n_sources = 0;
    if let Some(field) = &from.field_ref {
        n_sources += 1;
        field_ref(errors, &path.child("fieldRef"), field, ENV_FIELDS);
    }
    if let Some(resource) = &from.resource_field_ref {
        n_sources += 1;
        resource_ref(errors, &path.child("resourceFieldRef"), resource, false);
    }
    if let Some(key) = &from.config_map_key_ref {
        n_sources += 1;
        key_ref(errors, &path.child("configMapKeyRef"), &key.name, &key.key);
    }
    if let Some(key) = &from.secret_key_ref {
        n_sources += 1;
        key_ref(errors, &path.child("secretKeyRef"), &key.name, &key.key);
    }
    if let Some(file) = &from.file_key_ref {
        n_sources += 1;
        file_key(errors, &path.child("fileKeyRef"), file);
    }
    let detail = if n_sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !text(&variable.value).is_empty() {
        "may not be specified when `value` is not empty"
    } else if n_sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, "", detail));
}

fn file_key(errors: &mut Errors, path: &FieldPath, file: &FileKeySelector) {
    let given = |errors: &mut Errors, field: &str, value: &str| {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
        !value.is_empty()
    };
    if given(errors, "key", &file.key) {
        let complaints = names::env_var_name(&file.key);
        rules::complain(errors, &path.child("key"), &file.key, complaints);
    }
    let volume = &file.volume_name;
    if given(errors, "volumeName", volume) {
        let complaints = names::dns1123_label(volume);
        rules::complain(errors, &path.child("volumeName"), volume, complaints);
    }
    if given(errors, "path", &file.path) {
        rules::no_backsteps(errors, &path.child("path"), &file.path);
    }
}

/// The files that variables are read from are written by containers of the same pod.
pub(super) fn file_volumes(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    for (path, container) in every_container(path, spec) {
        for (index, variable) in container.env.iter().flatten().enumerate() {
            let from = variable.value_from.as_ref();
            let Some(file) = from.and_then(|f| f.file_key_ref.as_ref()) else {
                continue;
            };
            let path = path
                .child("env")
                .index(index)
                .child("valueFrom.fileKeyRef.volumeName");
            let name = file.volume_name.as_str();
            let mut volumes = spec.volumes.iter().flatten().rev();
            match volumes.find(|v| v.name == name) {
                None => errors.push(FieldError::not_found(&path, name)),
                Some(volume) if volume.empty_dir.is_none() => {
                    let detail = "referenced volume must be of type emptyDir";
                    errors.push(FieldError::invalid(&path, name, detail));
                }
                Some(_) => {}
            }
        }
    }
}

fn key_ref(errors: &mut Errors, path: &FieldPath, name: &str, key: &str) {
    // No name at all is a wrong name here.
    rules::complain(
        errors,
        &path.child("name"),
        name,
        names::dns1123_subdomain(name),
    );
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        rules::complain(errors, &path.child("key"), key, names::config_key(key));
    }
}

fn object_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    let path = path.child("name");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        rules::complain(errors, &path, name, names::dns1123_subdomain(name));
    }
}

/// A reference to a field of the pod: one of those allowed here, or one label or annotation by its key.
pub(super) fn field_ref(
    errors: &mut Errors,
    path: &FieldPath,
    field: &ObjectFieldSelector,
    allowed: &[&str],
) {
    if text(&field.api_version).is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let given = field.field_path.as_str();
    let field_path = path.child("fieldPath");
    if given.is_empty() {
        errors.push(FieldError::required(&field_path, ""));
        return;
    }
    let subscripted = given
        .strip_suffix("']")
        .and_then(|rest| rest.split_once("['"));
    let known = match subscripted {
        Some((map, _)) => matches!(map, "metadata.annotations" | "metadata.labels"),
        None => DOWNWARD_FIELDS.contains(&given),
    };
    if !known {
        let what = match subscripted {
            Some((map, _)) if DOWNWARD_FIELDS.contains(&map) => {
                errors.push(FieldError::invalid(path, map, "does not support subscript"));
                return;
            }
            _ => format!("error converting fieldPath: field label not supported: {given}"),
        };
        errors.push(FieldError::invalid(&field_path, given, what));
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_ascii_lowercase();
            rules::complain(errors, path, &key, names::qualified_name(&key));
        }
        Some((_, key)) => rules::complain(errors, path, key, names::qualified_name(key)),
        None => rules::supported(errors, &field_path, given, allowed),
    }
}

/// A reference to a resource of a container; in volumes the container must be named.
pub(super) fn resource_ref(
    errors: &mut Errors,
    path: &FieldPath,
    resource: &ResourceFieldSelector,
    in_volume: bool,
) {
    let name = resource.resource.as_str();
    let huge_pages =
        name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if in_volume && text(&resource.container_name).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !huge_pages {
        rules::supported(errors, &path.child("resource"), name, RESOURCES);
    }
    let divisor = resource.divisor.as_ref().map(Quantity::from_wire);
    let Some(divisor) = divisor.transpose().ok().flatten().filter(|d| !d.is_zero()) else {
        return;
    };
    let divisor = divisor.to_string();
    let bytes = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the";
    let detail = match name.split_once('.').map_or("", |(_, kind)| kind) {
        "cpu" if !["1m", "1"].contains(&divisor.as_str()) => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        "cpu" => return,
        _ if BYTE_DIVISORS.contains(&divisor.as_str()) => return,
        "memory" => format!("{bytes} memory resource"),
        "ephemeral-storage" => format!("{bytes} local ephemeral storage resource"),
        _ if huge_pages => format!("{bytes} hugepages resource"),
        _ => return,
    };
    errors.push(FieldError::invalid(&path.child("divisor"), name, detail));
}

/// `envFrom`.
pub(super) fn sources(errors: &mut Errors, path: &FieldPath, container: &Container) {
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let item = path.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            let complaints = names::env_var_name(prefix);
            rules::complain(errors, &item.child("prefix"), prefix, complaints);
        }
        let mut n_sources = 0;
        if let Some(map) = &source.config_map_ref {
            n_sources += 1;
            object_name(errors, &item.child("configMapRef"), &map.name);
        }
        if let Some(secret) = &source.secret_ref {
            n_sources += 1;
            object_name(errors, &item.child("secretRef"), &secret.name);
        }
        let detail = match n_sources {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(path, "", detail));
    }
}
