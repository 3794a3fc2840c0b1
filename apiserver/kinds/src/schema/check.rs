//! Checks a JSON tree against a schema: unknown fields are reported and taken out, nulls are taken out, and a value of
//! the wrong type is an error in the words that Kubernetes uses.

use serde_json::Value;

use super::Node;

/// What a check found that is not an error by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths of fields that the schema does not have.
    pub unknown: Vec<String>,
}

/// Most unknown fields that one report lists; a hostile body cannot make a huge answer.
const UNKNOWN_FIELDS_MAX: usize = 100;

/// What stands for a time that is not set where there must be one; Go's zero time is the same moment.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A value of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeError(pub String);

struct Walk<'a> {
    report: Report,
    path: String,
    owner: &'a str,
}

impl Node {
    /// Checks and prunes `value`, which is an object of the kind whose schema this is.
    ///
    /// # Errors
    /// The first value of a wrong type.
    pub fn check(&self, value: &mut Value) -> Result<Report, TypeError> {
        let mut walk = Walk {
            report: Report::default(),
            path: String::new(),
            owner: "",
        };
        walk.node(self, value, "")?;
        Ok(walk.report)
    }
}

impl<'a> Walk<'a> {
    fn node(&mut self, node: &'a Node, value: &mut Value, go_type: &str) -> Result<(), TypeError> {
        match node {
            Node::Any => Ok(()),
            Node::String | Node::Bytes | Node::Time => {
                self.expect(value.is_string(), value, node, go_type)
            }
            Node::Boolean => self.expect(value.is_boolean(), value, node, go_type),
            Node::Integer { bits } => self.integer(*bits, value, node, go_type),
            Node::Number => self.expect(value.is_number(), value, node, go_type),
            Node::Quantity => self.quantity(value),
            Node::IntOrString => self.int_or_string(value, go_type),
            Node::Struct { definition, .. } => {
                let owner = std::mem::replace(&mut self.owner, &definition.get().short_name);
                let result = self.structure(node, value, go_type);
                self.owner = owner;
                result
            }
            Node::Map { value: inner, .. } => self.map(inner, node, value, go_type),
            Node::List { item, .. } => self.list(item, node, value, go_type),
        }
    }

