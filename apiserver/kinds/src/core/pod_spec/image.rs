//! The pull policy that an image's name implies.

/// `Always` for the tag `latest`, given or implied; `IfNotPresent` otherwise.
pub fn pull_policy(image: &str) -> &'static str {
    if tag(image) == Some("latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// The longest path of a repository.
const PATH_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;
/// Digits of a digest that stands for an image without a name.
const IDENTIFIER_LENGTH: usize = 64;

/// The tag of an image; `latest` is implied where there is neither tag nor digest. What is no reference has none.
fn tag(image: &str) -> Option<&str> {
    let is_identifier = image.len() == IDENTIFIER_LENGTH
        && image
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (host, rest) = match name.split_once('/') {
        Some((host, rest)) if is_host(host) => (Some(host), rest),
        _ => (None, name),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let right = !is_identifier
        && is_path(path, host)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(|d| d.contains(':'));
    match (tag, digest) {
        _ if !right => None,
        (Some(tag), _) => Some(tag),
        (None, None) => Some("latest"),
        (None, Some(_)) => None,
    }
}

/// Whether what stands before the first slash is a registry, not a part of the path.
fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.chars().any(char::is_uppercase)
}

/// Parts of lower case letters and digits, with single separators between them.
fn is_path(path: &str, host: Option<&str>) -> bool {
    let in_library = host.is_none() && !path.contains('/');
    let length = path.len() + if in_library { "library/".len() } else { 0 };
    length <= PATH_LENGTH_MAX && path.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |text: &str| {
        matches!(text, "." | "_" | "__") || (!text.is_empty() && text.bytes().all(|b| b == b'-'))
    };
    part.starts_with(letter)
        && part.ends_with(letter)
        && part
            .split(letter)
            .filter(|between| !between.is_empty())
            .all(separator)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= TAG_LENGTH_MAX
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1.27", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
            ("", "IfNotPresent"),
            ("Not Valid!", "IfNotPresent"),
            ("nginx:", "IfNotPresent"),
            ("a__b/c--d.e", "Always"),
            ("a..b", "IfNotPresent"),
            ("Registry/nginx", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
