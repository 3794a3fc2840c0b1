//! What is wrong with an Ingress.

use std::net::IpAddr;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::TypedLocalObjectReference;
use corral_api::k8s::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressServiceBackend, IngressSpec, IngressTLS,
};
use corral_api::names;

use super::CLASS_ANNOTATION;
use crate::networking::address;
use crate::rules::{self, Errors, at, json, text};

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// Parts that clients and servers read in different ways.
const WRONG_PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const WRONG_ENDS: [&str; 2] = ["/..", "/."];

/// Rules of an Ingress.
pub(super) fn ingress(ingress: &Ingress) -> Errors {
    let mut errors = Errors::new();
    let nothing = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&nothing);
    let path = at("spec");
    let given = spec.rules.as_deref().unwrap_or_default();
    if given.is_empty() && spec.default_backend.is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&path, json(&spec.rules), detail));
    }
    if let Some(default) = &spec.default_backend {
        backend(&mut errors, &path.child("defaultBackend"), default);
    }
    for (index, rule) in given.iter().enumerate() {
        let path = path.child("rules").index(index);
        host(&mut errors, &path.child("host"), text(&rule.host));
        if let Some(http) = &rule.http {
            let path = path.child("http").child("paths");
            if http.paths.is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            for (index, one) in http.paths.iter().enumerate() {
                http_path(&mut errors, &path.index(index), one);
            }
        }
    }
    for (index, one) in spec.tls.iter().flatten().enumerate() {
        tls(&mut errors, &path.child("tls").index(index), one);
    }
    if let Some(class) = &spec.ingress_class_name {
        let path = path.child("ingressClassName");
        rules::complain(&mut errors, &path, class, names::dns1123_subdomain(class));
    }
    errors
}

/// The class by its old name and by the new one is the same.
pub(super) fn class(errors: &mut Errors, ingress: &Ingress) {
    let annotations = ingress.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|a| a.get(CLASS_ANNOTATION));
    let field = ingress
        .spec
        .as_ref()
        .and_then(|spec| spec.ingress_class_name.as_ref());
    if let (Some(annotation), Some(field)) = (annotation, field)
        && annotation != field
    {
        let path = at("annotations").child(CLASS_ANNOTATION);
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(&path, annotation.as_str(), detail));
    }
}

/// Rules of the status; addresses that were there may stay.
pub(super) fn status(new: &Ingress, old: &Ingress) -> Errors {
    fn points(
        ingress: &Ingress,
    ) -> impl Iterator<Item = &corral_api::k8s::api::networking::v1::IngressLoadBalancerIngress>
    {
        let status = ingress.status.iter();
        let balancers = status.flat_map(|status| &status.load_balancer);
        balancers.flat_map(|balancer| balancer.ingress.iter().flatten())
    }
    let mut errors = Errors::new();
    let path = at("status.loadBalancer.ingress");
    let before: Vec<&str> = points(old)
        .filter_map(|point| point.ip.as_deref())
        .collect();
    for (index, point) in points(new).enumerate() {
        let path = path.index(index);
        let ip = text(&point.ip);
        if !ip.is_empty() && !before.contains(&ip) {
            let wrong = address::address_error(ip);
            errors.extend(wrong.map(|why| FieldError::invalid(&path.child("ip"), ip, why)));
        }
        let name = text(&point.hostname);
        if !name.is_empty() {
            let path = path.child("hostname");
            rules::complain(&mut errors, &path, name, names::dns1123_subdomain(name));
            no_address(&mut errors, &path, name);
        }
    }
    errors
}

