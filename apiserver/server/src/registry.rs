//! The choreography of a write, the same for every kind.
//!
//! ```text
//!  create: fields → metadata → decode → default → mutate → prepare → validate → canonicalise, managed fields → store
//!  update: look it up → change (replace, patch, apply) → keep what is not the writer's → the same from decode on
//! ```
//!
//! A kind gives the rules (`corral_kinds::AnyKind`), admission looks at other objects, this module owns the order.
//! Kinds never call storage. Every update carries the revision that it was computed from; when another writer came
//! first, the change is computed again, unless the client named the version that it wants to change. The first attempt
//! begins from the cache, those after it from the store.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use corral_api::field::{FieldError, FieldPath};
use corral_api::status::{Status, StatusReason};
use corral_kinds::schema::Node;
use corral_kinds::{KindRef, Object};
use corral_storage::{self as storage, Key, Operation, Revision, Storage};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Attributes};
use crate::apply::{
    self, Applied, Manager, Owners, Translations, Views, restore_managed, take_managed,
};
use crate::cacher::{Cacher, storage_status};
use crate::conversion::Conversion;
use crate::decode::Decoded;
use crate::object::{canonical, with_revision};

mod asked;
pub mod body;
mod carry;
mod context;
pub mod delete;
pub mod metadata;
mod rewrite;
mod scale;
mod versions;

use self::body::Configuration;
use self::carry::{bump_generation, keep_unwritten, same_objects, without_others};
pub use self::context::{Annotations, Asked, FieldValidation, Part, Warnings, WriteContext};
pub use self::delete::{DeleteOptions, Preconditions};
use self::versions::Base;

/// How often an update without a wanted version is computed again because another writer came first.
const CONFLICT_RETRIES_MAX: usize = 16;
/// How often another random name is tried for `generateName`.
const NAME_RETRIES_MAX: usize = 8;

/// How ownership of fields follows from a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The writer owns what differs.
    Update,
    /// The change holds its entries already.
    Applied,
}

/// A stored, changed or removed object.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its JSON as clients see it.
    pub json: Bytes,
    /// Whether it was created (201).
    pub created: bool,
    /// Whether it is gone from the store.
    pub removed: bool,
}

/// One resource: its kind, its cache and its place in the store.
pub struct Resource {
    /// The kind.
    pub kind: KindRef,
    /// The cache.
    pub cacher: Arc<Cacher>,
    /// The store.
    pub storage: Arc<dyn Storage>,
    /// Checks that look at other objects.
    pub admission: Arc<Admission>,
    /// Cancelled when the resource is served no longer, or has become another.
    pub ended: CancellationToken,
    /// Whether new objects are refused, because the definition of the kind is coming to an end.
    pub closed: AtomicBool,
    /// Who brings objects into this version, where that takes more than its name.
    conversion: Option<Arc<Conversion>>,
    /// The same for those who want no more than metadata.
    bare: Option<Arc<Resource>>,
    schema: OnceLock<Node>,
}

/// What came of one attempt to update an object.
enum Attempt {
    Stored(Written),
    /// What a dry run would have stored.
    Dry(Written),
    /// Nothing is to be changed.
    Left,
    /// Another writer came first, and the client does not mind.
    Lost,
}

/// What an update computes from the live object.
pub type Change<'a> = dyn Fn(&Value) -> Result<(Value, Ownership), Status> + Send + Sync + 'a;

impl Resource {
    /// A resource over a store.
    pub fn new(
        kind: impl Into<KindRef>,
        storage: Arc<dyn Storage>,
        admission: Arc<Admission>,
    ) -> Self {
        let kind = kind.into();
        Self {
            cacher: Cacher::new(kind.clone(), storage.clone()),
            kind,
            storage,
            admission,
            ended: CancellationToken::new(),
            closed: AtomicBool::new(false),
            conversion: None,
            bare: None,
            schema: OnceLock::new(),
        }
    }

