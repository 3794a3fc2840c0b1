//! Reading and writing one kind: the cache to read, guarded writes whose answers go into the cache.

use std::sync::Arc;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::core::Request;
use kube::core::params::{
    DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::key::{Object, ObjectKey, uid_of};
use crate::{Cache, Error};

/// One kind as a controller works with it.
pub struct Objects<K> {
    client: Client,
    cache: Cache<K>,
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            cache: self.cache.clone(),
        }
    }
}

/// How an object is deleted.
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// The grace period instead of the object's own.
    pub grace_seconds: Option<u32>,
    /// What happens to dependents.
    pub propagation: Option<PropagationPolicy>,
    /// Also require the resourceVersion that the decision was made on; the uid is always required.
    pub at_revision: bool,
}

impl<K> Objects<K>
where
    K: Object<DynamicType = ()> + Serialize,
{
    /// Reads from `cache`, writes through `client`.
    pub fn new(client: Client, cache: Cache<K>) -> Self {
        Self { client, cache }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cached object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.cache.get(key)
    }

    /// The object as the server has it now, for the few decisions that a cache is not good enough for.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn get_live(&self, key: &ObjectKey) -> Result<Option<K>, Error> {
        let request = request::<K>(key.scope()).get(&key.name, &GetParams::default())?;
        match self.client.request::<K>(request).await.map_err(Error::from) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(&self, object: &K) -> Result<Arc<K>, Error> {
        let body = serde_json::to_vec(object)?;
        let request = request::<K>(object.meta().namespace.as_deref())
            .create(&PostParams::default(), body)?;
        self.write(request).await
    }

    /// Replaces the object; it must carry the resourceVersion that it was computed from.
    ///
    /// # Errors
    /// When the server refuses, a conflict included.
    pub async fn replace(&self, object: &K) -> Result<Arc<K>, Error> {
        let (scope, name) = path_of(object.meta());
        let body = serde_json::to_vec(object)?;
        self.write(request::<K>(scope).replace(name, &PostParams::default(), body)?)
            .await
    }

    /// Replaces the status; the object must carry the resourceVersion that it was computed from.
    ///
    /// # Errors
    /// When the server refuses, a conflict included.
    pub async fn replace_status(&self, object: &K) -> Result<Arc<K>, Error> {
        self.replace_subresource("status", object).await
    }

    /// Replaces through a subresource.
    ///
    /// # Errors
    /// When the server refuses, a conflict included.
    pub async fn replace_subresource(
        &self,
        subresource: &str,
        object: &K,
    ) -> Result<Arc<K>, Error> {
        let (scope, name) = path_of(object.meta());
        let body = serde_json::to_vec(object)?;
        let request = request::<K>(scope).replace_subresource(
            subresource,
            name,
            &PostParams::default(),
            body,
        )?;
        self.write(request).await
    }

    /// Merges a patch into the object, on condition that it is still at the revision given.
    ///
    /// # Errors
    /// When the server refuses, a conflict included.
    pub async fn patch(&self, observed: &K, patch: Value) -> Result<Arc<K>, Error> {
        let (scope, name) = path_of(observed.meta());
        let patch = Patch::Merge(guarded(observed.meta(), patch));
        self.write(request::<K>(scope).patch(name, &PatchParams::default(), &patch)?)
            .await
    }

    /// Merges a patch into the status, on condition that the object is still at the revision given.
    ///
    /// # Errors
    /// When the server refuses, a conflict included.
    pub async fn patch_status(&self, observed: &K, patch: Value) -> Result<Arc<K>, Error> {
        let (scope, name) = path_of(observed.meta());
        let patch = Patch::Merge(guarded(observed.meta(), patch));
        let request = request::<K>(scope).patch_subresource(
            "status",
            name,
            &PatchParams::default(),
            &patch,
        )?;
        self.write(request).await
    }

    /// Applies fields (server-side apply) in the name of `manager`, taking them from whoever has them. What is applied
    /// is a function of more than the object's state, so it is not bound to the revision that was observed, but to the
    /// object itself.
    ///
    /// # Errors
    /// When the server refuses; a conflict when another object has the name now.
    pub async fn apply(
        &self,
        manager: &str,
        observed: &K,
        fields: &Value,
    ) -> Result<Arc<K>, Error> {
        let (scope, name) = path_of(observed.meta());
        let (params, patch) = applied(manager, observed, fields);
        self.write(request::<K>(scope).patch(name, &params, &patch)?)
            .await
    }

    /// Applies fields of the status (server-side apply) in the name of `manager`, as [`Self::apply`] does of the rest.
    ///
    /// # Errors
    /// When the server refuses; a conflict when another object has the name now.
    pub async fn apply_status(
        &self,
        manager: &str,
        observed: &K,
        fields: &Value,
    ) -> Result<Arc<K>, Error> {
        let (scope, name) = path_of(observed.meta());
        let (params, patch) = applied(manager, observed, fields);
        self.write(request::<K>(scope).patch_subresource("status", name, &params, &patch)?)
            .await
    }

    /// Deletes the very object that was observed; one that is gone already is no error.
    ///
    /// # Errors
    /// When the server refuses; a conflict when another object has the name now.
    pub async fn delete(&self, observed: &K, how: Deletion) -> Result<(), Error> {
        let meta = observed.meta();
        let (scope, name) = path_of(meta);
        let preconditions = Preconditions {
            uid: meta.uid.clone(),
            resource_version: how
                .at_revision
                .then(|| meta.resource_version.clone())
                .flatten(),
        };
        let params = DeleteParams {
            grace_period_seconds: how.grace_seconds,
            propagation_policy: how.propagation,
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let request = request::<K>(scope).delete(name, &params)?;
        match self
            .client
            .request::<Value>(request)
            .await
            .map_err(Error::from)
        {
            Ok(answer) if answer["kind"] == "Status" => {
                self.cache
                    .record_deletion(&ObjectKey::of(meta), uid_of(meta));
                Ok(())
            }
            Ok(answer) => {
                self.record_deleted(serde_json::from_value(answer)?);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.cache
                    .record_deletion(&ObjectKey::of(meta), uid_of(meta));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The answer to a delete is the object; whether it is still there shows in what holds it back.
    fn record_deleted(&self, object: K) {
        let meta = object.meta();
        let held = meta.deletion_timestamp.is_some()
            && (meta.deletion_grace_period_seconds.is_some_and(|s| s > 0)
                || meta.finalizers.as_ref().is_some_and(|f| !f.is_empty()));
        if held {
            self.cache.record_write(object);
        } else {
            self.cache
                .record_deletion(&ObjectKey::of(meta), uid_of(meta));
        }
    }

    async fn write(&self, request: http::Request<Vec<u8>>) -> Result<Arc<K>, Error> {
        let answer: K = self.client.request(request).await?;
        Ok(self.cache.record_write(answer))
    }
}

fn request<K: Object<DynamicType = ()>>(scope: Option<&str>) -> Request {
    Request::new(K::url_path(&(), scope))
}

/// An apply of fields to the very object that was observed.
fn applied<K: Object>(manager: &str, observed: &K, fields: &Value) -> (PatchParams, Patch<Value>) {
    let mut fields = fields.clone();
    fields["metadata"]["uid"] = json!(observed.meta().uid);
    (PatchParams::apply(manager).force(), Patch::Apply(fields))
}

fn path_of(meta: &ObjectMeta) -> (Option<&str>, &str) {
    (
        meta.namespace.as_deref(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// A merge patch that fails with a conflict unless the object is the one observed, at the revision observed.
pub fn guarded(observed: &ObjectMeta, mut patch: Value) -> Value {
    if let Some(fields) = patch.as_object_mut() {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("uid".into(), json!(observed.uid));
            metadata.insert("resourceVersion".into(), json!(observed.resource_version));
        }
    }
    patch
}
