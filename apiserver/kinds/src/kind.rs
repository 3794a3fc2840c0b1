//! What a kind is: its names and its rules.
//!
//! [`Kind`] is what a file of this crate implements, on the typed object. [`AnyKind`] is what the server holds: the
//! same rules over an [`Object`] whose type is erased, so that one registry serves every kind.

use std::any::Any;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use corral_api::field::FieldError;
use corral_api::k8s;
use corral_api::meta::ObjectMeta;
use corral_api::names;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::{Deserialize as _, DeserializeOwned};
use serde_json::Value;

use crate::scan::Malformed;
use crate::schema::{self, Node, Report, TypeError};
use crate::selectable::{Index, SelectableField};

/// The names of a kind and where it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind, such as `Deployment`.
    pub kind: &'a str,
    /// Resource: the plural in URLs.
    pub plural: &'a str,
    /// What kubectl accepts for one of them.
    pub singular: &'a str,
    /// Abbreviations.
    pub short_names: Words<'a>,
    /// Groups of resources such as `all`.
    pub categories: Words<'a>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

/// A few words of a kind: of one in this crate, or of one that a client has described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words<'a> {
    /// Of this crate.
    Of(&'static [&'static str]),
    /// Of a client.
    Owned(&'a [String]),
}

impl<'a> Words<'a> {
    /// The words.
    pub fn to_vec(self) -> Vec<&'a str> {
        match self {
            Self::Of(words) => words.to_vec(),
            Self::Owned(words) => words.iter().map(String::as_str).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        match self {
            Self::Of(words) => words.is_empty(),
            Self::Owned(words) => words.is_empty(),
        }
    }
}

impl Names<'_> {
    /// `group/version`, or `version` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The prefix of the kind's keys in the store, as Kubernetes lays them out.
    pub fn storage_prefix(&self) -> String {
        let resource = match (self.group, self.plural) {
            ("", "services") => "services/specs",
            ("", "endpoints") => "services/endpoints",
            ("", "nodes") => "minions",
            ("", "replicationcontrollers") => "controllers",
            ("networking.k8s.io", "ingresses") => "ingress",
            // What serves them is apart from the rest in Kubernetes, and keeps its objects so.
            ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => return self.grouped_prefix(),
            (_, plural) => plural,
        };
        format!("/registry/{resource}/")
    }

    /// The prefix of the keys of a kind that shares the store with other groups: that of custom resources.
    pub fn grouped_prefix(&self) -> String {
        format!("/registry/{}/{}/", self.group, self.plural)
    }
}

/// Which verbs a kind has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Stored objects with every verb.
    All,
    /// Every verb but `deletecollection` (namespaces, services keep theirs).
    NoDeleteCollection,
    /// Asked and answered, never stored (reviews).
    CreateOnly,
    /// Computed when it is read, never stored.
    ReadOnly,
}

