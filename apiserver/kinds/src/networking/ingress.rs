//! `Ingress`.

mod rules;

use std::borrow::Cow;
use std::collections::BTreeSet;

use corral_api::field::FieldError;
use corral_api::k8s::api::networking::v1::{Ingress, IngressRule, IngressSpec};
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words, age};

/// The annotation that named the class before there was a field.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Stands for a `pathType` that is not given: what is given and empty is wrong in another way.
const NO_PATH_TYPE: &str = "\0";
/// Hosts that a row shows.
const HOSTS_MAX: usize = 3;
/// Characters of addresses that a row shows.
const ADDRESSES_LENGTH_MAX: usize = 16;

/// `networking.k8s.io/v1 Ingress`.
pub struct IngressKind;

impl Kind for IngressKind {
    type Object = Ingress;

    const NAMES: Names<'static> = Names {
        group: "networking.k8s.io",
        version: "v1",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: Words::Of(&["ing"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Class", "The IngressClass that it is for."),
            Column::text("Hosts", "Names that requests are matched by."),
            Column::text("Address", "Where the load balancer is."),
            Column::text("Ports", "Ports that are open."),
            Column::AGE,
        ]
    }

    fn cells(ingress: &Ingress, now: Timestamp) -> Vec<Value> {
        let nothing = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&nothing);
        let class = spec.ingress_class_name.clone();
        let has_tls = spec.tls.as_ref().is_some_and(|tls| !tls.is_empty());
        vec![
            ingress.metadata.name.clone().into(),
            class.unwrap_or_else(|| "<none>".to_owned()).into(),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            addresses(ingress).into(),
            if has_tls { "80, 443" } else { "80" }.into(),
            age(&ingress.metadata, now),
        ]
    }

    fn before_decode(value: &mut Cow<'_, Value>) {
        fn list(value: Option<&mut Value>) -> std::slice::IterMut<'_, Value> {
            match value {
                Some(Value::Array(items)) => items.iter_mut(),
                _ => Default::default(),
            }
        }
        let rules = list(value.to_mut().pointer_mut("/spec/rules"));
        let paths = rules.flat_map(|rule| list(rule.pointer_mut("/http/paths")));
        for path in paths.filter_map(Value::as_object_mut) {
            path.entry("pathType")
                .or_insert_with(|| NO_PATH_TYPE.into());
        }
    }

    fn prepare_create(ingress: &mut Ingress) {
        ingress.status = Some(Default::default());
    }

    fn validate(ingress: &Ingress) -> Vec<FieldError> {
        let mut errors = rules::ingress(ingress);
        rules::class(&mut errors, ingress);
        errors
    }

    fn validate_update(new: &Ingress, _old: &Ingress) -> Vec<FieldError> {
        rules::ingress(new)
    }

    fn validate_status_update(new: &Ingress, old: &Ingress) -> Vec<FieldError> {
        rules::status(new, old)
    }

    fn warnings(ingress: &Ingress) -> Vec<String> {
        let mut warnings =
            vec!["spec: an Ingress is accepted, but not honoured by this server yet".to_owned()];
        let spec = ingress.spec.as_ref();
        let annotations = ingress.metadata.annotations.as_ref();
        if annotations.is_some_and(|a| a.contains_key(CLASS_ANNOTATION))
            && spec.is_none_or(|spec| spec.ingress_class_name.is_none())
        {
            warnings.push(format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            ));
        }
        warnings
    }
}

/// The first names, and how many rules there are beyond.
fn hosts(rules: &[IngressRule]) -> String {
    let mut shown = Vec::with_capacity(HOSTS_MAX);
    let mut more = false;
    for rule in rules {
        // A rule without a host counts, too, once the list is full.
        more |= shown.len() == HOSTS_MAX;
        let host = rule
            .host
            .as_deref()
            .filter(|host| !host.is_empty() && !more);
        shown.extend(host);
    }
    if shown.is_empty() {
        return "*".to_owned();
    }
    let shown = shown.join(",");
    if more {
        format!("{shown} + {} more...", rules.len() - HOSTS_MAX)
    } else {
        shown
    }
}

fn addresses(ingress: &Ingress) -> String {
    let balancer = ingress
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let points = balancer.iter().flat_map(|b| b.ingress.iter().flatten());
    let found: BTreeSet<&str> = points
        .filter_map(|point| {
            let ip = point.ip.as_deref().filter(|ip| !ip.is_empty());
            ip.or(point.hostname.as_deref().filter(|name| !name.is_empty()))
        })
        .collect();
    let text = found.into_iter().collect::<Vec<_>>().join(",");
    if text.len() > ADDRESSES_LENGTH_MAX {
        let kept: String = text.chars().take(ADDRESSES_LENGTH_MAX - 3).collect();
        return format!("{kept}...");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_shows_some_hosts_and_addresses() {
        let rules: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|h| json!({"host": h}))
            .collect();
        let ingress: Ingress = serde_json::from_value(json!({
            "metadata": {"name": "i"}, "spec": {"rules": rules, "tls": [{}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a.example.com"}]}},
        }))
        .expect("an ingress");
        let row = IngressKind::cells(&ingress, Timestamp::UNIX_EPOCH);
        let wanted = [
            "i",
            "<none>",
            "a,b,c + 1 more...",
            "192.0.2.1,a.e...",
            "80, 443",
        ];
        assert_eq!(row[..5], wanted.map(Value::from));
    }
}
