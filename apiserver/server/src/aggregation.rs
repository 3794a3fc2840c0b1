//! Parts of the API that others serve: an `APIService` names the Service behind a version of a group, and what is asked of
//! that version is passed on.
//!
//! ```text
//!   APIServices ─▶ known (who serves what) ─▶ proxy (a request goes on)
//!             └──▶ keeper (is it there?) ───▶ status, facts ─▶ discovery, OpenAPI
//! ```
//!
//! Whoever serves a version is never waited for where this server's own kinds are concerned: what discovery and OpenAPI tell
//! of others was fetched before.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use corral_api::gvk::VersionPriority;
use corral_api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use corral_kinds::apiregistration::api_service::{self, AVAILABLE};
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::cacher::snapshot::Objects;
use crate::pki::Identity;
use crate::request::RequestInfo;

pub mod configuration;
mod facts;
pub mod keeper;
mod links;
mod metrics;
pub mod openapi;
pub mod proxy;
mod registration;

pub use facts::Facts;
pub use metrics::Metrics;

use links::Links;

/// The group of APIServices themselves.
pub const GROUP: &str = "apiregistration.k8s.io";
/// Requests to one server of others at a time that are not long-running. Far less than this server answers, so that one that
/// is slow does not take the turns of the rest.
const REQUESTS_MAX: usize = 100;
/// The port where none is named.
const PORT_DEFAULT: u16 = 443;
/// Priorities of what no APIService tells of: those of kinds that clients have described.
const PRIORITIES_DEFAULT: (i32, i32) = (1000, 100);

/// A version of a group.
pub type GroupVersion = (String, String);

/// Who serves a version of a group.
pub struct Remote {
    /// The name of the APIService.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The Service: namespace, name, port.
    pub service: (String, String, u16),
    /// Who vouches for its certificate.
    pub bundle: Vec<u8>,
    /// Whether every certificate is taken.
    pub insecure: bool,
    /// Whether it was there when last asked.
    pub available: bool,
}

impl Remote {
    /// Where it is asked.
    pub fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }
}

/// What APIServices say.
#[derive(Default)]
pub struct Known {
    remotes: HashMap<GroupVersion, Arc<Remote>>,
    /// Of the group, and of the version within it.
    priorities: HashMap<GroupVersion, (i32, i32)>,
}

impl Known {
    fn read(objects: &Objects) -> Self {
        let mut known = Self::default();
        for stored in objects.values() {
            let Ok(service) = serde_json::from_slice::<APIService>(&stored.json) else {
                continue;
            };
            let spec = service.spec.clone().unwrap_or_default();
            let group = spec.group.clone().unwrap_or_default();
            let version = spec.version.clone().unwrap_or_default();
            let place = (group.clone(), version.clone());
            let priorities = (spec.group_priority_minimum, spec.version_priority);
            known.priorities.insert(place.clone(), priorities);
            // A store may hold what another server took.
            let built_in = api_service::is_built_in(&spec);
            let Some(reference) = spec.service.filter(|_| !built_in) else {
                continue;
            };
            let port = reference.port.and_then(|port| u16::try_from(port).ok());
            let remote = Remote {
                name: service.metadata.name.clone().unwrap_or_default(),
                group,
                version,
                service: (
                    reference.namespace.unwrap_or_default(),
                    reference.name.unwrap_or_default(),
                    port.unwrap_or(PORT_DEFAULT),
                ),
                bundle: spec.ca_bundle.map(|bundle| bundle.0).unwrap_or_default(),
                insecure: spec.insecure_skip_tls_verify.unwrap_or(false),
                available: is_available(&service),
            };
            known.remotes.insert(place, Arc::new(remote));
        }
        known
    }

    /// Who serves a version, if it is not this server.
    pub fn remote(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        if self.remotes.is_empty() {
            return None;
        }
        self.remotes.get(&(group.to_owned(), version.to_owned()))
    }

    /// All that others serve.
    pub fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.remotes.values()
    }

    fn priorities(&self, group: &str, version: &str) -> (i32, i32) {
        let place = (group.to_owned(), version.to_owned());
        let known = self.priorities.get(&place).copied();
        known.unwrap_or(PRIORITIES_DEFAULT)
    }

    /// This server's named groups together with others', in the order in which clients prefer them.
    pub fn merged(&self, own: &[(&str, Vec<&str>)]) -> Vec<(String, Vec<String>)> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (group, versions) in own {
            let versions = versions.iter().map(|version| (*version).to_owned());
            groups.insert((*group).to_owned(), versions.collect());
        }
        for (group, version) in self.remotes.keys().filter(|(group, _)| !group.is_empty()) {
            let versions = groups.entry(group.clone()).or_default();
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
        let mut merged: Vec<(String, Vec<String>)> = groups.into_iter().collect();
        for (group, versions) in &mut merged {
            versions.sort_by_key(|version| {
                let (_, priority) = self.priorities(group, version);
                std::cmp::Reverse((priority, VersionPriority::of(version)))
            });
        }
        merged.sort_by_cached_key(|(group, versions)| {
            let of = |version: &String| self.priorities(group, version).0;
            let priority = versions.iter().map(of).max().unwrap_or_default();
            // The group that tells of the others comes first.
            let first = group != GROUP;
            let name = versions
                .iter()
                .map(|version| format!("{version}.{group}"))
                .min();
            (first, std::cmp::Reverse(priority), name)
        });
        merged
    }
}

