//! Where an empty list or map is not the same as none.
//!
//! Kubernetes' store does not tell them apart, so that an object is read back without them. Its rules do in a few places,
//! before the object is stored: there something empty is kept until then.

/// The fields of a type that are kept when they are empty, until the object is complete.
pub(super) fn kept(definition: &str) -> &'static [&'static str] {
    match definition {
        // Forbidden, however little they say.
        "io.k8s.api.core.v1.EphemeralContainer" => &["resizePolicy"],
        // An empty list of managers is a wish besides: that nobody owns anything.
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" => {
            &["finalizers", "managedFields", "ownerReferences"]
        }
        // No policies are a fault, policies that are not given have defaults.
        "io.k8s.api.autoscaling.v2.HPAScalingRules" => &["policies"],
        // Shown as they were sent.
        "io.k8s.api.core.v1.PersistentVolumeSpec" => &["capacity"],
        "io.k8s.api.networking.v1.IngressSpec" => &["rules"],
        "io.k8s.api.networking.v1.ServiceCIDRSpec" => &["cidrs"],
        "io.k8s.api.storage.v1.StorageClass" => &["parameters"],
        // Always written by its type in Rust, and by that in Go only where it says something.
        "io.k8s.api.core.v1.LocalObjectReference" => &["name"],
        // What the root of a schema may say at all.
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps" => &[
            "allOf",
            "anyOf",
            "definitions",
            "dependencies",
            "enum",
            "oneOf",
            "patternProperties",
            "x-kubernetes-list-map-keys",
        ],
        _ => &[],
    }
}
