//! What a pod may keep on the node's disk: measured now and then, and the pod is evicted when it is too much.
//!
//! Counted are the writable layers and logs of containers and the pod's `emptyDir` volumes. Measuring means walking
//! directories: one walk at a time on a node, and after each the pod is left alone for much longer than it took.
//!
//! Reading order: [`watch`], [`Limits`], [`measure`].

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Container, EmptyDirVolumeSource, Pod, PodSpec};
use corral_api::quantity::Quantity;
use tokio::sync::mpsc;

use crate::eviction::CRITICAL_PRIORITY;
use crate::node::{Node, uid};
use crate::pod::{Event, is_sidecar};
use crate::runtime::spec::resources::limit;

/// How often pods with limits are measured, as kubelets look for what to evict.
pub const PERIOD: Duration = Duration::from_secs(10);

/// A pod is left alone for so many times the duration of its last walk: measuring takes at most a twentieth of one
/// thread, however large the volumes are.
const REST_FACTOR: u32 = 19;

/// The resource of containers.
const RESOURCE: &str = "ephemeral-storage";

/// How much of the disk parts of a pod may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// `emptyDir` volumes with a `sizeLimit`, in the order of the pod.
    volumes: Vec<(String, Quantity)>,
    /// The whole pod: what its containers may use together.
    pod: Option<Quantity>,
    /// Containers.
    containers: Vec<(String, Quantity)>,
    /// Volumes that count for the pod.
    on_disk: Vec<String>,
}

/// What parts of a pod use, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    volumes: BTreeMap<String, u64>,
    containers: BTreeMap<String, u64>,
}

impl Limits {
    /// The limits of a pod; `None` if it has none, or is not to be evicted.
    pub fn of(spec: &PodSpec) -> Option<Self> {
        if spec
            .priority
            .is_some_and(|priority| priority >= CRITICAL_PRIORITY)
        {
            return None;
        }
        let mut limits = Self {
            pod: pod_limit(spec),
            ..Self::default()
        };
        for volume in spec.volumes.iter().flatten() {
            let Some(source) = &volume.empty_dir else {
                continue;
            };
            if !on_disk(source) {
                continue;
            }
            limits.on_disk.push(volume.name.clone());
            let size = source.size_limit.as_ref();
            let size = size.and_then(|size| Quantity::from_wire(size).ok());
            if let Some(size) = size.filter(|size| !size.is_zero()) {
                limits.volumes.push((volume.name.clone(), size));
            }
        }
        limits.containers = spec
            .containers
            .iter()
            .filter_map(|container| Some((container.name.clone(), own_limit(container)?)))
            .collect();
        let any = limits.pod.is_some() || !limits.volumes.is_empty();
        any.then_some(limits)
    }

    /// The message of an eviction, in Kubernetes' words, if a limit is exceeded.
    pub fn exceeded(&self, usage: &Usage) -> Option<String> {
        let above =
            |used: u64, limit: &Quantity| i64::try_from(used).unwrap_or(i64::MAX) > limit.value();
        for (name, limit) in &self.volumes {
            if above(usage.volumes.get(name).copied().unwrap_or(0), limit) {
                return Some(format!(
                    "Usage of EmptyDir volume {name:?} exceeds the limit \"{limit}\". "
                ));
            }
        }
        let total = usage
            .volumes
            .values()
            .chain(usage.containers.values())
            .sum();
        if let Some(limit) = self.pod.as_ref().filter(|limit| above(total, limit)) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
        self.containers.iter().find_map(|(name, limit)| {
            above(usage.containers.get(name).copied().unwrap_or(0), limit).then(|| {
                format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ")
            })
        })
    }
}

/// The kernel keeps a memory volume within its limit.
fn on_disk(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() != Some("Memory")
}

/// What a pod uses on disk, and each of its containers (their volumes apart).
pub fn parts(pod_dir: &Path, spec: &PodSpec) -> (u64, Vec<(String, u64)>) {
    let volumes = spec.volumes.iter().flatten();
    let names: Vec<String> = volumes
        .filter(|volume| volume.empty_dir.as_ref().is_some_and(on_disk))
        .map(|volume| volume.name.clone())
        .collect();
    let usage = measure(pod_dir, &names);
    let total = usage
        .volumes
        .values()
        .chain(usage.containers.values())
        .sum();
    (total, usage.containers.into_iter().collect())
}

fn own_limit(container: &Container) -> Option<Quantity> {
    limit(container, RESOURCE).filter(|limit| !limit.is_zero())
}

/// What the containers of a pod may use together: the main ones and sidecars, or an init container beside the sidecars
/// before it, whichever is more.
fn pod_limit(spec: &PodSpec) -> Option<Quantity> {
    let add = |sum: Option<Quantity>, more: Option<Quantity>| match (sum, more) {
        (Some(sum), Some(more)) => Some(sum + more),
        (sum, more) => sum.or(more),
    };
    let (mut sidecars, mut most) = (None, None);
    for container in spec.init_containers.iter().flatten() {
        let own = limit(container, RESOURCE);
        if is_sidecar(container) {
            sidecars = add(sidecars, own);
        } else if own.is_some() {
            most = most.max(add(sidecars, own));
        }
    }
    let main = spec
        .containers
        .iter()
        .fold(None, |sum, container| add(sum, limit(container, RESOURCE)));
    most.max(add(main, sidecars))
}

