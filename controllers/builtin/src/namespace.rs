//! Namespace deletion: everything inside goes first, whatever its kind, then the namespace itself.
//!
//! A loose handler and no plan: what is inside is only known by asking the server about every kind it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::controller::handler_fn;
use corral_runtime::factory::Metadata;
use corral_runtime::{Action, Clock, Controller, Error, ObjectKey, Objects};
use kube::Resource;
use kube::core::params::{DeleteParams, ListParams, PropagationPolicy};
use kube::core::{DynamicObject, ObjectList, Request};
use serde_json::Value;

use crate::context::Context;
use crate::discovery::{self, Discovered, Kind};

/// The finalizer that stands for the contents.
const FINALIZER: &str = "kubernetes";
/// How soon remaining contents are looked at again.
const RECHECK: Duration = Duration::from_secs(1);
/// Objects counted per kind; a condition needs no more.
const COUNT_MAX: u32 = 500;

/// What is left in a namespace after an attempt to delete everything.
#[derive(Debug, Default)]
pub struct Remains {
    /// Objects by kind.
    pub counts: BTreeMap<String, usize>,
    /// Objects by finalizer.
    pub finalizers: BTreeMap<String, usize>,
    pub discovery_failures: Vec<String>,
    pub deletion_failures: Vec<String>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.counts.is_empty()
            && self.discovery_failures.is_empty()
            && self.deletion_failures.is_empty()
    }
}

struct Namespaces {
    namespaces: Objects<Namespace>,
    clock: Arc<dyn Clock>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let namespaces = context.objects::<Namespace>("namespace-controller");
    let controller = Controller::new("namespace").watch(namespaces.cache());
    let this = Arc::new(Namespaces {
        namespaces,
        clock: Arc::clone(&context.clock),
    });
    let handler = handler_fn(move |key| {
        let this = Arc::clone(&this);
        async move { this.handle(key).await }
    });
    controller.run(handler, 4, &context.metrics, &context.tasks);
}

