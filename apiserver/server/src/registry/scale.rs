//! The `Scale` of an object: how many there are and shall be, of whatever kind.

use std::collections::BTreeMap;

use corral_api::status::Status;
use serde_json::{Value, json};

use super::Resource;

impl Resource {
    /// The `Scale` of an object.
    ///
    /// # Errors
    /// 404 for a kind that does not scale, 500 (as kube-apiserver) for an object that does not say how many.
    pub fn scale_of(&self, object: &Value) -> Result<Value, Status> {
        let paths = self.kind.scale().ok_or_else(Status::no_such_path)?;
        let wanted = object.pointer(paths.spec_replicas);
        if wanted.and_then(Value::as_i64).is_none() && self.kind.is_custom() {
            let path = paths.spec_replicas.replace('/', ".");
            let why = format!("the spec replicas field {path:?} does not exist");
            return Err(Status::internal(why));
        }
        self.scale_to_change(object)
    }

    /// The same of an object that may not say how many, since it is about to.
    ///
    /// # Errors
    /// 404 for a kind that does not scale.
    pub fn scale_to_change(&self, object: &Value) -> Result<Value, Status> {
        let paths = self.kind.scale().ok_or_else(Status::no_such_path)?;
        let metadata = &object["metadata"];
        let number = |path| object.pointer(path).and_then(Value::as_i64);
        let wanted = number(paths.spec_replicas);
        let selector = match object.pointer(paths.selector) {
            // A custom resource keeps the selector as a text.
            Some(Value::String(text)) => text.clone(),
            other => scale_selector(other.cloned().unwrap_or(Value::Null)).to_string(),
        };
        let mut status = json!({"replicas": number(paths.status_replicas).unwrap_or(0)});
        if !(selector.is_empty() && self.kind.is_custom()) {
            status["selector"] = selector.into();
        }
        let spec = match wanted.unwrap_or(0) {
            0 => json!({}),
            replicas => json!({"replicas": replicas}),
        };
        Ok(json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
            },
            "spec": spec,
            "status": status,
        }))
    }
}

/// The selector of a kind that scales: a `LabelSelector`, or a plain map of labels.
fn scale_selector(selector: Value) -> corral_api::LabelSelector {
    if let Ok(labels) = serde_json::from_value::<BTreeMap<String, String>>(selector.clone()) {
        return corral_api::LabelSelector::from_set(&labels);
    }
    let selector = serde_json::from_value(selector).ok();
    corral_api::LabelSelector::from_object(selector.as_ref()).unwrap_or_default()
}
