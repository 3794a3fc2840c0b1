//! PodSecurity: pods keep to the standard that their namespace names, in `enforce`, `audit` and `warn`. Workloads are
//! told beforehand what their pods would break, and who changes a namespace is told of the pods that are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corral_api::k8s::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use corral_api::k8s::api::batch::v1::{CronJob, Job};
use corral_api::k8s::api::core::v1::{
    Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController,
};
use corral_api::status::Status;
use corral_kinds::Object;

use super::{Action, Attributes};
use crate::api::Api;

mod checks;
mod config;
mod level;
mod metrics;

pub use config::PodSecurityConfig;
pub use metrics::Metrics;

use checks::{Subject, Violation, details, reasons, violations};
use level::{Level, Policy, Standard};
use metrics::Mode;

const ANNOTATIONS: &str = "pod-security.kubernetes.io/";
/// How many pods of a namespace are looked at when its labels change.
const PODS_MAX: usize = 3000;
/// How long they may be looked at.
const PODS_TIME: Duration = Duration::from_secs(1);

type Annotations = BTreeMap<String, String>;

/// The plugin.
pub struct PodSecurity {
    config: PodSecurityConfig,
    metrics: Metrics,
}

impl PodSecurity {
    /// The plugin with what the administrator says.
    pub fn new(config: PodSecurityConfig, metrics: Metrics) -> Self {
        Self { config, metrics }
    }

    /// Checks an object that is about to be stored.
    ///
    /// # Errors
    /// 403 for a pod that breaks what its namespace enforces, 422 for labels of a namespace that cannot be read.
    pub(super) async fn check(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if let Some(namespace) = object.get::<Namespace>() {
            let old = old.and_then(Object::get::<Namespace>);
            return self.namespace(api, attributes, namespace, old);
        }
        if let Some(pod) = object.get::<Pod>() {
            let old = old.and_then(Object::get::<Pod>);
            return self.pod(api, attributes, pod, old).await;
        }
        if attributes.subresource.is_empty()
            && let Some((annotations, spec)) = template_of(object)
        {
            self.template(api, attributes, annotations, spec).await;
        }
        Ok(())
    }

    /// Whether nothing is checked in a namespace, or for a user.
    fn is_exempt(&self, attributes: &Attributes<'_>) -> bool {
        let exemptions = &self.config.exemptions;
        let reason = if exemptions.namespaces.contains(&attributes.cx.namespace) {
            "namespace"
        } else if exemptions.usernames.contains(&attributes.cx.user.name) {
            "user"
        } else {
            return false;
        };
        self.exempted(attributes, reason);
        true
    }

    fn exempted(&self, attributes: &Attributes<'_>, reason: &str) {
        annotate(attributes, "exempt", reason.to_owned());
        self.metrics.exempted(attributes);
    }

    fn is_exempt_class(&self, spec: &PodSpec) -> bool {
        let class = spec
            .runtime_class_name
            .as_ref()
            .filter(|class| !class.is_empty());
        class.is_some_and(|class| self.config.exemptions.runtime_classes.contains(class))
    }

    async fn pod(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        pod: &Pod,
        old: Option<&Pod>,
    ) -> Result<(), Status> {
        // What else is written of a pod changes nothing that is checked.
        let checked = matches!(
            attributes.subresource,
            "" | "ephemeralcontainers" | "resize"
        );
        if !checked || self.is_exempt(attributes) {
            return Ok(());
        }
        let name = &attributes.cx.namespace;
        let labels = labels_of(api, name).await.map_err(|_| {
            self.metrics.failed(true, attributes);
            Status::internal(format!("failed to lookup namespace {name:?}"))
        })?;
        let (policy, errors) = Policy::of(labels.as_ref(), &self.config.defaults);
        if errors.is_empty() && policy.allows_everything() {
            annotate(
                attributes,
                "enforce-policy",
                Standard::PRIVILEGED.to_string(),
            );
            self.metrics
                .evaluated(true, policy.enforce, Mode::Enforce, attributes);
            return Ok(());
        }
        let nothing = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        if let Some(old) = old
            && !is_significant(spec, old.spec.as_ref().unwrap_or(&nothing))
        {
            return Ok(());
        }
        let policy = (policy, errors);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let annotations = pod.metadata.annotations.as_ref();
        self.evaluate(attributes, &policy, annotations, spec, Some(name))
    }

    /// A workload is never refused: its pods are.
    async fn template(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        annotations: Option<&Annotations>,
        spec: &PodSpec,
    ) {
        if self.is_exempt(attributes) {
            return;
        }
        let name = &attributes.cx.namespace;
        let labels = match labels_of(api, name).await {
            Ok(labels) => labels,
            Err(status) => {
                self.metrics.failed(true, attributes);
                let why = format!("failed to lookup namespace {name:?}: {}", status.message);
                annotate(attributes, "error", why);
                return;
            }
        };
        let policy = Policy::of(labels.as_ref(), &self.config.defaults);
        let (audit, warn) = (policy.0.audit.level, policy.0.warn.level);
        let nothing_to_say = audit == Level::Privileged && warn == Level::Privileged;
        if !(policy.1.is_empty() && nothing_to_say) {
            let refused = self.evaluate(attributes, &policy, annotations, spec, None);
            debug_assert!(refused.is_ok(), "only what is enforced refuses");
        }
    }