impl Namespaces {
    async fn handle(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(namespace) = self.namespaces.get(&key) else {
            return Ok(Action::Done);
        };
        let held = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.as_ref());
        let ours = held.is_some_and(|finalizers| finalizers.iter().any(|f| f == FINALIZER));
        if namespace.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(Action::Done);
        }
        let discovered = discovery::discover(self.namespaces.client()).await?;
        let remains = self.empty(&key.name, discovered).await;
        let namespace = self.write_status(&namespace, &remains).await?;
        if !remains.is_empty() {
            return Ok(Action::After(RECHECK));
        }
        let mut finalized = (*namespace).clone();
        if let Some(finalizers) = finalized
            .spec
            .as_mut()
            .and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let outcome = self
            .namespaces
            .replace_subresource("finalize", &finalized)
            .await;
        crate::ownership::gone_is_fine(outcome.map(drop))?;
        Ok(Action::Done)
    }

    async fn empty(&self, namespace: &str, discovered: Discovered) -> Remains {
        let mut remains = Remains {
            discovery_failures: discovered.failures,
            ..Remains::default()
        };
        for kind in discovered.kinds {
            if !kind.namespaced || !kind.can("delete") || !kind.can("list") {
                continue;
            }
            if let Err(error) = self.empty_kind(namespace, &kind, &mut remains).await {
                let text = format!("{}: {}", kind.resource.plural, error.message());
                remains.deletion_failures.push(text);
            }
        }
        remains
    }

    async fn empty_kind(
        &self,
        namespace: &str,
        kind: &Kind,
        remains: &mut Remains,
    ) -> Result<(), Error> {
        let found = self.list(namespace, kind).await?;
        if found.is_empty() {
            return Ok(());
        }
        let path = DynamicObject::url_path(&kind.resource, Some(namespace));
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let client = self.namespaces.client();
        if kind.can("deletecollection") {
            let request =
                Request::new(path.as_str()).delete_collection(&params, &ListParams::default())?;
            client.request::<Value>(request).await?;
        } else {
            for object in &found {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let request = Request::new(path.as_str()).delete(name, &params)?;
                match client.request::<Value>(request).await.map_err(Error::from) {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        let left = self.list(namespace, kind).await?;
        if !left.is_empty() {
            // The dot stays where the group is empty: so Kubernetes writes it, and people search for it.
            let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
            remains.counts.insert(name, left.len());
        }
        for finalizer in left
            .iter()
            .flat_map(|object| object.metadata.finalizers.iter().flatten())
        {
            *remains.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
        }
        Ok(())
    }

    async fn list(&self, namespace: &str, kind: &Kind) -> Result<Vec<Metadata>, Error> {
        let path = DynamicObject::url_path(&kind.resource, Some(namespace));
        let request = Request::new(path).list_metadata(&ListParams::default().limit(COUNT_MAX))?;
        match self
            .namespaces
            .client()
            .request::<ObjectList<Metadata>>(request)
            .await
            .map_err(Error::from)
        {
            Ok(list) => Ok(list.items),
            // The kind went away between discovery and now.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn write_status(
        &self,
        namespace: &Arc<Namespace>,
        remains: &Remains,
    ) -> Result<Arc<Namespace>, Error> {
        let status = status_of(namespace.status.as_ref(), remains, self.clock.now());
        if namespace.status.as_ref() == Some(&status) {
            return Ok(Arc::clone(namespace));
        }
        let written = Namespace {
            status: Some(status),
            ..(**namespace).clone()
        };
        self.namespaces.replace_status(&written).await
    }
}

/// The status that tells what is left, in Kubernetes' words. Pure.
pub fn status_of(
    old: Option<&NamespaceStatus>,
    remains: &Remains,
    now: jiff::Timestamp,
) -> NamespaceStatus {
    let counts = |map: &BTreeMap<String, usize>, joint: &str| {
        let parts: Vec<_> = map
            .iter()
            .map(|(key, n)| format!("{key}{joint}{n} resource instances"))
            .collect();
        parts.join(", ")
    };
    let remaining = format!(
        "Some resources are remaining: {}",
        counts(&remains.counts, " has ")
    );
    let held = counts(&remains.finalizers, " in ");
    let held = format!("Some content in the namespace has finalizers remaining: {held}");
    let discovery = format!(
        "Discovery failed for some groups: {}",
        remains.discovery_failures.join(", ")
    );
    let failed = format!(
        "Failed to delete all resource types: {}",
        remains.deletion_failures.join(", ")
    );
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            !remains.discovery_failures.is_empty(),
            ("DiscoveryFailed", discovery),
            (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("", String::new()),
            (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        ),
        (
            "NamespaceDeletionContentFailure",
            !remains.deletion_failures.is_empty(),
            ("ContentDeletionFailed", failed),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            !remains.counts.is_empty(),
            ("SomeResourcesRemain", remaining),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            !remains.finalizers.is_empty(),
            ("SomeFinalizersRemain", held),
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ];
    let known: Vec<NamespaceCondition> = old
        .and_then(|old| old.conditions.clone())
        .unwrap_or_default();
    let conditions = rows.into_iter().map(|(name, holds, bad, good)| {
        let (reason, message) = if holds {
            bad
        } else {
            (good.0, good.1.to_owned())
        };
        let status = if holds { "True" } else { "False" };
        let before = known
            .iter()
            .find(|condition| condition.type_ == name && condition.status == status);
        NamespaceCondition {
            type_: name.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(Time(truncate_to_seconds(now)))),
        }
    });
    NamespaceStatus {
        conditions: Some(conditions.collect()),
        phase: Some("Terminating".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_conditions_tell_what_is_left_and_keep_their_times(
            counts in proptest::collection::btree_map("[a-c]{1,3}", 1..9usize, 0..3),
            finalizers in proptest::collection::btree_map("[a-c]{1,3}", 1..9usize, 0..3),
            discovery in proptest::collection::vec("[a-c]{1,3}", 0..2),
            deletion in proptest::collection::vec("[a-c]{1,3}", 0..2),
        ) {
            let remains = Remains {
                counts,
                finalizers,
                discovery_failures: discovery,
                deletion_failures: deletion,
            };
            let (then, later) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::from_second(60).expect("in range"));
            let status = status_of(None, &remains, then);
            let holds = |name: &str| {
                let mut all = status.conditions.iter().flatten();
                all.any(|condition| condition.type_ == name && condition.status == "True")
            };
            prop_assert_eq!(holds("NamespaceContentRemaining"), !remains.counts.is_empty());
            prop_assert_eq!(holds("NamespaceFinalizersRemaining"), !remains.finalizers.is_empty());
            prop_assert_eq!(holds("NamespaceDeletionContentFailure"), !remains.deletion_failures.is_empty());
            prop_assert_eq!(holds("NamespaceDeletionDiscoveryFailure"), !remains.discovery_failures.is_empty());
            prop_assert_eq!(status_of(Some(&status), &remains, later), status, "the same is told since the same time");
        }
    }
}
