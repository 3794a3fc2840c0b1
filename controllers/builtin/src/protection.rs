//! Storage that is in use is not deleted: claims that pods use, volumes that are bound, classes of attributes that
//! volumes or claims have. A finalizer holds each; it is taken away when the object is to go and nobody uses it.
//!
//! The finalizer comes with the object by admission. Those that came without it get it here.

mod claims;
mod classes;
mod volumes;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_runtime::key::Object;
use corral_runtime::{Error, Objects};
use serde::Serialize;

pub use claims::start as start_claims;
pub use classes::start as start_classes;
pub use volumes::start as start_volumes;

/// What becomes of the finalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Keep,
    Add,
    Remove,
}

/// Decides about the object with this metadata.
pub fn plan(meta: &ObjectMeta, finalizer: &str, in_use: bool) -> Plan {
    let held = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match (meta.deletion_timestamp.is_some(), held) {
        (false, false) => Plan::Add,
        (true, true) if !in_use => Plan::Remove,
        _ => Plan::Keep,
    }
}

/// Writes the object with or without the finalizer.
async fn apply<K>(
    objects: &Objects<K>,
    observed: &K,
    finalizer: &str,
    plan: Plan,
) -> Result<(), Error>
where
    K: Object<DynamicType = ()> + Serialize,
{
    let mut changed = observed.clone();
    let finalizers = changed.meta_mut().finalizers.get_or_insert_default();
    match plan {
        Plan::Keep => return Ok(()),
        Plan::Add => finalizers.push(finalizer.to_owned()),
        Plan::Remove => finalizers.retain(|f| f != finalizer),
    }
    let written = objects.replace(&changed).await.map(drop);
    crate::ownership::gone_is_fine(written)
}

#[cfg(test)]
mod tests {
    use corral_api::k8s::api::core::v1::PersistentVolume;
    use corral_runtime::testing::object;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_goes_and_is_not_used_is_let_go() {
        let plan_of = |meta: serde_json::Value, in_use| {
            let volume: PersistentVolume = object(json!({"metadata": meta}));
            plan(&volume.metadata, "x/y", in_use)
        };
        let going = json!({"finalizers": ["x/y"], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(plan_of(going.clone(), true), Plan::Keep);
        assert_eq!(plan_of(going, false), Plan::Remove);
        assert_eq!(plan_of(json!({"finalizers": ["x/y"]}), false), Plan::Keep);
        assert_eq!(plan_of(json!({}), true), Plan::Add);
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(plan_of(gone, false), Plan::Keep);
    }
}