    fn structure(
        &mut self,
        node: &'a Node,
        value: &mut Value,
        go_type: &str,
    ) -> Result<(), TypeError> {
        let Value::Object(map) = value else {
            return Err(self.mismatch(value, node, go_type));
        };
        let mut dropped = Vec::new();
        for (name, inner) in map.iter_mut() {
            let Some(field) = node.field(name) else {
                self.unknown(name);
                dropped.push(name.clone());
                continue;
            };
            if inner.is_null() {
                dropped.push(name.clone());
                continue;
            }
            let length = self.push(name);
            self.node(&field.node, inner, &field.go_type)?;
            self.path.truncate(length);
            if field.omit_zero && is_zero(&field.node, inner) {
                dropped.push(name.clone());
            }
        }
        for name in dropped {
            map.remove(&name);
        }
        if let Node::Struct { definition, .. } = node {
            for name in &definition.get().required_times {
                map.entry(name.as_ref()).or_insert_with(|| ZERO_TIME.into());
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        inner: &'a Node,
        node: &'a Node,
        value: &mut Value,
        go_type: &str,
    ) -> Result<(), TypeError> {
        let Value::Object(map) = value else {
            return Err(self.mismatch(value, node, go_type));
        };
        for (name, item) in map.iter_mut() {
            if item.is_null() && matches!(inner, Node::String | Node::Bytes) {
                *item = Value::String(String::new());
            }
            let length = self.push(name);
            self.node(inner, item, "")?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn list(
        &mut self,
        item: &'a Node,
        node: &'a Node,
        value: &mut Value,
        go_type: &str,
    ) -> Result<(), TypeError> {
        let Value::Array(items) = value else {
            return Err(self.mismatch(value, node, go_type));
        };
        for (index, inner) in items.iter_mut().enumerate() {
            let length = self.path.len();
            self.path.push_str(&format!("[{index}]"));
            self.node(item, inner, go_type.strip_prefix("[]").unwrap_or(""))?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn integer(
        &mut self,
        bits: u8,
        value: &Value,
        node: &Node,
        go_type: &str,
    ) -> Result<(), TypeError> {
        let fits = match value.as_i64() {
            Some(n) => bits == 64 || i32::try_from(n).is_ok(),
            None => false,
        };
        self.expect(fits, value, node, go_type)
    }

    fn quantity(&mut self, value: &mut Value) -> Result<(), TypeError> {
        let text = match value {
            Value::Number(n) => n.to_string(),
            Value::String(s) => s.trim().to_owned(),
            _ => {
                return Err(TypeError(corral_api::quantity::ParseError.to_string()));
            }
        };
        match corral_api::quantity::Quantity::parse(&text) {
            Ok(quantity) => *value = Value::String(quantity.to_string()),
            Err(error) => return Err(TypeError(error.to_string())),
        }
        Ok(())
    }

    fn int_or_string(&mut self, value: &Value, go_type: &str) -> Result<(), TypeError> {
        let fits = value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        self.expect(fits, value, &Node::IntOrString, go_type)
    }

    fn expect(
        &self,
        fits: bool,
        value: &Value,
        node: &Node,
        go_type: &str,
    ) -> Result<(), TypeError> {
        if fits {
            Ok(())
        } else {
            Err(self.mismatch(value, node, go_type))
        }
    }

    fn push(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn unknown(&mut self, name: &str) {
        if self.report.unknown.len() < UNKNOWN_FIELDS_MAX {
            let length = self.push(name);
            self.report.unknown.push(self.path.clone());
            self.path.truncate(length);
        }
    }

    fn mismatch(&self, value: &Value, node: &Node, go_type: &str) -> TypeError {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(node, Node::Integer { .. }) => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let wanted = if go_type.is_empty() {
            node.go_type()
        } else {
            go_type
        };
        let wanted = wanted.trim_start_matches('*');
        // Positions in lists are not part of Go's paths.
        let mut path = String::with_capacity(self.path.len());
        let mut depth = 0;
        for c in self.path.chars() {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                c if depth == 0 => path.push(c),
                _ => {}
            }
        }
        if path.is_empty() {
            return TypeError(format!(
                "json: cannot unmarshal {found} into Go value of type {wanted}"
            ));
        }
        TypeError(format!(
            "json: cannot unmarshal {found} into Go struct field {}.{path} of type {wanted}",
            self.owner
        ))
    }
}

impl Node {
    fn go_type(&self) -> &str {
        match self {
            Self::Any => "interface {}",
            Self::String | Self::Bytes | Self::Quantity => "string",
            Self::Time => "time.Time",
            Self::Boolean => "bool",
            Self::Integer { bits: 32 } => "int32",
            Self::Integer { .. } => "int64",
            Self::Number => "float64",
            Self::IntOrString => "intstr.IntOrString",
            Self::Struct { definition, .. } => definition.name().rsplit('.').next().unwrap_or(""),
            Self::Map { .. } => "map[string]string",
            Self::List { .. } => "[]string",
        }
    }
}

fn is_zero(node: &Node, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        // A struct stays, even an empty one: Go leaves out only empty maps.
        Value::Object(map) => map.is_empty() && matches!(node, Node::Map { .. }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Erased;

    fn check(mut value: Value) -> Result<(Value, Vec<String>), TypeError> {
        let node = super::super::of(&Erased::<crate::apps::deployment::DeploymentKind>::new());
        let report = node.check(&mut value)?;
        Ok((value, report.unknown))
    }

    #[test]
    fn unknown_fields_are_reported_with_their_path_and_taken_out() {
        let (value, unknown) = check(json!({
            "spec": {"replicas": 1, "extra": 1, "template": {"spec": {"containers": [{"name": "a", "imag": "x"}]}}},
            "status": null,
        }))
        .expect("right types");
        assert_eq!(
            unknown,
            ["spec.extra", "spec.template.spec.containers[0].imag"]
        );
        assert_eq!(
            value,
            json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}}})
        );
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        let error = check(json!({"spec": {"replicas": "three"}})).expect_err("wrong type");
        assert_eq!(
            error.0,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
    }

    #[test]
    fn quantities_become_canonical() {
        let (value, _) = check(json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}}}}))
        .expect("right types");
        let limits = &value["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!(*limits, json!({"cpu": "500m", "memory": "1Gi"}));
    }
}