fn no_address(errors: &mut Errors, path: &FieldPath, name: &str) {
    if name.parse::<IpAddr>().is_ok() {
        let detail = "must be a DNS name, not an IP address";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn name_or_wildcard(errors: &mut Errors, path: &FieldPath, name: &str) {
    let complaints = if name.contains('*') {
        names::wildcard_dns1123_subdomain(name)
    } else {
        names::dns1123_subdomain(name)
    };
    rules::complain(errors, path, name, complaints);
}

fn host(errors: &mut Errors, path: &FieldPath, name: &str) {
    if !name.is_empty() {
        no_address(errors, path, name);
        name_or_wildcard(errors, path, name);
    }
}

fn tls(errors: &mut Errors, path: &FieldPath, tls: &IngressTLS) {
    for (index, name) in tls.hosts.iter().flatten().enumerate() {
        name_or_wildcard(errors, &path.child("hosts").index(index), name);
    }
    let secret = text(&tls.secret_name);
    if !secret.is_empty() {
        let path = path.child("secretName");
        rules::complain(errors, &path, secret, names::dns1123_subdomain(secret));
    }
}

fn http_path(errors: &mut Errors, at: &FieldPath, given: &HTTPIngressPath) {
    let (path, value) = (at.child("path"), text(&given.path));
    let absolute = value.starts_with('/');
    let mut wrong = |detail: String| errors.push(FieldError::invalid(&path, value, detail));
    match given.path_type.as_str() {
        super::NO_PATH_TYPE => {
            let detail = "pathType must be specified";
            errors.push(FieldError::required(&at.child("pathType"), detail));
            return;
        }
        "Exact" | "Prefix" => {
            if !absolute {
                wrong("must be an absolute path".to_owned());
            }
            for part in WRONG_PARTS.iter().filter(|part| value.contains(*part)) {
                wrong(format!("must not contain '{part}'"));
            }
            for end in WRONG_ENDS.iter().filter(|end| value.ends_with(*end)) {
                wrong(format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !absolute {
                wrong("must be an absolute path".to_owned());
            }
        }
        other => rules::supported(errors, &at.child("pathType"), other, PATH_TYPES),
    }
    backend(errors, &at.child("backend"), &given.backend);
}

fn backend(errors: &mut Errors, path: &FieldPath, backend: &IngressBackend) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, "", detail));
        }
        (Some(resource), None) => reference(errors, &path.child("resource"), resource),
        (None, Some(service)) => service_backend(errors, path, service),
        (None, None) => {
            let detail = "resource or service backend is required";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

fn reference(errors: &mut Errors, path: &FieldPath, reference: &TypedLocalObjectReference) {
    if let Some(group) = &reference.api_group {
        let path = path.child("apiGroup");
        rules::complain(errors, &path, group, names::dns1123_subdomain(group));
    }
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        let path = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        rules::complain(errors, &path, value, names::path_segment(value));
    }
}

fn service_backend(errors: &mut Errors, path: &FieldPath, service: &IngressServiceBackend) {
    let of = path.child("service");
    let name_path = of.child("name");
    if service.name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        let complaints = names::dns1123_label(&service.name);
        rules::complain(errors, &name_path, &service.name, complaints);
    }
    let port = service.port.clone().unwrap_or_default();
    let of = of.child("port");
    match (text(&port.name), port.number.unwrap_or(0)) {
        ("", 0) => {
            let detail = "port name or number is required";
            errors.push(FieldError::required(path, detail));
        }
        ("", number) => rules::port(errors, &of.child("number"), number),
        (name, 0) => rules::complain(errors, &of.child("name"), name, names::port_name(name)),
        _ => {
            let detail = "cannot set both port name & port number";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn with_path(path: serde_json::Value) -> Errors {
        let spec = json!({"rules": [{"http": {"paths": [path]}}]});
        ingress(&serde_json::from_value(json!({"spec": spec})).expect("an ingress"))
    }

    #[test]
    fn paths_and_backends_are_told_what_is_wrong() {
        assert_eq!(
            texts(&with_path(
                json!({"path": "a//b/..", "pathType": "Exact", "backend": {"service": {"name": "a"}}})
            )),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/..\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/..\": must not contain '//'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/..\": cannot end with '/..'",
                "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
            ]
        );
    }

    #[test]
    fn an_ingress_says_where_to() {
        assert_eq!(
            texts(&ingress(&Ingress::default())),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
    }
}
