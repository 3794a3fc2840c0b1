//! The entries of `metadata.managedFields`: who owns which fields.
//!
//! A write changes few of them. An entry is therefore read no further than needed, and one that stays as it is is written
//! as it was stored.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use serde_json::{Map, Value};

use super::managed::Manager;
use super::set::Set;

/// Entries of updates that are kept; the oldest beyond it are joined under [`ANCIENT`], as Kubernetes does.
const UPDATE_ENTRIES_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// The one form in which fields are written.
const FIELDS_TYPE: &str = "FieldsV1";

/// Who owns which fields.
pub(super) struct Entry<'a> {
    pub(super) manager: Cow<'a, str>,
    pub(super) operation: Cow<'a, str>,
    pub(super) api_version: Cow<'a, str>,
    pub(super) subresource: Cow<'a, str>,
    pub(super) time: Cow<'a, str>,
    fields: Fields<'a>,
}

enum Fields<'a> {
    /// As the server has stored them.
    Stored(&'a Value),
    Read(Set),
}

impl<'a> Entry<'a> {
    /// An entry of somebody's who has none.
    pub(super) fn new(manager: &'a Manager, operation: &'static str, fields: Set) -> Self {
        Self {
            manager: Cow::Borrowed(&manager.name),
            operation: Cow::Borrowed(operation),
            api_version: Cow::Borrowed(&manager.api_version),
            subresource: Cow::Borrowed(&manager.subresource),
            time: Cow::Borrowed(&manager.time),
            fields: Fields::Read(fields),
        }
    }

    fn read(entry: &'a Value) -> Option<Self> {
        Some(Self::made(entry, Fields::Stored(entry.get("fieldsV1")?)))
    }

    fn made(entry: &'a Value, fields: Fields<'a>) -> Self {
        let text = |key: &str| Cow::Borrowed(entry[key].as_str().unwrap_or(""));
        Self {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields,
        }
    }

    fn write(&self) -> Value {
        let fields = match &self.fields {
            Fields::Stored(fields) => (*fields).clone(),
            Fields::Read(set) => set.to_fields(),
        };
        let mut out = Map::new();
        let mut put = |key: &str, text: &str| out.insert(key.to_owned(), text.into());
        put("apiVersion", &self.api_version);
        put("fieldsType", FIELDS_TYPE);
        if !self.manager.is_empty() {
            put("manager", &self.manager);
        }
        put("operation", &self.operation);
        if !self.subresource.is_empty() {
            put("subresource", &self.subresource);
        }
        if !self.time.is_empty() {
            put("time", &self.time);
        }
        out.insert("fieldsV1".to_owned(), fields);
        Value::Object(out)
    }

    /// Whether it is the one in which a manager's writes of this operation are kept.
    pub(super) fn is(&self, manager: &Manager, operation: &str) -> bool {
        // Who applies has one configuration, in whatever version.
        self.manager == manager.name
            && self.operation == operation
            && self.subresource == manager.subresource
            && (operation == "Apply" || self.api_version == manager.api_version)
    }

    /// Its fields.
    pub(super) fn fields(&self) -> Cow<'_, Set> {
        match &self.fields {
            Fields::Stored(fields) => Cow::Owned(Set::from_fields(fields)),
            Fields::Read(set) => Cow::Borrowed(set),
        }
    }

    fn fields_mut(&mut self) -> &mut Set {
        if let Fields::Stored(fields) = &self.fields {
            self.fields = Fields::Read(Set::from_fields(fields));
        }
        match &mut self.fields {
            Fields::Read(set) => set,
            Fields::Stored(_) => unreachable!("they have just been read"),
        }
    }

    /// Whether its fields are these and no others.
    pub(super) fn owns_exactly(&self, fields: &Set) -> bool {
        match &self.fields {
            Fields::Stored(stored) => fields.is_all_of(stored),
            Fields::Read(set) => set == fields,
        }
    }

    /// Which of these fields it owns.
    pub(super) fn owned_of(&self, fields: &Set) -> Set {
        match &self.fields {
            Fields::Stored(stored) if !fields.meets(stored) => Set::default(),
            _ => self.fields().intersection(fields),
        }
    }

    /// Gives it exactly these fields.
    pub(super) fn set(&mut self, fields: Set) {
        self.fields = Fields::Read(fields);
    }

    /// Gives it these fields, too.
    pub(super) fn join(&mut self, fields: &Set) {
        match &self.fields {
            Fields::Stored(stored) if fields.is_within(stored) => {}
            _ => self.fields_mut().join(fields),
        }
    }

    /// Takes these fields from it.
    pub(super) fn subtract(&mut self, fields: &Set) {
        match &self.fields {
            Fields::Stored(stored) if !fields.meets(stored) => {}
            _ => self.fields_mut().subtract(fields),
        }
    }

    /// Takes these fields and what is below them from it.
    pub(super) fn subtract_below(&mut self, fields: &Set) {
        match &self.fields {
            Fields::Stored(stored) if !fields.meets_below(stored) => {}
            _ => self.fields_mut().subtract_below(fields),
        }
    }

    /// By what the entries of an object are in order.
    fn place(&self) -> [&str; 5] {
        [
            &self.operation,
            &self.time,
            &self.manager,
            &self.api_version,
            &self.subresource,
        ]
    }

    fn owns_nothing(&self) -> bool {
        match &self.fields {
            // As it is stored, it has something.
            Fields::Stored(stored) => stored.as_object().is_none_or(Map::is_empty),
            Fields::Read(set) => set.is_empty(),
        }
    }
}