/// Where the numbers of the `scale` subresource are, as JSON pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalePaths<'a> {
    /// The number wanted.
    pub spec_replicas: &'a str,
    /// The number there is.
    pub status_replicas: &'a str,
    /// The selector: a `LabelSelector` object, a map of labels, or a text; empty if there is none.
    pub selector: &'a str,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: Cow<'static, str>,
    /// OpenAPI type of the cells: `string`, `integer`, `boolean`, `number`, `date`.
    pub kind: Cow<'static, str>,
    /// OpenAPI format; `name` for the name column.
    pub format: Cow<'static, str>,
    /// What the column tells.
    pub description: Cow<'static, str>,
    /// 0 is always shown, above 0 only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The name column, first in every table.
    pub const NAME: Self = Self {
        name: Cow::Borrowed("Name"),
        kind: Cow::Borrowed("string"),
        format: Cow::Borrowed("name"),
        description: Cow::Borrowed("Unique name of the object within its namespace."),
        priority: 0,
    };
    /// Time since creation.
    pub const AGE: Self = Self::text("Age", "Time since the object was created.");

    /// A column of text.
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self::of("string", name, description)
    }

    /// A column of times, shown as the time since then.
    pub const fn date(name: &'static str, description: &'static str) -> Self {
        Self::of("date", name, description)
    }

    /// A column of whole numbers.
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self::of("integer", name, description)
    }

    const fn of(kind: &'static str, name: &'static str, description: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// Shown only with `-o wide`.
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// A kind: its names and its rules, on the typed object. Only `NAMES` has no default.
///
/// The registry calls the rules of a write in the order: `default`, `prepare_create` or `prepare_update`,
/// `validate` or `validate_update`. Metadata, `status` ownership and `generation` are the registry's, the same for
/// every kind.
pub trait Kind: Send + Sync + 'static {
    /// The k8s-openapi type.
    type Object: k8s::Metadata<Ty = ObjectMeta>
        + corral_api::schemars::JsonSchema
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static;

    /// Names.
    const NAMES: Names<'static>;
    /// Verbs.
    const VERBS: Verbs = Verbs::All;
    /// Whether `status` is a subresource with an owner of its own.
    const STATUS: bool = false;
    /// Whether the conditions of `status` have another owner, by the subresource `approval`.
    const APPROVAL: bool = false;
    /// Whether a new object may come with its status: a node tells how it is as it registers.
    const STATUS_AT_CREATION: bool = false;
    /// The warning that each answer about the kind carries, if it is on its way out.
    const DEPRECATION: Option<&'static str> = None;
    /// Whether `metadata.generation` counts changes of `spec`.
    const GENERATION: bool = false;
    /// The field of `metadata` whose changes it counts as well.
    const GENERATION_METADATA: Option<&'static str> = None;
    /// Whether an update may leave out which version it changes.
    const UNCONDITIONAL_UPDATE: bool = true;
    /// Whether what an object owns outlives it unless the client says otherwise.
    const ORPHANS_BY_DEFAULT: bool = false;
    /// The `scale` subresource, if the kind has one.
    const SCALE: Option<ScalePaths<'static>> = None;
    /// Whether finalizers without a domain must be those of Kubernetes.
    const CHECKS_FINALIZERS: bool = true;
    /// What is wrong with a name.
    const NAME_RULE: fn(&str) -> Vec<String> = names::dns1123_subdomain;

    /// Marks in the JSON what the type could not tell otherwise.
    fn before_decode(_value: &mut Cow<'_, Value>) {}

    /// Fills in what the client left out. Must be idempotent.
    fn default(_object: &mut Self::Object) {}

    /// Sets what a client may not set on creation.
    fn prepare_create(_object: &mut Self::Object) {}

    /// Sets what a client may not change (beyond `status`, which the registry keeps).
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object) {}
    /// Sets what belongs to the server in an update of the status.
    fn prepare_status_update(_new: &mut Self::Object, _old: &Self::Object) {}

    /// Sets what belongs to the server in an update through `approval`.
    fn prepare_approval_update(_new: &mut Self::Object, _old: &Self::Object) {}

    /// Subresources through which a part of the object is changed under rules of its own, besides `status` and
    /// `approval`.
    const PARTS: &'static [&'static str] = &[];

    /// Sets what an update through one of [`Kind::PARTS`] does not change.
    fn prepare_part_update(_part: &str, _new: &mut Self::Object, _old: &Self::Object) {}

    /// Everything wrong with an update through one of [`Kind::PARTS`].
    fn validate_part_update(
        _part: &str,
        _new: &Self::Object,
        _old: &Self::Object,
    ) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything wrong with an object.
    fn validate(_object: &Self::Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything wrong with an update, [`Kind::validate`] included.
    fn validate_update(new: &Self::Object, _old: &Self::Object) -> Vec<FieldError> {
        Self::validate(new)
    }

    /// Everything wrong with an update of `status`.
    fn validate_status_update(_new: &Self::Object, _old: &Self::Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything wrong with an update through `approval`.
    fn validate_approval_update(_new: &Self::Object, _old: &Self::Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// What a client should be warned of (HTTP `Warning`), although it is accepted: deprecated fields, and fields
    /// that Corral does not honour yet.
    fn warnings(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// Seconds that a deletion waits unless the client says otherwise; `None` deletes at once, whatever it says.
    fn default_grace_period(_object: &Self::Object) -> Option<i64> {
        None
    }

    /// What is told to whoever creates an object, besides [`Kind::warnings`].
    fn creation_warnings(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// Takes back what a write of the status may not change besides the rest of the object, before it is told who owns what.
    fn keep_for_status(_new: &mut Self::Object, _old: &Self::Object) {}

    /// Marks an object whose deletion begins: what must happen before it goes. Whether that is all there is to mark.
    fn begin_deletion(_value: &mut Value, _now: Timestamp) -> bool {
        false
    }

    /// Fields that a field selector may name, besides `metadata.name` and `metadata.namespace`.
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[];

    /// The selectable field by whose value the objects are also found without looking at all of them.
    const INDEXED_FIELD: Option<&'static str> = None;

    /// Whether the store keeps the objects in the form of another kind, because two groups serve the same objects.
    const CONVERTS: bool = false;

    /// The group whose rules, and whose name in errors, hold for an object that is kept in another form.
    const CHECKED_IN_GROUP: &'static str = Self::NAMES.group;

    /// The group and version in which Kubernetes v1.36 keeps the objects in its store. Clients are told of a hash of it, so
    /// that they write all objects anew when it changes.
    const STORAGE_VERSION: (&'static str, &'static str) = (Self::NAMES.group, Self::NAMES.version);

    /// The form in which the store keeps an object.
    fn to_stored(value: Value) -> Value {
        value
    }

    /// The kind's own form of what the store keeps.
    fn from_stored(value: Value) -> Value {
        value
    }

    /// Columns of `kubectl get`; the first is [`Column::NAME`].
    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::date("Created At", "When the object was created."),
        ]
    }

    /// One row: a cell for each column.
    fn cells(object: &Self::Object, _now: Timestamp) -> Vec<Value> {
        let meta = k8s::Metadata::metadata(object);
        let created = meta
            .creation_timestamp
            .as_ref()
            .map(|t| corral_api::time::format_seconds(t.0));
        vec![meta.name.clone().into(), created.into()]
    }

    /// Decodes of a stored object what [`Kind::cells`] looks at; `None` for a kind that has no shorter way to it than to decode
    /// all.
    fn decode_row(_json: &[u8]) -> Option<Result<Self::Object, serde_json::Error>> {
        None
    }
}

/// A decoded object of some kind.
pub struct Object(Box<dyn Any + Send + Sync>);

impl Object {
    /// Wraps a typed object.
    pub fn new<T: Any + Send + Sync>(object: T) -> Self {
        Self(Box::new(object))
    }

    /// The typed object, if it is of that type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// The typed object, if it is of that type.
    pub fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.downcast_mut()
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Objects may be Secrets; nothing of them is printed.
        f.write_str("Object(..)")
    }
}

/// A kind as the server holds it. Every method that takes an [`Object`] expects one that this kind decoded, and
/// panics on another: that is a fault of the caller, not of the data.
pub trait AnyKind: Send + Sync {
    /// Names.
    fn names(&self) -> Names<'_>;
    /// Verbs.
    fn verbs(&self) -> Verbs;
    /// Whether `status` is a subresource.
    fn has_status(&self) -> bool;
    /// Whether `metadata.generation` counts changes of `spec`.
    fn has_generation(&self) -> bool;
    /// The field of `metadata` whose changes it counts as well.
    fn generation_metadata(&self) -> Option<&'static str> {
        None
    }
    /// The `scale` subresource.
    fn scale(&self) -> Option<ScalePaths<'_>>;
    /// See [`Kind::CHECKS_FINALIZERS`].
    fn checks_finalizers(&self) -> bool;
    /// What lists of objects call themselves.
    fn list_kind(&self) -> String {
        format!("{}List", self.names().kind)
    }
    /// What is wrong with a name.
    fn name_errors(&self, name: &str) -> Vec<String>;
    /// Decodes from JSON that has passed the kind's schema.
    fn decode(&self, value: Value) -> Result<Object, serde_json::Error>;
    /// Decodes from such JSON that is needed afterwards.
    fn decode_kept(&self, value: &Value) -> Result<Object, serde_json::Error>;
    /// Decodes from bytes of the store.
    fn decode_slice(&self, json: &[u8]) -> Result<Object, serde_json::Error>;
    /// Encodes to JSON.
    fn encode(&self, object: &Object) -> Result<Value, serde_json::Error>;
    /// Metadata.
    fn meta<'a>(&self, object: &'a Object) -> &'a ObjectMeta;
    /// Metadata.
    fn meta_mut<'a>(&self, object: &'a mut Object) -> &'a mut ObjectMeta;
    /// See [`Kind::default`].
    fn default(&self, object: &mut Object);
    /// The same for what an apply has made, which says `null` where its configuration does: a kind that is described has
    /// that where it must not be.
    fn default_applied(&self, object: &mut Object) {
        self.default(object);
    }
    /// See [`Kind::prepare_create`].
    fn prepare_create(&self, object: &mut Object);
    /// See [`Kind::prepare_update`].
    fn prepare_update(&self, new: &mut Object, old: &Object);
    /// See [`Kind::prepare_status_update`].
    fn prepare_status_update(&self, new: &mut Object, old: &Object);
    /// See [`Kind::prepare_approval_update`].
    fn prepare_approval_update(&self, new: &mut Object, old: &Object);
    /// See [`Kind::validate_approval_update`].
    fn validate_approval_update(&self, new: &Object, old: &Object) -> Vec<FieldError>;
    /// See [`Kind::APPROVAL`].
    fn has_approval(&self) -> bool;
    /// See [`Kind::PARTS`].
    fn parts(&self) -> &'static [&'static str] {
        &[]
    }
    /// See [`Kind::prepare_part_update`].
    fn prepare_part_update(&self, _part: &str, _new: &mut Object, _old: &Object) {}
    /// See [`Kind::validate_part_update`].
    fn validate_part_update(&self, _part: &str, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    /// See [`Kind::STATUS_AT_CREATION`].
    fn keeps_status_at_creation(&self) -> bool;
    /// See [`Kind::DEPRECATION`].
    fn deprecation(&self) -> Option<&str>;
    /// See [`Kind::UNCONDITIONAL_UPDATE`].
    fn updates_unconditionally(&self) -> bool;
    /// See [`Kind::ORPHANS_BY_DEFAULT`].
    fn orphans_by_default(&self) -> bool;
    /// See [`Kind::validate`].
    fn validate(&self, object: &Object) -> Vec<FieldError>;
    /// See [`Kind::validate_update`].
    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError>;
    /// See [`Kind::validate_status_update`].
    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError>;
    /// See [`Kind::warnings`].
    fn warnings(&self, object: &Object) -> Vec<String>;
    /// See [`Kind::default_grace_period`].
    fn default_grace_period(&self, object: &Object) -> Option<i64>;
    /// See [`Kind::begin_deletion`].
    fn begin_deletion(&self, value: &mut Value, now: Timestamp) -> bool;
    /// See [`Kind::creation_warnings`].
    fn creation_warnings(&self, _object: &Object) -> Vec<String> {
        Vec::new()
    }
    /// See [`Kind::keep_for_status`].
    fn keep_for_status(&self, _new: &mut Object, _old: &Object) {}
    /// See [`Kind::INDEXED_FIELD`].
    fn indexed_field(&self) -> Option<&str>;
    /// Names of the selectable fields: see [`Kind::SELECTABLE_FIELDS`].
    fn selectable_field_names(&self) -> Vec<&str>;
    /// Reads what selects an object off its JSON.
    ///
    /// # Errors
    /// When the bytes are not a JSON object with object metadata.
    fn index<'j>(&self, json: &'j [u8]) -> Result<Index<'j>, Malformed>;
    /// See [`Kind::CONVERTS`].
    fn converts(&self) -> bool;
    /// See [`Kind::CHECKED_IN_GROUP`].
    fn checked_in_group(&self) -> &str {
        self.names().group
    }
    /// See [`Kind::to_stored`].
    fn to_stored(&self, value: Value) -> Value;
    /// See [`Kind::from_stored`].
    #[allow(clippy::wrong_self_convention)] // it makes a value, not a kind
    fn from_stored(&self, value: Value) -> Value;
    /// See [`Kind::columns`].
    fn columns(&self) -> Vec<Column>;
    /// See [`Kind::cells`].
    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value>;
    /// See [`Kind::decode_row`].
    fn decode_row(&self, _json: &[u8]) -> Option<Result<Object, serde_json::Error>> {
        None
    }
    /// The kind's schema.
    fn schema(&self) -> Node;
    /// See [`Kind::STORAGE_VERSION`].
    fn storage_version(&self) -> (&str, &str);
    /// Whether a client has described the kind.
    fn is_custom(&self) -> bool {
        false
    }
    /// Whether a client has described rules that may compare every part of an object with every other.
    fn has_expressions(&self) -> bool {
        false
    }
    /// A text that changes with what clients are told of the kind's shape; empty for what does not change.
    fn shape_text(&self) -> &str {
        ""
    }
    /// What clients are told of the kind's shape: the schema of an object, and the definitions that it refers to.
    fn openapi(&self) -> (Value, serde_json::Map<String, Value>);
    /// The kind's own form of bytes of the store; `None` if that is what they are.
    ///
    /// # Errors
    /// When the bytes are not JSON.
    fn own_form(&self, stored: &[u8]) -> Result<Option<Value>, serde_json::Error> {
        if !self.converts() {
            return Ok(None);
        }
        Ok(Some(self.from_stored(serde_json::from_slice(stored)?)))
    }
    /// Takes out what the kind does not have, reports it, and checks the types of the rest.
    ///
    /// # Errors
    /// The first value of a wrong type.
    fn check(&self, value: &mut Value) -> Result<Report, TypeError> {
        self.schema().check(value)
    }
}

