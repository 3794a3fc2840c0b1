//! Strategic merge patch: lists merge by key where the kind says so, and directives (`$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList`, `$setElementOrder`) say what plain values cannot.

use std::collections::{HashMap, HashSet};

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
pub fn strategic_merge(node: &Node, object: &Value, patch: &Value) -> Result<Value, String> {
    let empty = Map::new();
    let current = object.as_object().unwrap_or(&empty);
    let Value::Object(patch) = patch else {
        return Ok(patch.clone());
    };
    merge_map(node, current, patch).map(Value::Object)
}

/// A map as Go prints it: nothing quoted.
fn go_map(map: &Map<String, Value>) -> String {
    let entries = map
        .iter()
        .map(|(key, value)| format!("{key}:{}", go_value(value)));
    format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
}

fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_value).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}

fn merge_map(
    node: &Node,
    current: &Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut out = match patch.get(PATCH).map(|p| p.as_str()) {
        None => current.clone(),
        Some(Some("replace")) => {
            let mut replaced = patch.clone();
            replaced.remove(PATCH);
            return Ok(replaced);
        }
        Some(Some("delete")) => return Ok(Map::new()),
        Some(Some("merge")) => current.clone(),
        Some(other) => {
            return Err(format!(
                "unknown patch type: {} in map: {}",
                other.unwrap_or("not a string"),
                go_map(patch)
            ));
        }
    };
    if let Some(retain) = patch.get(RETAIN_KEYS) {
        let keys = retain
            .as_array()
            .ok_or("the $retainKeys directive must be a list")?;
        let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
        out.retain(|key, _| keys.contains(key.as_str()));
    }
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS {
            continue;
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
) -> Result<(), String> {
    if value.is_null() {
        out.remove(key);
        return Ok(());
    }
    let child = node.child(key).unwrap_or(&Node::Any);
    let merged = match (out.get(key), value) {
        (Some(Value::Object(current)), Value::Object(patch)) => {
            Value::Object(merge_map(child, current, patch)?)
        }
        (None, Value::Object(patch)) => Value::Object(merge_map(child, &Map::new(), patch)?),
        (current, Value::Array(patch)) => {
            let current = current
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            Value::Array(merge_list(node.field(key), child, current, patch)?)
        }
        (_, value) => value.clone(),
    };
    let deleted = value.get(PATCH).is_some_and(|p| p == "delete");
    if deleted {
        out.remove(key);
    } else {
        out.insert(key.to_owned(), merged);
    }
    Ok(())
}

fn merge_list(
    field: Option<&Field>,
    node: &Node,
    current: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, String> {
    let is_replace = |item: &Value| item.get(PATCH).is_some_and(|p| p == "replace");
    if patch.iter().any(is_replace) {
        return Ok(patch
            .iter()
            .filter(|item| !is_replace(item))
            .cloned()
            .collect());
    }
    let strategy = field.map(|f| &f.strategy);
    if !strategy.is_some_and(|s| s.merge) {
        return Ok(patch.to_vec());
    }
    let Some(key) = strategy.and_then(|s| s.merge_key.as_deref()) else {
        let mut seen = HashSet::new();
        let unique = patch.iter().filter(|item| seen.insert(*item));
        let unique: Vec<Value> = unique.cloned().collect();
        let own = current.iter().filter(|item| !seen.contains(item));
        let own: Vec<Value> = own.cloned().collect();
        return Ok(interleave(own, unique, current, None));
    };
    let out = merge_items(key, node.item().unwrap_or(&Node::Any), current, patch)?;
    let wanted = first_places(patch.iter().map(|item| id_of(item, Some(key))));
    let (named, own) = ranked(out, &wanted, Some(key));
    Ok(interleave(own, named, current, Some(key)))
}

/// The items that there are with those of a patch laid over them, and what is new behind them.
fn merge_items(
    key: &str,
    node: &Node,
    current: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, String> {
    let mut out: Vec<Option<Value>> = current.iter().cloned().map(Some).collect();
    let mut places: HashMap<Value, Vec<usize>> = HashMap::new();
    for (at, item) in current.iter().enumerate() {
        if let Some(id) = item.get(key) {
            places.entry(id.clone()).or_default().push(at);
        }
    }
    for item in patch {
        let Value::Object(map) = item else {
            return Err(format!("a list that merges by {key} must hold objects"));
        };
        let Some(id) = map.get(key) else {
            return Err(format!(
                "map: {} does not contain declared merge key: {key}",
                go_map(map)
            ));
        };
        if map.get(PATCH).is_some_and(|p| p == "delete") {
            let gone = places.remove(id).unwrap_or_default();
            gone.into_iter().for_each(|at| out[at] = None);
            continue;
        }
        let at = places.get(id).and_then(|places| places.first()).copied();
        let existing = at.and_then(|at| out[at].take());
        let existing = match existing {
            Some(Value::Object(existing)) => existing,
            _ => Map::new(),
        };
        let merged = merge_map(node, &existing, map)?;
        let at = at.unwrap_or(out.len());
        // A key that is `null` is gone.
        if merged.get(key) != Some(id) {
            places.remove(id);
        } else if at == out.len() {
            places.entry(id.clone()).or_default().push(at);
        }
        match out.get_mut(at) {
            Some(place) => *place = Some(Value::Object(merged)),
            None => out.push(Some(Value::Object(merged))),
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
) -> Result<(), String> {
    let gone = value
        .as_array()
        .ok_or("the $deleteFromPrimitiveList directive must be a list")?;
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
) -> Result<(), String> {
    let order = order
        .as_array()
        .ok_or("the $setElementOrder directive must be a list")?;
    let key = node.field(list).and_then(|f| f.strategy.merge_key.clone());
    let key = key.as_deref();
    let wanted = first_places(order.iter().map(|item| id_of(item, key)));
    for item in patch.and_then(Value::as_array).into_iter().flatten() {
        let deletes = item.get(PATCH).is_some();
        if !deletes && !wanted.contains_key(id_of(item, key)) {
            return Err(
                "The order in patch list:\n doesn't match $setElementOrder list".to_owned(),
            );
        }
    }
    let Some(Value::Array(items)) = out.get_mut(list) else {
        return Ok(());
    };
    let (named, own) = ranked(std::mem::take(items), &wanted, key);
    let before = before
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    *items = interleave(own, named, before, key);
    Ok(())
}

#[cfg(test)]
mod tests {
    use corral_kinds::{all, schema};
    use serde_json::json;

    use super::*;

    fn patched(object: Value, patch: Value) -> Value {
        let node = schema::of(all::resource("", "v1", "pods").expect("served"));
        strategic_merge(&node, &object, &patch).expect("fits")
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
