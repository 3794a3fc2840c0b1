//! Strategic merge patch: lists merge by key where the kind says so, and directives (`$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList`, `$setElementOrder`) say what plain values cannot.

use std::collections::{HashMap, HashSet};

use corral_api::status::Status;
use corral_kinds::schema::{Field, Node};
use serde_json::{Map, Value};

use crate::apply::first_places;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// The object with the patch applied.
///
/// # Errors
/// What is wrong with a directive, or which item lacks its merge key.
pub fn strategic_merge(
    node: &Node,
    object: &Value,
    patch: &Map<String, Value>,
) -> Result<Value, Status> {
    let empty = Map::new();
    let current = object.as_object().unwrap_or(&empty);
    merge_map(node, current, patch).map(Value::Object)
}

/// A map as Go prints it: nothing quoted.
pub fn go_map(map: &Map<String, Value>) -> String {
    let entries = map
        .iter()
        .map(|(key, value)| format!("{key}:{}", go_value(value)));
    format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
}

fn go_list(items: &[Value]) -> String {
    let items: Vec<String> = items.iter().map(go_value).collect();
    format!("[{}]", items.join(" "))
}

fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => go_list(items),
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}

/// The type in Go of a value of a patch.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> Status {
    let told = match directive {
        Value::Bool(_) | Value::Number(_) => {
            format!("%!s({}={directive})", go_type(directive))
        }
        Value::Null => go_type(directive).to_owned(),
        other => go_value(other),
    };
    wrong(format!(
        "unknown patch type: {told} in map: {}",
        go_map(map)
    ))
}

/// 500, which is what kube-apiserver answers to patches that make no sense.
fn wrong(why: impl Into<String>) -> Status {
    Status::unexpected(why)
}

fn misshapen(directive: &str) -> Status {
    Status::bad_request(format!("invalid patch format of {directive}"))
}

fn merge_map(
    node: &Node,
    current: &Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, Status> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            let mut replaced = patch.clone();
            replaced.remove(PATCH);
            return Ok(replaced);
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(other) => return Err(unknown_directive(other, patch)),
    }
    let mut out = current.clone();
    if let Some(retain) = patch.get(RETAIN_KEYS) {
        let keys = retain.as_array().ok_or_else(|| misshapen("retainKeys"))?;
        let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
        let mut set = patch
            .iter()
            .filter(|(key, value)| !key.starts_with('$') && !value.is_null());
        if !set.all(|(key, _)| keys.contains(key.as_str())) {
            return Err(misshapen("retainKeys"));
        }
        out.retain(|key, _| keys.contains(key.as_str()));
    }
    for (key, value) in patch {
        if key == RETAIN_KEYS {
            continue;
        }
        if key == DELETE_PRIMITIVE.trim_end_matches('/') {
            return Err(misshapen("primitive list"));
        }
        if key == ELEMENT_ORDER.trim_end_matches('/') {
            return Err(misshapen("setElementOrder list"));
        }
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVE) {
            delete_primitives(&mut out, list, value)?;
        } else if key.strip_prefix(ELEMENT_ORDER).is_none() {
            merge_key(node, &mut out, key, value)?;
        }
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(ELEMENT_ORDER) {
            order(
                node,
                &mut out,
                list,
                value,
                patch.get(list),
                current.get(list),
            )?;
        }
    }
    Ok(out)
}

fn merge_key(
    node: &Node,
    out: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), Status> {
    let child = node.child(key).unwrap_or(&Node::Any);
    let merged = match (out.get(key), value) {
        (_, Value::Null) => None,
        (None, value) => fresh(value),
        (Some(Value::Object(_)), Value::Object(patch))
            if patch.get(PATCH).is_some_and(|p| p == "delete") =>
        {
            None
        }
        (Some(Value::Object(current)), Value::Object(patch)) => {
            Some(Value::Object(merge_map(child, current, patch)?))
        }
        (Some(Value::Array(current)), Value::Array(patch)) => Some(Value::Array(merge_list(
            node.field(key),
            child,
            current,
            patch,
        )?)),
        (_, value) => Some(value.clone()),
    };
    match merged {
        None => out.remove(key),
        Some(merged) => out.insert(key.to_owned(), merged),
    };
    Ok(())
}

