//! Values exchanged with kube-apiserver: what it has written is read from a corpus; with its binary at hand
//! (`CORRAL_PEERS`, a folder with `kube-apiserver`, and kubectl on the path) the corpus is written anew, and it reads
//! what we write.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use corral_storage::conformance::commit;
use corral_storage::encrypted::{
    EncryptedStore, EncryptionMetrics, KmsConfig, NamedKey, Provider, Rule, Transformers,
};
use corral_storage::etcd::{EtcdConfig, EtcdStore};
use corral_storage::{Key, Operation, Storage};
use prometheus::Registry;
use rcgen::KeyPair;
use tempfile::TempDir;

use crate::contract::make_embedded;
use crate::etcd_server::EtcdServer;
use crate::kms_plugin::KmsPlugin;

const NAME: &str = "exchanged";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const SECRET: &[u8; 32] = b"12345678901234567890123456789012";
/// The plugin's key, whose id is in the corpus.
const PLUGIN_KEY: &str = "key-1";

/// A resource for each provider: its name in keys and commands, its type, and more of its configuration.
const RESOURCES: [(&str, &str, &str); 4] = [
    (
        "secrets",
        "v1 Secret",
        "aesgcm: {keys: [{name: key1, secret: KEY}]}",
    ),
    (
        "configmaps",
        "v1 ConfigMap",
        "secretbox: {keys: [{name: key1, secret: KEY}]}",
    ),
    (
        "serviceaccounts",
        "v1 ServiceAccount",
        "aescbc: {keys: [{name: key1, secret: KEY}]}",
    ),
    (
        "leases",
        "coordination.k8s.io/v1 Lease",
        "kms: {apiVersion: v2, name: vault, endpoint: 'ENDPOINT'}",
    ),
];

fn corpus_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/encrypted.json")
}

fn key_of(resource: &str, name: &str) -> Key {
    Key::new(format!("/registry/{resource}/default/{name}"))
}

fn qualified(resource: &str) -> String {
    match resource {
        "leases" => "leases.coordination.k8s.io".to_owned(),
        other => other.to_owned(),
    }
}

