//! Whether some rules give all that others give, so that nobody hands out more than they have.

use corral_api::k8s::api::rbac::v1::PolicyRule;

/// Rights of `wanted` that `held` does not give, each as a rule of one group, resource, name and verb.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let single = wanted.iter().flat_map(split);
    single
        .filter(|right| !held.iter().any(|rule| covers(rule, right)))
        .collect()
}

fn one(text: &str) -> Option<Vec<String>> {
    Some(vec![text.to_owned()])
}

/// The rule as rules of one group, resource, name and verb, or of one path and verb.
fn split(rule: &PolicyRule) -> Vec<PolicyRule> {
    let list = |part: &Option<Vec<String>>| part.clone().unwrap_or_default();
    let names = list(&rule.resource_names);
    // No names means all names, which is one right, not none.
    let names: Vec<Option<&str>> = if names.is_empty() {
        vec![None]
    } else {
        names.iter().map(|name| Some(name.as_str())).collect()
    };
    let mut out = Vec::new();
    for verb in &rule.verbs {
        for group in &list(&rule.api_groups) {
            for resource in &list(&rule.resources) {
                out.extend(names.iter().map(|name| PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    resource_names: name.and_then(one),
                    verbs: vec![verb.clone()],
                    ..Default::default()
                }));
            }
        }
        out.extend(list(&rule.non_resource_urls).iter().map(|url| PolicyRule {
            non_resource_urls: one(url),
            verbs: vec![verb.clone()],
            ..Default::default()
        }));
    }
    out
}

/// Whether a rule gives a right, as [`split`] makes it.
fn covers(rule: &PolicyRule, right: &PolicyRule) -> bool {
    let has = |list: &[String], item: &str| list.iter().any(|held| held == "*" || held == item);
    let first = |part: &Option<Vec<String>>| part.as_deref().and_then(<[String]>::first).cloned();
    let slice = |part: &'static str| match part {
        "groups" => rule.api_groups.as_deref().unwrap_or_default(),
        "resources" => rule.resources.as_deref().unwrap_or_default(),
        "names" => rule.resource_names.as_deref().unwrap_or_default(),
        _ => rule.non_resource_urls.as_deref().unwrap_or_default(),
    };
    if !has(&rule.verbs, &right.verbs[0]) {
        return false;
    }
    if let Some(url) = first(&right.non_resource_urls) {
        return slice("urls").iter().any(|held| covers_path(held, &url));
    }
    let (Some(group), Some(resource)) = (first(&right.api_groups), first(&right.resources)) else {
        return false;
    };
    let names = slice("names");
    let named = match first(&right.resource_names) {
        _ if names.is_empty() => true,
        Some(name) => names.contains(&name),
        None => false,
    };
    named
        && has(slice("groups"), &group)
        && slice("resources")
            .iter()
            .any(|held| covers_resource(held, &resource))
}

fn covers_resource(held: &str, wanted: &str) -> bool {
    if held == "*" || held == wanted {
        return true;
    }
    match (held.strip_prefix("*/"), wanted.split_once('/')) {
        (Some(subresource), Some((_, wanted))) => subresource == wanted,
        _ => false,
    }
}

fn covers_path(held: &str, wanted: &str) -> bool {
    held == wanted
        || held.strip_suffix('*').is_some_and(|prefix| {
            wanted
                .strip_suffix('*')
                .unwrap_or(wanted)
                .starts_with(prefix)
        })
}

/// Rights as text, a line each, in the form in which Kubernetes names them.
pub fn describe(rights: &[PolicyRule]) -> String {
    let mut lines: Vec<String> = compact(rights).iter().map(line).collect();
    lines.sort_unstable();
    lines.dedup();
    lines.join("\n")
}

/// Rules of the same resource in one, with all their verbs.
fn compact(rights: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    for right in rights {
        let same = out.iter_mut().find(|rule| {
            rule.non_resource_urls.is_none()
                && right.non_resource_urls.is_none()
                && rule.api_groups == right.api_groups
                && rule.resources == right.resources
                && rule.resource_names == right.resource_names
        });
        match same {
            Some(rule) => rule.verbs.extend(right.verbs.iter().cloned()),
            None => out.push(right.clone()),
        }
    }
    out
}

/// A list in the form of Go's `%q`.
pub fn quoted(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn line(rule: &PolicyRule) -> String {
    let verbs = Some(rule.verbs.clone());
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &verbs),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter_map(|(name, items)| {
            let items = items.as_deref().filter(|items| !items.is_empty())?;
            Some(format!("{name}:{}", quoted(items)))
        })
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
        let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(list(groups)),
            resources: Some(list(resources)),
            resource_names: Some(list(names)).filter(|n| !n.is_empty()),
            verbs: list(verbs),
            ..Default::default()
        }
    }

    fn url(url: &str) -> PolicyRule {
        PolicyRule {
            non_resource_urls: one(url),
            verbs: vec!["get".into()],
            ..Default::default()
        }
    }

    #[test]
    fn rights_may_be_held_in_several_rules() {
        let held = [
            rule(&[""], &["pods"], &[], &["get"]),
            rule(&["", "apps"], &["*"], &[], &["list"]),
        ];
        assert_eq!(
            uncovered(&held, &[rule(&[""], &["pods"], &["a"], &["get", "list"])]),
            []
        );
        let missing = uncovered(
            &held,
            &[rule(
                &["", "apps"],
                &["pods", "secrets"],
                &[],
                &["get", "list"],
            )],
        );
        assert_eq!(
            describe(&missing),
            "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"get\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
        );
    }

    #[test]
    fn a_right_to_one_name_is_not_a_right_to_all() {
        let held = [rule(&[""], &["secrets"], &["mine"], &["get"])];
        assert_eq!(uncovered(&held, &held), []);
        for wanted in [
            rule(&[""], &["secrets"], &[], &["get"]),
            rule(&[""], &["secrets"], &["other"], &["get"]),
        ] {
            assert_eq!(uncovered(&held, &[wanted]).len(), 1);
        }
    }

    #[test]
    fn stars_cover_what_they_stand_for() {
        let status = [rule(&["*"], &["*/status"], &[], &["*"])];
        assert_eq!(
            uncovered(&status, &[rule(&["a"], &["pods/status"], &[], &["get"])]),
            []
        );
        assert_eq!(
            uncovered(&status, &[rule(&["a"], &["*"], &[], &["get"])]).len(),
            1
        );
        assert_eq!(uncovered(&[url("/healthz*")], &[url("/healthz/*")]), []);
        assert_eq!(uncovered(&[url("/healthz/*")], &[url("*")]).len(), 1);
        assert_eq!(uncovered(&[url("/a")], &[url("/a/*")]).len(), 1);
    }
}
