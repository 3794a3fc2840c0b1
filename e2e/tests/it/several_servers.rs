//! Two servers share an etcd, and one of them is killed while clients write and watch: they connect to the other, and
//! that is all that they notice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corral_e2e::{Cluster, WAIT_MAX};
use serde_json::{Value, json};

use crate::api_client::{Client, Servers};
use crate::etcd::Etcd;

const WRITERS: usize = 4;
const WATCHERS: usize = 4;
/// Acknowledged writes before the kill, and after it.
const WRITES: usize = 150;
/// The object that watchers wait for.
const LAST: &str = "the-last";
/// What pods are told of where the servers are.
const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// How long a server that was killed is among them.
const ADDRESS_LIFE: Duration = Duration::from_secs(15);
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n";
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: c, image: example.com/c}]
";

/// A change that somebody saw, or was told of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    revision: u64,
    name: String,
    removed: bool,
}

/// What a writer was told.
#[derive(Default)]
struct Written {
    /// Revisions and names of what was stored.
    stored: Vec<(u64, String)>,
    /// What is there at the end, with its value.
    left: BTreeMap<String, String>,
    removed: BTreeSet<String>,
    moves: usize,
}

/// What a watcher saw.
struct Seen {
    from: u64,
    changes: Vec<Change>,
    moves: usize,
}

fn revision(object: &Value) -> u64 {
    let revision = object["metadata"]["resourceVersion"].as_str();
    revision
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no revision: {object}"))
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

/// Writes a map and makes sure that it is what was written: an attempt that nobody answered may have been carried out.
fn store(client: &mut Client, method: &str, object: &Value) -> Value {
    let name = object["metadata"]["name"].as_str().expect("a name");
    let path = match method {
        "POST" => MAPS.to_owned(),
        _ => format!("{MAPS}/{name}"),
    };
    let (code, answer, again) = client.insist(method, &path, Some(object));
    if code == 200 || code == 201 {
        return answer;
    }
    assert!(again && code == 409, "{method} {name}: {answer}");
    let (code, found, _) = client.insist("GET", &format!("{MAPS}/{name}"), None);
    assert_eq!((code, &found["data"]), (200, &object["data"]), "{answer}");
    found
}

fn write(mut client: Client, writer: usize, done: &AtomicUsize, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("map-{writer}-{n}");
        let made = store(&mut client, "POST", &map(&name, "1"));
        written.stored.push((revision(&made), name.clone()));
        let mut changed = map(&name, "2");
        changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
        let made = store(&mut client, "PUT", &changed);
        written.stored.push((revision(&made), name.clone()));
        done.fetch_add(2, Ordering::Relaxed);
        if n.is_multiple_of(3) {
            let path = format!("{MAPS}/{name}");
            let (code, answer, again) = client.insist("DELETE", &path, None);
            assert!(code == 200 || again && code == 404, "{answer}");
            written.removed.insert(name);
            done.fetch_add(1, Ordering::Relaxed);
        } else {
            written.left.insert(name, "2".to_owned());
        }
    }
    written.moves = client.moves;
    written
}

/// Lists, then watches from there, and again from where it was when that breaks off, until the last map comes.
fn watch(mut client: Client, listed: &AtomicUsize) -> Seen {
    let (code, list, _) = client.insist("GET", MAPS, None);
    assert_eq!(code, 200);
    let from = revision(&list);
    listed.fetch_add(1, Ordering::Relaxed);
    let mut at = from;
    let mut changes: Vec<Change> = Vec::new();
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let path = format!("{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={at}");
        let ended = client.stream(&path, |line| {
            let event: Value = serde_json::from_str(line).expect("JSON");
            let object = &event["object"];
            let kind = event["type"].as_str().expect("a type");
            assert_ne!(kind, "ERROR", "{event}");
            at = revision(object);
            if kind == "BOOKMARK" {
                return true;
            }
            let change = Change {
                revision: at,
                name: object["metadata"]["name"].as_str().expect("a name").into(),
                removed: kind == "DELETED",
            };
            if let Some(before) = changes.last() {
                assert!(before.revision < at, "{before:?}, then {change:?}");
            }
            changes.push(change);
            object["metadata"]["name"] != LAST
        });
        if ended.is_ok() {
            let moves = client.moves;
            return Seen {
                from,
                changes,
                moves,
            };
        }
        assert!(Instant::now() < deadline, "the last map never comes");
    }
}

