//! What the status of a definition shall say, given the others.

use corral_api::time::Time;
use corral_kinds::apiextensions::custom_resource_definition::{
    Condition, CustomResourceDefinition, Names, Status, approval, is_protected,
};
use jiff::Timestamp;

/// The status that a definition shall have; `None` if it has it.
/// `taken`: the names that were accepted for the other definitions of its group.
pub(super) fn next(
    definition: &CustomResourceDefinition,
    taken: &[&Names],
    now: Timestamp,
) -> Option<Status> {
    let before = definition.status.clone().unwrap_or_default();
    let mut next = before.clone();
    let conflict = accept(definition, taken, &mut next.accepted_names);
    let accepted = match &conflict {
        Some((reason, message)) => condition("NamesAccepted", false, reason, message),
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
    };
    let is_established = definition.is("Established");
    let established = match (is_established, &conflict) {
        (true, _) => None,
        (false, None) => Some(condition(
            "Established",
            true,
            "InitialNamesAccepted",
            "the initial names have been accepted",
        )),
        (false, Some(_)) => Some(condition(
            "Established",
            false,
            "NotAccepted",
            "not all names are accepted",
        )),
    };
    let conditions = next.conditions.get_or_insert_default();
    set(conditions, accepted, now);
    if let Some(established) = established {
        set(conditions, established, now);
    }
    if is_protected(&definition.spec.group) {
        set(conditions, approved(definition), now);
    }
    (next != before).then_some(next)
}

fn condition(type_: &str, holds: bool, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        last_transition_time: None,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        observed_generation: None,
    }
}

/// Sets a condition; the time is that of its last change.
pub(super) fn set(conditions: &mut Vec<Condition>, mut condition: Condition, now: Timestamp) {
    let now = Time(corral_api::time::truncate_to_seconds(now));
    let Some(there) = conditions.iter_mut().find(|c| c.type_ == condition.type_) else {
        condition.last_transition_time = Some(now);
        conditions.push(condition);
        return;
    };
    condition.last_transition_time = match there.status == condition.status {
        true => there.last_transition_time.clone(),
        false => Some(now),
    };
    *there = condition;
}

/// Whether somebody stands for a kind in a group of Kubernetes' own.
fn approved(definition: &CustomResourceDefinition) -> Condition {
    const TYPE: &str = "KubernetesAPIApprovalPolicyConformant";
    match approval(definition) {
        Ok(word) if word.starts_with("approved") => {
            condition(TYPE, true, "ApprovedAnnotation", &word)
        }
        Ok(word) => condition(TYPE, false, "UnapprovedAnnotation", &word),
        Err((true, why)) => condition(TYPE, false, "InvalidAnnotation", &why),
        Err((false, why)) => condition(TYPE, false, "MissingAnnotation", &why),
    }
}