    /// The kind's schema, built when first needed.
    pub fn schema(&self) -> &Node {
        self.schema.get_or_init(|| self.kind.schema())
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        let prefix = self.cacher.prefix();
        if self.kind.names().namespaced {
            Key::new(format!("{prefix}{namespace}/{name}"))
        } else {
            Key::new(format!("{prefix}{name}"))
        }
    }

    /// 404 for an object of this resource.
    pub fn not_found(&self, name: &str) -> Status {
        let names = self.kind.names();
        Status::not_found(names.group, names.plural, name)
    }

    fn invalid(&self, name: &str, errors: &[FieldError]) -> Status {
        let names = self.kind.names();
        Status::invalid(self.kind.checked_in_group(), names.kind, name, errors)
    }

    fn modified(&self, name: &str) -> Status {
        let names = self.kind.names();
        Status::modified(names.group, names.plural, name)
    }

    /// Checks a body against the kind: its type, its fields.
    ///
    /// # Errors
    /// 400 for a body of another kind, of wrong types, or (strictly) with unknown or duplicate fields.
    pub fn read_body(&self, cx: &WriteContext, body: Decoded) -> Result<Value, Status> {
        body::read(&*self.kind, cx, body)
    }

    /// Checks what a patch has made of an object.
    ///
    /// # Errors
    /// 422 with the object that it made, where a body would be answered with 400.
    pub fn read_patched(
        &self,
        cx: &WriteContext,
        patch: impl Fn() -> Result<Value, Status>,
    ) -> Result<Value, Status> {
        body::read_patched(&*self.kind, cx, patch)
    }

    fn decode(&self, value: Value) -> Result<Object, Status> {
        self.kind.decode(value).map_err(|e| self.undecodable(e))
    }

