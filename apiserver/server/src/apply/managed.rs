//! The entries of `metadata.managedFields`, and what an update or an apply does to them.

use corral_api::status::{Status, StatusCause, StatusDetails, StatusReason};
use corral_kinds::schema::Node;
use serde_json::{Map, Value, json};

use super::across::{self, Kept, Seen, Translations, Views};
use super::compare::compare;
use super::merge;
use super::set::{Set, Step};

/// Entries of updates that are kept; the oldest beyond it are joined under [`ANCIENT`], as Kubernetes does.
const UPDATE_ENTRIES_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

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
    /// Now, in the form of the API.
    pub time: String,
}

/// What somebody applies.
#[derive(Debug, Clone, Copy)]
pub struct Configuration<'a> {
    /// As it was sent; what it names is owned.
    pub sent: &'a Value,
    /// What it is as an object, without what is empty.
    pub object: &'a Value,
}

#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: Set,
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().unwrap_or("").to_owned();
        Some(Self {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Set::from_fields(value.get("fieldsV1")?),
        })
    }

    fn write(&self) -> Value {
        let mut out = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_fields(),
        });
        if !self.time.is_empty() {
            out["time"] = self.time.clone().into();
        }
        if !self.subresource.is_empty() {
            out["subresource"] = self.subresource.clone().into();
        }
        out
    }

    fn is(&self, manager: &Manager, operation: &str) -> bool {
        // Who applies has one configuration, in whatever version.
        self.manager == manager.name
            && self.operation == operation
            && self.subresource == manager.subresource
            && (operation == "Apply" || self.api_version == manager.api_version)
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array();
    entries
        .into_iter()
        .flatten()
        .filter_map(Entry::read)
        .collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    join_ancient(&mut entries);
    entries.sort_by(|a, b| {
        (
            &a.operation,
            &a.time,
            &a.manager,
            &a.api_version,
            &a.subresource,
        )
            .cmp(&(
                &b.operation,
                &b.time,
                &b.manager,
                &b.api_version,
                &b.subresource,
            ))
    });
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert(
            "managedFields".into(),
            entries.iter().map(Entry::write).collect(),
        );
    }
}

fn join_ancient(entries: &mut Vec<Entry>) {
    loop {
        let mut updates: Vec<usize> = (0..entries.len())
            .filter(|&i| entries[i].operation == "Update")
            .collect();
        if updates.len() <= UPDATE_ENTRIES_MAX {
            return;
        }
        updates.sort_by(|&a, &b| entries[a].time.cmp(&entries[b].time));
        let (first, second) = (updates[0].min(updates[1]), updates[0].max(updates[1]));
        let old = entries.remove(second);
        let target = &mut entries[first];
        target.fields = target.fields.union(&old.fields);
        ANCIENT.clone_into(&mut target.manager);
        target.time = old.time.max(std::mem::take(&mut target.time));
    }
}

fn field(name: &str) -> Step {
    Step::Field(name.to_owned())
}

