//! Projected volumes and files of the downward API.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, ServiceAccountTokenProjection,
};

use super::env;
use super::volumes::{file_mode, keys_to_paths};
use crate::rules::{self, Errors};

/// Shortest life of a token.
const TOKEN_SECONDS_MIN: i64 = 10 * 60;
/// Longest life of a token.
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// A file of the downward API.
pub(super) fn downward_file(errors: &mut Errors, path: &FieldPath, file: &DownwardAPIVolumeFile) {
    if file.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    rules::unreserved_path(errors, &path.child("path"), &file.path);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_ref(errors, &path.child("fieldRef"), field, env::VOLUME_FIELDS);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            env::resource_ref(errors, &path.child("resourceFieldRef"), resource, true);
        }
        (None, None) => {
            let detail = "one of fieldRef and resourceFieldRef is required";
            errors.push(FieldError::required(path, detail));
        }
    }
    file_mode(errors, &path.child("mode"), file.mode);
}

/// A projected volume: every file of it has a path of its own.
pub(super) fn volume(errors: &mut Errors, path: &FieldPath, volume: &ProjectedVolumeSource) {
    file_mode(errors, &path.child("defaultMode"), volume.default_mode);
    let mut taken = Taken::default();
    for (index, source) in volume.sources.iter().flatten().enumerate() {
        let at = path.child("sources").index(index);
        let mut n_sources = 0;
        if let Some(secret) = &source.secret {
            n_sources += 1;
            let at = at.child("secret");
            object(errors, &at, &secret.name, secret.items.as_deref());
            taken.items(errors, path, &secret.name, secret.items.as_deref());
        }
        if let Some(map) = &source.config_map {
            n_sources += 1;
            let at = at.child("configMap");
            object(errors, &at, &map.name, map.items.as_deref());
            taken.items(errors, path, &map.name, map.items.as_deref());
        }
        if let Some(downward) = &source.downward_api {
            n_sources += 1;
            for file in downward.items.iter().flatten() {
                downward_file(errors, &at.child("downwardAPI"), file);
                taken.path(errors, path, &file.path, &file.path);
            }
        }
        if let Some(token) = &source.service_account_token {
            n_sources += 1;
            service_account_token(errors, path, &at.child("serviceAccountToken"), token);
        }
        n_sources += usize::from(source.cluster_trust_bundle.is_some());
        n_sources += usize::from(source.pod_certificate.is_some());
        if n_sources > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
}

fn object(errors: &mut Errors, path: &FieldPath, name: &str, items: Option<&[KeyToPath]>) {
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    keys_to_paths(errors, &path.child("items"), items);
}

fn service_account_token(
    errors: &mut Errors,
    volume: &FieldPath,
    path: &FieldPath,
    token: &ServiceAccountTokenProjection,
) {
    let seconds = token.expiration_seconds.unwrap_or(TOKEN_SECONDS_MIN);
    let expiration = path.child("expirationSeconds");
    if seconds < TOKEN_SECONDS_MIN {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(&expiration, seconds, detail));
    }
    if seconds > TOKEN_SECONDS_MAX {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(FieldError::invalid(&expiration, seconds, detail));
    }
    let file = volume.child("path");
    if token.path.is_empty() {
        errors.push(FieldError::required(&file, ""));
    } else {
        rules::unreserved_path(errors, &file, &token.path);
    }
}

#[derive(Default)]
struct Taken(BTreeSet<String>);

impl Taken {
    fn path(&mut self, errors: &mut Errors, at: &FieldPath, shown: &str, path: &str) {
        if !path.is_empty() && !self.0.insert(path.to_owned()) {
            errors.push(FieldError::invalid(
                at,
                shown,
                "conflicting duplicate paths",
            ));
        }
    }

    fn items(
        &mut self,
        errors: &mut Errors,
        at: &FieldPath,
        object: &str,
        items: Option<&[KeyToPath]>,
    ) {
        for item in items.unwrap_or_default() {
            self.path(errors, at, object, &item.path);
        }
    }
}