/// What a patch brings where nothing was: without fields that are to be removed, and without what a directive is about,
/// whichever it is.
fn fresh(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let fields = map.iter().filter(|(_, inner)| !inner.is_null());
            let fields = fields.filter_map(|(key, inner)| Some((key.clone(), fresh(inner)?)));
            Some(Value::Object(fields.collect()))
        }
        Value::Array(items) => Some(items.iter().filter_map(fresh).collect()),
        other => Some(other.clone()),
    }
}

fn merge_list(
    field: Option<&Field>,
    node: &Node,
    current: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, Status> {
    let strategy = field.map(|f| &f.strategy);
    if !strategy.is_some_and(|s| s.merge) {
        let mut items = patch.to_vec();
        // Directives about items say nothing where items do not merge.
        let maps = items.iter_mut().filter_map(Value::as_object_mut);
        maps.for_each(|map| drop(map.remove(PATCH)));
        return Ok(items);
    }
    let mut types = current.iter().chain(patch).map(std::mem::discriminant);
    if let Some(first) = types.next()
        && types.any(|other| other != first)
    {
        return Err(wrong(format!(
            "list element types are not identical: [{} {}]",
            go_list(current),
            go_list(patch)
        )));
    }
    let Some(key) = strategy.and_then(|s| s.merge_key.as_deref()) else {
        let mut seen = HashSet::new();
        let unique = patch.iter().filter(|item| seen.insert(*item));
        let unique: Vec<Value> = unique.cloned().collect();
        let own = current.iter().filter(|item| !seen.contains(item));
        let own: Vec<Value> = own.cloned().collect();
        return Ok(interleave(own, unique, current, None));
    };
    if replaces(key, patch)? {
        let items = patch.iter().filter(|item| item.get(PATCH).is_none());
        return Ok(items.cloned().collect());
    }
    let out = merge_items(key, node.item().unwrap_or(&Node::Any), current, patch)?;
    let wanted = first_places(patch.iter().map(|item| id_of(item, Some(key))));
    let (named, own) = ranked(out, &wanted, Some(key));
    Ok(interleave(own, named, current, Some(key)))
}

/// Looks at the directives of the items of a list that merges by a key: whether they replace it.
fn replaces(key: &str, patch: &[Value]) -> Result<bool, Status> {
    let mut replaces = false;
    for map in patch.iter().filter_map(Value::as_object) {
        match map.get(PATCH) {
            Some(Value::String(directive)) if directive == "replace" => replaces = true,
            Some(Value::String(directive)) if directive == "merge" => {
                return Err(wrong("merging lists cannot yet be specified in the patch"));
            }
            Some(other) if other != "delete" => return Err(unknown_directive(other, map)),
            _ if !map.contains_key(key) => return Err(without_key(key, map)),
            _ => {}
        }
    }
    Ok(replaces)
}

fn without_key(key: &str, map: &Map<String, Value>) -> Status {
    wrong(format!(
        "map: {} does not contain declared merge key: {key}",
        go_map(map)
    ))
}

/// The items that there are with those of a patch laid over them, and what is new behind them.
fn merge_items(
    key: &str,
    node: &Node,
    current: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, Status> {
    let mut out: Vec<Option<Value>> = current.iter().cloned().map(Some).collect();
    let mut places: HashMap<Value, Vec<usize>> = HashMap::new();
    for (at, item) in current.iter().enumerate() {
        if let Some(id) = item.get(key) {
            places.entry(id.clone()).or_default().push(at);
        }
    }
    for item in patch {
        // What is no object is of no use here, and refused when the list is read.
        let Value::Object(map) = item else {
            out.push(Some(item.clone()));
            continue;
        };
        let id = map.get(key).ok_or_else(|| without_key(key, map))?;
        if map.get(PATCH).is_some_and(|p| p == "delete") {
            let gone = places.remove(id).unwrap_or_default();
            gone.into_iter().for_each(|at| out[at] = None);
            continue;
        }
        let at = places.get(id).and_then(|places| places.first()).copied();
        let existing = at.and_then(|at| out[at].take());
        let merged = match existing {
            Some(Value::Object(existing)) => Some(Value::Object(merge_map(node, &existing, map)?)),
            _ => fresh(item),
        };
        let Some(merged) = merged else { continue };
        let at = at.unwrap_or(out.len());
        // A key that is `null` is gone.
        if merged.get(key) != Some(id) {
            places.remove(id);
        } else if at == out.len() {
            places.entry(id.clone()).or_default().push(at);
        }
        match out.get_mut(at) {
            Some(place) => *place = Some(merged),
            None => out.push(Some(merged)),
        }
    }
    Ok(out.into_iter().flatten().collect())
}

/// By what an item of a list is known: its key, or itself.
fn id_of<'v>(item: &'v Value, key: Option<&str>) -> &'v Value {
    static NONE: Value = Value::Null;
    match key {
        Some(key) => item.get(key).unwrap_or(&NONE),
        None => item,
    }
}

