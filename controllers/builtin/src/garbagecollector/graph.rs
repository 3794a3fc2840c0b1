//! Who owns whom, kept from metadata.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use corral_runtime::ObjectKey;
use corral_runtime::key::uid_of;
use kube::core::ApiResource;

use super::decide::{Dependent, OwnerState, state_of_present};

/// Where an object is found.
#[derive(Debug, Clone)]
pub struct Identity {
    pub resource: Arc<ApiResource>,
    pub key: ObjectKey,
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    owners: Vec<OwnerReference>,
    state: OwnerState,
    deleting: bool,
    finalized: bool,
}

/// All objects by uid, and for each uid that is named as an owner, who names it.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// Takes an object in; returns the uids to be looked at.
    pub fn apply(&mut self, resource: &Arc<ApiResource>, meta: &ObjectMeta) -> Vec<String> {
        let uid = uid_of(meta).to_owned();
        let owners: Vec<_> = meta.owner_references.iter().flatten().cloned().collect();
        let state = state_of_present(meta);
        let deleting = meta.deletion_timestamp.is_some();
        let finalizers = || meta.finalizers.iter().flatten();
        let finalized = finalizers().any(|f| f == super::ORPHAN || f == super::FOREGROUND);
        let mut wake = Vec::new();
        let old = self.nodes.remove(&uid);
        if let Some(old) = &old {
            for owner in old
                .owners
                .iter()
                .filter(|owner| !owners.iter().any(|o| o.uid == owner.uid))
            {
                self.unlink(&owner.uid, &uid);
                // An owner that waits for its dependents has one less.
                wake.push(owner.uid.clone());
            }
        }
        for owner in &owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let news = old.as_ref().is_none_or(|old| old.owners != owners);
        let newly_deleting = deleting
            && old
                .as_ref()
                .is_none_or(|old| !old.deleting || old.state != state);
        if (news && !owners.is_empty()) || (deleting && finalized) {
            wake.push(uid.clone());
        }
        if newly_deleting {
            // Owners in foreground deletion may wait for this one to be on its way; dependents may now have to go.
            wake.extend(owners.iter().map(|owner| owner.uid.clone()));
            if state == OwnerState::Waiting {
                wake.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            }
        }
        let identity = Identity {
            resource: Arc::clone(resource),
            key: ObjectKey::of(meta),
        };
        self.nodes.insert(
            uid,
            Node {
                identity,
                owners,
                state,
                deleting,
                finalized,
            },
        );
        wake
    }

    /// Takes an object out; returns the uids to be looked at.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else {
            return Vec::new();
        };
        let mut wake: Vec<String> = self
            .dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            wake.push(owner.uid.clone());
        }
        wake
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// Where an object is found.
    pub fn identity(&self, uid: &str) -> Option<Identity> {
        self.nodes.get(uid).map(|node| node.identity.clone())
    }

    /// The state of an owner that the graph knows, as seen from a namespace. An owner in another namespace cannot be
    /// meant: the graph does not answer for it.
    pub fn owner_state(&self, uid: &str, namespace: &str) -> Option<OwnerState> {
        let node = self.nodes.get(uid)?;
        let reachable =
            node.identity.key.namespace.is_empty() || node.identity.key.namespace == namespace;
        reachable.then_some(node.state)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Dependent> {
        let named = self.dependents.get(uid).into_iter().flatten();
        let dependents = named.filter_map(|dependent| {
            let node = self.nodes.get(dependent)?;
            let reference = node.owners.iter().find(|owner| owner.uid == uid)?;
            Some(Dependent {
                uid: dependent.clone(),
                blocks: reference.block_owner_deletion.unwrap_or(false),
                deleting: node.deleting,
                waiting: node.state == OwnerState::Waiting,
                finalized: node.finalized,
            })
        });
        dependents.collect()
    }
}
