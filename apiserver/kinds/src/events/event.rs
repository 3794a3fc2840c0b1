//! `Event`.

use corral_api::k8s::api::events::v1::Event;

use crate::kind::{Kind, Names};

/// `events.k8s.io/v1 Event`.
pub struct EventKind;

impl Kind for EventKind {
    type Object = Event;

    const NAMES: Names = Names {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
    };
}
