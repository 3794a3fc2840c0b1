//! Objects between the version of a resource and the one in which the store keeps them.

use std::sync::Arc;

use bytes::Bytes;
use corral_api::status::Status;
use corral_kinds::AnyKind;
use corral_storage::{self as storage, Entry, Key, Revision};
use serde_json::Value;

use super::Resource;
use crate::apply::{Manager, Owners, Views, versions_of};
use crate::cacher::{Cacher, storage_status};
use crate::conversion::Conversion;
use crate::object::{canonical, is_with_revision, own_form, stored_form, with_revision};

/// An object as it is read for a change.
pub struct Live {
    /// It, in the resource's own version.
    pub entry: Entry,
    /// The bytes that the store keeps.
    pub stored: Bytes,
}

/// The state of an object that an update is computed from.
pub struct Base {
    pub key: Key,
    pub revision: Revision,
    /// Its JSON as clients see it.
    pub json: Bytes,
}

impl Base {
    /// Whether these canonical bytes are what it is.
    pub fn is(&self, bytes: &Bytes) -> bool {
        is_with_revision(&self.json, bytes, self.revision)
    }
}

impl Live {
    /// It, as what an update is computed from.
    pub fn base(&self) -> Base {
        let Entry {
            key,
            value,
            revision,
        } = &self.entry;
        Base {
            key: key.clone(),
            revision: *revision,
            json: with_revision(value, *revision),
        }
    }

    /// Whether the store keeps it in a version (its group and its name).
    pub fn is_of_version(&self, (group, version): (&str, &str)) -> bool {
        // Stored objects begin with their type.
        let start = format!("{{\"apiVersion\":\"{group}/{version}\"");
        self.stored.starts_with(start.as_bytes())
    }
}

impl Resource {
    /// Lets somebody else convert. `bare`: the cache of those who want no more than metadata, which is the resource's own
    /// if it is `shared`.
    pub fn convert(&mut self, conversion: Arc<Conversion>, bare: Arc<Cacher>, shared: bool) {
        let (kind, store) = (self.kind.clone(), self.storage.clone());
        let mut for_metadata = Self::new(kind.clone(), store.clone(), self.admission.clone());
        for_metadata.cacher = bare.clone();
        for_metadata.ended = self.ended.clone();
        self.cacher = match shared {
            true => bare,
            false => Cacher::on_demand(kind, store, Some(conversion.clone())),
        };
        self.conversion = Some(conversion);
        self.bare = Some(Arc::new(for_metadata));
    }

    /// The resource for a reader who wants no more than metadata: they are the same in every version.
    pub fn for_metadata(&self) -> &Self {
        self.bare.as_deref().unwrap_or(self)
    }

    /// The newest state of an object, from the store itself.
    ///
    /// # Errors
    /// When the store does not answer, or the object is not converted.
    pub async fn fetch(&self, key: &Key) -> Result<Option<Entry>, Status> {
        let live = self.live(self.storage.get(key).await).await?;
        Ok(live.map(|live| live.entry))
    }

    /// The same, for a change.
    ///
    /// # Errors
    /// As [`Resource::fetch`]; 500 when the store cannot read what it keeps.
    pub async fn fetch_live(&self, key: &Key) -> Result<Option<Live>, Status> {
        match self.storage.get(key).await {
            Err(storage::Error::Unreadable { why, .. }) => Err(Status::internal(why)),
            other => self.live(other).await,
        }
    }

    /// An object as the cache has it, which may be behind the store, if there is a cache of the resource's own version.
    pub(super) fn cached(&self, key: &Key) -> Option<Base> {
        if self.conversion.is_some() {
            return None;
        }
        let stored = self.cacher.peek(key)?;
        Some(Base {
            key: key.clone(),
            revision: stored.revision,
            json: stored.json.clone(),
        })
    }