/// A kind, whoever describes it: this crate, or a client with a CustomResourceDefinition.
#[derive(Clone)]
pub enum KindRef {
    /// Of this crate; there for the life of the process.
    BuiltIn(&'static dyn AnyKind),
    /// Of a client; there until its description changes.
    Custom(Arc<dyn AnyKind>),
}

impl Deref for KindRef {
    type Target = dyn AnyKind;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(kind) => *kind,
            Self::Custom(kind) => &**kind,
        }
    }
}

impl From<&'static dyn AnyKind> for KindRef {
    fn from(kind: &'static dyn AnyKind) -> Self {
        Self::BuiltIn(kind)
    }
}

/// Erases the type of a [`Kind`].
pub struct Erased<K>(PhantomData<K>);

impl<K> Erased<K> {
    /// The only value.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K> Default for Erased<K> {
    fn default() -> Self {
        Self::new()
    }
}

fn typed<K: Kind>(object: &Object) -> &K::Object {
    object.get().expect("an object that this kind decoded")
}

/// Keeps of an object's metadata what a write of its status may not change.
pub(crate) fn keep_metadata(new: &mut ObjectMeta, old: &ObjectMeta) {
    let old = old.clone();
    new.labels = old.labels;
    new.annotations = old.annotations;
    new.finalizers = old.finalizers;
    new.owner_references = old.owner_references;
}

