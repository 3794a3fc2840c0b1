//! One stored thing, two kinds: the Event of the core group is what is stored, the Event of `events.k8s.io` is the
//! same under newer names.

use corral_api::k8s::api::core::v1 as core;
use corral_api::k8s::api::events::v1 as events;
use corral_api::time::MicroTime;
use jiff::Timestamp;
use serde_json::Value;

/// Names of fields, in `events.k8s.io` and in the core group, where they differ.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// The stored form of an object's JSON. Everything whose name is the same, metadata included, stays as it is.
pub fn to_core_json(value: Value) -> Value {
    rename(value, "v1", RENAMED)
}

/// The form of `events.k8s.io` of a stored object's JSON.
pub fn from_core_json(value: Value) -> Value {
    let back = RENAMED.map(|(new, old)| (old, new));
    let mut value = rename(value, "events.k8s.io/v1", back);
    if let Value::Object(fields) = &mut value {
        // The stored form has them always, this one where they say something.
        for name in ["reportingController", "reportingInstance"] {
            if fields.get(name).and_then(Value::as_str) == Some("") {
                fields.remove(name);
            }
        }
    }
    value
}

fn rename(mut value: Value, api_version: &str, names: [(&str, &str); 7]) -> Value {
    if let Value::Object(fields) = &mut value {
        for (from, to) in names {
            if let Some(field) = fields.remove(from) {
                fields.insert(to.to_owned(), field);
            }
        }
        if fields.contains_key("apiVersion") {
            fields.insert("apiVersion".to_owned(), api_version.into());
        }
    }
    value
}

/// The stored form.
pub fn to_core(event: events::Event) -> core::Event {
    core::Event {
        metadata: event.metadata,
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        reason: event.reason,
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|series| core::EventSeries {
            count: Some(series.count),
            last_observed_time: Some(series.last_observed_time),
        }),
        source: event.deprecated_source,
        type_: event.type_,
    }
}

/// The form of `events.k8s.io`.
pub fn from_core(event: core::Event) -> events::Event {
    events::Event {
        metadata: event.metadata,
        action: event.action,
        deprecated_count: event.count,
        deprecated_first_timestamp: event.first_timestamp,
        deprecated_last_timestamp: event.last_timestamp,
        deprecated_source: event.source,
        event_time: event.event_time,
        note: event.message,
        reason: event.reason,
        regarding: Some(event.involved_object),
        related: event.related,
        reporting_controller: event.reporting_component,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|series| events::EventSeries {
            count: series.count.unwrap_or(0),
            // The newer form cannot leave the time out.
            last_observed_time: series
                .last_observed_time
                .unwrap_or(MicroTime(Timestamp::UNIX_EPOCH)),
        }),
        type_: event.type_,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let given = serde_json::json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "action": "Binding",
            "eventTime": "2026-01-01T00:00:00.000001Z", "note": "hello", "reason": "Scheduled",
            "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "x", "reportingInstance": "y",
            "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}, "type": "Normal",
            "deprecatedCount": 3, "deprecatedSource": {"component": "c"},
        });
        let event: events::Event = serde_json::from_value(given.clone()).expect("an event");
        let stored = to_core(event.clone());
        let stored_json = to_core_json(given.clone());
        assert_eq!(stored_json, serde_json::to_value(&stored).expect("JSON"));
        assert_eq!(from_core_json(stored_json), given);
        assert_eq!(stored.message.as_deref(), Some("hello"));
        assert_eq!(stored.involved_object.name.as_deref(), Some("p"));
        assert_eq!(stored.count, Some(3));
        assert_eq!(from_core(stored), event);
    }
}
