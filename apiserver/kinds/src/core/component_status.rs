//! `ComponentStatus`: how parts of the cluster are; computed when it is asked for.

use corral_api::k8s::api::core::v1::ComponentStatus;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Verbs, Words};
use crate::rules::text;

/// `v1 ComponentStatus`.
pub struct ComponentStatusKind;

impl Kind for ComponentStatusKind {
    type Object = ComponentStatus;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "ComponentStatus",
        plural: "componentstatuses",
        singular: "componentstatus",
        short_names: Words::Of(&["cs"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::ReadOnly;
    const DEPRECATION: Option<&'static str> = Some("v1 ComponentStatus is deprecated in v1.19+");

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Status", "Whether it is well."),
            Column::text("Message", "What it says."),
            Column::text("Error", "What is wrong with it."),
        ]
    }

    fn cells(component: &ComponentStatus, _now: Timestamp) -> Vec<Value> {
        let mut conditions = component.conditions.iter().flatten();
        let condition = conditions.find(|condition| condition.type_ == "Healthy");
        let status = match condition.map(|condition| condition.status.as_str()) {
            None => "Unknown",
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
        };
        vec![
            component.metadata.name.clone().into(),
            status.into(),
            condition.map_or("", |c| text(&c.message)).into(),
            condition.map_or("", |c| text(&c.error)).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_well_unwell_or_unknown() {
        let component = |conditions: Value| -> Vec<Value> {
            let object = serde_json::json!({"conditions": conditions});
            let object = serde_json::from_value(object).expect("a component");
            ComponentStatusKind::cells(&object, Timestamp::UNIX_EPOCH)
        };
        let healthy = serde_json::json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
        assert_eq!(component(healthy)[1..], ["Healthy", "ok", ""]);
        let unhealthy = serde_json::json!([{"type": "Healthy", "status": "False", "error": "no"}]);
        assert_eq!(component(unhealthy)[1..], ["Unhealthy", "", "no"]);
        assert_eq!(component(Value::Null)[1], "Unknown");
    }
}