/// The items that have a place, in the order of their places, and those that have none.
fn ranked(
    items: Vec<Value>,
    places: &HashMap<&Value, usize>,
    key: Option<&str>,
) -> (Vec<Value>, Vec<Value>) {
    let (mut named, mut own) = (Vec::new(), Vec::new());
    for item in items {
        match places.get(id_of(&item, key)) {
            Some(&place) => named.push((place, item)),
            None => own.push(item),
        }
    }
    named.sort_by_key(|(place, _)| *place);
    (named.into_iter().map(|(_, item)| item).collect(), own)
}

/// Merges what a patch names, in its order, with what it does not. An item that it does not name stands before the
/// first one that was behind it; what is new was behind nothing, and so comes first.
fn interleave(
    own: Vec<Value>,
    named: Vec<Value>,
    before: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let places = first_places(before.iter().map(|item| id_of(item, key)));
    let place = |item: &Value| places.get(id_of(item, key)).copied();
    let mut out = Vec::with_capacity(own.len() + named.len());
    let mut own = own.into_iter().peekable();
    for next in named {
        let next_place = place(&next);
        while let Some(item) = own.peek() {
            let is_before = matches!((place(item), next_place), (Some(a), Some(b)) if a < b);
            if !is_before {
                break;
            }
            out.extend(own.next());
        }
        out.push(next);
    }
    out.extend(own);
    out
}