/// Measures a pod until it has to be evicted; ends at once for a pod without limits.
pub async fn watch(node: Arc<Node>, pod: Arc<Pod>, reports: mpsc::Sender<Event>) {
    let Some(limits) = pod.spec.as_ref().and_then(Limits::of) else {
        return;
    };
    let directory = node.pod_dir(&uid(&pod));
    let mut rest = node.housekeeping.limits_period;
    loop {
        tokio::time::sleep(rest).await;
        let Ok(_turn) = node.measuring.acquire().await else {
            return;
        };
        let began = tokio::time::Instant::now();
        let (directory, on_disk) = (directory.clone(), limits.on_disk.clone());
        let walk = tokio::task::spawn_blocking(move || measure(&directory, &on_disk));
        let Ok(usage) = walk.await else { return };
        if let Some(message) = limits.exceeded(&usage) {
            let _ = reports.send(Event::Evicted { message }).await;
            return;
        }
        rest = node
            .housekeeping
            .limits_period
            .max(began.elapsed() * REST_FACTOR);
    }
}

/// What a pod uses on disk. What cannot be read (it may vanish under the walk) counts nothing.
fn measure(pod_dir: &Path, on_disk: &[String]) -> Usage {
    let mut usage = Usage::default();
    for name in on_disk {
        let path = pod_dir.join("volumes").join(name);
        usage.volumes.insert(name.clone(), size(&path));
    }
    let mut count = |name: &str, path: PathBuf| {
        *usage.containers.entry(name.to_owned()).or_default() += size(&path);
    };
    for id in names(&pod_dir.join("containers")) {
        if let Some((name, _)) = id.rsplit_once('-') {
            // A container on the machine's own root has its layer in memory, elsewhere.
            count(name, pod_dir.join("containers").join(&id).join("upper"));
        }
    }
    for name in names(&pod_dir.join("logs")) {
        count(&name, pod_dir.join("logs").join(&name));
    }
    usage
}

fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// What a directory occupies on its file system: blocks, so that holes count nothing, and each file once.
pub(crate) fn size(directory: &Path) -> u64 {
    let Ok(root) = std::fs::symlink_metadata(directory) else {
        return 0;
    };
    let device = root.dev();
    let mut linked = HashSet::new();
    let mut total = root.blocks() * BLOCK_LEN;
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            // Of the entry itself: a link is not followed.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let again =
                !metadata.is_dir() && metadata.nlink() > 1 && !linked.insert(metadata.ino());
            if metadata.dev() != device || again {
                continue;
            }
            total += metadata.blocks() * BLOCK_LEN;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    total
}

/// The unit of `st_blocks`, whatever the file system's own.
const BLOCK_LEN: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(yaml: &str) -> Option<Limits> {
        Limits::of(&serde_saphyr::from_str(yaml).expect("a spec"))
    }

    fn usage(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Usage {
        let map = |list: &[(&str, u64)]| {
            list.iter()
                .map(|(name, bytes)| ((*name).to_owned(), *bytes))
                .collect()
        };
        Usage {
            volumes: map(volumes),
            containers: map(containers),
        }
    }

    const POD: &str = "{volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}, {name: w, emptyDir: {}}, \
        {name: m, emptyDir: {medium: Memory, sizeLimit: 1Ki}}], \
        containers: [{name: a, resources: {limits: {ephemeral-storage: 2Mi}}}, \
        {name: b, resources: {limits: {ephemeral-storage: 3Mi}}}]}";

    #[test]
    fn each_limit_is_told_in_its_own_words() {
        let limits = limits(POD).expect("limits");
        let mib = 1 << 20;
        let exceeded =
            |volumes: &[_], containers: &[_]| limits.exceeded(&usage(volumes, containers));
        assert_eq!(
            exceeded(&[("v", mib)], &[("a", 2 * mib), ("b", 2 * mib)]),
            None
        );
        assert_eq!(
            exceeded(&[("v", mib + 1)], &[]).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ")
        );
        assert_eq!(
            exceeded(&[("w", 4 * mib)], &[("a", mib + 1)]).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ")
        );
        assert_eq!(
            exceeded(&[], &[("a", 2 * mib + 1)]).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"2Mi\". ")
        );
    }

    #[test]
    fn pods_without_limits_and_vital_ones_are_left_alone() {
        assert_eq!(
            limits("{containers: [{name: a}], volumes: [{name: v, emptyDir: {}}]}"),
            None
        );
        assert_eq!(
            limits(&POD.replacen('{', "{priority: 2000000000, ", 1)),
            None
        );
    }

    #[test]
    fn an_init_container_counts_beside_the_sidecars_before_it() {
        let spec = "{initContainers: [{name: s, restartPolicy: Always, resources: {limits: {ephemeral-storage: 1Mi}}}, \
            {name: i, resources: {limits: {ephemeral-storage: 9Mi}}}], \
            containers: [{name: a, resources: {limits: {ephemeral-storage: 2Mi}}}]}";
        let limits = limits(spec).expect("limits");
        assert_eq!(limits.pod.map(Quantity::value), Some(10 << 20));
    }

    #[test]
    fn holes_and_second_names_of_a_file_count_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (file, other) = (directory.path().join("a"), directory.path().join("b"));
        let empty = size(directory.path());
        std::fs::write(&file, vec![1; 1 << 20]).expect("written");
        std::fs::hard_link(&file, &other).expect("linked");
        std::fs::File::create(directory.path().join("hole"))
            .and_then(|hole| hole.set_len(1 << 30))
            .expect("made");
        let used = size(directory.path()) - empty;
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
    }
}
