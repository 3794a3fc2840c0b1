//! What is wrong with an Event. The core group is lenient for the sake of old clients.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Event, ObjectReference};
use corral_api::names;
use jiff::Timestamp;

use crate::rules::{self, Errors, at, json, text};

const WORD_LENGTH_MAX: usize = 128;
const NOTE_LENGTH_MAX: usize = 1024;

/// Rules of both groups; the name of the reporting component's field differs.
pub(crate) fn lenient(errors: &mut Errors, event: &Event, reporter: &str) {
    let namespace = text(&event.metadata.namespace);
    let about = text(&event.involved_object.namespace);
    let matches = match (event.event_time.is_some(), about) {
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
        (false, "") => matches!(namespace, "" | "default"),
        (false, about) => namespace == about,
    };
    if !matches {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(
            &at("involvedObject.namespace"),
            about,
            detail,
        ));
    }
    if event.event_time.is_some() {
        let component = text(&event.reporting_component);
        let path = at(reporter);
        if component.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        rules::complain(errors, &path, component, names::qualified_name(component));
        for (field, value) in [
            ("reportingInstance", &event.reporting_instance),
            ("action", &event.action),
            ("reason", &event.reason),
        ] {
            if text(value).is_empty() {
                errors.push(FieldError::required(&at(field), ""));
            }
            bounded(errors, &at(field), text(value), WORD_LENGTH_MAX);
        }
        bounded(
            errors,
            &at("message"),
            text(&event.message),
            NOTE_LENGTH_MAX,
        );
    }
    if !namespace.is_empty() {
        let complaints = names::dns1123_subdomain(namespace);
        rules::complain(errors, &at("namespace"), namespace, complaints);
    }
}

fn bounded(errors: &mut Errors, path: &FieldPath, value: &str, max: usize) {
    if value.len() > max {
        let detail = format!("can have at most {max} characters");
        errors.push(FieldError::invalid(path, "", detail));
    }
}

fn series(errors: &mut Errors, event: &Event) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(
            &at("series.count"),
            "",
            "should be at least 2",
        ));
    }
    // A time that the type cannot leave out is the first second there is, or the epoch.
    let last = series.last_observed_time.as_ref();
    if last.is_none_or(|t| t.0 <= Timestamp::UNIX_EPOCH) {
        errors.push(FieldError::required(&at("series.lastObservedTime"), ""));
    }
}

/// What `events.k8s.io` asks of a new Event besides.
pub(crate) fn strict_create(errors: &mut Errors, event: &Event) {
    lenient(errors, event, "reportingController");
    series(errors, event);
    if event.event_time.is_none() {
        errors.push(FieldError::required(&at("eventTime"), ""));
    }
    if !matches!(text(&event.type_), "Normal" | "Warning") {
        let detail = format!("has invalid value: {}", text(&event.type_));
        errors.push(FieldError::invalid(&at("type"), "", detail));
    }
    let source = event.source.as_ref();
    let has_source =
        source.is_some_and(|s| !text(&s.component).is_empty() || !text(&s.host).is_empty());
    for (field, given) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or(0) != 0),
        ("source", has_source),
    ] {
        if given {
            errors.push(FieldError::invalid(&at(field), "", "needs to be unset"));
        }
    }
}

/// What `events.k8s.io` lets change: the series only.
pub(crate) fn strict_update(errors: &mut Errors, new: &Event, old: &Event) {
    lenient(errors, new, "reportingController");
    if new.series != old.series {
        series(errors, new);
    }
    for ((field, value), (_, was)) in fixed(new).into_iter().zip(fixed(old)) {
        if value != was {
            errors.push(FieldError {
                value: Some(value),
                ..rules::invalid_unshown(&at(field), "field is immutable")
            });
        }
    }
}

/// What stays as it was, as errors show it. Absent and empty are the same here, but for what is referred to.
fn fixed(event: &Event) -> [(&'static str, String); 13] {
    let words = |value: &Option<String>| json(text(value)).to_string();
    // Clients that cut a time to microseconds have not changed it.
    let time = event.event_time.as_ref();
    let time = time.map(|t| corral_api::time::MicroTime(truncated(t.0)));
    let source = event.source.clone().unwrap_or_default();
    let source = format!(
        "{{\"Component\":{},\"Host\":{}}}",
        words(&source.component),
        words(&source.host)
    );
    let related = event.related.as_ref();
    [
        ("involvedObject", reference(&event.involved_object)),
        ("reason", words(&event.reason)),
        ("message", words(&event.message)),
        ("source", source),
        ("firstTimestamp", json(&event.first_timestamp).to_string()),
        ("lastTimestamp", json(&event.last_timestamp).to_string()),
        ("count", event.count.unwrap_or(0).to_string()),
        ("type", words(&event.type_)),
        ("eventTime", json(&time).to_string()),
        ("action", words(&event.action)),
        ("related", related.map_or("null".to_owned(), reference)),
        ("reportingController", words(&event.reporting_component)),
        ("reportingInstance", words(&event.reporting_instance)),
    ]
}

fn truncated(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// A reference under the names of Kubernetes' own code, as its errors show it.
fn reference(object: &ObjectReference) -> String {
    let parts = [
        ("Kind", &object.kind),
        ("Namespace", &object.namespace),
        ("Name", &object.name),
        ("UID", &object.uid),
        ("APIVersion", &object.api_version),
        ("ResourceVersion", &object.resource_version),
        ("FieldPath", &object.field_path),
    ];
    let parts = parts.map(|(name, value)| format!("\"{name}\":{}", json(text(value))));
    format!("{{{}}}", parts.join(","))
}