fn holders(cluster: &Cluster) -> Option<Vec<String>> {
    LEASES
        .iter()
        .map(|name| {
            let said = cluster.try_kubectl(&[
                "get",
                "lease",
                name,
                "-n",
                "kube-system",
                "-o",
                "jsonpath={.spec.holderIdentity}",
            ]);
            (said.ok && !said.out.is_empty()).then_some(said.out)
        })
        .collect()
}

/// The addresses of the API that pods are told, and the number of slices that tell them.
fn told(cluster: &Cluster) -> (Vec<String>, usize) {
    let path = "{.subsets[*].addresses[*].ip}";
    let all = cluster.jsonpath(&["endpoints", "kubernetes"], path);
    let mut all: Vec<String> = all.split(' ').map(str::to_owned).collect();
    all.sort();
    let label = "kubernetes.io/service-name=kubernetes";
    let slices = cluster.kubectl(&["get", "endpointslices", "-l", label, "-o", "name"]);
    (all, slices.lines().count())
}

/// Waits until pods are told of these servers, each of which has another port.
fn await_addresses(cluster: &Cluster, addresses: &[&str]) {
    cluster.wait("pods to be told of the servers that live", || {
        let (all, slices) = told(cluster);
        all == addresses && slices == addresses.len()
    });
}

