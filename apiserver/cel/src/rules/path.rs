//! The `fieldPath` of a rule: which field below its schema an error is about.

use serde_json::Value as Json;

use corral_api::field::FieldPath;

use crate::schema::Reads;

/// The path, if all its fields are in the schema.
pub(super) fn normalized(path: &str, schema: &Json) -> Option<FieldPath> {
    let tokens = tokens(path);
    let mut tokens = tokens.iter().map(String::as_str);
    let mut schema = schema;
    let mut out = FieldPath::root();
    while let Some(token) = tokens.next() {
        let name = match token {
            "." => tokens.next()?.to_owned(),
            "[" => {
                let quoted = tokens.next()?;
                let inner = quoted.strip_prefix('\'')?.strip_suffix('\'')?;
                if quoted.len() < 2 {
                    return None;
                }
                let name = unescape(inner)?;
                if tokens.next()? != "]" {
                    return None;
                }
                name
            }
            _ => return None,
        };
        if let Some(properties) = schema.properties() {
            out = out.child(&name);
            schema = properties.get(&name)?;
        } else if schema.get("additionalProperties").is_some() {
            out = out.key(&name);
            schema = schema.values()?;
        } else {
            return None;
        }
    }
    Some(out)
}

/// Brackets and points, quoted texts, and what is between them.
fn tokens(path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '.' | '[' | ']' => 1,
            '\'' => end_of_quote(rest),
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        out.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    out
}

fn end_of_quote(text: &str) -> usize {
    let bytes = text.as_bytes();
    (1..bytes.len())
        .find(|i| bytes[*i] == b'\'' && bytes[i - 1] != b'\\')
        .map_or(text.len(), |i| i + 1)
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            None => out.push('\\'),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some(c @ ('\'' | '\\')) => out.push(c),
            Some(_) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_follow_the_schema() {
        let schema = json!({"properties": {"a": {"properties": {"b.c": {"type": "string"}}},
            "m": {"additionalProperties": {"properties": {"x": {}}}}}});
        let of = |path: &str| normalized(path, &schema).map(|p| p.to_string());
        assert_eq!(of(".a").as_deref(), Some("a"));
        assert_eq!(of(".a['b.c']").as_deref(), Some("a.b.c"));
        assert_eq!(of(".m['k'].x").as_deref(), Some("m[k].x"));
        assert_eq!(of(".m.k.x").as_deref(), Some("m[k].x"));
        for bad in ["a", ".b", ".a.", ".a[b]", ".a['b.c'", ".a['b\\q']"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
