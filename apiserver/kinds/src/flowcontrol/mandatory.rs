//! The objects that every cluster has. Those that are mandatory cannot be changed; the others are a beginning.

use serde_json::{Value, json};

/// A level: its name, shares, the percentage that it lends, and queues with hands, if requests wait.
type Level = (&'static str, i32, i32, Option<(i32, i32)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];
const QUEUE_LENGTH: i32 = 50;

/// The level whose requests never wait.
pub const EXEMPT: &str = "exempt";
/// The level, and the schema, of what nothing else matches.
pub const CATCH_ALL: &str = "catch-all";

/// Specs of the levels by their names.
pub fn levels() -> Vec<(&'static str, Value)> {
    let exempt = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    let mut levels = vec![(EXEMPT, json!({"type": "Exempt", "exempt": exempt}))];
    levels.extend(LEVELS.map(|(name, shares, lends, queues)| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({"type": "Queue", "queuing": {
                "queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH,
            }}),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lends, "limitResponse": response,
        });
        (name, json!({"type": "Limited", "limited": limited}))
    }));
    levels
}

fn groups(names: &[&str]) -> Vec<Value> {
    let subject = |name: &&str| json!({"kind": "Group", "group": {"name": name}});
    names.iter().map(subject).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    let subject = |name: &&str| json!({"kind": "User", "user": {"name": name}});
    names.iter().map(subject).collect()
}

/// A rule about everything.
fn everything(subjects: Vec<Value>) -> Value {
    let resources = json!({
        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
    });
    json!({
        "subjects": subjects, "resourceRules": [resources],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

fn schema(level: &str, precedence: i32, by: &str, rule: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    spec
}

/// Specs of the schemas by their names.
pub fn schemas() -> Vec<(&'static str, Value)> {
    const ALL: &[&str] = &["system:unauthenticated", "system:authenticated"];
    const NODES: &[&str] = &["system:nodes"];
    const MANAGER: &str = "system:kube-controller-manager";
    const SCHEDULER: &str = "system:kube-scheduler";
    let accounts = json!({
        "kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"},
    });
    let probes = json!({
        "subjects": groups(ALL),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    let mut elected = users(&[MANAGER, SCHEDULER]);
    elected.push(accounts.clone());
    let leases = |verbs: &[&str]| {
        json!({
            "verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"],
        })
    };
    let elections = json!({
        "subjects": elected, "resourceRules": [leases(&["get", "create", "update"])],
    });
    let health = json!({
        "verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "namespaces": ["*"],
        "clusterScope": true,
    });
    let health = json!({"subjects": groups(NODES), "resourceRules": [health, leases(&["*"])]});
    let of = |subjects| everything(subjects);
    let (by_user, by_namespace) = ("ByUser", "ByNamespace");
    let service_accounts = groups(&["system:serviceaccounts"]);
    vec![
        (
            EXEMPT,
            schema(EXEMPT, 1, "", of(groups(&["system:masters"]))),
        ),
        (
            CATCH_ALL,
            schema(CATCH_ALL, 10_000, by_user, of(groups(ALL))),
        ),
        ("probes", schema(EXEMPT, 2, "", probes)),
        (
            "system-leader-election",
            schema("leader-election", 100, by_user, elections),
        ),
        (
            "system-node-high",
            schema("node-high", 400, by_user, health),
        ),
        (
            "system-nodes",
            schema("system", 500, by_user, of(groups(NODES))),
        ),
        (
            "kube-controller-manager",
            schema("workload-high", 800, by_namespace, of(users(&[MANAGER]))),
        ),
        (
            "kube-scheduler",
            schema("workload-high", 800, by_namespace, of(users(&[SCHEDULER]))),
        ),
        (
            "kube-system-service-accounts",
            schema("workload-high", 900, by_namespace, of(vec![accounts])),
        ),
        (
            "service-accounts",
            schema("workload-low", 9000, by_user, of(service_accounts)),
        ),
        (
            "global-default",
            schema("global-default", 9900, by_user, of(groups(ALL))),
        ),
    ]
}

/// The spec that a mandatory object has.
pub(super) fn fixed(all: Vec<(&'static str, Value)>, name: &str) -> Option<Value> {
    let mut mandatory = all
        .into_iter()
        .filter(|(name, _)| matches!(*name, EXEMPT | CATCH_ALL));
    mandatory
        .find(|(found, _)| *found == name)
        .map(|(_, spec)| spec)
}
