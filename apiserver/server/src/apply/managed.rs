//! What an update or an apply does to who owns which fields.

use std::borrow::Cow;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use corral_api::status::{Status, StatusCause, StatusDetails, StatusReason};
use corral_kinds::schema::{self, Node};
use serde_json::{Map, Value};

use super::across::{self, Kept, Seen, Translations, Views};
use super::compare::compare;
use super::entries::{self, Entry, restore_managed, without_managed};
use super::last_applied;
use super::merge::{self, Removal};
use super::set::Set;

/// The subresource that has nothing but a number.
const SCALE: &str = "scale";
/// The version in which it names its field, whatever the object is.
const SCALE_VERSION: &str = "autoscaling/v1";

/// Who writes.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Name of the field manager.
    pub name: String,
    /// Group and version in which the fields are named.
    pub api_version: String,
    /// The subresource written through; empty for the object itself.
    pub subresource: String,
    /// Whether the kind's `status` has an owner of its own, so that a write of the object itself leaves it alone.
    pub status_is_apart: bool,
    /// Now, in the form of the API; empty for what is not dated.
    pub time: String,
}

/// What an apply has made of an object.
#[derive(Debug, PartialEq)]
pub struct Applied {
    /// The object. What the configuration said in its own way, such as `null`, stands in it as it was sent.
    pub object: Value,
    /// Whether there is `null` where something was that is named no more.
    pub empties: bool,
}

/// Who owns what was there before anybody owned anything of an object, once somebody applies.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Identity, and what the server sets.
const SYSTEM_FIELDS: [&[&str]; 13] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
];

/// Takes out the fields that nobody owns: those of the system, and what this way of writing cannot change.
fn strip(set: &mut Set, manager: &Manager) {
    static UNOWNED: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&SYSTEM_FIELDS));
    set.subtract_below(&UNOWNED);
    without_other_parts(set, manager);
    set.subtract(&METADATA);
}

static METADATA: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["metadata"]]));

/// Takes out what belongs to another part than the one written.
fn without_other_parts(set: &mut Set, manager: &Manager) {
    static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["status"]]));
    static SPEC: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"]]));
    match manager.subresource.as_str() {
        "" if manager.status_is_apart => set.subtract_below(&STATUS),
        "status" => set.subtract_below(&SPEC),
        _ => {}
    }
}

/// Who owns what before a write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owners<'a> {
    /// The entries that are stored.
    pub stored: Option<&'a Value>,
    /// The entries that the client sent, if it sent any and they are not the same.
    pub sent: Option<&'a Value>,
    /// The kind, if it is one of Kubernetes' own: what a client says of versions that it does not have is nobody's.
    pub kind: Option<&'a str>,
}

/// The entries after an update of `old` to `new`, with `manager` owning what differs; none if nobody owns anything.
///
/// Entries that the client sent are taken instead of those that are stored if they are such; an explicit empty list, or an
/// empty entry alone, gives up all ownership. The objects come without their entries.
pub fn update(
    node: &Node,
    old: Option<&Value>,
    new: &Value,
    owners: Owners<'_>,
    manager: &Manager,
    views: &Views,
) -> Option<Value> {
    let empty = Value::Object(Map::new());
    let is_bare = |entry: &Value| entry.as_object().is_some_and(Map::is_empty);
    let sent = owners.sent.and_then(Value::as_array);
    let reset = sent.is_some_and(|entries| entries.len() < 2 && entries.iter().all(is_bare));
    if reset && old.is_some() {
        return None;
    }
    let has_version = |version: &str| {
        let is_kind = |kind| schema::is_kind(version, kind);
        version == manager.api_version || owners.kind.is_none_or(is_kind)
    };
    let read = |sent| entries::sent(sent, has_version);
    let mut entries = match owners.sent.map(read) {
        _ if reset => Vec::new(),
        Some(Some(sent)) => sent,
        _ => entries::stored(owners.stored),
    };
    let comparison = compare(node, old.unwrap_or(&empty), new);
    if comparison.keyless {
        return None;
    }
    for entry in &mut entries {
        let own = entry.is(manager, "Update");
        let comparison = match views.of(&entry.api_version, &manager.api_version) {
            Seen::Own => &comparison,
            Seen::Compared(comparison) => comparison,
            Seen::Kept => continue,
            Seen::Gone => {
                entry.set(Set::default());
                continue;
            }
        };
        entry.subtract_below(&comparison.removed);
        if !own {
            entry.subtract(&comparison.modified);
            // A client may have said that somebody owns what was not there.
            entry.subtract(&comparison.added);
        }
    }
    let mut changed = comparison.changed();
    strip(&mut changed, manager);
    let own = entries.iter_mut().find(|entry| entry.is(manager, "Update"));
    match own {
        _ if changed.is_empty() => {}
        Some(entry) => {
            entry.join(&changed);
            if !manager.time.is_empty() {
                entry.time = Cow::Borrowed(&manager.time);
            }
        }
        None => entries.push(Entry::new(manager, "Update", changed)),
    }
    entries::written(entries)
}

