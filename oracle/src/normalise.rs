//! Takes out of an answer what no two servers can have in common: identities, times, versions, chance.

use http::response::Parts;
use serde_json::{Map, Value};

use crate::case::{Answer, Request};

/// Stands for what was taken out.
const ANY: &str = "<any>";

/// Fields whose values are the server's own wherever they stand.
const OWN: [&str; 13] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "continue",
    "lastTransitionTime",
    "lastUpdateTime",
    "lastPhaseTransitionTime",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "healthCheckNodePort",
    "expirationTimestamp",
];

/// The answer to a request, ready to be compared.
pub fn answer(request: &Request, parts: &Parts, bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let content = parts.headers.get("content-type");
    let is_yaml =
        content.is_some_and(|content| content.as_bytes().starts_with(b"application/yaml"));
    let mut body = match is_yaml {
        true => serde_saphyr::from_str(&text).ok(),
        false => serde_json::from_str(&text).ok(),
    }
    .unwrap_or_else(|| Value::String(text.into_owned()));
    clean(&mut body, request);
    let header = |name: &str| {
        parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    Answer {
        code: parts.status.as_u16(),
        content: header("content-type").join(","),
        warnings: header("warning"),
        body,
    }
}

fn clean(value: &mut Value, request: &Request) {
    match value {
        Value::Object(map) => {
            if map
                .get("kind")
                .is_some_and(|kind| kind == "CertificateSigningRequest")
            {
                without_requester(map);
            }
            for (key, inner) in map.iter_mut() {
                let own = OWN.contains(&key.as_str()) && !inner.is_null() && inner != "None";
                // What was sent comes back the same from both.
                // The whole value: a short version is in many an address.
                let sent = inner.as_str().is_some_and(|text| {
                    !text.is_empty() && request.body.contains(&format!("\"{text}\""))
                });
                match inner {
                    _ if own
                        && !sent
                        && (inner.is_array() || inner.is_string() || inner.is_number()) =>
                    {
                        *inner = ANY.into();
                    }
                    // The time of a manager's write.
                    Value::String(text) if key == "time" && text.ends_with('Z') => {
                        *text = ANY.into()
                    }
                    _ => clean(inner, request),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, request)),
        Value::String(text) => *text = without_generated(&without_chance(text), request),
        _ => {}
    }
}

/// The administrators of both servers are not the same user.
fn without_requester(csr: &mut Map<String, Value>) {
    const OF_USER: [&str; 4] = ["username", "uid", "groups", "extra"];
    if let Some(Value::Object(spec)) = csr.get_mut("spec") {
        spec.retain(|field, _| !OF_USER.contains(&field.as_str()));
    }
}

/// Replaces identities, and the random end of the names that a server makes: of token volumes.
fn without_chance(text: &str) -> String {
    const TOKEN_VOLUME: &str = "kube-api-access-";
    let text = without_identities(text);
    match text.find(TOKEN_VOLUME) {
        Some(at) => {
            let end = at + TOKEN_VOLUME.len();
            let rest = text[end..].trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            format!("{}{ANY}{rest}", &text[..end])
        }
        None => text,
    }
}

/// Replaces the random end of a name that the request leaves to the server.
fn without_generated(text: &str, request: &Request) -> String {
    const RANDOM: usize = 5;
    let sent: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let prefix = sent["metadata"]["generateName"]
        .as_str()
        .unwrap_or_default();
    let found = text.find(prefix).filter(|_| !prefix.is_empty());
    let Some(end) = found.map(|at| at + prefix.len()) else {
        return text.to_owned();
    };
    match text[end..].char_indices().nth(RANDOM - 1) {
        Some((last, c)) if c.is_ascii_alphanumeric() => {
            format!("{}{ANY}{}", &text[..end], &text[end + last + 1..])
        }
        _ => text.to_owned(),
    }
}

/// Replaces whatever looks like a UUID.
fn without_identities(text: &str) -> String {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    const LEN: usize = 36;
    let is_identity = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(index, byte)| match byte {
            b'-' => DASHES.contains(&index),
            byte => byte.is_ascii_hexdigit() && !DASHES.contains(&index),
        })
    };
    let mut left = text;
    let mut clean = String::new();
    loop {
        let found = left.as_bytes().windows(LEN).position(is_identity);
        let Some(at) = found else {
            return clean + left;
        };
        clean += &left[..at];
        clean += ANY;
        left = &left[at + LEN..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chance_made_is_taken_out() {
        let text = "a 7f3d3923-b2cf-4b1e-a6bc-429e9429c847, kube-api-access-x7b2q b";
        assert_eq!(without_chance(text), "a <any>, kube-api-access-<any> b");
        assert_eq!(without_chance("7f3d3923-b2cf"), "7f3d3923-b2cf");
    }
}