/// Reads the entries that the server has stored.
pub(super) fn stored(entries: Option<&Value>) -> Vec<Entry<'_>> {
    let entries = entries.and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(Entry::read).collect()
}

/// Reads the entries that a client has sent; nothing if one of them is none. Of two of one manager the last counts, and
/// those in versions that the kind does not have are nobody's.
pub(super) fn sent<'a>(
    entries: &'a Value,
    has_version: impl Fn(&str) -> bool,
) -> Option<Vec<Entry<'a>>> {
    let mut read: Vec<Entry<'a>> = Vec::new();
    let mut places = HashMap::new();
    for entry in entries.as_array()? {
        let text = |key: &str| entry[key].as_str().unwrap_or("");
        let is_entry = matches!(text("operation"), "Apply" | "Update")
            && text("fieldsType") == FIELDS_TYPE
            && !text("apiVersion").is_empty();
        if !is_entry {
            return None;
        }
        let mut made = Entry::made(entry, Fields::Read(sent_fields(entry.get("fieldsV1"))?));
        if !has_version(&made.api_version) {
            made.set(Set::default());
        }
        let version = match text("operation") {
            // Who applies has one configuration, in whatever version.
            "Apply" => "",
            _ => text("apiVersion"),
        };
        let whose = (
            text("manager"),
            text("operation"),
            text("subresource"),
            version,
        );
        match places.entry(whose) {
            Occupied(place) => read[*place.get()] = made,
            Vacant(place) => {
                place.insert(read.len());
                read.push(made);
            }
        }
    }
    Some(read)
}

/// The fields of an entry that a client has sent; nothing if they are none.
fn sent_fields(fields: Option<&Value>) -> Option<Set> {
    match fields {
        None | Some(Value::Null) => Some(Set::default()),
        Some(fields) => Set::are_fields(fields).then(|| Set::from_fields(fields)),
    }
}

/// The entries as an object holds them; none if nobody owns anything.
pub(super) fn written(mut entries: Vec<Entry<'_>>) -> Option<Value> {
    entries.retain(|entry| !entry.owns_nothing());
    join_ancient(&mut entries);
    entries.sort_by(|a, b| a.place().cmp(&b.place()));
    (!entries.is_empty()).then(|| entries.iter().map(Entry::write).collect())
}

/// Joins the oldest updates beyond [`UPDATE_ENTRIES_MAX`] where the first of them stands. A client may have sent thousands.
fn join_ancient(entries: &mut Vec<Entry<'_>>) {
    let updates = entries.iter().enumerate();
    let updates = updates.filter(|(_, entry)| entry.operation == "Update");
    let mut joined: Vec<usize> = updates.map(|(at, _)| at).collect();
    if joined.len() <= UPDATE_ENTRIES_MAX {
        return;
    }
    joined.sort_by(|&a, &b| entries[a].time.cmp(&entries[b].time));
    joined.truncate(joined.len() - UPDATE_ENTRIES_MAX + 1);
    joined.sort_unstable();
    let first = joined[0];
    let mut sets = Vec::with_capacity(joined.len());
    let mut time = Cow::Borrowed("");
    for &at in &joined {
        sets.push(entries[at].fields().into_owned());
        time = time.max(entries[at].time.clone());
    }
    let mut at = 0;
    entries.retain(|_| {
        let is_joined = joined.binary_search(&at).is_ok();
        at += 1;
        !is_joined || at - 1 == first
    });
    let target = &mut entries[first];
    target.set(Set::union(sets));
    target.manager = Cow::Borrowed(ANCIENT);
    target.time = time;
}

/// Whether owners are the same, whenever they wrote.
pub(crate) fn same_owners(some: Option<&Value>, others: Option<&Value>) -> bool {
    fn entries(owners: Option<&Value>) -> Vec<&Map<String, Value>> {
        let entries = owners.and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(Value::as_object).collect()
    }
    let (some, others) = (entries(some), entries(others));
    let same = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.len() == b.len()
            && a.iter()
                .all(|(key, value)| key == "time" || b.get(key) == Some(value))
    };
    // Those of the same second may stand in another order than they did.
    some.len() == others.len() && some.iter().all(|a| others.iter().any(|b| same(a, b)))
}

/// Takes the owners of its fields out of an object.
pub(crate) fn take_managed(value: &mut Value) -> Option<Value> {
    let metadata = value.get_mut("metadata")?.as_object_mut()?;
    metadata.remove("managedFields")
}

/// A copy of an object without the owners of its fields, which are often the larger half of it.
pub(crate) fn without_managed(value: &Value) -> Value {
    let Some(map) = value.as_object() else {
        return value.clone();
    };
    let copy = |(key, value): (&String, &Value)| match value {
        Value::Object(metadata) if key == "metadata" => {
            let kept = metadata.iter().filter(|(key, _)| *key != "managedFields");
            let kept = kept.map(|(key, value)| (key.clone(), value.clone()));
            (key.clone(), Value::Object(kept.collect()))
        }
        value => (key.clone(), value.clone()),
    };
    Value::Object(map.iter().map(copy).collect())
}

/// Typed metadata cannot hold `fieldsV1` in its own order of keys; the entries pass by it untouched.
pub(crate) fn restore_managed(value: &mut Value, managed: Option<Value>) {
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        match managed {
            Some(managed) => metadata.insert("managedFields".into(), managed),
            None => metadata.remove("managedFields"),
        };
    }
}
