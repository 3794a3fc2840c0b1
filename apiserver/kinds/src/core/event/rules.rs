//! What is wrong with an Event. The core group is lenient for the sake of old clients.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::Event;
use corral_api::names;

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
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    if series
        .last_observed_time
        .as_ref()
        .is_none_or(|t| t.0 == epoch)
    {
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
    let fixed = |event: &Event| Event {
        metadata: Default::default(),
        series: None,
        ..event.clone()
    };
    let (new, old) = (json(&fixed(new)), json(&fixed(old)));
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        rules::immutable(errors, &at(field), &new[field], &old[field]);
    }
}
