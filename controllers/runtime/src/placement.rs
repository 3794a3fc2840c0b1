//! Whether a pod may be on a node, by taints and by node affinity: shared by the scheduler, the daemon-set controller
//! and the eviction of pods from tainted nodes. Pure.

use corral_api::k8s::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let of_taint = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && value == of_taint,
        // Numeric comparison exists only behind a feature gate that is off by default.
        _ => false,
    }
}

/// The first taint, among those with one of the effects, that no toleration covers.
pub fn first_untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    let relevant = |taint: &&Taint| effects.contains(&taint.effect.as_str());
    let covered = |taint: &Taint| {
        tolerations
            .iter()
            .any(|toleration| tolerates(toleration, taint))
    };
    taints.iter().filter(relevant).find(|taint| !covered(taint))
}

/// Whether a node satisfies the pod's `nodeSelector` and required node affinity.
pub fn matches_affinity(pod: &PodSpec, node: &Node) -> bool {
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| {
        node.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key))
            == Some(value)
    });
    let required = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| matches_term(term, node))
        })
}

/// Whether a node satisfies one term: all of its requirements; a term without any matches nothing.
pub fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| {
        (key == "metadata.name")
            .then_some(node.metadata.name.as_deref())
            .flatten()
    };
    expressions
        .iter()
        .all(|requirement| holds(requirement, label(&requirement.key)))
        && fields
            .iter()
            .all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|bound| number(bound));
    let compared = |holds: fn(i64, i64) -> bool| match (value.and_then(number), bound) {
        (Some(value), Some(bound)) => holds(value, bound),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, effect: &str) -> Taint {
        Taint {
            key: key.into(),
            effect: effect.into(),
            value: Some("v".into()),
            time_added: None,
        }
    }

    fn toleration(key: Option<&str>, operator: &str, value: Option<&str>) -> Toleration {
        Toleration {
            key: key.map(Into::into),
            operator: Some(operator.into()),
            value: value.map(Into::into),
            ..Toleration::default()
        }
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = taint("k", "NoSchedule");
        assert!(tolerates(&toleration(None, "Exists", None), &taint));
        assert!(tolerates(&toleration(Some("k"), "Exists", None), &taint));
        assert!(tolerates(
            &toleration(Some("k"), "Equal", Some("v")),
            &taint
        ));
        assert!(!tolerates(
            &toleration(Some("k"), "Equal", Some("w")),
            &taint
        ));
        assert!(!tolerates(&toleration(Some("x"), "Exists", None), &taint));
        let mut other = toleration(Some("k"), "Exists", None);
        other.effect = Some("NoExecute".into());
        assert!(!tolerates(&other, &taint));
    }

    #[test]
    fn an_empty_term_matches_no_node() {
        assert!(!matches_term(
            &NodeSelectorTerm::default(),
            &Node::default()
        ));
    }

    #[test]
    fn a_field_requirement_names_the_node() {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        let requirement = |name: &str| NodeSelectorRequirement {
            key: "metadata.name".into(),
            operator: "In".into(),
            values: Some(vec![name.into()]),
        };
        let term = |name| NodeSelectorTerm {
            match_fields: Some(vec![requirement(name)]),
            match_expressions: None,
        };
        assert!(matches_term(&term("n1"), &node));
        assert!(!matches_term(&term("n2"), &node));
    }
}
