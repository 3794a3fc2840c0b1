//! What a node does when it runs short of memory or disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corral_nodelet::agent::housekeeping::Housekeeping;
use corral_nodelet::eviction::{Amount, Policy, Readings};
use corral_nodelet::images::archive;
use corral_nodelet::images::reference::Reference;
use serde_json::{Value, json};

use crate::images::packed;
use crate::scenario::Scenario;
use crate::{pod, shell};

/// Often, so that a test need not wait.
const OFTEN: Duration = Duration::from_millis(20);

/// A machine whose state the test decides.
#[derive(Clone)]
struct Machine {
    readings: Arc<Mutex<Box<dyn Fn() -> Readings + Send>>>,
    looks: Arc<AtomicU64>,
}

impl Machine {
    /// One that has enough of everything.
    fn new() -> Self {
        Self {
            readings: Arc::new(Mutex::new(Box::new(Readings::default))),
            looks: Arc::default(),
        }
    }

    fn housekeeping(&self) -> Housekeeping {
        let machine = self.clone();
        Housekeeping {
            pressure_period: OFTEN,
            eviction: Policy {
                transition: Duration::ZERO,
                ..Policy::default()
            },
            readings: Arc::new(move |_, _| {
                machine.looks.fetch_add(1, Ordering::SeqCst);
                (machine.readings.lock().expect("lock"))()
            }),
            ..Housekeeping::default()
        }
    }

    fn set(&self, readings: Readings) {
        self.when(move || readings);
    }

    fn when(&self, readings: impl Fn() -> Readings + Send + 'static) {
        *self.readings.lock().expect("lock") = Box::new(readings);
    }

    /// The machine was looked at, and what was seen was acted upon, after this was called.
    async fn looked(&self, scenario: &Scenario) {
        let before = self.looks.load(Ordering::SeqCst);
        let looks = || self.looks.load(Ordering::SeqCst) > before + 1;
        scenario.wait_until("the machine is looked at", looks).await;
    }
}

fn short_of_memory() -> Readings {
    Readings {
        memory: Some(Amount {
            capacity: 1 << 30,
            available: 50 << 20,
        }),
        ..Readings::default()
    }
}

fn short_of_disk() -> Readings {
    Readings {
        nodefs: Some(Amount {
            capacity: 1000 << 20,
            available: 49 << 20,
        }),
        ..Readings::default()
    }
}

fn shows(scenario: &Scenario, kind: &str, status: &str) -> bool {
    let node = scenario.api.get("nodes", "n1").unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == status)
}

fn disruption(pod: &Value) -> Option<&Value> {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.find(|condition| condition["type"] == "DisruptionTarget")
}

fn phase(scenario: &Scenario, name: &str) -> Value {
    scenario.get(name).expect("there")["status"]["phase"].clone()
}

async fn finish(scenario: Scenario, names: &[&str]) {
    for name in names {
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_one_by_one_when_memory_runs_short() {
    let machine = Machine::new();
    let scenario = Scenario::with("memory", machine.housekeeping()).await;
    let spec = |request: Option<&str>, priority: i64| {
        let mut container = shell("echo up; exec sleep 1000");
        if let Some(request) = request {
            container["resources"] = json!({"requests": {"memory": request}});
        }
        json!({"containers": [container], "priority": priority})
    };
    let names = ["greedy", "modest", "vital"];
    scenario.create(pod("greedy", spec(None, 10)));
    scenario.create(pod("modest", spec(Some("500Mi"), 0)));
    scenario.create(pod("vital", spec(None, 2_000_000_000)));
    for name in names {
        scenario.wait_for_log(name, "c", 0, "up").await;
    }
    machine.set(short_of_memory());
    let evicted = scenario
        .wait_for("greedy", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(evicted["status"]["reason"], "Evicted");
    let message = evicted["status"]["message"].as_str().expect("a message");
    let low = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using ";
    assert!(message.starts_with(low), "{message}");
    assert!(
        message.ends_with(", request is 0, has larger consumption of memory. "),
        "{message}"
    );
    let condition = disruption(&evicted).expect("it is told");
    assert_eq!(condition["reason"], "TerminationByKubelet");
    assert_eq!(condition["message"], message);
    scenario
        .wait_until("the node shows it", || {
            shows(&scenario, "MemoryPressure", "True")
        })
        .await;
    assert!(shows(&scenario, "DiskPressure", "False"));
    // It is still short: the next one goes, though it keeps within its request. What is vital stays.
    scenario
        .wait_for("modest", |pod| pod["status"]["reason"] == "Evicted")
        .await;
    machine.looked(&scenario).await;
    assert_eq!(phase(&scenario, "vital"), "Running");
    // Nobody who did not say what it needs is taken on meanwhile.
    scenario.create(pod("late", spec(None, 0)));
    let refused = scenario
        .wait_for("late", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(refused["status"]["reason"], "Evicted");
    assert_eq!(
        refused["status"]["message"],
        "Pod was rejected: The node had condition: [MemoryPressure]. "
    );
    assert!(disruption(&refused).is_none() && refused["status"]["containerStatuses"].is_null());
    machine.set(Readings::default());
    scenario
        .wait_until("the node recovers", || {
            shows(&scenario, "MemoryPressure", "False")
        })
        .await;
    scenario.create(pod("later", spec(None, 0)));
    scenario.wait_for_log("later", "c", 0, "up").await;
    finish(scenario, &["greedy", "modest", "vital", "late", "later"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_go_before_pods_when_the_disk_runs_short() {
    let machine = Machine::new();
    let scenario = Scenario::with("nodefs", machine.housekeeping()).await;
    let store = scenario.shared().0.images.store().clone();
    let directory = tempfile::tempdir().expect("temporary directory");
    let archive_path = packed(directory.path(), "unused:1");
    archive::import(&store, &archive_path, None).expect("imported");
    let reference = Reference::parse("unused:1").expect("a name");
    // As if a registry had it.
    store.pin(&reference, false).expect("the index");
    let writer = |bytes: u64| {
        let mut container = shell(&format!(
            "head -c {bytes} /dev/zero > /v/f; echo up; exec sleep 1000"
        ));
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})
    };
    scenario.create(pod("small", writer(1)));
    scenario.create(pod("large", writer(3_000_000)));
    for name in ["small", "large"] {
        scenario.wait_for_log(name, "c", 0, "up").await;
    }
    // While the image is there, and only then: removing it is enough.
    let (present, watched) = (store.clone(), reference.clone());
    machine.when(move || match present.find(&watched) {
        Some(_) => short_of_disk(),
        None => Readings::default(),
    });
    scenario
        .wait_until("the image goes", || store.find(&reference).is_none())
        .await;
    machine.looked(&scenario).await;
    for name in ["small", "large"] {
        assert_eq!(phase(&scenario, name), "Running");
    }
    machine.set(short_of_disk());
    let evicted = scenario
        .wait_for("large", |pod| pod["status"]["phase"] == "Failed")
        .await;
    machine.set(Readings::default());
    let message = evicted["status"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with(
            "The node was low on resource: ephemeral-storage. Threshold quantity: 50Mi, available: 49Mi. "
        ),
        "{message}"
    );
    let told = scenario.api.all("events");
    assert!(told.iter().any(|event| {
        event["reason"] == "EvictionThresholdMet"
            && event["message"] == "Attempting to reclaim ephemeral-storage"
    }));
    finish(scenario, &["small", "large"]).await;
}