/// Accepts the names that are free. Answers the last conflict: its reason and its message.
fn accept(
    definition: &CustomResourceDefinition,
    taken: &[&Names],
    accepted: &mut Names,
) -> Option<(String, String)> {
    let wanted = &definition.spec.names;
    if wanted == accepted {
        return None;
    }
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    let resources = |name: &str| {
        taken.iter().any(|names| {
            let short = names.short_names.iter().flatten();
            names.plural == name
                || text(&names.singular) == name
                || short.into_iter().any(|s| s == name)
        })
    };
    let kinds = |name: &str| {
        taken
            .iter()
            .any(|names| names.kind == name || text(&names.list_kind) == name)
    };
    let used = |name: &str| format!("{name:?} is already in use");
    let mut conflict = None;
    let mut refuse = |reason: &str, message: String| conflict = Some((reason.to_owned(), message));
    let is_free = |name: &str, own: &str, taken: &dyn Fn(&str) -> bool| name == own || !taken(name);
    match is_free(&wanted.plural, &accepted.plural, &resources) {
        true => accepted.plural.clone_from(&wanted.plural),
        false => refuse("PluralConflict", used(&wanted.plural)),
    }
    let singular = text(&wanted.singular);
    match is_free(&singular, &text(&accepted.singular), &resources) {
        true => accepted.singular.clone_from(&wanted.singular),
        false => refuse("SingularConflict", used(&singular)),
    }
    if wanted.short_names != accepted.short_names {
        let own = accepted.short_names.clone().unwrap_or_default();
        let short = wanted.short_names.iter().flatten();
        let clashes = short.filter(|name| !own.contains(name) && resources(name));
        let clashes: Vec<String> = clashes.map(|name| used(name)).collect();
        match clashes.as_slice() {
            [] => accepted.short_names.clone_from(&wanted.short_names),
            [one] => refuse("ShortNamesConflict", one.clone()),
            several => refuse("ShortNamesConflict", format!("[{}]", several.join(", "))),
        }
    }
    match is_free(&wanted.kind, &accepted.kind, &kinds) {
        true => accepted.kind.clone_from(&wanted.kind),
        false => refuse("KindConflict", used(&wanted.kind)),
    }
    let list_kind = text(&wanted.list_kind);
    match is_free(&list_kind, &text(&accepted.list_kind), &kinds) {
        true => accepted.list_kind.clone_from(&wanted.list_kind),
        false => refuse("ListKindConflict", used(&list_kind)),
    }
    accepted.categories.clone_from(&wanted.categories);
    conflict
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn definition(plural: &str, kind: &str, status: Value) -> CustomResourceDefinition {
        let value = json!({"metadata": {"name": format!("{plural}.a.example")}, "spec": {"group": "a.example",
            "names": {"plural": plural, "singular": "", "kind": kind, "listKind": format!("{kind}List")},
            "scope": "Cluster", "versions": []}, "status": status});
        serde_json::from_value(value).expect("a definition")
    }

    fn holds(status: &Status, type_: &str) -> Option<(String, String)> {
        let conditions = status.conditions.iter().flatten();
        let found = conditions.into_iter().find(|c| c.type_ == type_)?;
        Some((
            found.status.clone(),
            found.reason.clone().unwrap_or_default(),
        ))
    }

    #[test]
    fn free_names_are_accepted_and_the_kind_is_established_once() {
        let new = definition("as", "A", json!({"storedVersions": ["v1"]}));
        let status = next(&new, &[], Timestamp::UNIX_EPOCH).expect("news");
        assert_eq!(status.accepted_names, new.spec.names);
        assert_eq!(
            holds(&status, "Established"),
            Some(("True".into(), "InitialNamesAccepted".into()))
        );
        let mut settled = new;
        settled.status = Some(status);
        assert_eq!(next(&settled, &[], Timestamp::now()), None);
    }

    #[test]
    fn a_name_that_is_taken_waits_until_it_is_free() {
        let first = definition("as", "A", json!({"storedVersions": ["v1"]}));
        let accepted = next(&first, &[], Timestamp::UNIX_EPOCH).expect("news");
        let second = definition("bs", "A", json!({"storedVersions": ["v1"]}));
        let status =
            next(&second, &[&accepted.accepted_names], Timestamp::UNIX_EPOCH).expect("news");
        assert_eq!(
            holds(&status, "NamesAccepted"),
            Some(("False".into(), "ListKindConflict".into()))
        );
        assert_eq!(
            holds(&status, "Established"),
            Some(("False".into(), "NotAccepted".into()))
        );
        assert_eq!(
            (
                status.accepted_names.plural.as_str(),
                status.accepted_names.kind.as_str()
            ),
            ("bs", "")
        );
        let mut waiting = second;
        waiting.status = Some(status);
        let status = next(&waiting, &[], Timestamp::UNIX_EPOCH).expect("free now");
        assert_eq!(
            holds(&status, "Established"),
            Some(("True".into(), "InitialNamesAccepted".into()))
        );
    }
}
