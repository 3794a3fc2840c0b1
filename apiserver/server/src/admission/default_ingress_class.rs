//! An Ingress that names no class gets the default one.

use corral_api::k8s::api::networking::v1::{Ingress, IngressClass};
use corral_kinds::Object;
use corral_kinds::networking::ingress::CLASS_ANNOTATION;
use corral_kinds::networking::ingress_class::is_default;

use crate::api::Api;

pub(super) fn admit(api: &Api, object: &mut Object) {
    let Some(ingress) = object.get_mut::<Ingress>() else {
        return;
    };
    let annotations = ingress.metadata.annotations.as_ref();
    let named = annotations.is_some_and(|a| a.contains_key(CLASS_ANNOTATION));
    let spec = ingress.spec.get_or_insert_default();
    if !named && spec.ingress_class_name.is_none() {
        spec.ingress_class_name = default_class(api);
    }
}

/// Of several, the newest; of those, the first by name.
fn default_class(api: &Api) -> Option<String> {
    let classes = api.resource("networking.k8s.io", "ingressclasses")?;
    let snapshot = classes.cacher.snapshot();
    let classes = snapshot.objects.values();
    let classes = classes.filter_map(|stored| serde_json::from_slice(&stored.json).ok());
    let defaults = classes.filter(|class: &IngressClass| is_default(class));
    // A map lists by name: only a newer one takes the place of one before it.
    defaults
        .reduce(|kept, class| {
            let created = |class: &IngressClass| class.metadata.creation_timestamp.clone();
            if created(&class) > created(&kept) {
                class
            } else {
                kept
            }
        })
        .and_then(|class| class.metadata.name)
}
