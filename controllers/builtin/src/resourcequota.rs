//! ResourceQuotas: how much of what a quota limits is used, counted from all objects of its namespace.
//!
//! The server charges quotas as it writes and gives back as it removes. This controller counts when a quota is new or
//! has changed, and again now and then, for what no write tells: a pod that should have gone long ago uses nothing any
//! more. The count is written only if the quota has not been charged since it was read, so that it never hides a charge.
//!
//! A loose handler: what there is, is known for certain only by asking the server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corral_api::amounts::{self, Amounts};
use corral_api::k8s::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ListMeta;
use corral_api::quota::{self, Counted};
use corral_runtime::controller::handler_fn;
use corral_runtime::{Action, Clock, Controller, Error, ObjectKey, Objects};
use http::Request;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::discovery;

/// How often a quota is counted anew although nothing calls for it.
const RECOUNT: Duration = Duration::from_secs(60);
/// Counts at a time; each asks for all pods of a namespace.
const WORKERS: usize = 2;

type List = BTreeMap<String, Wire>;

/// The objects of a namespace that a quota limits.
#[derive(Debug, Default)]
pub struct World {
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    pub claims: Vec<PersistentVolumeClaim>,
    /// Numbers of all other kinds that the quota names, by group and resource. What the server does not have is missing.
    pub others: BTreeMap<(String, String), usize>,
}

/// The status that a quota should have.
pub fn status_of(quota: &ResourceQuota, world: &World, now: Timestamp) -> ResourceQuotaStatus {
    let nothing = ResourceQuotaSpec::default();
    let spec = quota.spec.as_ref().unwrap_or(&nothing);
    let hard = spec.hard.clone().unwrap_or_default();
    let mut used = Amounts::new();
    let mut count = |resource, object| {
        let one = quota::used_of(spec, hard.keys(), resource, object, now);
        amounts::add(&mut used, &one);
    };
    for pod in &world.pods {
        count(("", "pods"), Counted::Pod(pod));
    }
    for service in &world.services {
        count(("", "services"), Counted::Service(service));
    }
    for claim in &world.claims {
        count(("", "persistentvolumeclaims"), Counted::Claim(claim));
    }
    for ((group, plural), n_objects) in &world.others {
        for _ in 0..*n_objects {
            count((group, plural), Counted::Other);
        }
    }
    // Nothing of something is used, too, but of what nobody counts nothing is known.
    let known = |name: &&String| {
        let resource = quota::resource_of(name);
        resource.is_some_and(|(group, plural)| {
            let other = (group.to_owned(), plural.to_owned());
            is_typed(group, plural) || world.others.contains_key(&other)
        })
    };
    for name in hard.keys().filter(known) {
        used.entry(name.clone()).or_default();
    }
    ResourceQuotaStatus {
        hard: Some(hard),
        used: Some(amounts::write(&used)),
    }
}

fn is_typed(group: &str, plural: &str) -> bool {
    group.is_empty() && matches!(plural, "pods" | "services" | "persistentvolumeclaims")
}

fn same(one: Option<&List>, other: Option<&List>) -> bool {
    one.is_some() == other.is_some() && amounts::read(one) == amounts::read(other)
}

/// Whether the status is about what the quota limits now, and says of everything how much is used.
fn is_complete(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let Some(status) = &quota.status else {
        return false;
    };
    let used = status.used.as_ref();
    let counted = |name: &String| {
        quota::resource_of(name).is_none_or(|(group, _)| !group.is_empty())
            || used.is_some_and(|used| used.contains_key(name))
    };
    used.is_some()
        && amounts::read(hard) == amounts::read(status.hard.as_ref())
        && hard.into_iter().flat_map(BTreeMap::keys).all(counted)
}

struct Quotas {
    quotas: Objects<ResourceQuota>,
    clock: Arc<dyn Clock>,
    /// Guards when each quota was last counted.
    counted: Mutex<HashMap<ObjectKey, Timestamp>>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let quotas = context.objects::<ResourceQuota>("resourcequota-controller");
    let controller = Controller::new("resourcequota").watch(quotas.cache());
    let this = Arc::new(Quotas {
        quotas,
        clock: Arc::clone(&context.clock),
        counted: Mutex::default(),
    });
    let handler = handler_fn(move |key| {
        let this = Arc::clone(&this);
        async move { this.handle(key).await }
    });
    controller.run(handler, WORKERS, &context.metrics, &context.tasks);
}

