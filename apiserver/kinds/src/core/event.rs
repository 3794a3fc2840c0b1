//! `Event`.

use corral_api::k8s::api::core::v1::Event;

use crate::kind::{Kind, Names};

/// `v1 Event`.
pub struct EventKind;

impl Kind for EventKind {
    type Object = Event;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
    };
}
