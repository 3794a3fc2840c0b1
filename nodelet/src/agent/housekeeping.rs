//! Keeping the node's disk in order: how pods are measured ([`crate::disk`]), and removing images that nobody needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Views;
use crate::eviction::{self, Readings};
use crate::images::collect::{Ages, Disk, Policy};
use crate::images::reference::Reference;
use crate::images::rootfs::mounted_layers;
use crate::images::store::Store;
use crate::node::Node;
use crate::pod::Teardown;

/// How often images are looked through, as in a kubelet.
const IMAGES_PERIOD: Duration = Duration::from_secs(5 * 60);

/// Reads the disk that holds a directory.
pub type DiskReading = Arc<dyn Fn(&Path) -> Disk + Send + Sync>;

/// Reads what the machine has left, given the directories of pods and of images.
pub type Reader = Arc<dyn Fn(&Path, &Path) -> Readings + Send + Sync>;

/// How memory and disk are kept in order.
#[derive(Clone)]
pub struct Housekeeping {
    /// How often pods with limits are measured.
    pub limits_period: Duration,
    /// How often images are looked through.
    pub images_period: Duration,
    /// Which images go.
    pub images: Policy,
    /// What tells how full the disk with the images is.
    pub disk: DiskReading,
    /// How often the machine is looked at for what runs short.
    pub pressure_period: Duration,
    /// When pods are evicted because of it.
    pub eviction: eviction::Policy,
    /// What tells how much the machine has left.
    pub readings: Reader,
}

impl Default for Housekeeping {
    fn default() -> Self {
        Self {
            limits_period: crate::disk::PERIOD,
            images_period: IMAGES_PERIOD,
            images: Policy::default(),
            disk: Arc::new(crate::machine::disk),
            pressure_period: super::pressure::PERIOD,
            eviction: eviction::Policy::default(),
            readings: Arc::new(crate::machine::readings),
        }
    }
}

/// Looks through the images until shutdown.
pub(super) async fn run(node: Arc<Node>, views: Views, shutdown: CancellationToken) {
    let mut ages = Ages::new(Timestamp::now());
    let mut failed = false;
    loop {
        let used = used_names(&views);
        let worker = node.clone();
        let round = tokio::task::spawn_blocking(move || {
            let outcome = round(
                worker.images.store(),
                &worker.housekeeping,
                &mut ages,
                &used,
            );
            (ages, outcome)
        });
        let Ok((back, outcome)) = round.await else {
            return;
        };
        ages = back;
        match outcome {
            Ok(()) => failed = false,
            Err(trouble) => {
                tracing::warn!(reason = trouble.reason, "{}", trouble.message);
                node.events.record_node(trouble.reason, &trouble.message);
                // The first failure may pass by itself; the second in a row says that it does not.
                if failed {
                    node.events.record_node("ImageGCFailed", &trouble.message);
                }
                failed = true;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(node.housekeeping.images_period) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// What went wrong, as an event of the node.
pub(super) struct Trouble {
    reason: &'static str,
    pub(super) message: String,
}

impl From<crate::images::Error> for Trouble {
    fn from(error: crate::images::Error) -> Self {
        Self {
            reason: "FreeDiskSpaceFailed",
            message: crate::worker::chain(&error),
        }
    }
}

/// The images that pods of this node have or will start, by the names that they use. A pod that was taken apart does not
/// start anything again.
pub(super) fn used_names(views: &Views) -> Vec<String> {
    let mut names = Vec::new();
    for view in views.all() {
        if matches!(view.state.teardown, Teardown::Done | Teardown::Released) {
            continue;
        }
        let spec = view.pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| {
            spec.init_containers
                .iter()
                .flatten()
                .chain(&spec.containers)
        });
        names.extend(containers.filter_map(|container| container.image.clone()));
        let volumes = spec
            .into_iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        names.extend(volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone()));
        let known = view.state.containers.iter();
        names.extend(known.map(|container| container.image_id.clone()));
    }
    names
}

/// Removes every image that no pod needs, however young.
pub(super) fn remove_unused(store: &Store, used: &[String]) -> Result<u64, Trouble> {
    let used = used_ids(store, used)?;
    let mounted = mounted_layers();
    let mut freed = store.remove_orphans(&mounted)?;
    for image in store.list() {
        if !used.contains(&image.id) {
            freed += free(store, &image.id, &mounted)?;
        }
    }
    Ok(freed)
}

fn used_ids(store: &Store, names: &[String]) -> Result<BTreeSet<String>, Trouble> {
    let references = names
        .iter()
        .filter_map(|name| Reference::parse(name).ok())
        .collect::<Vec<_>>();
    let mut ids = store.ids(&references)?;
    ids.append(&mut store.pinned()?);
    Ok(ids)
}

fn round(
    store: &Store,
    housekeeping: &Housekeeping,
    ages: &mut Ages,
    used: &[String],
) -> Result<(), Trouble> {
    let policy = &housekeeping.images;
    let now = Timestamp::now();
    let used = used_ids(store, used)?;
    ages.look(&store.list(), &used, now);
    let mounted = mounted_layers();
    for id in ages.outdated(&used, policy, now) {
        free(store, &id, &mounted)?;
    }
    let disk = (housekeeping.disk)(&store.layers_dir());
    let Some(percent) = disk.used_percent() else {
        return Err(Trouble {
            reason: "InvalidDiskCapacity",
            message: "invalid capacity 0 on image filesystem".into(),
        });
    };
    let Some(wanted) = disk.to_free(policy) else {
        return Ok(());
    };
    tracing::info!(percent, wanted, "the disk is filling up; removing images");
    let mut freed = store.remove_orphans(&mounted)?;
    for id in ages.removable(&used, policy, now) {
        if freed >= wanted {
            break;
        }
        freed += free(store, &id, &mounted)?;
    }
    if freed >= wanted {
        return Ok(());
    }
    Err(Trouble {
        reason: "FreeDiskSpaceFailed",
        message: format!(
            "Insufficient free disk space on the node's image filesystem ({percent}% of {} bytes used). \
             Failed to free sufficient space by deleting unused images (freed {freed} bytes). \
             Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
            disk.capacity
        ),
    })
}

fn free(store: &Store, id: &str, mounted: &BTreeSet<String>) -> Result<u64, Trouble> {
    let freed = store.remove_image(id, mounted)?;
    tracing::info!(id, freed, "an unused image was removed");
    Ok(freed)
}
