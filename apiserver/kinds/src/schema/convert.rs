//! Whether a tree can be read as an object, in the words of Kubernetes' converter, which reads what strategic merge has made:
//! it wants the kinds of Go where its reader of JSON wants those of JSON.

use serde_json::Value;

use super::Node;
use super::check::own_words;

impl Node {
    /// Looks at a tree that is to be an object of the kind whose schema this is.
    ///
    /// # Errors
    /// The first value that cannot be converted.
    pub fn convert(&self, value: &Value) -> Result<(), String> {
        converts(self, value, "")
    }
}

fn converts(node: &Node, value: &Value, go_type: &str) -> Result<(), String> {
    match (node, value) {
        // What reads itself is read with everything else.
        (_, Value::Null) | (Node::Any | Node::Deduced | Node::StructOr { .. }, _) => Ok(()),
        (Node::Bytes, Value::String(_)) => Ok(()),
        (Node::Struct { .. }, Value::Object(map)) => {
            let mut known = map
                .iter()
                .filter_map(|(name, inner)| Some((node.field(name)?, inner)));
            known.try_for_each(|(field, inner)| converts(&field.node, inner, &field.go_type))
        }
        (Node::Map { value: inner, .. }, Value::Object(map)) => {
            map.values().try_for_each(|item| converts(inner, item, ""))
        }
        (Node::List { item, .. }, Value::Array(items)) => {
            items.iter().try_for_each(|inner| converts(item, inner, ""))
        }
        (Node::Struct { .. }, _) => Err(format!("cannot restore struct from: {}", go_kind(value))),
        (Node::Map { .. }, _) => Err(format!("cannot restore map from {}", go_kind(value))),
        (Node::List { .. } | Node::Bytes, _) => {
            Err(format!("cannot restore slice from {}", go_kind(value)))
        }
        (Node::String, Value::String(_))
        | (Node::Boolean, Value::Bool(_))
        | (Node::Number, Value::Number(_)) => Ok(()),
        (Node::Integer { bits }, Value::Number(number)) => match number.as_i64() {
            Some(n) if *bits == 64 || i32::try_from(n).is_ok() => Ok(()),
            _ => Err(format!("cannot convert {} to int{bits}", go_kind(value))),
        },
        (Node::String, Value::Number(number)) if number.is_i64() => {
            Err("cannot convert int64 to string".to_owned())
        }
        (Node::Quantity | Node::IntOrString | Node::Time, _) => own_words(node, value, go_type),
        (Node::String, _) => Err("unrecognized type: string".to_owned()),
        (Node::Boolean, _) => Err("unrecognized type: bool".to_owned()),
        (Node::Number, _) => Err("unrecognized type: float64".to_owned()),
        (Node::Integer { bits }, _) => Err(format!("unrecognized type: int{bits}")),
    }
}

/// What Go calls the kind of a value.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{all, schema};

    /// Expectations are answers of kube-apiserver v1.36.3.
    #[test]
    fn what_cannot_be_converted_is_told_as_go_tells_it() {
        let node = schema::of(all::resource("apps", "v1", "deployments").expect("served"));
        let quantity = "quantities must match the regular expression \
                        '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        let pod = |spec: serde_json::Value| json!({"spec": {"template": {"spec": spec}}});
        for (object, told) in [
            (json!({"kind": 3}), "cannot convert int64 to string"),
            (json!({"spec": "a"}), "cannot restore struct from: string"),
            (
                json!({"spec": {"template": []}}),
                "cannot restore struct from: slice",
            ),
            (
                json!({"metadata": {"labels": "a"}}),
                "cannot restore map from string",
            ),
            (
                json!({"metadata": {"labels": {"a": {}}}}),
                "unrecognized type: string",
            ),
            (
                json!({"metadata": {"finalizers": {}}}),
                "cannot restore slice from map",
            ),
            (
                json!({"metadata": {"creationTimestamp": 5}}),
                "json: cannot unmarshal number into Go value of type string",
            ),
            (
                json!({"spec": {"replicas": "3"}}),
                "unrecognized type: int32",
            ),
            (
                json!({"spec": {"replicas": 3.5}}),
                "cannot convert float64 to int32",
            ),
            (
                json!({"spec": {"paused": "yes"}}),
                "unrecognized type: bool",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1.5}}}}),
                "json: cannot unmarshal number 1.5 into Go value of type int32",
            ),
            (
                pod(json!({"terminationGracePeriodSeconds": true})),
                "unrecognized type: int64",
            ),
            (
                pod(json!({"containers": [{"image": 1.5}]})),
                "unrecognized type: string",
            ),
            (
                pod(json!({"containers": [{"resources": {"limits": {"cpu": []}}}]})),
                quantity,
            ),
        ] {
            assert_eq!(node.convert(&object), Err(told.to_owned()), "{object}");
        }
        let fits =
            json!({"metadata": {"labels": null}, "spec": {"replicas": 3, "foo": {"bar": []}}});
        assert_eq!(node.convert(&fits), Ok(()));
    }
}