    fn evaluate(
        &self,
        attributes: &Attributes<'_>,
        (policy, errors): &(Policy, Vec<corral_api::FieldError>),
        annotations: Option<&Annotations>,
        spec: &PodSpec,
        enforced_on: Option<&str>,
    ) -> Result<(), Status> {
        if self.is_exempt_class(spec) {
            self.exempted(attributes, "runtimeClass");
            return Ok(());
        }
        if !errors.is_empty() {
            let why = corral_api::FieldError::aggregate(errors);
            annotate(
                attributes,
                "error",
                format!("Failed to parse policy: {why}"),
            );
            self.metrics.failed(false, attributes);
        }
        let subject = Subject::new(spec, annotations);
        let mut known: Vec<(Standard, Vec<Violation>)> = Vec::new();
        let mut broken = |standard: Standard| -> Option<String> {
            let known = match known.iter().position(|(known, _)| *known == standard) {
                Some(index) => &known[index].1,
                None => {
                    known.push((standard, violations(standard, &subject)));
                    &known.last().expect("one was added").1
                }
            };
            (!known.is_empty())
                .then(|| format!("violate PodSecurity \"{standard}\": {}", details(known)))
        };
        let mut outcome = Ok(());
        if let Some(name) = enforced_on {
            annotate(attributes, "enforce-policy", policy.enforce.to_string());
            let refused = broken(policy.enforce);
            let allowed = refused.is_none();
            self.metrics
                .evaluated(allowed, policy.enforce, Mode::Enforce, attributes);
            if let Some(why) = refused {
                let why = why.replacen("violate", "violates", 1);
                outcome = Err(attributes.forbidden(name, &why));
            }
        }
        if let Some(why) = broken(policy.audit) {
            annotate(attributes, "audit-violations", format!("would {why}"));
            self.metrics
                .evaluated(false, policy.audit, Mode::Audit, attributes);
        }
        if outcome.is_ok()
            && let Some(why) = broken(policy.warn)
        {
            attributes.cx.warn(format!("would {why}"));
            self.metrics
                .evaluated(false, policy.warn, Mode::Warn, attributes);
        }
        outcome
    }

    fn namespace(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        namespace: &Namespace,
        old: Option<&Namespace>,
    ) -> Result<(), Status> {
        if !attributes.subresource.is_empty() {
            return Ok(());
        }
        let labels = namespace.metadata.labels.as_ref();
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let (new, errors) = Policy::of(labels, &self.config.defaults);
        let before = old.map(|old| Policy::of(old.metadata.labels.as_ref(), &self.config.defaults));
        let known = before.as_ref().is_some_and(|(_, before)| *before == errors);
        if !errors.is_empty() && !known {
            return Err(Status::invalid("", "Namespace", name, &errors));
        }
        let enforce = new.enforce;
        if let Some((before, _)) = before {
            let before = before.enforce;
            let stricter = enforce.level != Level::Privileged
                && (enforce.version != before.version || enforce.level > before.level);
            if attributes.action == Action::Update && !stricter {
                return Ok(());
            }
        }
        if self
            .config
            .exemptions
            .namespaces
            .iter()
            .any(|exempt| exempt == name)
        {
            if !new.allows_everything() && !new.is_like(&self.config.defaults) {
                attributes.cx.warn(format!(
                    "namespace {name:?} is exempt from Pod Security, and the policy ({}) will be ignored",
                    new.in_vain(labels)
                ));
            }
            return Ok(());
        }
        if attributes.action == Action::Update {
            self.look_at_pods(api, attributes, name, enforce);
        }
        Ok(())
    }