    fn undecodable(&self, error: serde_json::Error) -> Status {
        let names = self.kind.names();
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            names.kind, names.version, names.kind
        ))
    }

    fn encode(&self, object: &Object) -> Result<Value, Status> {
        let mut value = self.kind.encode(object).map_err(Status::internal)?;
        self.schema().complete(&mut value);
        Ok(value)
    }

    /// The owners of the fields of an object as a client meant it: what admission and the server itself add later belongs
    /// to nobody. The old object comes without its owners.
    async fn owners(
        &self,
        object: &Object,
        old: Option<&Value>,
        owners: Owners<'_>,
        manager: &Manager,
    ) -> Result<Option<Value>, Status> {
        if old.is_some() && owners.stored.is_none() && owners.sent.is_none() {
            // Tracking begins with an object, or with an apply.
            return Ok(None);
        }
        let mut value = self.encode(object)?;
        take_managed(&mut value);
        let own_part;
        let mut old = old;
        if self.kind.has_approval() {
            // Nobody owns what a write through this part cannot change.
            without_others(&mut value, &manager.subresource);
            own_part = old.cloned().map(|mut old| {
                without_others(&mut old, &manager.subresource);
                old
            });
            old = own_part.as_ref();
        }
        let views = match &self.conversion {
            None => Views::default(),
            // Boxed: every update would carry it.
            Some(_) => Box::pin(self.views(old, &value, owners, manager)).await,
        };
        let schema = self.schema();
        Ok(apply::update(schema, old, &value, owners, manager, &views))
    }

    /// The kind's name, if it is one of Kubernetes' own.
    fn own_kind(&self) -> Option<&str> {
        (!self.kind.is_custom()).then(|| self.kind.names().kind)
    }

    pub(crate) fn manager(&self, cx: &WriteContext, subresource: &str) -> Manager {
        Manager {
            name: cx.manager.clone(),
            api_version: self.kind.names().api_version(),
            subresource: subresource.to_owned(),
            status_is_apart: self.kind.has_status(),
            // Kubernetes does not note when somebody scaled.
            time: match subresource {
                "scale" => String::new(),
                _ => corral_api::time::format_seconds(cx.now),
            },
        }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// Whatever Kubernetes answers: 400, 403, 409 if it exists, 422 if it breaks a rule.
    pub async fn create(&self, cx: &WriteContext, body: Decoded) -> Result<Written, Status> {
        let value = self.read_body(cx, body)?;
        if !metadata::generates_name(&value) {
            return self.create_once(cx, value, Ownership::Update).await;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.create_once(cx, value.clone(), Ownership::Update).await {
                Err(status)
                    if status.is(StatusReason::AlreadyExists) && attempt < NAME_RETRIES_MAX => {}
                other => return other,
            }
        }
    }

    /// Creates what an apply (or an update of what is not there) describes.
    ///
    /// # Errors
    /// As [`Resource::create`].
    pub async fn create_once(
        &self,
        cx: &WriteContext,
        value: Value,
        ownership: Ownership,
    ) -> Result<Written, Status> {
        let kind = &*self.kind;
        let mut value = value;
        let names_itself = metadata::generates_name(&value);
        metadata::for_create(kind, cx, &mut value)?;
        let mut ownership = ownership;
        if kind.has_status()
            && !kind.keeps_status_at_creation()
            && let Value::Object(map) = &mut value
            && let Some(status) = map.remove("status")
            && self.is_unownable(status)
        {
            // What goes was looked at with the rest.
            let metadata = map.get_mut("metadata").and_then(Value::as_object_mut);
            metadata.and_then(|metadata| metadata.remove("managedFields"));
            ownership = Ownership::Applied;
        }
        let n_warnings = cx.n_warnings();
        for _ in 0..CONFLICT_RETRIES_MAX {
            match self
                .create_attempt(cx, &value, names_itself, ownership)
                .await?
            {
                Some(written) => return Ok(written),
                // The next attempt warns again.
                None => cx.keep_warnings(n_warnings),
            }
        }
        let names = self.kind.names();
        let name = value["metadata"]["name"].as_str().unwrap_or("");
        let why = "what it claims was taken meanwhile; please try again";
        Err(Status::conflict(names.group, names.plural, name, why))
    }

    /// One attempt; `None` when another writer took what the object claims: an address, or the last of a quota.
    async fn create_attempt(
        &self,
        cx: &WriteContext,
        value: &Value,
        names_itself: bool,
        ownership: Ownership,
    ) -> Result<Option<Written>, Status> {
        let kind = &*self.kind;
        let managed = value["metadata"].get("managedFields");
        let mut object = kind.decode_kept(value).map_err(|e| self.undecodable(e))?;
        match ownership {
            Ownership::Update => kind.default(&mut object),
            Ownership::Applied => kind.default_applied(&mut object),
        }
        let managed = match ownership {
            Ownership::Update => {
                let owners = Owners {
                    sent: managed,
                    kind: self.own_kind(),
                    ..Owners::default()
                };
                self.owners(&object, None, owners, &self.manager(cx, ""))
                    .await?
            }
            Ownership::Applied => managed.cloned(),
        };
        let mut attributes = Attributes::create(self, cx);
        attributes.names_itself = names_itself;
        attributes.managed = managed.as_ref();
        self.admission
            .mutate(&mut attributes, &mut object, None)
            .await?;
        let namespace = kind.meta(&object).namespace.as_deref();
        if kind.names().namespaced && namespace.unwrap_or_default() != cx.namespace {
            // Whoever changed it did not move the request.
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        kind.prepare_create(&mut object);
        let name = kind.meta(&object).name.clone().unwrap_or_default();
        let mut errors = metadata::validate(kind, kind.meta(&object));
        errors.extend(kind.validate(&object));
        if !errors.is_empty() {
            return Err(self.invalid(&name, &errors));
        }
        let warnings = kind.warnings(&object).into_iter();
        warnings
            .chain(kind.creation_warnings(&object))
            .for_each(|text| cx.warn(text));
        self.admission.validate(&attributes, &object, None).await?;
        self.admission
            .charge(&mut attributes, &object, None)
            .await?;
        let claims = std::mem::take(&mut attributes.claims);
        let mut value = self.encode(&object)?;
        restore_managed(&mut value, managed);
        self.store_new(cx, &name, value, claims).await
    }

    /// Whether nobody can own anything of a new object with this status.
    fn is_unownable(&self, status: Value) -> bool {
        let schema = self.schema();
        let is_mistyped = || {
            let node = schema.child("status");
            node.is_some_and(|node| apply::typed::is_mistyped(node, &status))
        };
        // The types of what this crate knows have been looked at.
        self.kind.is_custom() && is_mistyped() || apply::is_keyless(schema, "status", status)
    }

    async fn store_new(
        &self,
        cx: &WriteContext,
        name: &str,
        value: Value,
        claims: Vec<Operation>,
    ) -> Result<Option<Written>, Status> {
        let names = self.kind.names();
        let key = self.key(&cx.namespace, name);
        let (bytes, stored) = self.through_store(canonical(value)).await?;
        let written = |revision| Written {
            json: with_revision(&bytes, revision),
            created: true,
            removed: false,
        };
        let exists = || Status::already_exists(names.group, names.plural, name);
        if cx.dry_run {
            return match self.fetch(&key).await? {
                Some(_) => Err(exists()),
                None => Ok(Some(Written {
                    json: bytes,
                    created: true,
                    removed: false,
                })),
            };
        }
        let mut transaction = vec![Operation::Create {
            key: key.clone(),
            value: stored,
        }];
        transaction.extend(claims);
        match self.storage.commit(transaction).await {
            Ok(revision) => Ok(Some(written(revision))),
            Err(storage::Error::Exists { key: at, .. }) if at == key => Err(exists()),
            Err(
                storage::Error::Exists { .. }
                | storage::Error::Conflict { .. }
                | storage::Error::NotFound { .. },
            ) => Ok(None),
            Err(error) => Err(storage_status(&error)),
        }
    }

    /// Changes an object.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if it is not at the version wanted, and what the change and the kind's rules say.
    pub async fn update(
        &self,
        cx: &WriteContext,
        name: &str,
        part: Part,
        subresource: &str,
        change: &Change<'_>,
    ) -> Result<Written, Status> {
        let key = self.key(&cx.namespace, name);
        let mut cached = self.cached(&key);
        for _ in 0..CONFLICT_RETRIES_MAX {
            let n_warnings = cx.n_warnings();
            let (base, live) = match cached.take() {
                Some(base) => (base, None),
                None => {
                    let live = self.fetch_live(&key).await?;
                    let live = live.ok_or_else(|| self.not_found(name))?;
                    (live.base(), Some(live))
                }
            };
            let attempt = self
                .update_once(cx, name, part, subresource, change, &base)
                .await;
            if let Ok(Attempt::Stored(written)) = attempt {
                return Ok(written);
            }
            // A cache may be behind, and what follows from an older state is neither an error nor an answer.
            let live = match live {
                Some(live) => Some(live),
                None => self.still(&base).await?,
            };
            match (attempt, live) {
                (Err(status), Some(_)) => return Err(status),
                (Ok(Attempt::Dry(written)), Some(_)) => return Ok(written),
                (Ok(Attempt::Left), Some(live)) => {
                    if let Some(written) = self.leave(cx, &live).await? {
                        return Ok(written);
                    }
                }
                _ => {}
            }
            // The next attempt warns again.
            cx.keep_warnings(n_warnings);
        }
        Err(self.modified(name))
    }

    async fn update_once(
        &self,
        cx: &WriteContext,
        name: &str,
        part: Part,
        subresource: &str,
        change: &Change<'_>,
        base: &Base,
    ) -> Result<Attempt, Status> {
        let kind = &*self.kind;
        let mut old_value: Value = serde_json::from_slice(&base.json).map_err(Status::internal)?;
        let (mut value, ownership) = change(&old_value)?;
        let wanted = metadata::wanted_version(&value);
        if let Some(wanted) = &wanted {
            metadata::check_version(wanted)?;
            if *wanted != base.revision.to_string() {
                return Err(self.modified(name));
            }
        }
        body::check_type(&*self.kind, &mut value)?;
        let is_made_anew = !metadata::has_identity_of(&value, &old_value);
        metadata::for_update(self, cx, name, &mut value, &old_value)?;
        // From here on both objects are without their owners, which are often the larger half of them.
        let old_managed = take_managed(&mut old_value);
        let managed = take_managed(&mut value);
        let sent = managed
            .as_ref()
            .filter(|sent| Some(*sent) != old_managed.as_ref());
        keep_unwritten(kind, part, &mut value, &old_value);
        let is_same = same_objects(&value, &old_value);
        if ownership == Ownership::Update && sent.is_some() {
            // What a client sends must be of the right types.
            restore_managed(&mut value, sent.cloned());
        }

        let old = kind
            .decode_kept(&old_value)
            .map_err(|e| self.undecodable(e))?;
        let mut object = self.decode(value)?;
        match ownership {
            Ownership::Update => kind.default(&mut object),
            // An apply that changes nothing leaves the object as it is read, defaults or not.
            Ownership::Applied if is_same => {}
            Ownership::Applied => kind.default_applied(&mut object),
        }
        if part == Part::Status {
            kind.keep_for_status(&mut object, &old);
        }
        let stored = old_managed.as_ref();
        let owners = match ownership {
            Ownership::Update => {
                let manager = self.manager(cx, subresource);
                let kind = self.own_kind();
                let owners = Owners { stored, sent, kind };
                self.owners(&object, Some(&old_value), owners, &manager)
                    .await?
            }
            Ownership::Applied => managed.clone(),
        };
        let mut attributes = Attributes::update(self, cx, part, subresource);
        attributes.is_made_anew = is_made_anew;
        attributes.old_managed = stored;
        attributes.managed = owners.as_ref();
        self.admission
            .mutate(&mut attributes, &mut object, Some(&old))
            .await?;
        if part == Part::Main {
            kind.prepare_update(&mut object, &old);
        }
        if part == Part::Status {
            kind.prepare_status_update(&mut object, &old);
        }
        if part == Part::Approval {
            kind.prepare_approval_update(&mut object, &old);
        }
        if let Part::Of(part) = part {
            kind.prepare_part_update(part, &mut object, &old);
        }
        let mut errors = metadata::validate_update(kind, kind.meta(&object), kind.meta(&old));
        errors.extend(match part {
            Part::Main => kind.validate_update(&object, &old),
            Part::Status => kind.validate_status_update(&object, &old),
            Part::Approval => kind.validate_approval_update(&object, &old),
            Part::Of(part) => kind.validate_part_update(part, &object, &old),
            Part::Whole => Vec::new(),
        });
        if !errors.is_empty() {
            return Err(self.invalid(name, &errors));
        }
        if matches!(part, Part::Main | Part::Of(_)) {
            kind.warnings(&object)
                .into_iter()
                .for_each(|text| cx.warn(text));
        }
        let mut value = self.encode(&object)?;
        bump_generation(kind, part, &mut value, &old_value);
        self.admission
            .validate(&attributes, &object, Some(&old))
            .await?;
        // Other owners alone are no reason to write, but more or fewer of them are.
        let n_owners =
            |entries: Option<&Value>| entries.and_then(Value::as_array).map_or(0, Vec::len);
        if n_owners(managed.as_ref()) == n_owners(stored)
            && same_objects(&value, &old_value)
            && apply::same_owners(owners.as_ref(), stored)
        {
            return Ok(Attempt::Left);
        }
        attributes.removes = metadata::is_finished(kind, &value);
        self.admission
            .charge(&mut attributes, &object, Some(&old))
            .await?;
        let claims = std::mem::take(&mut attributes.claims);
        restore_managed(&mut value, owners);
        self.store_changed(cx, name, base, value, claims, wanted.is_some())
            .await
    }

    async fn store_changed(
        &self,
        cx: &WriteContext,
        name: &str,
        base: &Base,
        value: Value,
        claims: Vec<Operation>,
        named_version: bool,
    ) -> Result<Attempt, Status> {
        let removed = metadata::is_finished(&*self.kind, &value);
        let (bytes, stored) = self.through_store(canonical(value)).await?;
        if base.is(&bytes) {
            return Ok(Attempt::Left);
        }
        if cx.dry_run {
            let json = with_revision(&bytes, base.revision);
            return Ok(Attempt::Dry(unchanged(json)));
        }
        let mut transaction = vec![if removed {
            Operation::Delete {
                key: base.key.clone(),
                expected: base.revision,
            }
        } else {
            Operation::Update {
                key: base.key.clone(),
                value: stored,
                expected: base.revision,
            }
        }];
        transaction.extend(claims);
        if removed {
            transaction.extend(self.admission.releases(&*self.kind, &bytes).await?);
        }
        match self.storage.commit(transaction).await {
            Ok(revision) => Ok(Attempt::Stored(Written {
                json: with_revision(&bytes, revision),
                created: false,
                removed,
            })),
            Err(storage::Error::Conflict { key, .. }) if named_version && key == base.key => {
                Err(self.modified(name))
            }
            Err(storage::Error::NotFound { key }) if key == base.key => Err(self.not_found(name)),
            // What the object claims was taken, or has changed: the next attempt sees it.
            Err(
                storage::Error::NotFound { .. }
                | storage::Error::Conflict { .. }
                | storage::Error::Exists { .. },
            ) => Ok(Attempt::Lost),
            Err(error) => Err(storage_status(&error)),
        }
    }

    /// Replaces an object (PUT).
    ///
    /// # Errors
    /// As [`Resource::update`].
    pub async fn replace(
        &self,
        cx: &WriteContext,
        name: &str,
        part: Part,
        body: Decoded,
    ) -> Result<Written, Status> {
        let value = self.read_body(cx, body)?;
        self.check_name(cx, name, &value)?;
        let subresource = part.subresource();
        let change = |_: &Value| {
            if !self.kind.updates_unconditionally() && metadata::wanted_version(&value).is_none() {
                return Err(self.version_missing(name));
            }
            Ok((value.clone(), Ownership::Update))
        };
        match self.update(cx, name, part, subresource, &change).await {
            Err(status)
                if status.is(StatusReason::NotFound)
                    && part == Part::Main
                    && self.creates_on_update() =>
            {
                self.create_once(cx, value, Ownership::Update).await
            }
            other => other,
        }
    }

    fn version_missing(&self, name: &str) -> Status {
        let path = metadata_path("resourceVersion");
        let error = FieldError::invalid(&path, 0, "must be specified for an update");
        let names = self.kind.names();
        Status::invalid(names.group, names.plural, name, &[error])
    }

    /// Kinds whose objects a PUT may create, as in Kubernetes.
    fn creates_on_update(&self) -> bool {
        matches!(
            self.kind.names().kind,
            "Lease"
                | "LimitRange"
                | "Event"
                | "Endpoints"
                | "Role"
                | "RoleBinding"
                | "ClusterRole"
                | "ClusterRoleBinding"
        )
    }

    /// That a body means the object of the URL.
    ///
    /// # Errors
    /// 400 if it means another.
    pub fn check_name(&self, cx: &WriteContext, name: &str, value: &Value) -> Result<(), Status> {
        let sent = value["metadata"]["name"].as_str().unwrap_or("");
        if sent.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if sent != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({sent}) does not match the name on the URL ({name})"
            )));
        }
        metadata::check_namespace(cx, value)
    }

    /// Applies a configuration (server-side apply); creates the object if it is not there.
    ///
    /// # Errors
    /// 409 with the owners of disputed fields, unless `force`; otherwise as [`Resource::update`].
    pub async fn apply(
        &self,
        cx: &WriteContext,
        name: &str,
        part: Part,
        body: Decoded,
        force: bool,
    ) -> Result<Written, Status> {
        let node = self.schema();
        apply::typed::check(&*self.kind, node, &body.value)?;
        let config = body::read_configuration(&*self.kind, cx, body)?;
        let sent = &config.sent;
        let metadata = &sent["metadata"];
        if metadata
            .get("managedFields")
            .is_some_and(|entries| !entries.is_null())
        {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        // What is there has a name already, that of the URL.
        let leaves_out_name = match metadata {
            Value::Null => true,
            metadata => metadata
                .as_object()
                .is_some_and(|fields| !fields.contains_key("name")),
        };
        match leaves_out_name {
            true => metadata::check_namespace(cx, sent)?,
            false => self.check_name(cx, name, sent)?,
        }
        let subresource = part.subresource();
        let manager = self.manager(cx, subresource);
        let translations = self.conversion.clone().map(Translations::new);
        let change = |live: &Value| {
            let translations = translations.as_ref();
            let applied = apply::apply(node, live, sent, &manager, force, translations)?;
            let mut object = self.read_applied(&config, &manager, applied)?;
            self.same_identity(name, &object, live)?;
            if metadata::wanted_version(&object).is_some_and(|wanted| wanted == "0") {
                if !self.kind.updates_unconditionally() {
                    return Err(self.version_missing(name));
                }
                object["metadata"]["resourceVersion"] = Value::Null;
            }
            metadata::drop_live_version(&mut object, live);
            Ok((object, Ownership::Applied))
        };
        let mut applied = self.update(cx, name, part, subresource, &change).await;
        if let Some(translations) = &translations {
            while applied.is_err() && translations.complete().await? {
                applied = self.update(cx, name, part, subresource, &change).await;
            }
        }
        match applied {
            Err(status) if status.is(StatusReason::NotFound) && part == Part::Main => {
                self.check_name(cx, name, sent)?;
                let mut empty = serde_json::json!({"metadata": {"name": name}});
                if self.kind.names().namespaced {
                    empty["metadata"]["namespace"] = cx.namespace.clone().into();
                }
                let created = apply::apply(node, &empty, sent, &manager, force, None)?;
                let mut created = self.read_applied(&config, &manager, created)?;
                self.to_create(name, &mut created)?;
                self.create_once(cx, created, Ownership::Applied).await
            }
            other => other,
        }
    }

    /// What an apply has made of an object, read as one unless that is known to change nothing.
    fn read_applied(
        &self,
        config: &Configuration,
        manager: &Manager,
        applied: Applied,
    ) -> Result<Value, Status> {
        let Applied {
            mut object,
            empties,
        } = applied;
        if !config.is_plain || empties {
            let managed = take_managed(&mut object);
            object = apply::typed::read(&*self.kind, self.schema(), &config.sent, object)?;
            restore_managed(&mut object, managed);
        }
        apply::last_applied::refresh(&mut object, &config.sent, manager);
        Ok(object)
    }

    /// That a configuration does not mean an object which is gone, or a version of it.
    fn to_create(&self, name: &str, object: &mut Value) -> Result<(), Status> {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() {
            let names = self.kind.names();
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Status::conflict(names.group, names.plural, name, &why));
        }
        if let Some(wanted) = metadata::wanted_version(object) {
            metadata::check_version(&wanted)?;
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("resourceVersion");
            }
        }
        Ok(())
    }

    /// A patch does not make an object another one. In a whole object a uid is a condition; here it is a change.
    ///
    /// # Errors
    /// 422 if it does.
    pub fn same_identity(&self, name: &str, patched: &Value, live: &Value) -> Result<(), Status> {
        let uid = patched["metadata"]["uid"].as_str().unwrap_or_default();
        if uid.is_empty() || live["metadata"]["uid"] == uid {
            return Ok(());
        }
        let path = metadata_path("uid");
        let error = FieldError::invalid(&path, uid, "field is immutable");
        // Kubernetes looks twice.
        Err(self.invalid(name, &[error.clone(), error]))
    }
}

fn unchanged(json: Bytes) -> Written {
    Written {
        json,
        created: false,
        removed: false,
    }
}

/// A field error on metadata.
pub(crate) fn metadata_path(name: &str) -> FieldPath {
    FieldPath::new("metadata").child(name)
}

/// The revision that a text names.
///
/// # Errors
/// 400 when it is not a number.
pub fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map(Revision).map_err(|_| {
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))
    })
}
