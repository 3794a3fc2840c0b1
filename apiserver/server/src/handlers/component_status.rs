//! How the parts of the cluster are, as far as the server knows: the store, and who holds the leases of controllers and
//! scheduler. A part without a lease is not told of: it runs in a process that has no other beside it, or not at all.

use corral_api::k8s::api::coordination::v1::Lease;
use corral_api::selector::{FieldSelector, LabelSelector};
use corral_api::status::Status;
use corral_kinds::KindRef;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Call;
use super::read::include;
use crate::negotiate::{self, Offer, Transform};
use crate::request::Verb;
use crate::response::{self, Answer};
use crate::table;

/// The store; named as the clients that look for it know it.
const STORE: &str = "etcd-0";
/// Parts with leases in `kube-system`, with the names of these.
const LEASES: [(&str, &str); 2] = [
    ("controller-manager", "kube-controller-manager"),
    ("scheduler", "kube-scheduler"),
];

/// GET and LIST.
///
/// # Errors
/// 404 for a part that is not known, 405 for what is no reading.
pub(super) async fn read(call: &Call, kind: &KindRef) -> Result<Answer, Status> {
    let offer = Offer {
        transforms: true,
        protobuf: false,
        metadata_in_protobuf: false,
        streams: false,
    };
    let representation = negotiate::accept(call.headers(), &call.info.query, offer)?;
    let mut components = components(call).await;
    let revision = json!({"resourceVersion": ""});
    let include = include(call)?;
    let rows = |components: &[Value]| -> Vec<Value> {
        let now = Timestamp::now();
        let row = |c: &Value| table::row(&**kind, c.to_string().as_bytes(), include, now);
        components.iter().map(row).collect()
    };
    let partial = |component: &Value| table::partial(component.to_string().as_bytes());
    match call.info.verb {
        Verb::Get => {
            let name = &call.info.name;
            components.retain(|component| component["metadata"]["name"] == *name);
            let Some(one) = components.first() else {
                return Err(Status::not_found("", "componentstatuses", name));
            };
            let shown = match representation.transform {
                Transform::None => one.clone(),
                Transform::PartialMetadata | Transform::PartialMetadataList => partial(one),
                Transform::Table => table::table(Some(&**kind), revision, rows(&components)),
            };
            Ok(response::object(200, representation, &shown))
        }
        Verb::List => {
            select(call, &mut components)?;
            let shown = match representation.transform {
                Transform::Table => table::table(Some(&**kind), revision, rows(&components)),
                Transform::PartialMetadata | Transform::PartialMetadataList => json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
                    "items": components.iter().map(partial).collect::<Vec<_>>(),
                }),
                Transform::None => json!({
                    "kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {},
                    "items": components.into_iter().map(without_type).collect::<Vec<_>>(),
                }),
            };
            Ok(response::object(200, representation, &shown))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Nothing has labels here, and only names are fields.
fn select(call: &Call, components: &mut Vec<Value>) -> Result<(), Status> {
    let query = &call.info.query;
    let text = |name| query.get(name).unwrap_or_default();
    let labels = LabelSelector::parse(text("labelSelector")).map_err(Status::bad_request)?;
    let fields = FieldSelector::parse(text("fieldSelector")).map_err(Status::bad_request)?;
    components.retain(|component| {
        let name = component["metadata"]["name"].as_str().unwrap_or_default();
        let fits = fields.requirements.iter().all(|wanted| {
            let value = if wanted.field == "metadata.name" {
                name
            } else {
                ""
            };
            (value == wanted.value) == wanted.equals
        });
        fits && labels.matches(&Default::default())
    });
    Ok(())
}

fn without_type(mut component: Value) -> Value {
    if let Value::Object(map) = &mut component {
        map.remove("kind");
        map.remove("apiVersion");
    }
    component
}

async fn components(call: &Call) -> Vec<Value> {
    let api = &call.shared.api;
    let store = match api.storage.health().await {
        Ok(()) => component(STORE, true, "ok"),
        Err(error) => component(STORE, false, &error.to_string()),
    };
    let mut components = Vec::new();
    if let Some(leases) = api.resource("coordination.k8s.io", "leases") {
        for (name, lease) in LEASES {
            let stored = leases.cacher.peek(&leases.key("kube-system", lease));
            let lease = stored.and_then(|s| serde_json::from_slice::<Lease>(&s.json).ok());
            components.extend(lease.map(|lease| holder(name, &lease)));
        }
    }
    components.push(store);
    components
}

/// Whether somebody holds a lease.
fn holder(name: &str, lease: &Lease) -> Value {
    let spec = lease.spec.clone().unwrap_or_default();
    let lasts = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds.unwrap_or(0)));
    let held = spec
        .renew_time
        .is_some_and(|renewed| renewed.0 + lasts >= Timestamp::now());
    if held {
        component(name, true, "ok")
    } else {
        component(name, false, "its lease has expired")
    }
}

fn component(name: &str, healthy: bool, text: &str) -> Value {
    let (status, field) = if healthy {
        ("True", "message")
    } else {
        ("False", "error")
    };
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, field: text}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_not_renewed_tells_of_nobody() {
        let mut lease = Lease::default();
        assert_eq!(
            holder("scheduler", &lease)["conditions"][0]["status"],
            "False"
        );
        let spec = lease.spec.get_or_insert_default();
        spec.lease_duration_seconds = Some(15);
        spec.renew_time = Some(corral_api::time::MicroTime(Timestamp::now()));
        assert_eq!(
            holder("scheduler", &lease)["conditions"][0]["status"],
            "True"
        );
    }
}