async fn ours(inner: Arc<dyn Storage>, plugin: &KmsPlugin) -> Arc<EncryptedStore> {
    let keys = || {
        vec![NamedKey {
            name: "key1".to_owned(),
            secret: SECRET.to_vec(),
        }]
    };
    let kms = KmsConfig {
        name: "vault".to_owned(),
        endpoint: plugin.endpoint(),
        timeout: START_TIMEOUT,
    };
    let providers = [
        Provider::AesGcm(keys()),
        Provider::Secretbox(keys()),
        Provider::AesCbc(keys()),
        Provider::Kms(kms),
    ];
    let rules: Vec<Rule> = RESOURCES
        .iter()
        .zip(providers)
        .map(|((resource, ..), provider)| Rule {
            resources: vec![qualified(resource)],
            providers: vec![provider],
        })
        .collect();
    let metrics = EncryptionMetrics::register(&Registry::new()).expect("registered");
    let transformers = Transformers::new(&rules, metrics).await.expect("rules");
    let resource_of = |key: &str| key.split('/').nth(2).map(qualified);
    EncryptedStore::new(inner, transformers, Arc::new(resource_of))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kube_apiserver_encrypted_is_read_and_it_reads_what_we_encrypt() {
    let directory = TempDir::new().expect("temporary directory");
    let plugin = KmsPlugin::start(directory.path(), PLUGIN_KEY);
    if let Some(peers) = std::env::var_os("CORRAL_PEERS") {
        exchange(Path::new(&peers), directory.path(), &plugin).await;
    }
    let text = std::fs::read(corpus_path()).expect("the corpus");
    let corpus: BTreeMap<String, String> = serde_json::from_slice(&text).expect("JSON");
    let (inner, _guard) = make_embedded().await;
    for (key, value) in &corpus {
        let create = Operation::Create {
            key: Key::from(key.as_str()),
            value: STANDARD.decode(value).expect("base64").into(),
        };
        commit(&*inner, vec![create]).await;
    }
    let store = ours(inner, &plugin).await;
    assert_eq!(corpus.len(), RESOURCES.len());
    for (resource, ..) in RESOURCES {
        let entry = store.get(&key_of(resource, NAME)).await.expect("readable");
        let value = entry.expect("in the corpus").value;
        assert!(
            value.starts_with(b"k8s\0"),
            "kube-apiserver stores protobuf"
        );
        let name = NAME.as_bytes();
        assert!(value.windows(name.len()).any(|window| window == name));
    }
}

/// A kube-apiserver over an etcd, and kubectl for it.
struct Peer {
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
    fn start(binaries: &Path, directory: &Path, etcd: &str, plugin: &KmsPlugin) -> Self {
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let rules: String = RESOURCES
            .iter()
            .map(|(resource, _, provider)| {
                let provider = provider
                    .replace("KEY", &STANDARD.encode(SECRET))
                    .replace("ENDPOINT", &plugin.endpoint());
                format!(
                    "- resources: [{}]\n  providers: [{{{provider}}}]\n",
                    qualified(resource)
                )
            })
            .collect();
        let encryption = file(
            "encryption.yaml",
            &format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{rules}"
            ),
        );
        let tokens = file("tokens.csv", "token,admin,admin,system:masters\n");
        let pair = KeyPair::generate().expect("a key");
        let (key, public) = (
            file("sa.key", &pair.serialize_pem()),
            file("sa.pub", &pair.public_key_pem()),
        );
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let process = Command::new(binaries.join("kube-apiserver"))
            .args(["--etcd-servers", etcd, "--bind-address=127.0.0.1"])
            .args([
                "--advertise-address=192.0.2.1",
                "--authorization-mode=AlwaysAllow",
            ])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            .arg(format!("--secure-port={port}"))
            .arg("--encryption-provider-config")
            .arg(encryption)
            .arg("--token-auth-file")
            .arg(tokens)
            .arg("--service-account-key-file")
            .arg(&public)
            .arg("--service-account-signing-key-file")
            .arg(&key)
            .arg("--cert-dir")
            .arg(directory.join("certificates"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log")).expect("a log"))
            .spawn()
            .expect("kube-apiserver is there");
        let mut peer = Self { process, port };
        let until = Instant::now() + START_TIMEOUT;
        while peer.kubectl(&["get", "namespace", "default"]).is_err() {
            let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "{}", log());
            let ended = peer.process.try_wait().expect("ours");
            assert!(ended.is_none(), "{}", log());
            // There is no event for another process becoming ready.
            std::thread::sleep(Duration::from_millis(200));
        }
        peer
    }

    fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("kubectl")
            .args([
                "--token=token",
                "--insecure-skip-tls-verify",
                "--kubeconfig=/dev/null",
            ])
            .arg(format!("--server=https://127.0.0.1:{}", self.port))
            .args(args)
            .output()
            .expect("kubectl is there");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

fn object(resource: &str, kind: &str, name: &str) -> String {
    let (version, kind) = kind.split_once(' ').expect("a version and a kind");
    let more = match resource {
        "leases" => ",\"spec\":{\"holderIdentity\":\"us\"}",
        "serviceaccounts" => "",
        _ => ",\"data\":{\"a\":\"YQ==\"}",
    };
    format!(
        "{{\"apiVersion\":\"{version}\",\"kind\":\"{kind}\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"default\",\
         \"uid\":\"6d3e8f5a-0000-4000-8000-000000000001\",\"creationTimestamp\":\"2026-01-01T00:00:00Z\"}}{more}}}"
    )
}

async fn exchange(binaries: &Path, directory: &Path, plugin: &KmsPlugin) {
    let etcd = EtcdServer::start().await;
    let inner = EtcdStore::connect(EtcdConfig::new(vec![etcd.endpoint()]));
    let inner = inner.await.expect("connect");
    let peer = Peer::start(binaries, directory, &etcd.endpoint(), plugin);
    let store = ours(inner.clone(), plugin).await;
    let mut corpus = BTreeMap::new();
    for (resource, kind, _) in RESOURCES {
        let path = directory.join("object.json");
        std::fs::write(&path, object(resource, kind, NAME)).expect("written");
        let path = path.display().to_string();
        peer.kubectl(&["create", "-f", &path]).expect("created");
        let key = key_of(resource, NAME);
        let raw = inner.get(&key).await.expect("read").expect("there").value;
        assert!(raw.starts_with(b"k8s:enc:"), "{key}");
        corpus.insert(key.to_string(), STANDARD.encode(&raw));
        // The other way: what we encrypt, it reads.
        let create = Operation::Create {
            key: key_of(resource, "ours"),
            value: Bytes::from(object(resource, kind, "ours")),
        };
        commit(&*store, vec![create]).await;
        let read = peer.kubectl(&["get", resource, "ours", "-o", "jsonpath={.metadata.uid}"]);
        assert_eq!(
            read.as_deref(),
            Ok("6d3e8f5a-0000-4000-8000-000000000001"),
            "{resource}"
        );
        let raw = inner.get(&key_of(resource, "ours")).await.expect("read");
        assert!(raw.expect("there").value.starts_with(b"k8s:enc:"));
    }
    let text = serde_json::to_string_pretty(&corpus).expect("JSON") + "\n";
    std::fs::write(corpus_path(), text).expect("written");
}
