//! The node's Lease in `kube-node-lease`, renewed so that the control plane knows that this daemon lives.

use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use corral_api::k8s::api::core::v1::Node as NodeObject;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use corral_api::time::MicroTime;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// How long the lease is good for.
const DURATION_SECONDS: i32 = 40;

/// How often it is renewed: a quarter of its life, as Kubernetes does.
const RENEW: Duration = Duration::from_secs(10);

/// How soon a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Renews the lease until shutdown.
pub async fn run(node: Arc<Node>, shutdown: CancellationToken) {
    loop {
        let wait = match renew(&node.client, &node.name).await {
            Ok(()) => RENEW,
            Err(error) => {
                tracing::debug!(%error, "the node's lease was not renewed");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn renew(client: &Client, name: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now()), "holderIdentity": name}});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
        Err(error) => return Err(error),
    }
    let owner = Api::<NodeObject>::all(client.clone()).get_opt(name).await?;
    let owner = owner.and_then(|node| {
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: node.metadata.uid?,
            ..OwnerReference::default()
        })
    });
    let mut lease = Lease {
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
        ..Lease::default()
    };
    lease.metadata.name = Some(name.to_owned());
    lease.metadata.owner_references = owner.map(|owner| vec![owner]);
    api.create(&PostParams::default(), &lease).await.map(drop)
}
