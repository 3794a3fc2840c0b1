//! Syntax of names, labels and the like. Each function answers what is wrong, in Kubernetes' words; an empty list
//! means that the text is right.

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
const WILDCARD_DNS1123_SUBDOMAIN: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Longest DNS label.
pub const DNS_LABEL_LENGTH_MAX: usize = 63;
/// Longest DNS subdomain.
pub const DNS_SUBDOMAIN_LENGTH_MAX: usize = 253;

fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
    format!(
        "{message} (e.g. {}, regex used for validation is '{pattern}')",
        examples.join(", or ").replace(", or '", ",  or '")
    )
}

/// For names of their own. Keys and values of labels are counted in other words, see [`too_many_bytes`].
fn too_long(length_max: usize) -> String {
    format!("must be no more than {length_max} characters")
}

fn too_many_bytes(length_max: usize) -> String {
    format!("must be no more than {length_max} bytes")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn shaped(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            edge(first) && edge(last) && bytes.iter().all(|&b| edge(b) || inner(b))
        }
        _ => false,
    }
}

fn is_dns1123_label_shape(text: &str) -> bool {
    shaped(text, lower_alnum, |b| b == b'-')
}

/// What is wrong with an RFC 1123 label (names of namespaces, containers, volumes).
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_LABEL_LENGTH_MAX {
        errors.push(too_long(DNS_LABEL_LENGTH_MAX));
    }
    if !is_dns1123_label_shape(text) {
        let is_subdomain = text.split('.').all(is_dns1123_label_shape);
        errors.push(if is_subdomain {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                DNS1123_LABEL,
                "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// What is wrong with an RFC 1123 subdomain (names of most objects).
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_SUBDOMAIN_LENGTH_MAX {
        errors.push(too_long(DNS_SUBDOMAIN_LENGTH_MAX));
    }
    if text.is_empty() || !text.split('.').all(is_dns1123_label_shape) {
        errors.push(regex_error(
            DNS1123_SUBDOMAIN,
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// What is wrong with a subdomain whose first label is `*`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_SUBDOMAIN_LENGTH_MAX {
        errors.push(too_long(DNS_SUBDOMAIN_LENGTH_MAX));
    }
    let rest = text.strip_prefix("*.");
    if !rest.is_some_and(|rest| rest.split('.').all(is_dns1123_label_shape)) {
        errors.push(regex_error(
            WILDCARD_DNS1123_SUBDOMAIN,
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    errors
}

/// What is wrong with the path in a name such as `example.com/path`.
pub fn http_path(text: &str) -> Vec<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !text.is_empty() && text.bytes().all(allowed) {
        Vec::new()
    } else {
        let pattern = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
        vec![format!(
            "Invalid path (regex used for validation is '{pattern}')"
        )]
    }
}

/// What is wrong with a subdomain that may have underscores, such as search paths have.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_SUBDOMAIN_LENGTH_MAX {
        errors.push(too_long(DNS_SUBDOMAIN_LENGTH_MAX));
    }
    let label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        is_dns1123_label_shape(&label.replace('_', "-"))
    };
    if !text.split('.').all(label) {
        errors.push(regex_error(
            DNS1123_SUBDOMAIN_UNDERSCORE,
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// What is wrong with an RFC 1035 label (names of Services).
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_LABEL_LENGTH_MAX {
        errors.push(too_long(DNS_LABEL_LENGTH_MAX));
    }
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !starts || !is_dns1123_label_shape(text) {
        errors.push(regex_error(
            DNS1035_LABEL,
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// What is wrong with a name that may not contain `/` or `%` nor be `.` or `..` (RBAC objects).
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|bad| text.contains(*bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

fn is_qualified_shape(text: &str) -> bool {
    shaped(
        text,
        |b| b.is_ascii_alphanumeric(),
        |b| matches!(b, b'-' | b'_' | b'.'),
    )
}

/// What is wrong with a qualified name, such as the key of a label: `name` or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let pattern = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    let examples = ["MyName", "my.name", "123-abc"];
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(
                    dns1123_subdomain(prefix)
                        .iter()
                        // Only lengths are told in bytes.
                        .map(|e| match e.strip_suffix(" characters") {
                            Some(length) => format!("{length} bytes"),
                            None => e.clone(),
                        })
                        .map(|e| format!("prefix part {e}")),
                );
            }
            name
        }
        _ => {
            let what = format!("a qualified name {QUALIFIED_NAME}");
            let error = regex_error(&what, pattern, &examples);
            return vec![format!(
                "{error} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > DNS_LABEL_LENGTH_MAX {
        errors.push(format!(
            "name part {}",
            too_many_bytes(DNS_LABEL_LENGTH_MAX)
        ));
    }
    if !is_qualified_shape(name) {
        let what = format!("name part {QUALIFIED_NAME}");
        errors.push(regex_error(&what, pattern, &examples));
    }
    errors
}

/// What is wrong with the value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_LABEL_LENGTH_MAX {
        errors.push(too_many_bytes(DNS_LABEL_LENGTH_MAX));
    }
    if !text.is_empty() && !is_qualified_shape(text) {
        errors.push(regex_error(
            LABEL_VALUE,
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_SUBDOMAIN_LENGTH_MAX {
        errors.push(too_long(DNS_SUBDOMAIN_LENGTH_MAX));
    }
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(ok) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if text == "." || text == ".." {
        errors.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// What is wrong with the name of a port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errors.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// What is wrong with a port number.
pub fn port_number(port: i32) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// What is wrong with the name of an environment variable: printable ASCII other than `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        Vec::new()
    } else {
        vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_names_are_right() {
        assert!(dns1123_label("web-0").is_empty());
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert!(qualified_name("app.kubernetes.io/name").is_empty());
        assert!(label_value("").is_empty());
        assert!(port_name("http").is_empty());
        assert!(path_segment("system:node").is_empty());
    }

    #[test]
    fn wrong_names_are_told_as_kubernetes_tells_them() {
        assert_eq!(
            dns1123_label("Web"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert!(dns1123_label("a..b")[0].starts_with("a lowercase RFC 1123 label must"));
        assert_eq!(dns1123_subdomain("a..b").len(), 1);
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a_.b/x")[0].contains("alphanumeric characters, '-' or '.'"));
        assert_eq!(
            qualified_name(&format!("{}/x", "a".repeat(254))),
            ["prefix part must be no more than 253 bytes"]
        );
        assert!(label_value("has space")[0].starts_with("a valid label must be an empty string"));
    }
}
