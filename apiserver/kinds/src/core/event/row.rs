//! The row of an Event in a table, the same for both of its groups.

use corral_api::k8s::api::core::v1::Event;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, since};
use crate::rules::text;

/// Columns.
pub fn columns() -> Vec<Column> {
    vec![
        Column::text("Last Seen", "Time since it was last seen."),
        Column::text("Type", "Normal or Warning."),
        Column::text("Reason", "Why, in one word."),
        Column::text("Object", "What it is about."),
        Column::text("Subobject", "The part of the object it is about.").wide(),
        Column::text("Source", "Who reports it.").wide(),
        Column::text("Message", "What happened."),
        Column::text("First Seen", "Time since it was first seen.").wide(),
        Column::text("Count", "How often it was seen.").wide(),
        Column::NAME.wide(),
    ]
}

/// Cells.
pub fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
    let observed = event.event_time.as_ref().map(|t| t.0);
    let first = event.first_timestamp.as_ref().map(|t| t.0).or(observed);
    let last = event.last_timestamp.as_ref().map(|t| t.0).or(first);
    let (last, count) = match &event.series {
        Some(series) => {
            let observed = series.last_observed_time.as_ref().map(|t| t.0);
            (observed, series.count.unwrap_or(0))
        }
        // An event seen once has no count in the newer form.
        None => (last, event.count.filter(|n| *n != 0).unwrap_or(1)),
    };
    let object = &event.involved_object;
    let kind = text(&object.kind).to_lowercase();
    let target = match text(&object.name) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        since(last, now),
        text(&event.type_).into(),
        text(&event.reason).into(),
        target.into(),
        text(&object.field_path).into(),
        source(event).into(),
        text(&event.message).trim().into(),
        since(first, now),
        count.into(),
        event.metadata.name.clone().into(),
    ]
}

fn source(event: &Event) -> String {
    let given = event.source.as_ref();
    let old = |get: fn(&corral_api::k8s::api::core::v1::EventSource) -> &Option<String>| {
        given.map_or("", |s| text(get(s)))
    };
    let or = |first: &str, second: &Option<String>| match first {
        "" => text(second).to_owned(),
        given => given.to_owned(),
    };
    let component = or(old(|s| &s.component), &event.reporting_component);
    let instance = or(old(|s| &s.host), &event.reporting_instance);
    match instance.as_str() {
        "" => component,
        instance => format!("{component}, {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_when_what_and_whom() {
        let event = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started", "type": "Normal",
            "message": "Started container a\n", "source": {"component": "agent", "host": "n"}, "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:01:00Z",
        }))
        .expect("an event");
        let now = "2026-01-01T00:02:00Z".parse().expect("a time");
        assert_eq!(
            serde_json::json!(cells(&event, now)),
            serde_json::json!([
                "60s",
                "Normal",
                "Started",
                "pod/p",
                "",
                "agent, n",
                "Started container a",
                "2m",
                3,
                "e"
            ])
        );
    }
}
