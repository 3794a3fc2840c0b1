//! `APIService`: who serves a version of a group.

use corral_api::field::FieldError;
use corral_api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceSpec,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age, keep_metadata};
use crate::rules::{self, Errors, at, complain, text};

const PORT_DEFAULT: i32 = 443;
const GROUP_PRIORITY_MAX: i32 = 20_000;
const VERSION_PRIORITY_MAX: i32 = 1000;
/// The condition that tells whether a version can be asked for.
pub const AVAILABLE: &str = "Available";

/// `apiregistration.k8s.io/v1 APIService`.
pub struct ApiServiceKind;

impl Kind for ApiServiceKind {
    type Object = APIService;

    const NAMES: Names<'static> = Names {
        group: "apiregistration.k8s.io",
        version: "v1",
        kind: "APIService",
        plural: "apiservices",
        singular: "apiservice",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;

    fn default(service: &mut APIService) {
        if let Some(reference) = service.spec.as_mut().and_then(|spec| spec.service.as_mut()) {
            fill::absent(&mut reference.port, PORT_DEFAULT);
        }
    }

    /// Nobody changes labels and the like by the way.
    fn keep_for_status(new: &mut APIService, old: &APIService) {
        keep_metadata(&mut new.metadata, &old.metadata);
    }

    fn validate(service: &APIService) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = service.spec.clone().unwrap_or_default();
        let (group, version) = (text(&spec.group), text(&spec.version));
        let (name, path) = (text(&service.metadata.name), at("spec"));
        let needed = format!("{version}.{group}");
        if names::path_segment(name).is_empty() && !name.is_empty() && name != needed {
            let detail = format!("must be `spec.version+\".\"+spec.group`: \"{needed}\"");
            errors.push(FieldError::invalid(&at("metadata.name"), name, detail));
        }
        let group_path = path.child("group");
        if group.is_empty() && version != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            errors.push(FieldError::required(&group_path, detail));
        }
        if !group.is_empty() {
            complain(
                &mut errors,
                &group_path,
                group,
                names::dns1123_subdomain(group),
            );
        }
        let complaints = names::dns1035_label(version);
        complain(&mut errors, &path.child("version"), version, complaints);
        let priorities = [
            (
                "groupPriorityMinimum",
                spec.group_priority_minimum,
                GROUP_PRIORITY_MAX,
            ),
            (
                "versionPriority",
                spec.version_priority,
                VERSION_PRIORITY_MAX,
            ),
        ];
        for (field, given, most) in priorities {
            if !(1..=most).contains(&given) {
                let detail = format!("must be positive and less than {most}");
                errors.push(FieldError::invalid(&path.child(field), given, detail));
            }
        }
        served_by(&mut errors, &spec);
        errors
    }

    fn validate_status_update(new: &APIService, _old: &APIService) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let path = at("status.conditions");
        for (index, condition) in conditions(new).enumerate() {
            let path = path.index(index).child("status");
            let allowed = ["True", "False", "Unknown"];
            rules::supported_of(&mut errors, &path, &condition.status, &allowed);
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Service", "Who serves it."),
            Column::text("Available", "Whether it can be asked for."),
            Column::AGE,
        ]
    }

    fn cells(service: &APIService, now: Timestamp) -> Vec<Value> {
        let reference = service.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let served_by = reference.map_or_else(
            || "Local".to_owned(),
            |r| format!("{}/{}", text(&r.namespace), text(&r.name)),
        );
        let available = conditions(service).find(|c| c.type_ == AVAILABLE);
        let available = match available.map(|c| (c.status.as_str(), text(&c.reason))) {
            None => "Unknown".to_owned(),
            Some((status, reason)) if status == "True" || reason.is_empty() => status.to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
        };
        vec![
            service.metadata.name.clone().into(),
            served_by.into(),
            available.into(),
            age(&service.metadata, now),
        ]
    }
}

fn conditions(service: &APIService) -> impl Iterator<Item = &APIServiceCondition> {
    let status = service.status.iter();
    status.flat_map(|status| status.conditions.iter().flatten())
}

fn served_by(errors: &mut Errors, spec: &APIServiceSpec) {
    let path = at("spec");
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let insecure = spec.insecure_skip_tls_verify.unwrap_or(false);
    let insecure_path = path.child("insecureSkipTLSVerify");
    let Some(service) = &spec.service else {
        if bundle > 0 {
            let shown = format!("{bundle} bytes");
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&path.child("caBundle"), shown, detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&insecure_path, insecure, detail));
        }
        return;
    };
    let path = path.child("service");
    // Nodes and controllers live on these: what somebody else does must not stop them.
    if is_built_in(spec) {
        let what = format!("{}/{}", text(&spec.group), text(&spec.version));
        let detail = format!("{} is served by this server", what.trim_start_matches('/'));
        errors.push(FieldError::forbidden(&path, detail));
    }
    for (field, value) in [("namespace", &service.namespace), ("name", &service.name)] {
        if text(value).is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let port = service.port.unwrap_or(PORT_DEFAULT);
    let complaints = names::port_number(port);
    if !complaints.is_empty() {
        let detail = format!("port is not valid: {}", complaints.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), port, detail));
    }
    if insecure && bundle > 0 {
        let detail = "may not be true if caBundle is present";
        errors.push(FieldError::invalid(&insecure_path, insecure, detail));
    }
}

/// Whether what it names is part of every server. Such a version nobody else can serve.
pub fn is_built_in(spec: &APIServiceSpec) -> bool {
    let place = (text(&spec.group), text(&spec.version));
    let mut built_in = crate::all::RESOURCES.iter().map(|kind| kind.names());
    built_in.any(|names| (names.group, names.version) == place)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn an_api_service_is_named_by_what_it_serves() {
        let service: APIService = serde_json::from_value(json!({
            "metadata": {"name": "v1.a.b"},
            "spec": {"group": "a.c", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1001,
                "insecureSkipTLSVerify": true},
        }))
        .expect("an APIService");
        assert_eq!(
            texts(&ApiServiceKind::validate(&service)),
            [
                "metadata.name: Invalid value: \"v1.a.b\": must be `spec.version+\".\"+spec.group`: \"v1.a.c\"",
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ]
        );
        let cells = ApiServiceKind::cells(&service, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], ["Local", "Unknown"]);
    }
}
