//! Every namespace has the ServiceAccount `default`. Other accounts are never touched.

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{Namespace, ServiceAccount};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use crate::context::Context;

const ACCOUNT: &str = "default";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub namespace: Arc<Namespace>,
    pub account: Option<Arc<ServiceAccount>>,
}

/// The account to be created, if any.
pub fn plan(world: &World) -> Option<ServiceAccount> {
    if world.account.is_some() || !is_active(&world.namespace) {
        return None;
    }
    let metadata = ObjectMeta {
        name: Some(ACCOUNT.into()),
        namespace: world.namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    Some(ServiceAccount {
        metadata,
        ..ServiceAccount::default()
    })
}

/// Whether things can be created in a namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

struct ServiceAccounts {
    namespaces: Objects<Namespace>,
    accounts: Objects<ServiceAccount>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "service-account-controller";
    let (namespaces, accounts) = (
        context.objects::<Namespace>(name),
        context.objects::<ServiceAccount>(name),
    );
    let controller = Controller::new("serviceaccount")
        .watch(namespaces.cache())
        .map(accounts.cache(), |change| {
            let meta = &change.latest().metadata;
            let ours = meta.name.as_deref() == Some(ACCOUNT);
            meta.namespace
                .iter()
                .filter(|_| ours)
                .map(ObjectKey::cluster)
                .collect()
        });
    let reconciler = ServiceAccounts {
        namespaces,
        accounts,
    };
    controller.run_planned(
        reconciler,
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for ServiceAccounts {
    type World = World;
    type Plan = Option<ServiceAccount>;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let namespace = self.namespaces.get(key)?;
        let account = self.accounts.get(&ObjectKey::new(&key.name, ACCOUNT));
        Some(World { namespace, account })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Self::Plan {
        plan(world)
    }

    async fn apply(
        &self,
        _world: &World,
        plan: Self::Plan,
        _now: Timestamp,
    ) -> Result<Action, Error> {
        if let Some(account) = plan {
            created(self.accounts.create(&account).await.map(drop))?;
        }
        Ok(Action::Done)
    }
}

/// Being there already, or no longer being possible, is as good as having been created.
pub(crate) fn created(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn only_a_namespace_that_lives_and_has_no_default_account_gets_one(
            ending in any::<bool>(),
            marked in any::<bool>(),
            there in any::<bool>(),
        ) {
            let phase = if ending { "Terminating" } else { "Active" };
            let deleted = marked.then_some("2026-01-01T00:00:00Z");
            let namespace: Namespace = object(json!({
                "metadata": {"name": "n", "deletionTimestamp": deleted}, "status": {"phase": phase},
            }));
            let account = there.then(|| Arc::new(ServiceAccount::default()));
            let planned = plan(&World { namespace: Arc::new(namespace), account });
            prop_assert_eq!(planned.is_some(), !ending && !marked && !there);
            if let Some(made) = planned {
                prop_assert_eq!(made.metadata.name.as_deref(), Some(ACCOUNT));
                prop_assert_eq!(made.metadata.namespace.as_deref(), Some("n"));
            }
        }
    }
}