    /// Warns of the pods of a namespace that break what it is to enforce.
    fn look_at_pods(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        namespace: &str,
        enforce: Standard,
    ) {
        let began = Instant::now();
        let left = attributes.cx.asked.deadline;
        let left = left.map(|deadline| deadline.saturating_duration_since(began) / 2);
        let time = left.map_or(PODS_TIME, |left| left.min(PODS_TIME));
        let pods = self.by_importance(pods_of(api, namespace));
        let mut n_checked = pods.len().min(PODS_MAX);
        // By what is wrong: the first pod by name, and how many there are.
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for (index, pod) in pods.iter().take(PODS_MAX).enumerate() {
            let nothing = PodSpec::default();
            let spec = pod.spec.as_ref().unwrap_or(&nothing);
            let subject = Subject::new(spec, pod.metadata.annotations.as_ref());
            let broken = violations(enforce, &subject);
            if !broken.is_empty() {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let (first, n) = found
                    .entry(reasons(&broken))
                    .or_insert_with(|| (name.clone(), 0));
                *n += 1;
                if name < *first {
                    *first = name;
                }
            }
            if began.elapsed() > time {
                n_checked = index + 1;
                break;
            }
        }
        if n_checked < pods.len() {
            attributes.cx.warn(format!(
                "new PodSecurity enforce level only checked against the first {n_checked} of {} existing pods",
                pods.len()
            ));
        }
        if !found.is_empty() {
            attributes.cx.warn(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut texts: Vec<String> = found
            .into_iter()
            .map(|(why, (name, n))| match n {
                1 => format!("{name}: {why}"),
                2 => format!("{name} (and 1 other pod): {why}"),
                n => format!("{name} (and {} other pods): {why}", n - 1),
            })
            .collect();
        texts.sort();
        texts.into_iter().for_each(|text| attributes.cx.warn(text));
    }

    /// Pods whose owner has none before them come first: the others are most likely like those.
    fn by_importance(&self, pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
        let mut seen = std::collections::BTreeSet::new();
        let checked = pods.into_iter().filter(|pod| {
            let spec = pod.spec.as_ref();
            !spec.is_some_and(|spec| self.is_exempt_class(spec))
        });
        let (mut first, rest): (Vec<_>, Vec<_>) = checked.partition(|pod| {
            let mut owners = pod.metadata.owner_references.iter().flatten();
            let owner = owners.find(|owner| owner.controller == Some(true));
            owner.is_none_or(|owner| seen.insert(owner.uid.clone()))
        });
        first.extend(rest);
        first
    }
}

fn annotate(attributes: &Attributes<'_>, key: &str, value: String) {
    attributes.cx.annotate(format!("{ANNOTATIONS}{key}"), value);
}

pub(super) async fn labels_of(
    api: &Api,
    name: &str,
) -> Result<Option<BTreeMap<String, String>>, Status> {
    let namespaces = api.core("namespaces");
    let key = namespaces.key("", name);
    if let Some(stored) = namespaces.cacher.peek(&key) {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        return Ok(Some(stored.label_pairs().map(owned).collect()));
    }
    // The cache may be late.
    let entry = namespaces.fetch(&key).await?;
    let entry = entry.ok_or_else(|| namespaces.not_found(name))?;
    let namespace: Namespace = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    Ok(namespace.metadata.labels)
}

fn pods_of(api: &Api, namespace: &str) -> Vec<Arc<Pod>> {
    let pods = api.core("pods");
    let snapshot = pods.cacher.snapshot();
    let prefix = pods.cacher.prefix();
    let own = snapshot.objects.values().filter(|stored| {
        let (of, _) = stored.namespace_and_name(prefix);
        of == namespace
    });
    own.filter_map(|stored| serde_json::from_slice(&stored.json).ok().map(Arc::new))
        .collect()
}

/// Whether an update of a pod changes what runs.
fn is_significant(new: &PodSpec, old: &PodSpec) -> bool {
    let init = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    let lists = [
        (new.containers.clone(), old.containers.clone()),
        (init(new), init(old)),
    ];
    let images_differ = lists.iter().any(|(new, old)| {
        let mut pairs = new.iter().zip(old);
        new.len() != old.len() || pairs.any(|(new, old)| new.image != old.image)
    });
    let old = old.ephemeral_containers.as_deref().unwrap_or_default();
    images_differ
        || new.ephemeral_containers.iter().flatten().any(|new| {
            let known = old.iter().find(|old| old.name == new.name);
            known.is_none_or(|old| old.image != new.image)
        })
}

/// The template of a workload: its annotations and what its pods are.
fn template_of(object: &Object) -> Option<(Option<&Annotations>, &PodSpec)> {
    let template: Option<&PodTemplateSpec> = None
        .or_else(|| {
            object
                .get::<Deployment>()?
                .spec
                .as_ref()
                .map(|s| &s.template)
        })
        .or_else(|| object.get::<ReplicaSet>()?.spec.as_ref()?.template.as_ref())
        .or_else(|| {
            object
                .get::<DaemonSet>()?
                .spec
                .as_ref()
                .map(|s| &s.template)
        })
        .or_else(|| {
            object
                .get::<StatefulSet>()?
                .spec
                .as_ref()
                .map(|s| &s.template)
        })
        .or_else(|| object.get::<Job>()?.spec.as_ref().map(|s| &s.template))
        .or_else(|| {
            let jobs = &object.get::<CronJob>()?.spec.job_template;
            jobs.spec.as_ref().map(|s| &s.template)
        })
        .or_else(|| {
            object
                .get::<ReplicationController>()?
                .spec
                .as_ref()?
                .template
                .as_ref()
        })
        .or_else(|| object.get::<PodTemplate>()?.template.as_ref());
    let template = template?;
    let meta = template.metadata.as_ref();
    Some((
        meta.and_then(|meta| meta.annotations.as_ref()),
        template.spec.as_ref()?,
    ))
}
