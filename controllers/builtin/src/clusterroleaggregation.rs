//! ClusterRoles that aggregate: the rules of every role that one of their selectors finds, gathered into them.
//!
//! The rules of an aggregating role belong to this controller (server-side apply, forced); whatever else wrote there
//! is overruled.

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::rbac::v1::{ClusterRole, PolicyRule};
use corral_api::selector::LabelSelector;
use corral_runtime::{Action, Cache, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::Context;

const NAME: &str = "clusterrole-aggregation-controller";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub role: Arc<ClusterRole>,
    /// All roles, in any order.
    pub roles: Vec<Arc<ClusterRole>>,
}

/// The rules that the role shall have; nothing when it has them.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub rules: Option<Vec<PolicyRule>>,
}

/// What a role gathers: by selector, then by name of the found role, each rule once.
pub fn plan(world: &World) -> Plan {
    let Some(aggregation) = &world.role.aggregation_rule else {
        return Plan { rules: None };
    };
    let mut roles: Vec<_> = world.roles.iter().collect();
    roles.retain(|role| role.metadata.name != world.role.metadata.name);
    roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut gathered: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        // The API accepts no selector that cannot be read; one that is in the store all the same finds nothing.
        let Ok(selector) = LabelSelector::from_object(Some(selector)) else {
            continue;
        };
        let found = roles
            .iter()
            .filter(|role| selector.matches_opt(role.metadata.labels.as_ref()));
        for rule in found.flat_map(|role| role.rules.iter().flatten()) {
            let rule = plain(rule);
            if !gathered.contains(&rule) {
                gathered.push(rule);
            }
        }
    }
    let present: Vec<_> = world.role.rules.iter().flatten().map(plain).collect();
    Plan {
        rules: (present != gathered).then_some(gathered),
    }
}

/// An empty list means the same as none.
fn plain(rule: &PolicyRule) -> PolicyRule {
    let list = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    PolicyRule {
        api_groups: list(&rule.api_groups),
        non_resource_urls: list(&rule.non_resource_urls),
        resource_names: list(&rule.resource_names),
        resources: list(&rule.resources),
        verbs: rule.verbs.clone(),
    }
}

fn applied(name: &str, rules: &[PolicyRule]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": rules,
    })
}

struct Aggregation {
    roles: Objects<ClusterRole>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let roles = context.objects::<ClusterRole>(NAME);
    let known = roles.cache().clone();
    let controller = Controller::new("clusterroleaggregation")
        // Any role may be found by any selector.
        .map(roles.cache(), move |_| aggregating(&known));
    controller.run_planned(
        Aggregation { roles },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

fn aggregating(roles: &Cache<ClusterRole>) -> Vec<ObjectKey> {
    let roles = roles.list();
    let aggregating = roles.iter().filter(|role| role.aggregation_rule.is_some());
    aggregating
        .map(|role| ObjectKey::of(&role.metadata))
        .collect()
}

#[async_trait]
impl Reconciler for Aggregation {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        Some(World {
            role: self.roles.get(key)?,
            roles: self.roles.cache().list(),
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        if let Some(rules) = plan.rules {
            let name = world.role.metadata.name.as_deref().unwrap_or_default();
            let fields = applied(name, &rules);
            let outcome = self.roles.apply(NAME, &*world.role, &fields).await;
            crate::ownership::gone_is_fine(outcome.map(drop))?;
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;

    use super::*;

    fn rule(verb: &str) -> Value {
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]})
    }

    fn role(name: &str, to: &str, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs.iter().map(|verb| rule(verb)).collect();
        Arc::new(object(
            json!({"metadata": {"name": name, "labels": {"to": to}}, "rules": rules}),
        ))
    }

    fn aggregating(name: &str, from: &[&str]) -> Arc<ClusterRole> {
        let selectors = from.iter().map(|to| json!({"matchLabels": {"to": to}}));
        let selectors: Vec<_> = selectors.collect();
        Arc::new(object(json!({
            "metadata": {"name": name, "labels": {"to": "x"}}, "rules": [rule("stale")],
            "aggregationRule": {"clusterRoleSelectors": selectors},
        })))
    }

    #[test]
    fn rules_come_by_selector_then_by_name_and_once() {
        let role_ = aggregating("all", &["y", "x"]);
        let roles = vec![
            role("c", "x", &["get", "list"]),
            role("b", "x", &["watch"]),
            role("a", "y", &["list"]),
            role("d", "z", &["delete"]),
            Arc::clone(&role_),
        ];
        let rules = plan(&World { role: role_, roles }).rules.expect("changes");
        let verbs: Vec<_> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["list", "watch", "get"]);
    }

    #[test]
    fn a_role_that_finds_nothing_has_no_rules() {
        let role = aggregating("all", &["nobody"]);
        let world = World {
            roles: vec![Arc::clone(&role)],
            role,
        };
        assert_eq!(plan(&world).rules, Some(vec![]));
    }

    proptest! {
        #[test]
        fn a_role_with_its_rules_is_left_alone(
            verbs in prop::collection::vec((0..4_usize, prop::collection::vec(0..5_usize, 0..4)), 0..6),
        ) {
            let names = ["get", "list", "watch", "create", "delete"];
            let roles = verbs.iter().enumerate().map(|(n, (to, verbs))| {
                let verbs: Vec<_> = verbs.iter().map(|verb| names[*verb]).collect();
                role(&format!("r{n}"), names[*to], &verbs)
            });
            let mut world = World { role: aggregating("all", &names[..2]), roles: roles.collect() };
            let rules = plan(&world).rules.expect("the stale rule goes");
            let mut role = (*world.role).clone();
            role.rules = Some(rules);
            world.role = Arc::new(role);
            world.roles.reverse();
            prop_assert_eq!(plan(&world).rules, None);
        }
    }
}
