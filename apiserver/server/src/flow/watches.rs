//! How many watches a write is told to, for what it costs. A watch of a kind, of a namespace of it, or of one object.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use corral_api::selector::FieldSelector;

use crate::request::RequestInfo;

/// Watches of pods that ask for those of one node see few events, and an index finds them: they cost a write nothing.
const INDEXED: (&str, &str) = ("pods", "spec.nodeName");

/// The watches that are open.
#[derive(Debug, Default)]
pub struct Watches {
    // Guards the counts. Held for look-ups only.
    counts: RwLock<HashMap<String, Groups>>,
}

/// By group.
type Groups = HashMap<String, Counts>;

/// Watches of one resource.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// By namespace, empty for none, and by name, empty for all of the namespace.
    some: HashMap<String, HashMap<String, usize>>,
}

/// An open watch, until it is dropped.
#[derive(Debug)]
pub struct Open {
    watches: Arc<Watches>,
    info: Arc<RequestInfo>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watches.count(&self.info, |n| n.saturating_sub(1));
    }
}

impl Watches {
    /// Counts a watch, unless an index finds it.
    pub fn open(self: &Arc<Self>, info: &Arc<RequestInfo>) -> Option<Open> {
        let (resource, field) = INDEXED;
        if info.resource == resource && info.group.is_empty() {
            let selector = info.query.get("fieldSelector").unwrap_or_default();
            let value = FieldSelector::parse(selector).ok().and_then(|selector| {
                let mut of_field = selector.requirements.into_iter();
                of_field.find(|requirement| requirement.field == field && requirement.equals)
            });
            if value.is_some_and(|requirement| !requirement.value.is_empty()) {
                return None;
            }
        }
        self.count(info, |n| n + 1);
        Some(Open {
            watches: self.clone(),
            info: info.clone(),
        })
    }

    fn count(&self, info: &RequestInfo, change: impl Fn(usize) -> usize) {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        let groups = counts.entry(info.resource.clone()).or_default();
        let of_kind = groups.entry(info.group.clone()).or_default();
        if info.namespace.is_empty() && info.name.is_empty() {
            of_kind.all = change(of_kind.all);
        } else {
            let namespace = of_kind.some.entry(info.namespace.clone()).or_default();
            let n = namespace.entry(info.name.clone()).or_default();
            *n = change(*n);
            namespace.retain(|_, n| *n > 0);
            of_kind.some.retain(|_, names| !names.is_empty());
        }
        groups.retain(|_, counts| counts.all > 0 || !counts.some.is_empty());
        counts.retain(|_, groups| !groups.is_empty());
    }

    /// How many watches a write is told to.
    pub fn of(&self, info: &RequestInfo) -> usize {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let groups = counts.get(&info.resource);
        let Some(counts) = groups.and_then(|groups| groups.get(&info.group)) else {
            return 0;
        };
        let namespace = counts.some.get(&info.namespace);
        let named = |name: &str| {
            let n = namespace.and_then(|names| names.get(name));
            n.copied().unwrap_or(0)
        };
        let mut n = counts.all;
        if !info.namespace.is_empty() {
            n += named("");
        }
        if !info.name.is_empty() {
            n += named(&info.name);
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn info(method: Method, uri: &str) -> Arc<RequestInfo> {
        Arc::new(RequestInfo::new(&method, &uri.parse().expect("a URI")).expect("a request"))
    }

    #[test]
    fn a_write_is_told_to_watches_of_its_kind_namespace_and_name() {
        let watches = Arc::new(Watches::default());
        let open = |uri| watches.open(&info(Method::GET, uri));
        let of = |uri| watches.of(&info(Method::PUT, uri));
        let all = open("/api/v1/configmaps?watch=1");
        let namespace = open("/api/v1/namespaces/a/configmaps?watch=1");
        let one = open("/api/v1/namespaces/a/configmaps/x?watch=1");
        assert_eq!(of("/api/v1/namespaces/a/configmaps/x"), 3);
        assert_eq!(of("/api/v1/namespaces/a/configmaps/y"), 2);
        assert_eq!(of("/api/v1/namespaces/b/configmaps/x"), 1);
        assert_eq!(of("/api/v1/namespaces/a/secrets/x"), 0);
        drop((all, namespace, one));
        assert_eq!(of("/api/v1/namespaces/a/configmaps/x"), 0);
        assert!(watches.counts.read().expect("no panic").is_empty());
    }

    #[test]
    fn a_watch_that_an_index_finds_costs_nothing() {
        let watches = Arc::new(Watches::default());
        let uri = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn";
        assert!(watches.open(&info(Method::GET, uri)).is_none());
        let uri = "/api/v1/pods?watch=1&fieldSelector=status.phase%3DRunning";
        assert!(watches.open(&info(Method::GET, uri)).is_some());
    }
}
