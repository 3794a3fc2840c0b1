//! A new node takes no pods until the node lifecycle controller has seen that it is ready.

use corral_api::k8s::api::core::v1::{Node, Taint};
use corral_kinds::Object;

const KEY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(super) fn admit(object: &mut Object) {
    let Some(node) = object.get_mut::<Node>() else {
        return;
    };
    let taints = node
        .spec
        .get_or_insert_default()
        .taints
        .get_or_insert_default();
    if taints.iter().any(|t| t.key == KEY && t.effect == EFFECT) {
        return;
    }
    taints.push(Taint {
        key: KEY.to_owned(),
        effect: EFFECT.to_owned(),
        ..Taint::default()
    });
}