impl Quotas {
    async fn handle(&self, key: ObjectKey) -> Result<Action, Error> {
        let now = self.clock.now();
        let Some(quota) = self.quotas.get(&key) else {
            self.counted
                .lock()
                .expect("no panic while held")
                .remove(&key);
            return Ok(Action::Done);
        };
        if let Some(wait) = self.not_yet(&key, &quota, now) {
            return Ok(Action::After(wait));
        }
        // The quota was read before its objects: what is charged from now on makes the write fail.
        let world = self.observe(&key.namespace, &quota).await?;
        let status = status_of(&quota, &world, now);
        let before = quota.status.clone().unwrap_or_default();
        let is_same = same(status.hard.as_ref(), before.hard.as_ref())
            && same(status.used.as_ref(), before.used.as_ref());
        if !is_same {
            let written = ResourceQuota {
                status: Some(status),
                ..(*quota).clone()
            };
            let outcome = self.quotas.replace_status(&written).await;
            crate::ownership::gone_is_fine(outcome.map(drop))?;
        }
        let mut counted = self.counted.lock().expect("no panic while held");
        counted.insert(key, now);
        Ok(Action::After(RECOUNT))
    }

    /// How long a quota can wait: every charge wakes us, and few call for a count.
    fn not_yet(&self, key: &ObjectKey, quota: &ResourceQuota, now: Timestamp) -> Option<Duration> {
        let counted = self.counted.lock().expect("no panic while held");
        let last = counted.get(key).filter(|_| is_complete(quota))?;
        let since = Duration::try_from(now.duration_since(*last)).unwrap_or_default();
        RECOUNT.checked_sub(since).filter(|wait| !wait.is_zero())
    }

    async fn observe(&self, namespace: &str, quota: &ResourceQuota) -> Result<World, Error> {
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        let names = hard.into_iter().flat_map(BTreeMap::keys);
        let resources: BTreeSet<_> = names.filter_map(|name| quota::resource_of(name)).collect();
        let mut world = World::default();
        let mut versions = None;
        for (group, plural) in resources {
            let path = |root: &str| format!("{root}/namespaces/{namespace}/{plural}");
            match (group, plural) {
                ("", "pods") => world.pods = self.list(&path("/api/v1")).await?.items,
                ("", "services") => world.services = self.list(&path("/api/v1")).await?.items,
                ("", "persistentvolumeclaims") => {
                    world.claims = self.list(&path("/api/v1")).await?.items;
                }
                ("", _) => {
                    let n_objects = self.count(&path("/api/v1")).await?;
                    world
                        .others
                        .insert((String::new(), plural.to_owned()), n_objects);
                }
                _ => {
                    if versions.is_none() {
                        versions = Some(self.versions().await?);
                    }
                    let known = versions.iter().flatten();
                    let mut known =
                        known.filter(|kind| kind.group == group && kind.plural == plural);
                    if let Some(kind) = known.next() {
                        let n_objects = self
                            .count(&path(&format!("/apis/{}", kind.api_version)))
                            .await?;
                        let resource = (group.to_owned(), plural.to_owned());
                        world.others.insert(resource, n_objects);
                    }
                }
            }
        }
        Ok(world)
    }

    /// The kinds that can be counted.
    async fn versions(&self) -> Result<Vec<kube::core::ApiResource>, Error> {
        let found = discovery::discover(self.quotas.client()).await?;
        let kinds = found.kinds.into_iter();
        let kinds = kinds.filter(|kind| kind.namespaced && kind.can("list"));
        Ok(kinds.map(|kind| kind.resource).collect())
    }

    /// How many objects there are, of which one is asked for.
    async fn count(&self, path: &str) -> Result<usize, Error> {
        #[derive(Deserialize)]
        struct Any {}
        let list: Listed<Any> = self.list(&format!("{path}?limit=1")).await?;
        let left = list.metadata.remaining_item_count.unwrap_or(0);
        Ok(list.items.len() + usize::try_from(left).unwrap_or(0))
    }

    /// All objects. There are none of a kind that the server does not have.
    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Listed<T>, Error> {
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        match self
            .quotas
            .client()
            .request(request)
            .await
            .map_err(Error::from)
        {
            Err(error) if error.is_not_found() => Ok(Listed::default()),
            other => other,
        }
    }
}

#[derive(Deserialize)]
struct Listed<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            metadata: ListMeta::default(),
            items: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_counted_and_what_nobody_knows_is_left_out() {
        let quota: ResourceQuota = object(json!({"spec": {"hard": {
            "pods": "5", "requests.cpu": "2", "services.nodeports": "1", "secrets": "9", "count/jobs.batch": "1",
            "count/widgets.example.com": "1"}}}));
        let pod = |phase: &str| {
            object(json!({"status": {"phase": phase},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}}))
        };
        let world = World {
            pods: vec![pod("Running"), pod("Pending"), pod("Succeeded")],
            others: BTreeMap::from([
                ((String::new(), "secrets".into()), 3),
                (("batch".into(), "jobs".into()), 0),
            ]),
            ..World::default()
        };
        let status = status_of(&quota, &world, Timestamp::UNIX_EPOCH);
        assert_eq!(
            json!(status.used),
            json!({"pods": "2", "requests.cpu": "500m", "services.nodeports": "0", "secrets": "3", "count/jobs.batch": "0"})
        );
        let counted = ResourceQuota {
            status: Some(status),
            ..quota.clone()
        };
        assert!(is_complete(&counted) && !is_complete(&quota));
    }
}