/// Applies a configuration to an object and answers the result, entries included.
///
/// # Errors
/// 409 with a cause for each field that another manager owns, unless `force`.
pub fn apply(
    node: &Node,
    live: &Value,
    config: &Value,
    manager: &Manager,
    force: bool,
    translations: Option<&Translations>,
) -> Result<Applied, Status> {
    let first;
    let mut entries = entries::stored(live["metadata"].get("managedFields"));
    let mut merged = without_managed(live);
    // Who names a field owns it, be it empty.
    let mut wanted = Set::of(node, config);
    strip(&mut wanted, manager);
    let scales = manager.subresource == SCALE;
    let is_first = match scales {
        true => entries
            .iter()
            .all(|entry| entry.owned_of(&wanted).is_empty()),
        false => entries.is_empty(),
    };
    if is_first {
        first = Manager {
            name: BEFORE_FIRST_APPLY.to_owned(),
            ..manager.clone()
        };
        let comparison = compare(node, &Value::Object(Map::new()), &merged);
        let mut there = comparison.changed();
        strip(&mut there, &first);
        if scales {
            there = there.intersection(&wanted);
        }
        if !comparison.keyless && !there.is_empty() {
            entries.push(Entry::new(&first, "Update", there));
        }
    }
    merge::merge(node, &mut merged, config);

    let mut changed = compare(node, live, &merged).changed();
    without_other_parts(&mut changed, manager);
    // What has changed as other versions name it: there are few of them, and may be thousands of entries.
    let mut elsewhere = HashMap::new();
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        if entry.is(manager, "Apply") {
            continue;
        }
        let disputed = match translations.filter(|_| entry.api_version != manager.api_version) {
            // Only what the configuration names has changed, whatever it is called there.
            None => entry.owned_of(&changed),
            Some(translations) => {
                let changed = match elsewhere.entry(entry.api_version.clone()) {
                    Occupied(known) => known.into_mut(),
                    Vacant(place) => {
                        let version = &entry.api_version;
                        let changed = across::changed(translations, version, live, &merged)?;
                        place.insert(changed)
                    }
                };
                match changed {
                    Some(changed) => entry.owned_of(changed),
                    None => {
                        entry.set(Set::default());
                        continue;
                    }
                }
            }
        };
        if !disputed.is_empty() {
            conflicts.push((Owner::of(entry), disputed.clone()));
            entry.subtract(&disputed);
        }
    }
    if !conflicts.is_empty() && !force {
        let allowed = last_applied::taken_over(node, live, config, manager);
        conflicts
            .iter_mut()
            .for_each(|(_, disputed)| disputed.subtract(&allowed));
        conflicts.retain(|(_, disputed)| !disputed.is_empty());
        if !conflicts.is_empty() {
            return Err(conflicts_status(conflicts, manager));
        }
    }

    let before = entries.iter().find(|entry| entry.is(manager, "Apply"));
    let is_other = |before: &&Entry<'_>| {
        before.api_version != manager.api_version || !before.owns_exactly(&wanted)
    };
    let mut removal = Removal::default();
    if let Some(before) = before.filter(is_other) {
        (merged, removal) = without_unnamed(
            node,
            merged,
            before,
            &entries,
            &wanted,
            manager,
            translations,
        )?;
    }
    if removal.removes {
        // What others owned a part of may be gone as a whole.
        let removed = compare(node, live, &merged).removed;
        let own = manager.api_version.as_str();
        let others = entries.iter_mut().filter(|entry| entry.api_version == own);
        others.for_each(|entry| entry.subtract(&removed));
    }
    let is_dated = removal.removes || !changed.is_empty();
    match entries.iter_mut().find(|entry| entry.is(manager, "Apply")) {
        Some(entry) => {
            if !entry.owns_exactly(&wanted) {
                entry.set(wanted);
            }
            if is_dated {
                entry.time = Cow::Borrowed(&manager.time);
            }
            entry.api_version = Cow::Borrowed(&manager.api_version);
        }
        None if !wanted.is_empty() => {
            let mut entry = Entry::new(manager, "Apply", wanted);
            if !is_dated {
                entry.time = Cow::Borrowed("");
            }
            entries.push(entry);
        }
        None => {}
    }
    restore_managed(&mut merged, entries::written(entries));
    Ok(Applied {
        object: merged,
        empties: removal.empties,
    })
}

