//! Acts when the machine runs short: removes unused images, then evicts pods one by one, and keeps what the node shows
//! of it. What is decided is in [`crate::eviction`].

use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Container, PodSpec};
use corral_api::quantity::Quantity;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Views, housekeeping};
use crate::disk::parts;
use crate::eviction::{self, Candidate, Crossed, Readings, Seen, Signal};
use crate::node::{Node, uid};
use crate::pod::{Event, Phase, State, is_sidecar};
use crate::runtime::spec::resources::request;
use crate::worker::PodView;

/// How often the machine is looked at, as in a kubelet.
pub const PERIOD: Duration = Duration::from_secs(10);

/// How long the next eviction waits for the pod of the last one to be gone, so that what it frees is counted.
const CLEANUP_MAX: Duration = Duration::from_secs(30);

/// Looks at the machine until shutdown; `wake_status` is told when the node has something else to show.
pub(super) async fn run(
    node: Arc<Node>,
    views: Views,
    wake_status: watch::Sender<()>,
    shutdown: CancellationToken,
) {
    let mut seen = Seen::default();
    let mut leaving: Option<(String, Instant)> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(node.housekeeping.pressure_period) => {}
            () = shutdown.cancelled() => return,
        }
        let crossed = crossed(&node).await;
        let policy = &node.housekeeping.eviction;
        let conditions = seen.look(&crossed, policy.transition, Timestamp::now());
        let changed = node.pressure.send_if_modified(|shown| {
            let changed = *shown != conditions;
            *shown = conditions;
            changed
        });
        if changed {
            wake_status.send_replace(());
        }
        if leaving
            .as_ref()
            .is_some_and(|(uid, until)| Instant::now() < *until && views.holds(uid))
        {
            continue;
        }
        leaving = match crossed.first() {
            Some(first) => relieve(&node, &views, *first).await,
            None => None,
        }
        .map(|uid| (uid, Instant::now() + CLEANUP_MAX));
    }
}

async fn crossed(node: &Arc<Node>) -> Vec<Crossed> {
    let reader = node.clone();
    let read = tokio::task::spawn_blocking(move || -> Readings {
        let layers = reader.images.store().layers_dir();
        (reader.housekeeping.readings)(&reader.data_dir, &layers)
    });
    let readings = read.await.unwrap_or_default();
    node.housekeeping.eviction.crossed(&readings)
}

/// Frees what is short; the uid of the pod that had to go, if one had to.
async fn relieve(node: &Arc<Node>, views: &Views, first: Crossed) -> Option<String> {
    let resource = first.signal.resource();
    let text = format!("Attempting to reclaim {resource}");
    node.events.record_node("EvictionThresholdMet", &text);
    let mut first = first;
    if first.signal != Signal::Memory {
        let (owner, used) = (node.clone(), housekeeping::used_names(views));
        let removal = tokio::task::spawn_blocking(move || {
            housekeeping::remove_unused(owner.images.store(), &used)
        });
        if let Ok(Err(trouble)) = removal.await {
            tracing::warn!("{}", trouble.message);
        }
        first = *crossed(node).await.first()?;
    }
    let active = views.all().into_iter().filter(active).collect::<Vec<_>>();
    let (owner, signal) = (node.clone(), first.signal);
    let measured = tokio::task::spawn_blocking(move || {
        let all = active.iter().map(|view| candidate(&owner, view, signal));
        all.collect::<Vec<_>>()
    });
    let chosen = eviction::choose(measured.await.unwrap_or_default())?;
    let message = eviction::message(&first, &chosen);
    tracing::info!(pod = chosen.uid, message, "a pod is evicted");
    let told = views.tell(&chosen.uid, Event::Evicted { message }).await;
    told.then_some(chosen.uid)
}

/// Whether a pod still has something to lose.
fn active(view: &PodView) -> bool {
    let spec = view.pod.spec.clone().unwrap_or_default();
    view.state.is_active(&spec)
}

/// What a pod uses of what is short. Inodes are not counted; the disk that they are on stands for them.
fn candidate(node: &Node, view: &PodView, signal: Signal) -> Candidate {
    let spec = view.pod.spec.clone().unwrap_or_default();
    let uid = uid(&view.pod);
    let name = match signal {
        Signal::Memory => "memory",
        _ => "ephemeral-storage",
    };
    let (used, each) = match signal {
        Signal::Memory => memory(node, &uid, &view.state),
        _ => parts(&node.pod_dir(&uid), &spec),
    };
    let requested = |container: &Container| {
        let value = request(container, name).map_or(0, Quantity::value);
        u64::try_from(value).unwrap_or(0)
    };
    let containers = each.into_iter().filter_map(|(name, used)| {
        let definition = crate::pod::find(&spec, &name)?;
        Some((name, used, requested(definition)))
    });
    Candidate {
        priority: spec.priority.unwrap_or(0),
        used,
        requested: pod_request(&spec, requested),
        containers: containers.collect(),
        uid,
    }
}

fn memory(node: &Node, uid: &str, state: &State) -> (u64, Vec<(String, u64)>) {
    let used = |path: &str| node.cgroups.usage(path).working_set_bytes;
    let containers = state.containers.iter().filter_map(|one| match &one.phase {
        Phase::Running { id, .. } => {
            Some((one.name.clone(), used(&node.cgroups.container(uid, id))))
        }
        _ => None,
    });
    (used(&node.cgroups.pod(uid)), containers.collect())
}

/// The main containers and sidecars, or an init container beside the sidecars before it, whichever is more.
fn pod_request(spec: &PodSpec, of: impl Fn(&Container) -> u64) -> u64 {
    let (mut sidecars, mut most) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        match is_sidecar(container) {
            true => sidecars += of(container),
            false => most = most.max(sidecars + of(container)),
        }
    }
    let main: u64 = spec.containers.iter().map(of).sum();
    most.max(main + sidecars)
}