fn is_available(service: &APIService) -> bool {
    let status = service.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == AVAILABLE && condition.status == "True")
}

/// Parts of the API that others serve.
pub struct Aggregation {
    links: Links,
    // What was read, and from which objects. Held while it is read anew, and for copies.
    known: RwLock<(Objects, Arc<Known>)>,
    // What others have told of themselves. Held for copies only.
    facts: Mutex<HashMap<GroupVersion, Arc<Facts>>>,
    // Turns at each server of others, by the name of the APIService. Held for copies only.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
    metrics: Metrics,
}

impl Aggregation {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn new(identity: &Identity, metrics: Metrics) -> Result<Self, crate::pki::Error> {
        Ok(Self {
            links: Links::new(identity)?,
            known: RwLock::new((Objects::new(), Arc::default())),
            facts: Mutex::default(),
            turns: Mutex::default(),
            metrics,
        })
    }

    /// What APIServices say now.
    pub fn known(&self, api: &Api) -> Arc<Known> {
        let Some(resource) = api.resource(GROUP, "apiservices") else {
            return Arc::default();
        };
        let objects = resource.cacher.snapshot().objects;
        {
            let known = self.known.read().expect("no panic under the lock");
            if known.0.ptr_eq(&objects) {
                return known.1.clone();
            }
        }
        let read = Arc::new(Known::read(&objects));
        let mut known = self.known.write().expect("no panic under the lock");
        *known = (objects, read.clone());
        read
    }

    /// Who answers a request, if it is not this server.
    pub fn remote(&self, api: &Api, info: &RequestInfo) -> Option<Arc<Remote>> {
        let known = self.known(api);
        if known.remotes.is_empty() {
            return None;
        }
        let (group, version) = asked(&info.path)?;
        known.remote(group, version).cloned()
    }

    /// What somebody has told of a version.
    pub fn facts(&self, group: &str, version: &str) -> Arc<Facts> {
        let facts = self.facts.lock().expect("no panic under the lock");
        let place = (group.to_owned(), version.to_owned());
        facts.get(&place).cloned().unwrap_or_default()
    }

    fn learn(&self, place: GroupVersion, facts: Facts) {
        let mut known = self.facts.lock().expect("no panic under the lock");
        known.insert(place, Arc::new(facts));
    }

    fn forget(&self, remote: &Remote) {
        let place = (remote.group.clone(), remote.version.clone());
        self.facts
            .lock()
            .expect("no panic under the lock")
            .remove(&place);
        self.turns
            .lock()
            .expect("no panic under the lock")
            .remove(&remote.name);
    }

    fn turns(&self, name: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().expect("no panic under the lock");
        let new = || Arc::new(Semaphore::new(REQUESTS_MAX));
        turns.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

/// The version of a group that a path asks about: its resources, their list, or their OpenAPI.
fn asked(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match parts.next()? {
        "api" => Some(("", parts.next()?)),
        "apis" => Some((parts.next()?, parts.next()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(services: &[(&str, &str, i32, i32)]) -> Known {
        let mut known = Known::default();
        for (group, version, of_group, of_version) in services {
            let place = ((*group).to_owned(), (*version).to_owned());
            known
                .priorities
                .insert(place.clone(), (*of_group, *of_version));
            let remote = Remote {
                name: format!("{version}.{group}"),
                group: (*group).to_owned(),
                version: (*version).to_owned(),
                service: ("n".into(), "s".into(), 443),
                bundle: Vec::new(),
                insecure: false,
                available: true,
            };
            known.remotes.insert(place, Arc::new(remote));
        }
        known
    }

    #[test]
    fn groups_and_versions_come_by_their_priorities() {
        let known = known(&[
            ("late.example", "v1", 10, 1),
            ("early.example", "v1alpha1", 20_000, 15),
            ("early.example", "v1", 20_000, 15),
            ("early.example", "v9", 20_000, 10),
        ]);
        let own = [("own.example", vec!["v2", "v1"]), (GROUP, vec!["v1"])];
        let merged = known.merged(&own);
        let shown: Vec<String> = merged
            .iter()
            .map(|(group, versions)| format!("{group} {}", versions.join(" ")))
            .collect();
        assert_eq!(
            shown,
            [
                "apiregistration.k8s.io v1",
                "early.example v1 v1alpha1 v9",
                "own.example v2 v1",
                "late.example v1",
            ]
        );
    }

    #[test]
    fn a_path_names_the_version_that_it_is_about() {
        for (path, wanted) in [
            ("/apis/a.b/v1/things/x", Some(("a.b", "v1"))),
            ("/apis/a.b/v1", Some(("a.b", "v1"))),
            ("/openapi/v3/apis/a.b/v1", Some(("a.b", "v1"))),
            ("/api/v1/pods", Some(("", "v1"))),
            ("/apis/a.b", None),
            ("/openapi/v2", None),
            ("/healthz", None),
        ] {
            assert_eq!(asked(path), wanted, "{path}");
        }
    }
}