/// Fields that nobody owns: identity, what the server sets, and what this way of writing cannot change.
fn unowned(manager: &Manager) -> Set {
    let mut set = Set::default();
    for name in ["apiVersion", "kind"] {
        set.insert(&[field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        set.insert(&[field("metadata"), field(name)]);
    }
    set.members.insert(field("metadata"));
    match manager.subresource.as_str() {
        "" if manager.status_is_apart => set.insert(&[field("status")]),
        "status" => {
            set.insert(&[field("spec")]);
        }
        _ => {}
    }
    set
}

fn strip(set: Set, unowned: &Set) -> Set {
    let mut metadata_only = unowned.clone();
    metadata_only.members.remove(&field("metadata"));
    let mut out = set.remove_below(&metadata_only);
    out.members.remove(&field("metadata"));
    out
}

/// Records an update: `new` gets the entries of `old`, with `manager` owning what differs.
///
/// Entries that the client sent in `new` are taken instead of those in `old` if they are not empty; an explicit empty
/// list gives up all ownership.
pub fn update(node: &Node, old: Option<&Value>, new: &mut Value, manager: &Manager, views: &Views) {
    let empty = Value::Object(Map::new());
    let sent = new["metadata"].get("managedFields");
    let reset = sent.and_then(Value::as_array).is_some_and(|list| {
        list.is_empty()
            || list
                .iter()
                .all(|e| e.as_object().is_some_and(Map::is_empty))
    });
    let mut entries = match (sent, old) {
        _ if reset => Vec::new(),
        (Some(_), _) => read(new),
        (None, Some(old)) => read(old),
        (None, None) => Vec::new(),
    };
    if reset && old.is_some() {
        write(new, entries);
        return;
    }
    let comparison = compare(node, old.unwrap_or(&empty), new);
    if comparison.keyless {
        write(new, Vec::new());
        return;
    }
    let hidden = unowned(manager);
    let changed = strip(comparison.changed(), &hidden);
    for entry in &mut entries {
        let own = entry.is(manager, "Update");
        let comparison = match views.of(&entry.api_version, &manager.api_version) {
            Seen::Own => &comparison,
            Seen::Compared(comparison) => comparison,
            Seen::Kept => continue,
            Seen::Gone => {
                entry.fields = Set::default();
                continue;
            }
        };
        entry.fields = entry.fields.remove_below(&comparison.removed);
        if !own {
            entry.fields = entry.fields.difference(&comparison.modified);
        }
    }
    take(&mut entries, manager, "Update", &changed, false);
    write(new, entries);
}

/// Gives `fields` to the manager: added to what it has, or (`exactly`) instead of it.
fn take(entries: &mut Vec<Entry>, manager: &Manager, operation: &str, fields: &Set, exactly: bool) {
    match entries
        .iter_mut()
        .find(|entry| entry.is(manager, operation))
    {
        Some(entry) => {
            let owned = if exactly {
                fields.clone()
            } else {
                entry.fields.union(fields)
            };
            if owned != entry.fields || (!exactly && !fields.is_empty()) {
                manager.time.clone_into(&mut entry.time);
            }
            manager.api_version.clone_into(&mut entry.api_version);
            entry.fields = owned;
        }
        None if !fields.is_empty() => entries.push(Entry {
            manager: manager.name.clone(),
            operation: operation.to_owned(),
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.clone(),
            time: manager.time.clone(),
            fields: fields.clone(),
        }),
        None => {}
    }
}

/// Applies a configuration to an object and answers the result, entries included.
///
/// # Errors
/// 409 with a cause for each field that another manager owns, unless `force`.
pub fn apply(
    node: &Node,
    live: &Value,
    config: Configuration<'_>,
    manager: &Manager,
    force: bool,
    translations: Option<&Translations>,
) -> Result<Value, Status> {
    let mut entries = read(live);
    let hidden = unowned(manager);
    // Who names a field owns it, be it empty; such fields are no part of the object.
    let wanted = strip(Set::of(node, config.sent), &hidden);
    let mut merged = merge::merge(node, live, config.object);

    let changed = compare(node, live, &merged).changed();
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        if entry.is(manager, "Apply") {
            continue;
        }
        let disputed = match translations.filter(|_| entry.api_version != manager.api_version) {
            None => entry.fields.intersection(&changed).intersection(&wanted),
            // Only what the configuration names has changed, whatever it is called there.
            Some(translations) => {
                let version = &entry.api_version;
                let changed = across::changed(translations, version, live, &merged)?;
                match changed {
                    Some(changed) => entry.fields.intersection(&changed),
                    None => {
                        entry.fields = Set::default();
                        continue;
                    }
                }
            }
        };
        if !disputed.is_empty() {
            conflicts.extend(
                disputed
                    .paths()
                    .into_iter()
                    .map(|path| conflict(entry, &path)),
            );
            entry.fields = entry.fields.difference(&disputed);
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts_status(conflicts));
    }

    let before = entries.iter().find(|entry| entry.is(manager, "Apply"));
    if let Some(before) = before {
        merged = without_unnamed(
            node,
            merged,
            before,
            &entries,
            &wanted,
            manager,
            translations,
        )?;
    }
    take(&mut entries, manager, "Apply", &wanted, true);
    write(&mut merged, entries);
    Ok(merged)
}

/// The object without what the manager's last configuration named, and neither this one nor another manager does.
fn without_unnamed(
    node: &Node,
    mut merged: Value,
    before: &Entry,
    entries: &[Entry],
    wanted: &Set,
    manager: &Manager,
    translations: Option<&Translations>,
) -> Result<Value, Status> {
    let others = entries.iter().filter(|entry| !entry.is(manager, "Apply"));
    let own = manager.api_version.as_str();
    let is_own = entries.iter().all(|entry| entry.api_version == own);
    let Some(translations) = translations.filter(|_| !is_own) else {
        let kept = others.fold(wanted.clone(), |all, entry| all.union(&entry.fields));
        let orphaned = without_parents(before.fields.difference(wanted), &kept);
        merge::remove(node, &mut merged, &orphaned);
        return Ok(merged);
    };
    let mut kept: Vec<(String, Set)> = vec![(own.to_owned(), wanted.clone())];
    for entry in others {
        match kept
            .iter_mut()
            .find(|(version, _)| *version == entry.api_version)
        {
            Some((_, set)) => *set = set.union(&entry.fields),
            None => kept.push((entry.api_version.clone(), entry.fields.clone())),
        }
    }
    let before = (before.api_version.as_str(), &before.fields);
    across::prune(translations, merged, own, before, &Kept(kept))
}

/// Paths that nobody keeps; the parent of a kept path stays.
pub(super) fn without_parents(set: Set, kept: &Set) -> Set {
    let mut out = Set::default();
    for member in set.members {
        let child_kept = kept.children.get(&member).is_some_and(|c| !c.is_empty());
        if !kept.members.contains(&member) && !child_kept {
            out.members.insert(member);
        }
    }
    let nothing = Set::default();
    for (step, child) in set.children {
        let left = without_parents(child, kept.children.get(&step).unwrap_or(&nothing));
        if !left.is_empty() {
            out.children.insert(step, left);
        }
    }
    out
}

fn conflict(entry: &Entry, path: &[Step]) -> StatusCause {
    let field: String = path.iter().map(Step::to_string).collect();
    let through = match entry.subresource.as_str() {
        "" => String::new(),
        subresource => format!(" with subresource {subresource:?}"),
    };
    let using = match entry.operation.as_str() {
        "Update" => format!(" using {}", entry.api_version),
        _ => String::new(),
    };
    StatusCause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {:?}{through}{using}", entry.manager),
        field,
    }
}

fn conflicts_status(causes: Vec<StatusCause>) -> Status {
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
    use corral_kinds::{all, schema};

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
        let (sent, object) = (config, config);
        let config = Configuration { sent, object };
        apply(node, live, config, manager, force, None)
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
    fn an_update_owns_what_it_changed() {
        let node = deployment();
        let mut created = config(Some(1), "x");
        created["metadata"]["labels"] = json!({"k": "v"});
        update(
            &node,
            None,
            &mut created,
            &manager("kubectl-create"),
            &Views::default(),
        );
        let fields = &created["metadata"]["managedFields"][0]["fieldsV1"];
        assert_eq!(
            *fields,
            json!({"f:metadata": {"f:labels": {".": {}, "f:k": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
        );
        let mut scaled = created.clone();
        scaled["spec"]["replicas"] = 3.into();
        update(
            &node,
            Some(&created),
            &mut scaled,
            &manager("kubectl-scale"),
            &Views::default(),
        );
        let entries = scaled["metadata"]["managedFields"]
            .as_array()
            .expect("entries");
        assert_eq!(entries.len(), 2);
        let scale = entries
            .iter()
            .find(|e| e["manager"] == "kubectl-scale")
            .expect("entry");
        assert_eq!(scale["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    }
}
