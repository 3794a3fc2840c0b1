//! Two processes with the same controllers over one API: one works at a time, and the other goes on after it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use corral_controllers::{ControllersConfig, Name};
use corral_runtime::leader::{Election, ElectionConfig, run_elected};
use corral_runtime::testing::{FakeApi, World};
use corral_runtime::{CacheFactory, Clock, Recorder, Tasks};
use kube::client::Body;
use prometheus::Registry;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{PODS, deployment};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/web";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

/// A write other than to leases and events, by whom and when.
type Log = Arc<Mutex<Vec<(&'static str, Instant)>>>;

/// One process: its controllers, its caches, and its wire to the API, which can be cut.
struct Process {
    stop: CancellationToken,
    cut: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

/// A client that notes who writes, and whose requests get no answer once it is cut.
fn wired(world: &World, name: &'static str, log: &Log, cut: &CancellationToken) -> kube::Client {
    let (inner, log, cut) = (world.client.clone(), Arc::clone(log), cut.clone());
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (inner, log, cut) = (inner.clone(), Arc::clone(&log), cut.clone());
        async move {
            if cut.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let path = request.uri().path();
            let writes = request.method() != http::Method::GET;
            if writes && !path.contains("/leases") && !path.contains("/events") {
                let entry = (name, Instant::now());
                log.lock().expect("not poisoned").push(entry);
            }
            inner.send(request).await
        }
    });
    kube::Client::new(service, "default")
}

impl Process {
    fn start(world: &World, name: &'static str, log: &Log) -> Self {
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let client = wired(world, name, log, &cut);
        let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
        let tasks = Tasks::new(stop.clone());
        let caches = CacheFactory::new(client.clone(), world.metrics.clone(), tasks.clone());
        let events = Recorder::new(
            client.clone(),
            "kube-controller-manager",
            Arc::clone(&clock),
            &world.metrics,
            &tasks,
        );
        let config = ElectionConfig::new("kube-controller-manager", name);
        let election =
            Election::new(client.clone(), config, Arc::clone(&clock)).with_events(events);
        let work = move |shutdown| {
            let client = client.clone();
            corral_controllers::start(ControllersConfig {
                clients: Arc::new(move |_| client.clone()),
                caches: Some(caches.clone()),
                registry: Registry::new(),
                shutdown,
                root_ca: None,
                signing_ca: None,
                cluster_cidr: None,
                enabled: [Name::Deployment, Name::ReplicaSet].into(),
                clock: Arc::clone(&clock),
            })
        };
        let running = tokio::spawn(run_elected(election, stop.clone(), work));
        Self { stop, cut, running }
    }
}

fn writers(log: &Log) -> Vec<&'static str> {
    let log = log.lock().expect("not poisoned");
    let mut writers: Vec<_> = log.iter().map(|(who, _)| *who).collect();
    writers.dedup();
    writers
}

fn leader(api: &FakeApi) -> String {
    let leases = api.objects(LEASES);
    let holder = leases
        .first()
        .and_then(|lease| lease["spec"]["holderIdentity"].as_str());
    holder.unwrap_or_default().to_owned()
}

async fn until(world: &World, condition: impl FnMut(&FakeApi) -> bool) {
    let waiting = world.api.wait_until(condition);
    tokio::time::timeout(Duration::from_secs(3600), waiting)
        .await
        .expect("in time");
}

/// Asks for another number of pods and waits until they are there.
async fn scale(world: &World, replicas: usize) {
    let patch = json!({"metadata": {"generation": replicas + 1}, "spec": {"replicas": replicas}});
    world.api.merge(DEPLOYMENT, patch);
    until(world, |api| api.objects(PODS).len() == replicas).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_process_goes_on_at_once_when_the_leader_stops() {
    let (world, log) = (World::new(), Log::default());
    let first = Process::start(&world, "first", &log);
    until(&world, |api| leader(api) == "first").await;
    let second = Process::start(&world, "second", &log);
    world.api.add(deployment(3, "v1"));
    until(&world, |api| api.objects(PODS).len() == 3).await;
    // Long enough for the other to have taken the lease, if it could.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(writers(&log), ["first"]);

    let stopped = Instant::now();
    first.stop.cancel();
    first.running.await.expect("ends");
    scale(&world, 5).await;
    assert!(
        stopped.elapsed() <= Duration::from_secs(3),
        "the lease was handed back: {:?}",
        stopped.elapsed()
    );
    assert_eq!(writers(&log), ["first", "second"]);
    assert_eq!(world.api.objects(PODS).len(), 5, "none was made twice");
    until(&world, |api| {
        let events = api.objects("/api/v1/events");
        let told = |text: &str| {
            events.iter().any(|event| {
                event["reason"] == "LeaderElection"
                    && event["involvedObject"]["kind"] == "Lease"
                    && event["metadata"]["namespace"] == "kube-system"
                    && event["message"] == text
            })
        };
        told("first became leader") && told("second became leader")
    })
    .await;
    second.stop.cancel();
    second.running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_has_stopped_before_the_next_begins() {
    let (world, log) = (World::new(), Log::default());
    let first = Process::start(&world, "first", &log);
    until(&world, |api| leader(api) == "first").await;
    let second = Process::start(&world, "second", &log);
    world.api.add(deployment(3, "v1"));
    until(&world, |api| api.objects(PODS).len() == 3).await;

    let cut_at = Instant::now();
    first.cut.cancel();
    scale(&world, 5).await;
    let waited = cut_at.elapsed();
    // At most two seconds between a renewal and the cut, and two between tries to take the lease.
    assert!(
        (Duration::from_secs(12)..Duration::from_secs(18)).contains(&waited),
        "{waited:?}"
    );
    assert_eq!(writers(&log), ["first", "second"]);
    assert_eq!(leader(&world.api), "second");
    let lease = &world.api.objects(LEASES)[0];
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    for process in [first, second] {
        process.stop.cancel();
        process.running.await.expect("ends");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_leads_again_works_once() {
    let (world, log) = (World::new(), Log::default());
    let only = Process::start(&world, "only", &log);
    world.api.add(deployment(1, "v1"));
    until(&world, |api| api.objects(PODS).len() == 1).await;
    for replicas in 2..5 {
        world
            .api
            .refuse(|_, path, _| path.contains("/leases").then_some((500, "InternalError")));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let patch =
            json!({"metadata": {"generation": replicas + 1}, "spec": {"replicas": replicas}});
        world.api.merge(DEPLOYMENT, patch);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(
            world.api.objects(PODS).len(),
            replicas - 1,
            "nothing works without the lease"
        );
        world.api.accept_all();
        until(&world, |api| api.objects(PODS).len() == replicas).await;
    }
    let creates = world.api.recorded();
    let creates = creates
        .iter()
        .filter(|r| r.method == "POST" && r.path.ends_with("/pods"));
    assert_eq!(creates.count(), 4, "no pod is made twice");
    only.stop.cancel();
    only.running.await.expect("ends");
}
