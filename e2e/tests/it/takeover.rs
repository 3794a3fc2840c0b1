//! A cluster's etcd changes hands: from kube-apiserver to us, as it is, and back.
//!
//! This runs where `CORRAL_PEERS` names a folder with kube-apiserver's binary. It also records what it found in etcd,
//! beside the answers of kube-apiserver, for `apiserver/server/tests/it/takeover.rs`, which needs neither.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_e2e::{Cluster, WAIT_MAX, kubectl_path, root};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::etcd::{Etcd, free_ports};
use crate::migrate::{migrate, moved};

const SERVICES: &str = "10.0.0.0/16";
const NODE_PORT: u16 = 30_123;
const NAMESPACE: &str = "oracle";
const CORPUS: &str = "apiserver/server/tests/data/takeover.json.gz";

/// A kube-apiserver over an etcd.
struct Peer {
    directory: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Peer {
    fn start(binaries: &Path, etcd: &Etcd, encryption: Option<&Path>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("tokens.csv"), "token,admin,admin,system:masters\n").expect("written");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(file("sa.key"))
            .output()
            .expect("openssl runs");
        assert!(made.status.success());
        let (port, _) = free_ports();
        let process = Command::new(binaries.join("kube-apiserver"))
            .args(["--etcd-servers", &etcd.url])
            .arg("--etcd-cafile")
            .arg(etcd.file("ca.crt"))
            .arg("--etcd-certfile")
            .arg(etcd.file("client.crt"))
            .arg("--etcd-keyfile")
            .arg(etcd.file("client.key"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"])
            .args(["--authorization-mode=Node,RBAC", "--allow-privileged"])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            .arg(format!("--service-cluster-ip-range={SERVICES}"))
            .arg(format!("--secure-port={port}"))
            .arg("--token-auth-file")
            .arg(file("tokens.csv"))
            .arg("--service-account-key-file")
            .arg(file("sa.key"))
            .arg("--service-account-signing-key-file")
            .arg(file("sa.key"))
            .arg("--cert-dir")
            .arg(file("certificates"))
            .args(encryption.iter().map(|path| {
                let path = path.display();
                format!("--encryption-provider-config={path}")
            }))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(file("log")).expect("a log"))
            .spawn()
            .expect("kube-apiserver is there");
        let peer = Self {
            directory,
            process,
            port,
        };
        let until = Instant::now() + WAIT_MAX;
        while peer.raw("get", "/readyz", None).is_err() {
            let log = std::fs::read_to_string(peer.directory.path().join("log"));
            assert!(Instant::now() < until, "{}", log.unwrap_or_default());
            // There is no event for another process becoming ready.
            std::thread::sleep(Duration::from_millis(200));
        }
        peer
    }

    fn raw(&self, verb: &str, path: &str, body: Option<&Value>) -> Result<String, String> {
        let mut command = Command::new(kubectl_path("1.36"));
        command
            .args([
                "--token=token",
                "--insecure-skip-tls-verify",
                "--kubeconfig=/dev/null",
            ])
            .arg(format!("--server=https://127.0.0.1:{}", self.port))
            .args([verb, "--raw", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if body.is_some() {
            command.args(["-f", "-"]);
        }
        let mut child = command.spawn().expect("kubectl is built");
        let mut stdin = child.stdin.take().expect("piped");
        if let Some(body) = body {
            write!(stdin, "{body}").expect("kubectl reads");
        }
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn create(&self, collection: &str, object: &Value) {
        let created = self.raw("create", collection, Some(object));
        if let Err(error) = created {
            assert!(
                error.contains("AlreadyExists") || error.contains("already exists"),
                "{collection}: {error}"
            );
        }
    }

    /// A Service with a node port.
    fn service(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": NODE_PORT}]}})
    }

    /// Every kind of the oracle, as an object that is right.
    fn fill(&self) {
        for namespace in [NAMESPACE, "default"] {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            self.create("/api/v1/namespaces", &object);
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            self.create(
                &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                &account,
            );
        }
        let services = "/api/v1/namespaces/default/services";
        self.create(services, &Self::service("with-a-port"));
        let files = std::fs::read_dir(root().join("oracle/objects")).expect("the oracle's objects");
        for file in files {
            let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
            let options = serde_saphyr::options! { strict_booleans: true };
            let kinds: Vec<Value> =
                serde_saphyr::from_str_with_options(&text, options).expect("YAML");
            for kind in kinds {
                self.fill_kind(&kind);
            }
        }
    }

    fn fill_kind(&self, kind: &Value) {
        if kind["stored"] == false {
            return;
        }
        let collection = kind["collection"].as_str().expect("a path");
        if kind["definition"].is_object() {
            let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            self.create(all, &kind["definition"]);
            let until = Instant::now() + WAIT_MAX;
            while self.raw("get", collection, None).is_err() {
                assert!(Instant::now() < until, "{collection} is not served");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        let mut object = kind["object"].clone();
        if object["kind"] == "ResourceQuota" || object["kind"] == "LimitRange" {
            // They would refuse what comes after them.
            object["metadata"]["name"] = "later".into();
        }
        self.create(collection, &object);
        if object["status"].is_object() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            // Some statuses are somebody else's.
            let _ = self.raw(
                "replace",
                &format!("{collection}/{name}/status"),
                Some(&object),
            );
        }
    }

    fn lists(&self) -> BTreeMap<String, Value> {
        let get = |path: &str| -> Value {
            let text = self.raw("get", path, None).expect("served");
            serde_json::from_str(&text).expect("JSON")
        };
        let mut versions = vec!["/api/v1".to_owned()];
        for group in get("/apis")["groups"].as_array().expect("groups") {
            for version in group["versions"].as_array().expect("versions") {
                let version = version["groupVersion"].as_str().expect("a version");
                versions.push(format!("/apis/{version}"));
            }
        }
        let mut lists = BTreeMap::new();
        for version in versions {
            if version.contains("none.example.com") {
                // An APIService of a server that is not there.
                continue;
            }
            let until = Instant::now() + WAIT_MAX;
            // Groups are served a little after the server calls itself ready.
            let text = loop {
                match self.raw("get", &version, None) {
                    Ok(text) => break text,
                    Err(error) => assert!(Instant::now() < until, "{version}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(200));
            };
            let served: Value = serde_json::from_str(&text).expect("JSON");
            for resource in served["resources"].as_array().expect("resources") {
                let name = resource["name"].as_str().expect("a name");
                let verbs = resource["verbs"].as_array().expect("verbs");
                if !name.contains('/')
                    && verbs.contains(&json!("list"))
                    && name != "componentstatuses"
                {
                    let path = format!("{version}/{name}");
                    lists.insert(path.clone(), get(&path)["items"].take());
                }
            }
        }
        lists
    }
}

/// What is in etcd, and how far it is.
async fn dump(etcd: &Etcd) -> (Vec<Value>, u64) {
    let page = etcd.list("/registry/").await;
    let entries = page.entries.iter().map(|entry| {
        json!([
            entry.key.as_str(),
            entry.revision.0,
            STANDARD.encode(&entry.value)
        ])
    });
    (entries.collect(), page.revision.0)
}

fn record(entries: &[Value], revision: u64, lists: &BTreeMap<String, Value>) {
    let corpus = json!({"entries": entries, "revision": revision, "lists": lists});
    let file = std::fs::File::create(root().join(CORPUS)).expect("created");
    let mut out = GzEncoder::new(file, Compression::best());
    write!(out, "{corpus}")
        .and_then(|()| out.finish().map(drop))
        .expect("written");
}

fn by_name(items: &Value) -> BTreeMap<(String, String), &Value> {
    let name = |item: &Value, key: &str| item["metadata"][key].as_str().unwrap_or("").to_owned();
    let items = items.as_array().into_iter().flatten();
    items
        .map(|item| ((name(item, "namespace"), name(item, "name")), item))
        .collect()
}

fn version_of(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str();
    version
        .and_then(|text| text.parse().ok())
        .expect("a version")
}

/// What we list that kube-apiserver listed otherwise; what we have written since is left out.
fn differences(cluster: &Cluster, lists: &BTreeMap<String, Value>, revision: u64) -> Vec<String> {
    let mut found = Vec::new();
    for (path, theirs) in lists {
        let said = cluster.try_kubectl(&["get", "--raw", path]);
        if !said.ok {
            found.push(format!("{path}: {}", said.err));
            continue;
        }
        let ours: Value = serde_json::from_str(&said.out).expect("JSON");
        let (ours, theirs) = (by_name(&ours["items"]), by_name(theirs));
        for (name, object) in &theirs {
            let Some(other) = ours.get(name) else {
                found.push(format!("{path}: {name:?} is gone"));
                continue;
            };
            if version_of(other) > revision {
                let written = object["metadata"]["namespace"] == NAMESPACE || name.1 == "base";
                if written {
                    found.push(format!("{path}: {name:?} was written"));
                }
            } else if other != object {
                found.push(format!(
                    "{path}: {name:?}\n  theirs {object}\n  ours   {other}"
                ));
            }
        }
    }
    found
}

/// Writes an object of everything that is listed, and all in the test's namespace, with us. Answers what we list then.
fn rewrite(cluster: &Cluster, lists: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let list = |path: &str| -> Value {
        let text = cluster.kubectl(&["get", "--raw", path]);
        serde_json::from_str(&text).expect("JSON")
    };
    for path in lists.keys() {
        let list = list(path);
        let items = list["items"].as_array().expect("items").iter();
        let wanted = |item: &&Value| item["metadata"]["namespace"] == NAMESPACE;
        let first = items.clone().find(|item| !wanted(item));
        for item in items.filter(wanted).chain(first) {
            let mut item = item.clone();
            item["apiVersion"] = list["apiVersion"].clone();
            let kind = list["kind"].as_str().expect("a kind");
            item["kind"] = kind.trim_end_matches("List").into();
            item["metadata"]["labels"]["written-by"] = "us".into();
            let place = place(path, &item);
            let said = cluster
                .kubectl_with_input(&["replace", "--raw", &place, "-f", "-"], &item.to_string());
            assert!(said.ok, "{place}: {}", said.err);
        }
    }
    let list = |path: &String| (path.clone(), list(path)["items"].take());
    lists.keys().map(list).collect()
}

/// The path of an object of a list of all namespaces.
fn place(path: &str, item: &Value) -> String {
    let name = item["metadata"]["name"].as_str().expect("a name");
    let (version, plural) = path.rsplit_once('/').expect("a path");
    match item["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{path}/{name}"),
    }
}

/// What both servers left goes to an embedded store, and is listed there as kube-apiserver listed it.
fn moved_to_the_embedded_store(
    etcd: &Etcd,
    cluster: &Cluster,
    theirs: &BTreeMap<String, Value>,
    runtime: &tokio::runtime::Runtime,
) {
    let flags = [
        "--service-range",
        SERVICES,
        "--no-controllers",
        "--no-scheduler",
    ];
    let mut embedded = Cluster::server_with(&flags, Some(cluster));
    embedded.terminate();
    let store = embedded.data_dir().join("store");
    std::fs::remove_dir_all(store).expect("the directory is ours");
    moved(&migrate("embedded", etcd, &embedded.data_dir()));
    let (_, revision) = runtime.block_on(dump(etcd));
    embedded.start();
    let found = differences(&embedded, theirs, revision);
    assert!(
        found.is_empty(),
        "{} differences in the embedded store\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn a_stock_clusters_etcd_is_taken_over_and_given_back() {
    let Some(binaries) = std::env::var_os("CORRAL_PEERS") else {
        // Without kube-apiserver there is the corpus.
        assert!(root().join(CORPUS).exists());
        return;
    };
    let binaries = Path::new(&binaries);
    let etcd = Etcd::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let peer = Peer::start(binaries, &etcd, None);
    peer.fill();
    let lists = peer.lists();
    drop(peer);
    let (entries, revision) = runtime.block_on(dump(&etcd));
    record(&entries, revision, &lists);

    let mut flags = etcd.flags();
    flags.extend(["--etcd-prefix", "/registry", "--service-range", SERVICES].map(str::to_owned));
    flags.extend(["--no-controllers", "--no-scheduler"].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::server_with(&flags, None);
    let found = differences(&cluster, &lists, revision);
    assert!(
        found.is_empty(),
        "{} differences\n{}",
        found.len(),
        found.join("\n")
    );
    let taken = Peer::service("another").to_string();
    let said = cluster.kubectl_with_input(&["create", "-f", "-"], &taken);
    assert!(
        said.err.contains("provided port is already allocated"),
        "{}",
        said.err
    );
    cluster.kubectl(&["create", "configmap", "ours", "--from-literal=a=b"]);
    cluster.kubectl(&["create", "deployment", "ours", "--image=example.com/a"]);
    let uid = |what: &str| cluster.jsonpath(&[what, "ours"], "{.metadata.uid}");
    let uids = [uid("configmap"), uid("deployment")];
    let ours = rewrite(&cluster, &lists);
    cluster.terminate();
    let (_, revision) = runtime.block_on(dump(&etcd));

    // What we encrypt it reads with our configuration.
    let encryption = cluster.data_dir().join("pki/encryption-config.yaml");
    let peer = Peer::start(binaries, &etcd, Some(&encryption));
    let paths = [
        "/api/v1/namespaces/default/configmaps/ours",
        "/apis/apps/v1/namespaces/default/deployments/ours",
    ];
    for (path, uid) in paths.iter().zip(uids) {
        let text = peer.raw("get", path, None).expect("read");
        let object: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(object["metadata"]["uid"], uid);
    }
    let theirs = peer.lists();
    let mut found = Vec::new();
    for (path, ours) in &ours {
        let after = theirs.get(path).map(by_name).unwrap_or_default();
        for (name, ours) in by_name(ours) {
            match after.get(&name) {
                None => found.push(format!("{path}: {name:?} is gone")),
                Some(theirs) if version_of(theirs) <= revision && **theirs != *ours => {
                    found.push(format!(
                        "{path}: {name:?}\n  ours   {ours}\n  theirs {theirs}"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    assert!(
        found.is_empty(),
        "{} differences on the way back\n{}",
        found.len(),
        found.join("\n")
    );
    drop(peer);
    moved_to_the_embedded_store(&etcd, &cluster, &theirs, &runtime);
}
