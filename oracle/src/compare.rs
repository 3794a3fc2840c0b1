//! What differs between two answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::case::{Answer, Pair, Request};

/// How two answers differ; the first that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Of what kind it is: `code`, `reason`, `causes`, `message`, `warnings`, `content`, `object`.
    pub kind: &'static str,
    /// What the peer has, and what we have.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// How much of a text is shown.
const SHOWN_MAX: usize = 600;

fn shown(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take(SHOWN_MAX).collect()
}

fn unequal<T: PartialEq + fmt::Debug>(
    kind: &'static str,
    theirs: &T,
    ours: &T,
) -> Option<Difference> {
    let detail = || format!("{}\n     ours {}", shown(theirs), shown(ours));
    (theirs != ours).then(|| Difference {
        kind,
        detail: detail(),
    })
}

/// The difference that weighs most, if there is one.
pub fn difference(theirs: &Answer, ours: &Answer) -> Option<Difference> {
    let coded = |answer: &Answer| {
        let message = answer.body["message"].as_str();
        let message = message.filter(|_| answer.code >= 400).unwrap_or_default();
        (answer.code, message.to_owned())
    };
    if theirs.code != ours.code {
        return unequal("code", &coded(theirs), &coded(ours));
    }
    if theirs.code >= 400 {
        return status(theirs, ours);
    }
    unequal("warnings", &warnings(theirs), &warnings(ours))
        .or_else(|| unequal("content", &theirs.content, &ours.content))
        .or_else(|| {
            object("", &theirs.body, &ours.body)?;
            object(
                "",
                &with_owners_in_order(&theirs.body),
                &with_owners_in_order(&ours.body),
            )
        })
}

/// An object whose owners stand in the order that they have when all of them wrote in the same second: which second a
/// write falls into is chance.
fn with_owners_in_order(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut map: serde_json::Map<_, _> = map
                .iter()
                .map(|(key, value)| (key.clone(), with_owners_in_order(value)))
                .collect();
            if let Some(Value::Array(owners)) = map.get_mut("managedFields") {
                let text = |owner: &Value, key: &str| owner[key].as_str().unwrap_or("").to_owned();
                owners.sort_by_cached_key(|owner| {
                    ["operation", "manager", "apiVersion", "subresource"]
                        .map(|key| text(owner, key))
                });
            }
            Value::Object(map)
        }
        Value::Array(items) => items.iter().map(with_owners_in_order).collect(),
        other => other.clone(),
    }
}

fn status(theirs: &Answer, ours: &Answer) -> Option<Difference> {
    let (a, b) = (
        &sorted(accepted(&theirs.body)),
        &sorted(accepted(&ours.body)),
    );
    let causes = |body: &Value| {
        let causes = body["details"]["causes"].as_array().into_iter().flatten();
        causes.map(Value::to_string).collect::<BTreeSet<_>>()
    };
    // One cause less or one more is easier to see without those that both have.
    let (own_a, own_b) = (causes(a), causes(b));
    let only =
        |x: &BTreeSet<String>, y: &BTreeSet<String>| x.difference(y).cloned().collect::<Vec<_>>();
    unequal("reason", &a["reason"], &b["reason"])
        .or_else(|| unequal("causes", &only(&own_a, &own_b), &only(&own_b, &own_a)))
        .or_else(|| unequal("message", &a["message"], &b["message"]))
        .or_else(|| unequal("details", &a["details"], &b["details"]))
        .or_else(|| unequal("status", a, b))
}

/// The faults of what a schema describes come in the order of a map of Go, which is another each time.
fn sorted(mut status: Value) -> Value {
    let group = status["details"]["group"].as_str().unwrap_or_default();
    if !group.ends_with("oracle.example") && group != "apiextensions.k8s.io" {
        return status;
    }
    if let Some(causes) = status["details"]["causes"].as_array_mut() {
        causes.sort_by_cached_key(Value::to_string);
    }
    if let Some(message) = status["message"].as_str() {
        let plain = message.replace(['[', ']'], "");
        let mut parts: Vec<&str> = plain.split([',', ':']).map(str::trim).collect();
        parts.sort_unstable();
        status["message"] = parts.join(" ").into();
    }
    status
}

