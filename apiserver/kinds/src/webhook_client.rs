//! Rules of how the server reaches somebody who answers for it: by URL or by Service, and whose certificate it trusts.

use base64::Engine as _;
use corral_api::field::{FieldError, FieldPath};
use corral_api::names;

use crate::rules::Errors;

const FORM: &str = "; desired format: https://host[/path]";

/// Name, namespace, path and port of a Service.
pub(crate) type Service<'a> = (&'a str, &'a str, Option<&'a str>, Option<i32>);

/// Exactly one of a URL and a Service.
pub(crate) fn target(
    errors: &mut Errors,
    path: &FieldPath,
    url: Option<&str>,
    service: Option<Service<'_>>,
) {
    match (url, service) {
        (None, None) | (Some(_), Some(_)) => {
            errors.push(FieldError::required(
                path,
                "exactly one of url or service is required",
            ));
        }
        (Some(given), None) => self::url(errors, &path.child("url"), given),
        (None, Some(given)) => self::service(errors, &path.child("service"), given),
    }
}

fn url(errors: &mut Errors, path: &FieldPath, given: &str) {
    let (scheme, rest) = given.split_once("://").unwrap_or(("", given));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() {
        ""
    } else {
        rest.split('/').next().unwrap_or_default()
    };
    let (user, host) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(user, host)| (Some(user), host));
    if given.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        let why = format!(
            "url must be a valid URL: parse {given:?}: net/url: invalid control character in URL{FORM}"
        );
        errors.push(FieldError::required(path, why));
        return;
    }
    if scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(path, scheme, why));
    }
    if host.is_empty() {
        errors.push(FieldError::invalid(
            path,
            host,
            format!("host must be specified{FORM}"),
        ));
    }
    if let Some(user) = user {
        errors.push(FieldError::invalid(
            path,
            user,
            "user information is not permitted in the URL",
        ));
    }
    if !fragment.is_empty() {
        errors.push(FieldError::invalid(
            path,
            fragment,
            "fragments are not permitted in the URL",
        ));
    }
    if !query.is_empty() {
        errors.push(FieldError::invalid(
            path,
            query,
            "query parameters are not permitted in the URL",
        ));
    }
}

fn service(errors: &mut Errors, path: &FieldPath, (name, namespace, url_path, port): Service<'_>) {
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if namespace.is_empty() {
        errors.push(FieldError::required(&path.child("namespace"), ""));
    }
    let port = port.unwrap_or(443);
    let complaints = names::port_number(port);
    if !complaints.is_empty() {
        let why = format!("port is not valid: {}", complaints.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), port, why));
    }
    let Some(given) = url_path.filter(|given| !matches!(*given, "" | "/")) else {
        return;
    };
    let path = path.child("path");
    if given == "//" {
        errors.push(FieldError::invalid(
            &path,
            given,
            "segment[0] may not be empty",
        ));
        return;
    }
    if !given.starts_with('/') {
        errors.push(FieldError::invalid(&path, given, "must start with a '/'"));
    }
    let steps = given.strip_prefix('/').unwrap_or(given);
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    for (index, step) in steps.split('/').enumerate() {
        if step.is_empty() {
            let why = format!("segment[{index}] may not be empty");
            errors.push(FieldError::invalid(&path, given, why));
            continue;
        }
        for complaint in names::dns1123_subdomain(step) {
            errors.push(FieldError::invalid(
                &path,
                given,
                format!("segment[{index}]: {complaint}"),
            ));
        }
    }
}

/// Certificates in PEM, themselves in base64.
pub(crate) fn ca_bundle(path: &FieldPath, given: &str) -> Errors {
    let decoded = base64::engine::general_purpose::STANDARD.decode(given);
    let pem = decoded.unwrap_or_default();
    let mut n_certificates = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&pem) {
        let good = block
            .as_ref()
            .is_ok_and(|block| block.label == "CERTIFICATE" && block.parse_x509().is_ok());
        if !good {
            n_certificates = 0;
            break;
        }
        n_certificates += 1;
    }
    match n_certificates {
        0 => {
            let why = "unable to load root certificates: unable to parse bytes as PEM block";
            vec![FieldError::invalid(path, given, why)]
        }
        _ => Vec::new(),
    }
}
