//! A rollout comes to its end while server and nodes are killed under it, again and again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use corral_e2e::machines::{Links, Machines, SERVER, cgroups_named};

/// Enough to hit each machine in most runs, within the time that the rollout takes.
const N_KILLS: usize = 6;
const REPLICAS: usize = 6;
/// Between a kill and the one before; the rollout takes a second for each pod at least.
const GAP_MAX: Duration = Duration::from_millis(1500);
/// How long what was killed stays away; a node is not given up in that time.
const DOWN_MAX: Duration = Duration::from_millis(1000);
/// Repeats the kills of an earlier run, whose seed that run printed.
const SEED: &str = "CORRAL_KILLS_SEED";

/// Pods are replaced one by one, so that the rollout lasts as long as the kills.
fn deployment(version: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {REPLICAS}
  minReadySeconds: 1
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web, version: {version}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: web, image: corral.dev/host, command: [sleep, '1000'], resources: {{requests: {{cpu: 10m}}}}}}
"
    )
}

#[test]
fn a_rollout_ends_well_whoever_is_killed_meanwhile() {
    let mut machines = Machines::new(&[SERVER, "node-a", "node-b"], Links::Switch);
    machines.start_server("server", &[]);
    machines.start_agent("node-a");
    machines.start_agent("node-b");
    machines.await_nodes(2);
    machines.apply(&deployment("v1"));
    machines.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let mut roots = cgroup_roots(&pods(&machines));

    let mut random = Random::new();
    machines.apply(&deployment("v2"));
    for _ in 0..N_KILLS {
        let victim = [SERVER, "node-a", "node-b"][random.below(3)];
        std::thread::sleep(random.duration(GAP_MAX));
        println!("kill {victim}");
        machines.kill(victim);
        std::thread::sleep(random.duration(DOWN_MAX));
        machines.start_again(victim);
    }
    machines.await_server();
    machines.kubectl(&["rollout", "status", "deploy/web", "--timeout=120s"]);
    machines.wait("the old pods to be gone", || {
        pods(&machines).len() == REPLICAS
    });

    let pods = pods(&machines);
    for pod in &pods {
        assert_eq!(
            (pod.version.as_str(), pod.state.as_str()),
            ("v2", "Running true 0"),
            "{pods:?}{}",
            machines.state()
        );
    }
    roots.extend(cgroup_roots(&pods));
    machines.wait("one shim for each pod and no others", || {
        let shims = shims(&machines.path(""));
        let has_one = |pod: &Pod| shims.iter().filter(|shim| shim.contains(&pod.uid)).count() == 1;
        shims.len() == REPLICAS && pods.iter().all(has_one)
    });
    let wanted: BTreeSet<String> = pods.iter().map(|pod| format!("pod{}", pod.uid)).collect();
    for controller in roots
        .iter()
        .filter_map(|root| root.parent())
        .collect::<BTreeSet<_>>()
    {
        let of_both: Vec<_> = roots
            .iter()
            .filter(|root| root.parent() == Some(controller))
            .collect();
        machines.wait("the cgroups of the old pods to be gone", || {
            let left = of_both.iter().flat_map(|root| children(root));
            left.filter(|name| name.starts_with("pod"))
                .collect::<BTreeSet<_>>()
                == wanted
        });
    }
    for pod in &pods {
        let cgroups = roots
            .iter()
            .map(|root| root.join(format!("pod{}", pod.uid)));
        // Not every hierarchy holds containers.
        let containers: BTreeSet<_> = cgroups.flat_map(|path| children(&path)).collect();
        assert_eq!(containers.len(), 1, "{}: {containers:?}", pod.uid);
    }
}

#[derive(Debug)]
struct Pod {
    uid: String,
    version: String,
    /// Its phase, whether its container is ready, and how often that was restarted.
    state: String,
}

fn pods(machines: &Machines) -> Vec<Pod> {
    let path = "jsonpath={range .items[*]}{.metadata.uid} {.metadata.labels.version} {.status.phase} \
                {.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let text = machines.kubectl(&["get", "pods", "-o", path]);
    let pod = |line: &str| {
        let mut parts = line.splitn(3, ' ').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Pod {
            uid: next(),
            version: next(),
            state: next(),
        }
    };
    text.lines().map(pod).collect()
}

/// The cgroups of the nodes that pods run on, in every hierarchy.
fn cgroup_roots(pods: &[Pod]) -> BTreeSet<PathBuf> {
    let found = pods
        .iter()
        .flat_map(|pod| cgroups_named(&format!("pod{}", pod.uid)));
    let roots: BTreeSet<_> = found
        .filter_map(|path| path.parent().map(Path::to_owned))
        .collect();
    assert!(!roots.is_empty(), "pods have cgroups");
    roots
}

fn children(cgroup: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The arguments of the shims below a directory.
fn shims(directory: &Path) -> Vec<String> {
    let below = directory.to_string_lossy();
    let processes = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten();
    // Processes end meanwhile.
    let commands =
        processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let texts = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
    texts
        .filter(|text| text.contains(" shim ") && text.contains(below.as_ref()))
        .collect()
}

/// Numbers that follow from a seed (the generator is SplitMix64).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().expect("the seed is a number"),
            Err(_) => SystemTime::UNIX_EPOCH
                .elapsed()
                .expect("the clock is right")
                .subsec_nanos()
                .into(),
        };
        println!("{SEED}={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("usize fits");
        usize::try_from(self.next() % end).expect("it is below a usize")
    }

    fn duration(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_millis()).expect("a short time");
        Duration::from_millis(self.next() % (max + 1))
    }
}
