//! Pods tolerate an unready or unreachable node for five minutes unless they say otherwise.

use corral_api::k8s::api::core::v1::{Pod, Toleration};
use corral_kinds::Object;

/// Seconds before a pod leaves a node that does not answer.
const SECONDS: i64 = 300;

pub(super) fn admit(object: &mut Object) {
    let Some(spec) = object.get_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerations = spec.tolerations.get_or_insert_default();
        let told = tolerations.iter().any(|t| {
            let key_fits = t.key.as_deref().is_none_or(|k| k.is_empty() || k == key);
            let effect_fits = t
                .effect
                .as_deref()
                .is_none_or(|e| e.is_empty() || e == "NoExecute");
            key_fits && effect_fits
        });
        if !told {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(SECONDS),
                value: None,
            });
        }
    }
}