fn typed_mut<K: Kind>(object: &mut Object) -> &mut K::Object {
    object.get_mut().expect("an object that this kind decoded")
}

impl<K: Kind> AnyKind for Erased<K> {
    fn names(&self) -> Names<'_> {
        K::NAMES
    }
    fn verbs(&self) -> Verbs {
        K::VERBS
    }
    fn has_status(&self) -> bool {
        K::STATUS
    }
    fn has_generation(&self) -> bool {
        K::GENERATION
    }
    fn generation_metadata(&self) -> Option<&'static str> {
        K::GENERATION_METADATA
    }
    fn scale(&self) -> Option<ScalePaths<'_>> {
        K::SCALE
    }
    fn checks_finalizers(&self) -> bool {
        K::CHECKS_FINALIZERS
    }
    fn name_errors(&self, name: &str) -> Vec<String> {
        K::NAME_RULE(name)
    }
    fn decode(&self, value: Value) -> Result<Object, serde_json::Error> {
        let mut value = Cow::Owned(value);
        K::before_decode(&mut value);
        serde_json::from_value::<K::Object>(value.into_owned()).map(Object::new)
    }
    fn decode_kept(&self, value: &Value) -> Result<Object, serde_json::Error> {
        let mut value = Cow::Borrowed(value);
        K::before_decode(&mut value);
        K::Object::deserialize(&*value).map(Object::new)
    }
    fn decode_slice(&self, json: &[u8]) -> Result<Object, serde_json::Error> {
        serde_json::from_slice::<K::Object>(json).map(Object::new)
    }
    fn encode(&self, object: &Object) -> Result<Value, serde_json::Error> {
        serde_json::to_value(typed::<K>(object))
    }
    fn meta<'a>(&self, object: &'a Object) -> &'a ObjectMeta {
        k8s::Metadata::metadata(typed::<K>(object))
    }
    fn meta_mut<'a>(&self, object: &'a mut Object) -> &'a mut ObjectMeta {
        k8s::Metadata::metadata_mut(typed_mut::<K>(object))
    }
    fn default(&self, object: &mut Object) {
        K::default(typed_mut::<K>(object));
    }
    fn prepare_create(&self, object: &mut Object) {
        K::prepare_create(typed_mut::<K>(object));
    }
    fn prepare_update(&self, new: &mut Object, old: &Object) {
        K::prepare_update(typed_mut::<K>(new), typed::<K>(old));
    }
    fn prepare_status_update(&self, new: &mut Object, old: &Object) {
        K::prepare_status_update(typed_mut::<K>(new), typed::<K>(old));
    }
    fn prepare_approval_update(&self, new: &mut Object, old: &Object) {
        K::prepare_approval_update(typed_mut::<K>(new), typed::<K>(old));
    }
    fn validate_approval_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        K::validate_approval_update(typed::<K>(new), typed::<K>(old))
    }
    fn has_approval(&self) -> bool {
        K::APPROVAL
    }
    fn parts(&self) -> &'static [&'static str] {
        K::PARTS
    }
    fn prepare_part_update(&self, part: &str, new: &mut Object, old: &Object) {
        K::prepare_part_update(part, typed_mut::<K>(new), typed::<K>(old));
    }
    fn validate_part_update(&self, part: &str, new: &Object, old: &Object) -> Vec<FieldError> {
        K::validate_part_update(part, typed::<K>(new), typed::<K>(old))
    }
    fn keeps_status_at_creation(&self) -> bool {
        K::STATUS_AT_CREATION
    }
    fn deprecation(&self) -> Option<&str> {
        K::DEPRECATION
    }
    fn updates_unconditionally(&self) -> bool {
        K::UNCONDITIONAL_UPDATE
    }
    fn orphans_by_default(&self) -> bool {
        K::ORPHANS_BY_DEFAULT
    }
    fn validate(&self, object: &Object) -> Vec<FieldError> {
        K::validate(typed::<K>(object))
    }
    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        K::validate_update(typed::<K>(new), typed::<K>(old))
    }
    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        K::validate_status_update(typed::<K>(new), typed::<K>(old))
    }
    fn warnings(&self, object: &Object) -> Vec<String> {
        K::warnings(typed::<K>(object))
    }
    fn default_grace_period(&self, object: &Object) -> Option<i64> {
        K::default_grace_period(typed::<K>(object))
    }
    fn begin_deletion(&self, value: &mut Value, now: Timestamp) -> bool {
        K::begin_deletion(value, now)
    }
    fn creation_warnings(&self, object: &Object) -> Vec<String> {
        K::creation_warnings(typed::<K>(object))
    }
    fn keep_for_status(&self, new: &mut Object, old: &Object) {
        K::keep_for_status(typed_mut::<K>(new), typed::<K>(old));
    }
    fn indexed_field(&self) -> Option<&str> {
        K::INDEXED_FIELD
    }
    fn selectable_field_names(&self) -> Vec<&str> {
        K::SELECTABLE_FIELDS
            .iter()
            .map(|field| field.name)
            .collect()
    }
    fn index<'j>(&self, json: &'j [u8]) -> Result<Index<'j>, Malformed> {
        Index::read(K::SELECTABLE_FIELDS, json)
    }
    fn converts(&self) -> bool {
        K::CONVERTS
    }
    fn checked_in_group(&self) -> &str {
        K::CHECKED_IN_GROUP
    }
    fn storage_version(&self) -> (&str, &str) {
        K::STORAGE_VERSION
    }
    fn to_stored(&self, value: Value) -> Value {
        K::to_stored(value)
    }
    fn from_stored(&self, value: Value) -> Value {
        K::from_stored(value)
    }
    fn columns(&self) -> Vec<Column> {
        K::columns()
    }
    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        K::cells(typed::<K>(object), now)
    }
    fn decode_row(&self, json: &[u8]) -> Option<Result<Object, serde_json::Error>> {
        Some(K::decode_row(json)?.map(Object::new))
    }
    fn schema(&self) -> Node {
        schema::of(self)
    }
    fn openapi(&self) -> (Value, serde_json::Map<String, Value>) {
        schema::raw_type::<K::Object>()
    }
}

/// The age of an object as a cell.
pub fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    since(meta.creation_timestamp.as_ref().map(|t| t.0), now)
}

/// The time since some moment as a cell; `<unknown>` if there is none.
pub fn since(then: Option<Timestamp>, now: Timestamp) -> Value {
    match then {
        Some(then) => corral_api::time::human_duration(now.as_second() - then.as_second()).into(),
        None => "<unknown>".into(),
    }
}