/// The object without what the manager's last configuration named, and neither this one nor another manager does.
fn without_unnamed(
    node: &Node,
    mut merged: Value,
    before: &Entry<'_>,
    entries: &[Entry<'_>],
    wanted: &Set,
    manager: &Manager,
    translations: Option<&Translations>,
) -> Result<(Value, Removal), Status> {
    let others = entries.iter().filter(|entry| !entry.is(manager, "Apply"));
    let own = manager.api_version.as_str();
    let is_own = entries.iter().all(|entry| entry.api_version == own);
    let fields = before.fields();
    // Nobody owns the name, and yet it stays.
    let mut wanted = wanted.clone();
    wanted.join(&METADATA);
    let Some(translations) = translations.filter(|_| !is_own) else {
        let others = others.map(|entry| entry.fields().into_owned());
        let kept = Set::union(others.chain([wanted]).collect());
        let removal = merge::prune(node, &mut merged, &fields, &kept);
        return Ok((merged, removal));
    };
    let mut kept = BTreeMap::from([(own.to_owned(), vec![wanted])]);
    for entry in others {
        let version = entry.api_version.clone().into_owned();
        let sets = kept.entry(version).or_default();
        sets.push(entry.fields().into_owned());
    }
    let kept = kept.into_iter();
    let kept = kept.map(|(version, sets)| (version, Set::union(sets)));
    let kept = Kept(kept.collect());
    let before = (&*before.api_version, &*fields);
    let (pruned, empties) = across::prune(translations, merged.clone(), own, before, &kept)?;
    let removes = pruned != merged;
    Ok((pruned, Removal { removes, empties }))
}

/// Who owns disputed fields, in the order in which they are told of.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
}

impl Owner {
    fn of(entry: &Entry<'_>) -> Self {
        Self {
            manager: entry.manager.clone().into_owned(),
            operation: entry.operation.clone().into_owned(),
            api_version: entry.api_version.clone().into_owned(),
            subresource: entry.subresource.clone().into_owned(),
        }
    }

    fn conflict(&self, writer: &Manager) -> String {
        let through = match self.subresource.as_str() {
            "" => String::new(),
            subresource => format!(" with subresource {subresource:?}"),
        };
        let version = match writer.subresource.as_str() {
            SCALE => SCALE_VERSION,
            _ => &self.api_version,
        };
        let using = match self.operation.as_str() {
            "Update" => format!(" using {version}"),
            _ => String::new(),
        };
        format!("conflict with {:?}{through}{using}", self.manager)
    }
}