fn await_count(what: &str, count: &AtomicUsize, least: usize) {
    let deadline = Instant::now() + WAIT_MAX;
    while count.load(Ordering::Relaxed) < least {
        assert!(Instant::now() < deadline, "{what} do not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts threads, each with its number.
fn threads<T: Send + 'static>(
    n: usize,
    run: impl Fn(usize) -> T + Clone + Send + 'static,
) -> Vec<JoinHandle<T>> {
    let start = |number| {
        let run = run.clone();
        std::thread::spawn(move || run(number))
    };
    (0..n).map(start).collect()
}

fn results<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    let joined = threads.into_iter().map(JoinHandle::join);
    joined
        .map(|result| result.expect("the thread ends well"))
        .collect()
}

/// Kills the first server when enough is written, and answers what writers were told and watchers saw.
fn load(killed: &mut Cluster, other: &Cluster) -> (Vec<Written>, Vec<Seen>) {
    let servers = Servers::of(&[killed, other]);
    let listed = Arc::new(AtomicUsize::new(0));
    let watchers = {
        let (servers, listed) = (servers.clone(), listed.clone());
        threads(WATCHERS, move |n| watch(servers.client(n), &listed))
    };
    await_count("lists", &listed, WATCHERS);
    let (done, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writers = {
        let (servers, done, stop) = (servers.clone(), done.clone(), stop.clone());
        threads(WRITERS, move |n| write(servers.client(n), n, &done, &stop))
    };
    await_count("writes", &done, WRITES);
    killed.kill();
    let before = done.load(Ordering::Relaxed);
    await_count("writes after the kill", &done, before + WRITES);
    stop.store(true, Ordering::Relaxed);
    let written = results(writers);
    store(&mut servers.client(1), "POST", &map(LAST, ""));
    (written, results(watchers))
}

/// Every watcher saw the same, in the order of revisions, and all that writers were told of.
fn check_seen(written: &[Written], seen: &[Seen]) {
    let from = seen.iter().map(|seen| seen.from).max().expect("watchers");
    let of = |seen: &Seen| -> Vec<Change> {
        let changes = seen.changes.iter();
        changes
            .filter(|change| change.revision > from)
            .cloned()
            .collect()
    };
    let first = of(&seen[0]);
    for other in &seen[1..] {
        assert_eq!(of(other), first);
    }
    let stored: BTreeSet<(u64, &str)> = first
        .iter()
        .filter(|change| !change.removed)
        .map(|change| (change.revision, change.name.as_str()))
        .collect();
    let removed = first.iter().filter(|change| change.removed);
    let removed: Vec<&str> = removed.map(|change| change.name.as_str()).collect();
    let once: BTreeSet<&str> = removed.iter().copied().collect();
    assert_eq!(once.len(), removed.len(), "something was removed twice");
    for written in written {
        for (revision, name) in &written.stored {
            assert!(
                stored.contains(&(*revision, name.as_str())),
                "nobody saw {name} at {revision}"
            );
        }
        for name in &written.removed {
            assert!(
                once.contains(name.as_str()),
                "nobody saw the removal of {name}"
            );
        }
    }
}

/// The server that is left has what writers were told, and nothing of what they removed.
fn check_stored(written: &[Written], cluster: &Cluster) {
    let text = cluster.kubectl(&["get", "--raw", MAPS]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let items = list["items"].as_array().expect("a list").iter();
    let there: BTreeMap<&str, &str> = items
        .filter_map(|item| {
            let name = item["metadata"]["name"].as_str()?;
            Some((name, item["data"]["value"].as_str()?))
        })
        .filter(|(name, _)| name.starts_with("map-"))
        .collect();
    let left = written.iter().flat_map(|written| &written.left);
    let left: BTreeMap<&str, &str> = left
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(there, left);
}

#[test]
fn the_death_of_one_of_two_servers_costs_a_reconnection() {
    let etcd = Etcd::start();
    let flags = etcd.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let at = |address| [&flags[..], &["--advertise", address]].concat();
    let mut first = Cluster::server_with(&at(ADDRESSES[0]), None);
    first.wait("controllers and scheduler to have their leases", || {
        holders(&first).is_some()
    });
    let leaders = holders(&first).expect("leases are held");
    let second = Cluster::server_with(&at(ADDRESSES[1]), Some(&first));
    for cluster in [&first, &second] {
        await_addresses(cluster, &ADDRESSES);
    }

    let (written, seen) = load(&mut first, &second);
    check_seen(&written, &seen);
    check_stored(&written, &second);
    // Those that were at the server that died went to the other one, and nobody did more.
    let moves = |n: usize| usize::from(n.is_multiple_of(2));
    for (n, written) in written.iter().enumerate() {
        assert_eq!(written.moves, moves(n), "writer {n}");
    }
    for (n, seen) in seen.iter().enumerate() {
        assert_eq!(seen.moves, moves(n), "watcher {n}");
    }

    second.wait("the other server to take the leases", || {
        let now = holders(&second).expect("leases are there");
        now.iter().zip(&leaders).all(|(now, before)| now != before)
    });
    await_addresses(&second, &ADDRESSES[1..]);
    // One that ends in order takes its address back, and nobody has to wait until it is old.
    let mut third = Cluster::server_with(&at(ADDRESSES[0]), Some(&second));
    await_addresses(&second, &ADDRESSES);
    third.terminate();
    let ended = Instant::now();
    await_addresses(&second, &ADDRESSES[1..]);
    assert!(ended.elapsed() < ADDRESS_LIFE);
    second.apply(NODE);
    let status = r#"{"status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}}"#;
    second.kubectl(&[
        "patch",
        "node",
        "node-1",
        "--subresource=status",
        "-p",
        status,
    ]);
    second.apply(DEPLOYMENT);
    second.wait("pods that are made and bound by those who lead now", || {
        let nodes = second.jsonpath(&["pods", "-l", "app=web"], "{.items[*].spec.nodeName}");
        nodes == "node-1 node-1"
    });
}