    /// The newest state of an object, if it is still this one.
    pub(super) async fn still(&self, base: &Base) -> Result<Option<Live>, Status> {
        let live = self.fetch_live(&base.key).await?;
        Ok(live.filter(|live| live.entry.revision == base.revision))
    }

    async fn live(
        &self,
        answer: Result<Option<Entry>, storage::Error>,
    ) -> Result<Option<Live>, Status> {
        let Some(mut entry) = answer.map_err(|e| storage_status(&e))? else {
            return Ok(None);
        };
        let stored = entry.value.clone();
        entry.value = match &self.conversion {
            None => own_form(&*self.kind, &stored).map_err(Status::internal)?,
            Some(conversion) => {
                let version = self.kind.names().api_version();
                one(Box::pin(conversion.read(vec![stored.clone()], &version)).await?)?
            }
        };
        Ok(Some(Live { entry, stored }))
    }

    /// The bytes that the store keeps for an object.
    ///
    /// # Errors
    /// When the object is not converted.
    pub(super) async fn stored(&self, bytes: &Bytes) -> Result<Bytes, Status> {
        let Some(conversion) = &self.conversion else {
            return stored_form(&*self.kind, bytes).map_err(Status::internal);
        };
        let (group, version) = self.kind.storage_version();
        let value: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
        let version = format!("{group}/{version}");
        if value["apiVersion"] == version.as_str() {
            return Ok(bytes.clone());
        }
        Ok(canonical(one(Box::pin(
            conversion.convert(vec![value], &version),
        )
        .await?)?))
    }

    /// An object as it comes back from the store, where another version of its kind may have no place for all of it; and
    /// the bytes that the store keeps.
    ///
    /// # Errors
    /// When the object is not converted.
    pub(super) async fn through_store(&self, bytes: Bytes) -> Result<(Bytes, Bytes), Status> {
        let stored = self.stored(&bytes).await?;
        let names = self.kind.names();
        if !self.kind.is_custom() || self.kind.storage_version() == (names.group, names.version) {
            return Ok((bytes, stored));
        }
        let back = match &self.conversion {
            None => own_form(&*self.kind, &stored).map_err(Status::internal)?,
            Some(conversion) => {
                one(Box::pin(conversion.read(vec![stored.clone()], &names.api_version())).await?)?
            }
        };
        Ok((back, stored))
    }

    /// An object in the version of another resource of the same kind, or of one that stands for it.
    ///
    /// # Errors
    /// When it is not converted.
    pub async fn converted_to(&self, to: &Self, value: Value) -> Result<Value, Status> {
        let Some(conversion) = &self.conversion else {
            return Ok(to.kind.from_stored(self.kind.to_stored(value)));
        };
        let version = to.kind.names().api_version();
        one(Box::pin(conversion.convert(vec![value], &version)).await?)
    }

    /// An object before and after a change, in the versions in which its managers named their fields.
    pub(super) async fn views(
        &self,
        old: Option<&Value>,
        new: &Value,
        owners: Owners<'_>,
        manager: &Manager,
    ) -> Views {
        let mut views = Views::default();
        let Some(conversion) = &self.conversion else {
            return views;
        };
        views.complete = true;
        for version in versions_of(owners, &manager.api_version) {
            let Some(kind) = conversion.kind(&version) else {
                continue;
            };
            let pair = old.into_iter().chain([new]).cloned().collect();
            match Box::pin(conversion.convert(pair, &version)).await {
                Ok(mut pair) => {
                    let new = pair.pop().unwrap_or_default();
                    views.add(version, kind.schema(), pair.pop(), new);
                }
                // Entries that nobody can compare stay as they are.
                Err(failure) => {
                    let why = &failure.status.message;
                    tracing::warn!(version, why, "owners of fields are not looked at");
                    views.keep(version);
                }
            }
        }
        views
    }
}

fn one<T>(converted: Vec<T>) -> Result<T, Status> {
    let first = converted.into_iter().next();
    first.ok_or_else(|| Status::internal("a conversion without an object"))
}