/// A Status without what is meant to differ, for the reasons in `docs/compatibility.md`: values that kube-apiserver shows in
/// the form of its own memory, and how often it lists a cause that it finds twice.
fn accepted(status: &Value) -> Value {
    match status {
        Value::String(text) => without_values(text).into(),
        Value::Array(items) => {
            let mut kept: Vec<Value> = Vec::new();
            for item in items.iter().map(accepted) {
                if !kept.contains(&item) {
                    kept.push(item);
                }
            }
            kept.into()
        }
        Value::Object(map) => {
            let fields = map
                .iter()
                .map(|(key, value)| (key.clone(), accepted(value)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

fn without_values(text: &str) -> String {
    const VALUE: &str = "Invalid value: {";
    // Lists of structures are shown in the same way.
    let text = &text.replace("Invalid value: [{", VALUE);
    const DUMP: &str = "\n";
    let text = text.split(DUMP).next().unwrap_or_default();
    let text = &without_addresses(&without_patched(&without_versions(text)));
    let mut clean = String::new();
    let mut left = text.as_str();
    while let Some(at) = left.find(VALUE) {
        let start = at + VALUE.len();
        clean += &left[..start];
        let mut depth = 1_usize;
        let end = left[start..].find(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        left = &left[start + end.unwrap_or(0)..];
    }
    clean + left
}

/// A patched object that cannot be read is shown whole, in the order of its server's fields.
fn without_patched(text: &str) -> String {
    const BEGIN: &str = "Invalid value: \"{";
    const END: &str = "}\": ";
    match (text.find(BEGIN), text.rfind(END)) {
        (Some(at), Some(end)) if at < end => {
            format!("{}{}", &text[..at + BEGIN.len()], &text[end..])
        }
        _ => text.to_owned(),
    }
}

/// Addresses that a server has chosen for a Service: those of the range that both have.
fn without_addresses(text: &str) -> String {
    const BEGIN: &str = "\"10.0.";
    let mut parts = text.split(BEGIN);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        clean += BEGIN;
        clean += rest;
    }
    clean
}

/// What a Status tells, without the random ends of the names that the server has made from a prefix of the client's.
fn without_names(answer: &Answer, request: &Request) -> Answer {
    const RANDOM: usize = 5;
    let sent: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let prefix = sent["metadata"]["generateName"].as_str().unwrap_or("");
    let mut answer = answer.clone();
    if prefix.is_empty() || answer.code < 400 {
        return answer;
    }
    let begin = format!("\"{prefix}");
    let clean = |text: &str| {
        let mut parts = text.split(begin.as_str());
        let mut clean = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let random: String = part.chars().take(RANDOM).collect();
            let is_random =
                random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
            clean += &begin;
            clean += if is_random { &part[RANDOM..] } else { part };
        }
        clean
    };
    fn each(value: &mut Value, clean: &dyn Fn(&str) -> String) {
        match value {
            Value::String(text) => *text = clean(text),
            Value::Array(items) => items.iter_mut().for_each(|item| each(item, clean)),
            Value::Object(map) => map.values_mut().for_each(|item| each(item, clean)),
            _ => {}
        }
    }
    each(&mut answer.body, &clean);
    answer
}

/// Versions of objects, where a message names them.
fn without_versions(text: &str) -> String {
    const BEGIN: &str = "in record (";
    match text.split_once(BEGIN) {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}{BEGIN}{rest}")
        }
        None => text.to_owned(),
    }
}

/// Warnings without those of our own.
fn warnings(answer: &Answer) -> Vec<&String> {
    const OWN: &str = "not honoured by this server yet\"";
    let all = answer.warnings.iter();
    all.filter(|warning| !warning.ends_with(OWN)).collect()
}

fn object(path: &str, theirs: &Value, ours: &Value) -> Option<Difference> {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            // What a column tells is said in words of our own.
            let of_column = path.starts_with(".columnDefinitions");
            let keys = keys
                .into_iter()
                .filter(|key| !of_column || *key != "description");
            keys.into_iter().find_map(|key| {
                let inner = format!("{path}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => object(&inner, a, b),
                    (a, b) => unequal("object", &(&inner, a), &(&inner, b)),
                }
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let items = a.iter().zip(b).enumerate();
            items
                .filter_map(|(index, (a, b))| object(&format!("{path}[{index}]"), a, b))
                .next()
        }
        (Value::String(a), Value::String(b))
            if path.contains(".cells[") && is_age(a) && is_age(b) =>
        {
            None
        }
        _ => unequal("object", &(path, theirs), &(path, ours)),
    }
}

/// Whether a cell tells how many seconds ago something was.
fn is_age(cell: &str) -> bool {
    let seconds = cell.strip_suffix('s').unwrap_or_default();
    !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit())
}

/// All differences by the names of the cases.
///
/// # Panics
/// When the answers are not to the same requests.
pub fn differences(theirs: &[Pair], ours: &[Pair]) -> BTreeMap<String, Difference> {
    assert_eq!(theirs.len(), ours.len(), "each request has two answers");
    theirs
        .iter()
        .zip(ours)
        .filter_map(|(theirs, ours)| {
            assert_eq!(
                theirs.request.name, ours.request.name,
                "the order is the same"
            );
            let found = difference(
                &without_names(&theirs.answer, &theirs.request),
                &without_names(&ours.answer, &ours.request),
            )?;
            Some((theirs.request.name.clone(), found))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owned(owners: &[(&str, &str)]) -> Answer {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(manager, operation)| json!({"manager": manager, "operation": operation}))
            .collect();
        Answer {
            code: 200,
            content: String::new(),
            warnings: Vec::new(),
            body: json!({"metadata": {"managedFields": owners}}),
        }
    }

    #[test]
    fn the_second_of_a_write_is_chance_and_its_owner_is_not() {
        let a = owned(&[("one", "Apply"), ("two", "Apply")]);
        let b = owned(&[("two", "Apply"), ("one", "Apply")]);
        assert!(difference(&a, &b).is_none());
        let c = owned(&[("two", "Apply"), ("one", "Update")]);
        assert!(difference(&a, &c).is_some());
    }
}
