//! One change of a mutating policy: what its expression gives, laid over the object.

use corral_cel::Budget;
use corral_cel::admission::{Evaluation, Inputs, patch};
use corral_kinds::schema::{ListKind, Node};
use serde_json::Value;

use super::compiled::{Change, Policy};
use crate::admission::expressions::evaluate;
use crate::apply::{merge, typed};
use crate::decode::DEPTH_MAX;
use crate::flow::BODY_BYTES_MAX;
use crate::patch::json_patch_if_tested;

/// The most values that a change may hold: each takes two bytes of a body at least.
const VALUES_MAX: usize = BODY_BYTES_MAX / 2;

/// What becomes of the object.
///
/// # Errors
/// What is wrong with the change.
pub fn changed(
    policy: &Policy,
    change: &Change,
    inputs: Inputs<'_>,
    schema: &Node,
) -> Result<Value, String> {
    let object = inputs.object.unwrap_or(&Value::Null);
    let compiled = match change {
        Change::Patch(compiled) | Change::Configuration(compiled) => compiled,
    };
    if let Err(error) = compiled {
        return Err(error.to_string());
    }
    let evaluation = Evaluation::new(&policy.compiler, inputs);
    let mut budget = Budget::of_request();
    let value = evaluate(&evaluation, compiled, &mut budget);
    let value = value??;
    match change {
        Change::Patch(_) => {
            // The list of operations and an operation are levels of their own.
            check_size(&value, DEPTH_MAX + 2)?;
            let operations = patch::operations(&value)?;
            let patched = json_patch_if_tested(object, operations);
            let patched = patched.map_err(|why| format!("JSON Patch: {why}"));
            // A test that fails is no fault: then the patch changes nothing.
            Ok(patched?.unwrap_or_else(|| object.clone()))
        }
        Change::Configuration(_) => {
            check_size(&value, DEPTH_MAX)?;
            let configuration = patch::configuration(&value)?;
            applied(object, configuration, schema)
        }
    }
}

/// What a change gives is held to the bounds of a body.
fn check_size(value: &corral_cel::Value<'_>, levels: usize) -> Result<(), String> {
    let checked = patch::check_size(value, levels, VALUES_MAX);
    checked.map_err(|why| format!("error applying patch: {why}"))
}

fn applied(object: &Value, mut configuration: Value, schema: &Node) -> Result<Value, String> {
    for key in ["apiVersion", "kind"] {
        configuration[key] = object[key].clone();
    }
    let wrong = |why: String| format!("error applying patch: {why}");
    if let Some(faults) = typed::faults(schema, &configuration) {
        return Err(wrong(format!(
            "failed to convert patch object to typed object: {faults}"
        )));
    }
    let mut atomics = Vec::new();
    find_atomics(schema, &configuration, &mut Vec::new(), &mut atomics);
    if !atomics.is_empty() {
        return Err(wrong(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        )));
    }
    let mut merged = object.clone();
    merge::merge(schema, &mut merged, &configuration);
    Ok(merged)
}

/// Where a configuration holds something that has one owner as a whole: what it leaves out would be lost unseen.
fn find_atomics(node: &Node, value: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if is_atomic(node) {
                found.push(path.concat());
            }
            for (name, value) in map {
                if let Some(child) = node.child(name) {
                    path.push(format!(".{name}"));
                    find_atomics(child, value, path, found);
                    path.pop();
                }
            }
        }
        Value::Array(items) => {
            if is_atomic(node) {
                found.push(path.concat());
            }
            if let Node::List { item, .. } = node {
                for (index, value) in items.iter().enumerate() {
                    path.push(format!("[{index}]"));
                    find_atomics(item, value, path, found);
                    path.pop();
                }
            }
        }
        _ => {}
    }
}

fn is_atomic(node: &Node) -> bool {
    match node {
        Node::Struct { atomic, .. } | Node::Map { atomic, .. } => *atomic,
        Node::List { kind, .. } => *kind == ListKind::Atomic,
        Node::StructOr { .. } => true,
        _ => false,
    }
}
