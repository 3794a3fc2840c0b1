//! What webhooks and policies are not asked about, so that one that is down or wrong cannot stop the cluster itself, nor its
//! own repair.

use super::request::{Operation, Request};
use crate::authn::MASTERS;
use crate::authz::node;
use crate::bootstrap::SERVER;

/// Namespaces whose leases keep nodes and controllers alive.
const LEASED: [&str; 2] = ["kube-system", "kube-node-lease"];

/// What a webhook or a policy has to say about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    /// What its configuration says.
    None,
    /// It may refuse, but its failures do not count.
    FailsOpen,
    /// Nothing.
    NotAsked,
}

/// Kubernetes exempts configurations of admission only; the rest is what a node or the server needs to go on.
pub fn of(request: &Request<'_>) -> Exemption {
    if request.cx.asked.admitted {
        return Exemption::NotAsked;
    }
    let (group, plural) = (request.resource.0.as_str(), request.resource.2.as_str());
    let user = &request.cx.user;
    let by_node = node::name_of(user).is_some();
    match (group, plural, request.subresource) {
        ("admissionregistration.k8s.io", ..) => Exemption::NotAsked,
        // Questions of others, and of the server itself, about rights and identities.
        ("authentication.k8s.io" | "authorization.k8s.io", ..) => Exemption::NotAsked,
        _ if user.name == SERVER && user.is_in(MASTERS) => Exemption::NotAsked,
        ("coordination.k8s.io", "leases", _) if LEASED.contains(&request.namespace.as_str()) => {
            Exemption::NotAsked
        }
        ("", "nodes" | "pods", "status") if by_node => Exemption::NotAsked,
        ("", "nodes", "") if by_node && request.operation != Operation::Delete => {
            Exemption::NotAsked
        }
        ("", "serviceaccounts", "token") if by_node => Exemption::FailsOpen,
        // A pod that has ended on its node must be able to go.
        ("", "pods", "") if by_node => Exemption::FailsOpen,
        ("", "pods", _) if request.namespace == "kube-system" => Exemption::FailsOpen,
        _ => Exemption::None,
    }
}