fn conflicts_status(mut conflicts: Vec<(Owner, Set)>, writer: &Manager) -> Status {
    conflicts.sort_by(|(a, _), (b, _)| a.cmp(b));
    let causes = conflicts.iter().flat_map(|(owner, disputed)| {
        let message = owner.conflict(writer);
        disputed.paths().into_iter().map(move |field| StatusCause {
            reason: "FieldManagerConflict".into(),
            message: message.clone(),
            field,
        })
    });
    let causes: Vec<StatusCause> = causes.collect();
    let n = causes.len();
    let message = if let [cause] = causes.as_slice() {
        format!(
            "Apply failed with 1 conflict: {}: {}",
            cause.message, cause.field
        )
    } else {
        let mut lines = format!("Apply failed with {n} conflicts: ");
        let mut last = "";
        for cause in &causes {
            if cause.message != last {
                let separator = if last.is_empty() { "" } else { "\n" };
                lines.push_str(&format!(
                    "{separator}conflicts {}:",
                    cause.message.trim_start_matches("conflict ")
                ));
                last = &cause.message;
            }
            lines.push_str(&format!("\n- {}", cause.field));
        }
        lines
    };
    Status::failure(409, StatusReason::Conflict, message).with_details(StatusDetails {
        causes,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use corral_kinds::{all, schema};
    use serde_json::json;

    use super::*;

    fn deployment() -> Node {
        schema::of(all::resource("apps", "v1", "deployments").expect("served"))
    }

    fn manager(name: &str) -> Manager {
        Manager {
            name: name.into(),
            api_version: "apps/v1".into(),
            subresource: String::new(),
            status_is_apart: true,
            time: "2026-01-01T00:00:00Z".into(),
        }
    }

    fn apply_config(
        node: &Node,
        live: &Value,
        config: &Value,
        manager: &Manager,
        force: bool,
    ) -> Result<Value, Status> {
        let applied = apply(node, live, config, manager, force, None)?;
        Ok(applied.object)
    }

    fn config(replicas: Option<i32>, image: &str) -> Value {
        let mut value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        if let Some(replicas) = replicas {
            value["spec"]["replicas"] = replicas.into();
        }
        value
    }

    #[test]
    fn a_second_manager_conflicts_unless_it_forces() {
        let node = deployment();
        let empty = json!({"metadata": {"name": "a"}});
        let live = apply_config(&node, &empty, &config(Some(1), "x"), &manager("one"), false)
            .expect("first");
        let error = apply_config(&node, &live, &config(Some(2), "x"), &manager("two"), false)
            .expect_err("conflict");
        assert_eq!(
            error.message,
            "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
        );
        let forced = apply_config(&node, &live, &config(Some(2), "x"), &manager("two"), true)
            .expect("forced");
        assert_eq!(forced["spec"]["replicas"], 2);
        let again = apply_config(&node, &forced, &config(None, "x"), &manager("one"), false)
            .expect("no longer owns it");
        assert_eq!(again["spec"]["replicas"], 2);
    }

    #[test]
    fn what_is_no_longer_applied_is_removed_unless_others_own_it() {
        let node = deployment();
        let empty = json!({"metadata": {"name": "a"}});
        let live = apply_config(&node, &empty, &config(Some(1), "x"), &manager("one"), false)
            .expect("first");
        let after =
            apply_config(&node, &live, &config(None, "x"), &manager("one"), false).expect("second");
        assert!(after["spec"].get("replicas").is_none());
        let shared = apply_config(&node, &live, &config(Some(1), "x"), &manager("two"), false)
            .expect("same value");
        let kept = apply_config(&node, &shared, &config(None, "x"), &manager("one"), false)
            .expect("other owns");
        assert_eq!(kept["spec"]["replicas"], 1);
    }

    #[test]
    fn appliers_and_fields_do_not_multiply() {
        const N: usize = 15_000;
        // One with the other would take minutes in a debug build, and one beside the other a second or two.
        const LONGEST: Duration = Duration::from_secs(20);
        let node = schema::of(all::resource("", "v1", "configmaps").expect("served"));
        let entry = |index: usize| {
            json!({"manager": format!("m{index}"), "operation": "Apply", "apiVersion": "v1",
                "fieldsV1": {"f:data": {format!("f:k{index}"): {}}}})
        };
        let entries: Vec<Value> = (0..N).map(entry).collect();
        let of = |value: &str| -> Value {
            let fields = (0..N).map(|index| (format!("k{index}"), value.into()));
            Value::Object(fields.collect())
        };
        let live = json!({"metadata": {"name": "a", "managedFields": entries}, "data": of("a")});
        let mut own = manager("own");
        own.api_version = "v1".into();
        let began = Instant::now();
        let config = json!({"metadata": {"name": "a"}, "data": of("b")});
        let forced = apply_config(&node, &live, &config, &own, true).expect("forced");
        let owners = forced["metadata"]["managedFields"].as_array();
        assert_eq!(owners.map(Vec::len), Some(1));
        // With the others still there, most of what was applied stays.
        let mut shared = live;
        let all = json!({"manager": "own", "operation": "Apply", "apiVersion": "v1",
            "fieldsV1": owners.expect("a list")[0]["fieldsV1"]});
        let entries = shared["metadata"]["managedFields"].as_array_mut();
        let entries = entries.expect("a list");
        entries.pop();
        entries.push(all);
        let none = json!({"metadata": {"name": "a"}});
        let left = apply_config(&node, &shared, &none, &own, false).expect("others own");
        assert_eq!(left["data"].as_object().map(Map::len), Some(N - 1));
        let took = began.elapsed();
        assert!(took < LONGEST, "{took:?}");
    }

    #[test]
    fn an_update_owns_what_it_changed() {
        let node = deployment();
        let mut created = config(Some(1), "x");
        created["metadata"]["labels"] = json!({"k": "v"});
        let none = Owners::default();
        let (creator, views) = (manager("kubectl-create"), Views::default());
        let owners = update(&node, None, &created, none, &creator, &views).expect("entries");
        let fields = &owners[0]["fieldsV1"];
        assert_eq!(
            *fields,
            json!({"f:metadata": {"f:labels": {".": {}, "f:k": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
        );
        let mut scaled = created.clone();
        scaled["spec"]["replicas"] = 3.into();
        let stored = Owners {
            stored: Some(&owners),
            ..Owners::default()
        };
        let scaler = manager("kubectl-scale");
        let owners = update(&node, Some(&created), &scaled, stored, &scaler, &views);
        let owners = owners.expect("entries");
        let entries = owners.as_array().expect("a list");
        assert_eq!(entries.len(), 2);
        let scale = entries
            .iter()
            .find(|e| e["manager"] == "kubectl-scale")
            .expect("entry");
        assert_eq!(scale["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    }
}
