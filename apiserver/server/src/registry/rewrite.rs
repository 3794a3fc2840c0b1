//! Writes that change nothing of an object, but how the store keeps it.
//!
//! Replacing every object by itself is how a cluster's objects come under another key of encryption, as
//! `kubectl get secrets -A -o json | kubectl replace -f -` does, and how custom resources come to another storage version.

use corral_api::status::Status;
use corral_storage::{self as storage, Operation};

use super::versions::Live;
use super::{Resource, WriteContext, Written, unchanged};
use crate::cacher::storage_status;
use crate::object::with_revision;

impl Resource {
    /// Whether the store keeps a custom resource in a version, or with fields, that it would not have if it were written now.
    async fn is_of_old_form(&self, live: &Live) -> Result<bool, Status> {
        if !self.kind.is_custom() {
            return Ok(false);
        }
        let own_version = live.is_of_version(self.kind.storage_version());
        if self.conversion.is_some() || !own_version {
            return Ok(!own_version);
        }
        Ok(self.stored(&live.entry.value).await? != live.stored)
    }

    /// What a write answers that leaves an object as it is. It is stored again when the store would keep it otherwise
    /// now; `None` when another writer came first.
    pub(super) async fn leave(
        &self,
        cx: &WriteContext,
        read: &Live,
    ) -> Result<Option<Written>, Status> {
        let live = &read.entry;
        let as_it_is = || Some(unchanged(with_revision(&live.value, live.revision)));
        if cx.dry_run {
            return Ok(as_it_is());
        }
        let stale = self.storage.is_stale(&live.key).await;
        if !stale.map_err(|error| storage_status(&error))? && !self.is_of_old_form(read).await? {
            return Ok(as_it_is());
        }
        let again = Operation::Update {
            key: live.key.clone(),
            value: self.stored(&live.value).await?,
            expected: live.revision,
        };
        match self.storage.commit(vec![again]).await {
            Ok(revision) => Ok(Some(unchanged(with_revision(&live.value, revision)))),
            Err(storage::Error::Conflict { .. } | storage::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(storage_status(&error)),
        }
    }
}