fn delete_primitives(
    out: &mut Map<String, Value>,
    list: &str,
    value: &Value,
) -> Result<(), Status> {
    let gone = value
        .as_array()
        .ok_or_else(|| wrong("the $deleteFromPrimitiveList directive must be a list"))?;
    if let Some(Value::Array(items)) = out.get_mut(list) {
        let gone: HashSet<&Value> = gone.iter().collect();
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Brings a merged list into the order that the patch asks for.
fn order(
    node: &Node,
    out: &mut Map<String, Value>,
    list: &str,
    order: &Value,
    patch: Option<&Value>,
    before: Option<&Value>,
) -> Result<(), Status> {
    let as_list = |value: &Value| {
        let told = format!(
            "expected a []interface {{}}, but received a {}",
            go_type(value)
        );
        value.as_array().cloned().ok_or_else(|| wrong(told))
    };
    let order = as_list(order)?;
    let field = node.field(list);
    if let (None, Node::Struct { definition, .. }) = (field, node) {
        return Err(wrong(format!(
            "unable to find api field in struct {} for the json field {list:?}",
            definition.get().short_name
        )));
    }
    let key = field.and_then(|f| f.strategy.merge_key.as_deref());
    if let Some(key) = key {
        for (index, item) in order.iter().enumerate() {
            let Value::Object(map) = item else {
                return Err(wrong(format!("value for key {index} is not a map")));
            };
            if !map.contains_key(key) {
                return Err(without_key(key, map));
            }
        }
    }
    let before = before.map(as_list).transpose()?.unwrap_or_default();
    if let Some(Value::Array(patch)) = patch {
        // What a patch has is in the order that it asks for.
        let mut rest = order.iter();
        let mut items = patch.iter().filter(|item| item.get(PATCH).is_none());
        if !items.all(|item| rest.any(|other| id_of(other, key) == id_of(item, key))) {
            return Err(wrong(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                go_list(patch),
                go_list(&order)
            )));
        }
    }
    let Some(Value::Array(items)) = out.get_mut(list) else {
        return Ok(());
    };
    let wanted = first_places(order.iter().map(|item| id_of(item, key)));
    let (named, own) = ranked(std::mem::take(items), &wanted, key);
    *items = interleave(own, named, &before, key);
    Ok(())
}

#[cfg(test)]
mod tests {
    use corral_kinds::{all, schema};
    use serde_json::json;

    use super::*;

    fn patched(object: Value, patch: Value) -> Value {
        let node = schema::of(all::resource("", "v1", "pods").expect("served"));
        let patch = patch.as_object().expect("a map");
        strategic_merge(&node, &object, patch).expect("fits")
    }

    #[test]
    fn lists_merge_by_their_key_and_directives_act() {
        let pod = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [
            {"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
        let out = patched(
            pod.clone(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "b", "image": "z"}]},
                "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        );
        assert_eq!(
            out["spec"]["containers"],
            json!([{"name": "b", "image": "z"}, {"name": "a", "image": "x"}])
        );
        assert_eq!(out["metadata"]["finalizers"], json!(["b"]));
        let out = patched(
            pod.clone(),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
        );
        assert_eq!(
            out["spec"]["containers"],
            json!([{"name": "b", "image": "y"}])
        );
        let out = patched(
            pod,
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "n"}]}}),
        );
        assert_eq!(out["spec"]["containers"], json!([{"name": "n"}]));
    }

    #[test]
    fn what_is_new_comes_first_and_what_is_not_named_keeps_its_place() {
        let names = |out: Value| -> Vec<String> {
            let containers = out["spec"]["containers"].as_array().cloned();
            let names = containers.unwrap_or_default();
            names
                .iter()
                .map(|c| c["name"].as_str().unwrap_or("").to_owned())
                .collect()
        };
        let pod = json!({"metadata": {"finalizers": ["a", "b"]},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
        let patch = |list: Value| json!({"spec": {"containers": list}});
        let out = patched(pod.clone(), patch(json!([{"name": "new"}])));
        assert_eq!(names(out), ["new", "a", "b", "c"]);
        let out = patched(pod.clone(), patch(json!([{"name": "c"}, {"name": "a"}])));
        assert_eq!(names(out), ["b", "c", "a"]);
        let out = patched(pod.clone(), json!({"metadata": {"finalizers": ["n", "a"]}}));
        assert_eq!(out["metadata"]["finalizers"], json!(["n", "a", "b"]));
        let ordered = json!({"spec": {"containers": [{"name": "n"}],
            "$setElementOrder/containers": [{"name": "c"}, {"name": "n"}, {"name": "b"}]}});
        assert_eq!(names(patched(pod, ordered)), ["a", "c", "n", "b"]);
    }

    #[test]
    fn retain_keys_clears_the_other_members_of_a_union() {
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let out = patched(
            pod,
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}),
        );
        assert_eq!(
            out["spec"]["volumes"],
            json!([{"name": "v", "configMap": {"name": "c"}}])
        );
    }
}
