//! How a webhook is reached: a URL or a Service.

use corral_api::field::{FieldError, FieldPath, go_quote};
use corral_api::k8s::api::admissionregistration::v1::{ServiceReference, WebhookClientConfig};
use corral_api::names;

use crate::rules::Errors;

const FORM: &str = "; desired format: https://host[/path]";
/// The port of a Service where none is named.
pub(super) const PORT_DEFAULT: i32 = 443;

/// Exactly one of both, and right.
pub(super) fn config(errors: &mut Errors, path: &FieldPath, config: &WebhookClientConfig) {
    match (&config.url, &config.service) {
        (Some(given), None) => url(errors, &path.child("url"), given),
        (None, Some(given)) => service(errors, &path.child("service"), given),
        _ => {
            let detail = "exactly one of url or service is required";
            errors.push(FieldError::required(path, detail));
        }
    }
}

/// The parts of a URL that a rule asks about.
#[derive(Debug, Default, PartialEq, Eq)]
struct Url<'a> {
    scheme: String,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

fn url(errors: &mut Errors, path: &FieldPath, given: &str) {
    let parsed = match parse(given) {
        Ok(parsed) => parsed,
        Err(why) => {
            let why = format!(
                "url must be a valid URL: parse {}: {why}{FORM}",
                go_quote(given)
            );
            errors.push(FieldError::required(path, why));
            return;
        }
    };
    if parsed.scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(path, parsed.scheme.as_str(), detail));
    }
    if parsed.host.is_empty() {
        let detail = format!("host must be specified{FORM}");
        errors.push(FieldError::invalid(path, parsed.host, detail));
    }
    let refused = [
        (parsed.user, "user information is not permitted in the URL"),
        (
            not_empty(parsed.fragment),
            "fragments are not permitted in the URL",
        ),
        (
            not_empty(parsed.query),
            "query parameters are not permitted in the URL",
        ),
    ];
    for (part, detail) in refused {
        if let Some(part) = part {
            errors.push(FieldError::invalid(path, part, detail));
        }
    }
}

fn not_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Takes a URL apart as Go does, with its words for what is wrong.
fn parse(text: &str) -> Result<Url<'_>, String> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    if rest.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (scheme, rest) = scheme(rest)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut url = Url {
        scheme: scheme.to_ascii_lowercase(),
        query,
        fragment,
        ..Url::default()
    };
    let Some(rest) = rest.strip_prefix("//") else {
        let segment = rest.split('/').next().unwrap_or_default();
        if scheme.is_empty() && !rest.starts_with('/') && segment.contains(':') {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
        return escapes(rest).map(|()| url);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    (url.user, url.host) = (user, host);
    host_is_right(host)?;
    escapes(path).map(|()| url)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (index, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if index > 0 => {}
            ':' if index == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn host_is_right(host: &str) -> Result<(), String> {
    let after = match host.strip_prefix('[') {
        Some(inside) => {
            let (_, after) = inside.split_once(']').ok_or("missing ']' in host")?;
            after
        }
        None => host.rfind(':').map_or("", |colon| &host[colon..]),
    };
    let is_port = after.is_empty()
        || after
            .strip_prefix(':')
            .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !is_port {
        return Err(format!("invalid port {} after host", go_quote(after)));
    }
    let wrong = |c: &char| {
        matches!(
            c,
            ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}'
        )
    };
    match host.chars().find(wrong) {
        Some(c) => Err(format!(
            "invalid character {} in host name",
            go_quote(&c.to_string())
        )),
        None => Ok(()),
    }
}

fn escapes(path: &str) -> Result<(), String> {
    for (index, _) in path.match_indices('%') {
        let escape: String = path[index..].chars().take(3).collect();
        let digits = escape.chars().skip(1).filter(char::is_ascii_hexdigit);
        if digits.count() != 2 {
            return Err(format!("invalid URL escape {}", go_quote(&escape)));
        }
    }
    Ok(())
}

fn service(errors: &mut Errors, path: &FieldPath, service: &ServiceReference) {
    // Kubernetes mistakes one for the other here.
    for (field, value) in [("name", &service.namespace), ("namespace", &service.name)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let port = service.port.unwrap_or(PORT_DEFAULT);
    let complaints = names::port_number(port);
    if !complaints.is_empty() {
        let detail = format!("port is not valid: {}", complaints.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), port, detail));
    }
    if let Some(given) = &service.path {
        service_path(errors, &path.child("path"), given);
    }
}

fn service_path(errors: &mut Errors, path: &FieldPath, given: &str) {
    if matches!(given, "" | "/") {
        return;
    }
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path, given, detail));
    if given == "//" {
        wrong("segment[0] may not be empty".to_owned());
        return;
    }
    if !given.starts_with('/') {
        wrong("must start with a '/'".to_owned());
    }
    // The first character is passed over, whatever it is.
    let mut rest = given.chars();
    rest.next();
    let steps = rest.as_str();
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    for (index, step) in steps.split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{index}] may not be empty"));
            continue;
        }
        for complaint in names::dns1123_subdomain(step) {
            wrong(format!("segment[{index}]: {complaint}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{at, texts};

    fn errors_of(given: &str) -> Vec<String> {
        let mut errors = Errors::new();
        url(&mut errors, &at("url"), given);
        texts(&errors)
    }

    #[test]
    fn urls_are_of_hosts_by_https() {
        for right in [
            "https://a.b:443/c",
            "https://[::1]:8443",
            "https://10.0.0.1",
        ] {
            assert!(errors_of(right).is_empty(), "{right}");
        }
        assert_eq!(
            errors_of("http://u@h/p?q#f"),
            [
                "url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "url: Invalid value: \"u\": user information is not permitted in the URL",
                "url: Invalid value: \"f\": fragments are not permitted in the URL",
                "url: Invalid value: \"q\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(
            errors_of("https://h:x"),
            [
                "url: Required value: url must be a valid URL: parse \"https://h:x\": invalid port \":x\" after host; \
              desired format: https://host[/path]"
            ]
        );
        assert_eq!(errors_of("x").len(), 2);
    }

    #[test]
    fn paths_of_services_have_no_empty_steps() {
        let mut errors = Errors::new();
        service_path(&mut errors, &at("path"), "a//b/");
        assert_eq!(
            texts(&errors),
            [
                "path: Invalid value: \"a//b/\": must start with a '/'",
                "path: Invalid value: \"a//b/\": segment[0] may not be empty",
                "path: Invalid value: \"a//b/\": segment[1] may not be empty",
            ]
        );
    }
}
