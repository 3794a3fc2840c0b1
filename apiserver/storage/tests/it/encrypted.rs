//! Values encrypted at rest: what lies in the inner store, who can read it, and what is said when nobody can.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corral_storage::conformance::{commit, create, next_event, next_item, update};
use corral_storage::encrypted::{
    EncryptedStore, EncryptionMetrics, KmsConfig, NamedKey, Provider, Rule, Transformers,
};
use corral_storage::{Error, Key, ListOptions, Operation, Storage, WatchEvent};
use etcd_client::{Client, GetOptions};
use prometheus::{Encoder, Registry, TextEncoder};
use tempfile::TempDir;

use crate::contract::{make_embedded, make_etcd};
use crate::etcd_server::EtcdServer;
use crate::kms_plugin::KmsPlugin;

fn key(name: &str, byte: u8) -> NamedKey {
    NamedKey {
        name: name.to_owned(),
        secret: vec![byte; 32],
    }
}

fn rule(resources: &[&str], providers: &[Provider]) -> Rule {
    Rule {
        resources: resources.iter().map(|r| (*r).to_owned()).collect(),
        providers: providers.to_vec(),
    }
}

/// `/registry/secrets/…` is of the core group, `/registry/apps/things/…` of its own.
fn resource_of(key: &str) -> Option<String> {
    let mut parts = key.strip_prefix("/registry/")?.split('/');
    let (first, second) = (parts.next()?, parts.next()?);
    Some(match first.contains('.') {
        true => format!("{second}.{first}"),
        false => first.to_owned(),
    })
}

async fn over(inner: Arc<dyn Storage>, rules: &[Rule]) -> Arc<EncryptedStore> {
    over_counted(inner, rules, &Registry::new()).await
}

async fn over_counted(
    inner: Arc<dyn Storage>,
    rules: &[Rule],
    registry: &Registry,
) -> Arc<EncryptedStore> {
    let metrics = EncryptionMetrics::register(registry).expect("registered");
    let transformers = Transformers::new(rules, metrics).await.expect("rules");
    EncryptedStore::new(inner, transformers, Arc::new(resource_of))
}

async fn everything_over(inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
    let registry = Registry::new();
    let metrics = EncryptionMetrics::register(&registry).expect("registered");
    let rules = [rule(&["*.*"], &[Provider::Secretbox(vec![key("key1", 1)])])];
    let transformers = Transformers::new(&rules, metrics).await.expect("rules");
    let all = |_: &str| Some("things".to_owned());
    EncryptedStore::new(inner, transformers, Arc::new(all))
}

pub async fn make_over_embedded() -> (Arc<dyn Storage>, impl Any) {
    let (inner, guard) = make_embedded().await;
    (everything_over(inner).await, guard)
}

pub async fn make_over_etcd() -> (Arc<dyn Storage>, impl Any) {
    let (inner, guard) = make_etcd().await;
    (everything_over(inner).await, guard)
}

mod over_embedded {
    corral_storage::storage_conformance!(crate::encrypted::make_over_embedded);
}

mod over_etcd {
    corral_storage::storage_conformance!(crate::encrypted::make_over_etcd);
}

/// Runs each of these over a store of each kind.
macro_rules! over_each {
    ($($name:ident),* $(,)?) => {
        mod rules_over_embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let (inner, _guard) = crate::contract::make_embedded().await;
                    super::$name(inner).await;
                }
            )*
        }

        mod rules_over_etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let (inner, _guard) = crate::contract::make_etcd().await;
                    super::$name(inner).await;
                }
            )*
        }
    };
}

over_each!(
    the_first_provider_writes_and_all_read,
    wildcards_cover_what_no_nearer_rule_names,
    a_key_is_rotated_by_a_new_one_before_it,
    what_nobody_can_read_is_an_error_everywhere_and_can_be_removed,
    a_watch_opens_what_it_reports,
    other_rules_are_taken_while_the_store_is_in_use,
    a_plugin_is_asked_once_for_a_seed_and_not_for_every_value,
    a_value_of_another_key_of_the_plugin_is_read_and_told_as_old,
    a_plugin_that_is_not_there_fails_writes_and_checks_and_what_it_has_to_read,
    plugins_and_the_use_of_their_keys_are_counted,
);

async fn raw(inner: &Arc<dyn Storage>, key: &str) -> Bytes {
    let entry = inner.get(&Key::from(key)).await.expect("read");
    entry.expect("there").value
}

async fn value(store: &dyn Storage, key: &str) -> Bytes {
    let entry = store.get(&Key::from(key)).await.expect("read");
    entry.expect("there").value
}

async fn stale(store: &dyn Storage, key: &str) -> bool {
    store.is_stale(&Key::from(key)).await.expect("read")
}

async fn the_first_provider_writes_and_all_read(inner: Arc<dyn Storage>) {
    let providers = [
        (Provider::AesGcm(vec![key("a", 1)]), "k8s:enc:aesgcm:v1:a:"),
        (Provider::AesCbc(vec![key("b", 2)]), "k8s:enc:aescbc:v1:b:"),
        (
            Provider::Secretbox(vec![key("c", 3)]),
            "k8s:enc:secretbox:v1:c:",
        ),
        (Provider::Identity, "{}"),
    ];
    let all: Vec<Provider> = providers.iter().map(|(p, _)| p.clone()).collect();
    for (index, (_, prefix)) in providers.iter().enumerate() {
        let mut order = all.clone();
        order.rotate_left(index);
        let store = over(inner.clone(), &[rule(&["secrets"], &order)]).await;
        let key = format!("/registry/secrets/n/{index}");
        commit(&*store, vec![create(&key, "{}")]).await;
        assert!(raw(&inner, &key).await.starts_with(prefix.as_bytes()));
        assert_eq!(value(&*store, &key).await, "{}");
        assert!(!stale(&*store, &key).await);
        for before in 0..index {
            let key = format!("/registry/secrets/n/{before}");
            assert_eq!(value(&*store, &key).await, "{}");
            assert!(stale(&*store, &key).await, "a write would change the bytes");
        }
    }
}

async fn wildcards_cover_what_no_nearer_rule_names(inner: Arc<dyn Storage>) {
    let by = |name: &str| [Provider::Secretbox(vec![key(name, 1)])];
    let rules = [
        rule(&["secrets"], &by("named")),
        rule(&["things.apps.example"], &by("exact")),
        rule(&["*."], &by("core")),
        rule(&["*.apps.example"], &by("group")),
        rule(&["*.*"], &by("all")),
    ];
    let store = over(inner.clone(), &rules).await;
    for (path, name) in [
        ("secrets/n/x", "named"),
        ("pods/n/x", "core"),
        ("apps.example/things/x", "exact"),
        ("apps.example/others/x", "group"),
        ("other.example/things/x", "all"),
    ] {
        let path = format!("/registry/{path}");
        commit(&*store, vec![create(&path, "{}")]).await;
        let prefix = format!("k8s:enc:secretbox:v1:{name}:");
        assert!(raw(&inner, &path).await.starts_with(prefix.as_bytes()));
    }
    // What is no resource is nobody's.
    commit(&*store, vec![create("/elsewhere", "{}")]).await;
    assert_eq!(raw(&inner, "/elsewhere").await, "{}");
    let masked = [
        rule(&["*.apps.example"], &by("group")),
        rule(&["things.apps.example"], &by("late")),
    ];
    let metrics = EncryptionMetrics::register(&Registry::new()).expect("registered");
    let error = Transformers::new(&masked, metrics)
        .await
        .expect_err("masked");
    assert_eq!(
        error,
        "resource \"things.apps.example\" is masked by earlier rule \"*.apps.example\""
    );
}

async fn a_key_is_rotated_by_a_new_one_before_it(inner: Arc<dyn Storage>) {
    let path = "/registry/secrets/n/a";
    let gcm = |keys: Vec<NamedKey>| [rule(&["secrets"], &[Provider::AesGcm(keys)])];
    let old = over(inner.clone(), &gcm(vec![key("key1", 1)])).await;
    let first = commit(&*old, vec![create(path, "v")]).await;
    let both = over(inner.clone(), &gcm(vec![key("key2", 2), key("key1", 1)])).await;
    assert_eq!(value(&*both, path).await, "v");
    assert!(stale(&*both, path).await);
    commit(&*both, vec![update(path, "v", first)]).await;
    assert!(!stale(&*both, path).await);
    let new = over(inner.clone(), &gcm(vec![key("key2", 2)])).await;
    assert_eq!(value(&*new, path).await, "v");
    assert!(matches!(
        old.get(&Key::from(path)).await,
        Err(Error::Unreadable { why, .. })
            if why.ends_with("revision=0: no matching key was found for the provided AES transformer")
    ));
    // A second provider of the same kind has the key.
    let apart = [rule(
        &["secrets"],
        &[
            Provider::AesGcm(vec![key("key2", 9)]),
            Provider::AesGcm(vec![key("key2", 2)]),
        ],
    )];
    let apart = over(inner.clone(), &apart).await;
    assert_eq!(value(&*apart, path).await, "v");
    assert!(stale(&*apart, path).await);
}

async fn what_nobody_can_read_is_an_error_everywhere_and_can_be_removed(inner: Arc<dyn Storage>) {
    let path = "/registry/secrets/n/a";
    let by = |byte| {
        [rule(
            &["secrets"],
            &[Provider::AesGcm(vec![key("k", byte)])],
        )]
    };
    let before = inner.current_revision().await.expect("revision");
    let writer = over(inner.clone(), &by(1)).await;
    let at = commit(&*writer, vec![create(path, "v")]).await;
    let store = over(inner.clone(), &by(2)).await;
    let check = |error: Error| match error {
        Error::Unreadable { key, revision, why } => {
            assert_eq!((key.as_str(), revision), (path, at));
            assert_eq!(
                why,
                "data from the storage is not transformable revision=0: cipher: message authentication failed"
            );
        }
        other => panic!("{other}"),
    };
    let target = Key::from(path);
    check(store.get(&target).await.expect_err("get"));
    let list = store.list("/registry/secrets/", ListOptions::default());
    check(list.await.expect_err("list"));
    check(store.history(&target).await.expect_err("history"));
    check(store.is_stale(&target).await.expect_err("stale"));
    let mut watch = store
        .watch("/registry/secrets/", before)
        .await
        .expect("watch");
    while let Some(item) = next_item(&mut watch).await {
        match item {
            Ok(WatchEvent::Progress(_)) => {}
            Ok(event) => panic!("{event:?}"),
            Err(error) => check(error),
        }
    }
    let delete = Operation::Delete {
        key: target.clone(),
        expected: at,
    };
    commit(&*store, vec![delete]).await;
    assert!(store.get(&target).await.expect("get").is_none());
    // Without any rule, what is encrypted is not taken for an object.
    let plain = over(inner.clone(), &[]).await;
    commit(&*writer, vec![create(path, "v")]).await;
    let error = plain.get(&target).await.expect_err("encrypted");
    assert!(
        error
            .to_string()
            .ends_with("identity transformer tried to read encrypted data")
    );
}

async fn a_watch_opens_what_it_reports(inner: Arc<dyn Storage>) {
    let rules = [rule(
        &["secrets"],
        &[Provider::AesCbc(vec![key("k", 1)]), Provider::Identity],
    )];
    // Stored before there was a key.
    let plain = commit(&*inner, vec![create("/registry/secrets/n/a", "old")]).await;
    let store = over(inner.clone(), &rules).await;
    let mut watch = store.watch("/registry/", plain).await.expect("watch");
    commit(&*store, vec![update("/registry/secrets/n/a", "new", plain)]).await;
    let WatchEvent::Put { entry, previous } = next_event(&mut watch).await else {
        panic!("a put");
    };
    assert_eq!(entry.value, "new");
    assert_eq!(previous.expect("there was one").value, "old");
    assert!(
        raw(&inner, "/registry/secrets/n/a")
            .await
            .starts_with(b"k8s:enc:aescbc:v1:k:")
    );
}

async fn other_rules_are_taken_while_the_store_is_in_use(inner: Arc<dyn Storage>) {
    let path = "/registry/secrets/n/a";
    let store = over(inner.clone(), &[rule(&["secrets"], &[Provider::Identity])]).await;
    let first = commit(&*store, vec![create(path, "v")]).await;
    let rules = [rule(
        &["secrets"],
        &[Provider::Secretbox(vec![key("k", 1)]), Provider::Identity],
    )];
    let metrics = EncryptionMetrics::register(&Registry::new()).expect("registered");
    let transformers = Transformers::new(&rules, metrics).await.expect("rules");
    store.replace(transformers);
    assert_eq!(value(&*store, path).await, "v");
    commit(&*store, vec![update(path, "v", first)]).await;
    assert!(
        raw(&inner, path)
            .await
            .starts_with(b"k8s:enc:secretbox:v1:k:")
    );
}

fn kms(plugin: &KmsPlugin, timeout: Duration) -> Provider {
    Provider::Kms(KmsConfig {
        name: "vault".to_owned(),
        endpoint: plugin.endpoint(),
        timeout,
    })
}

/// Longest wait for the plugin of a test.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(20);

async fn a_plugin_is_asked_once_for_a_seed_and_not_for_every_value(inner: Arc<dyn Storage>) {
    let directory = TempDir::new().expect("temporary directory");
    let plugin = KmsPlugin::start(directory.path(), "key-1");
    let rules = [rule(&["secrets"], &[kms(&plugin, PLUGIN_TIMEOUT)])];
    let store = over(inner.clone(), &rules).await;
    for n in 0..20 {
        let path = format!("/registry/secrets/n/{n}");
        commit(&*store, vec![create(&path, "v")]).await;
        assert_eq!(value(&*store, &path).await, "v");
        assert!(
            raw(&inner, &path)
                .await
                .starts_with(b"k8s:enc:kms:v2:vault:")
        );
    }
    assert_eq!(plugin.decrypted(), 0, "its own seed is known");
    // Another server has to ask, once.
    let other = over(inner.clone(), &rules).await;
    for n in 0..20 {
        let path = format!("/registry/secrets/n/{n}");
        assert_eq!(value(&*other, &path).await, "v");
        assert!(!stale(&*other, &path).await);
    }
    assert_eq!(plugin.decrypted(), 1);
    let checks = other.checks().await;
    let names: Vec<&str> = checks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["kms-providers", "kms-provider-0"]);
    assert!(checks.iter().all(|(_, outcome)| outcome.is_ok()));
}

async fn a_value_of_another_key_of_the_plugin_is_read_and_told_as_old(inner: Arc<dyn Storage>) {
    let directory = TempDir::new().expect("temporary directory");
    let plugin = KmsPlugin::start(directory.path(), "key-1");
    let rules = [rule(&["secrets"], &[kms(&plugin, PLUGIN_TIMEOUT)])];
    let path = "/registry/secrets/n/a";
    let store = over(inner.clone(), &rules).await;
    commit(&*store, vec![create(path, "v")]).await;
    plugin.set(|plugin| plugin.key_id = "key-2".to_owned());
    let later = over(inner.clone(), &rules).await;
    assert_eq!(value(&*later, path).await, "v");
    assert!(stale(&*later, path).await);
}

async fn a_plugin_that_is_not_there_fails_writes_and_checks_and_what_it_has_to_read(
    inner: Arc<dyn Storage>,
) {
    let directory = TempDir::new().expect("temporary directory");
    let path = "/registry/secrets/n/a";
    let plugin = KmsPlugin::start(directory.path(), "key-1");
    let rules = [rule(&["secrets"], &[kms(&plugin, PLUGIN_TIMEOUT)])];
    let writer = over(inner.clone(), &rules).await;
    commit(&*writer, vec![create(path, "v")]).await;
    plugin.set(|plugin| plugin.healthz = "on fire".to_owned());
    let unwell = over(inner.clone(), &rules).await;
    let checks = unwell.checks().await;
    let (name, outcome) = &checks[0];
    let why = outcome.as_ref().expect_err("unwell");
    assert_eq!(name, "kms-providers");
    assert_eq!(
        why,
        "kms-provider-0: kmsv2 Provider vault is not healthy, error: got unexpected healthz status: on fire"
    );
    std::fs::remove_file(&plugin.socket).expect("removed");
    drop(plugin);
    let registry = Registry::new();
    let without = over_counted(inner.clone(), &rules, &registry).await;
    let write = without
        .commit(vec![create("/registry/secrets/n/b", "v")])
        .await;
    assert!(
        matches!(&write, Err(Error::Sealing(why)) if why == "got unexpected nil transformer"),
        "{write:?}"
    );
    let read = without.get(&Key::from(path)).await;
    assert!(
        matches!(&read, Err(Error::Unreadable { why, .. })
            if why.contains("revision=0: failed to decrypt DEK, error: rpc error: code = ")),
        "{read:?}"
    );
    // Whoever knows the seed needs no plugin.
    assert_eq!(value(&*writer, path).await, "v");
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("metrics");
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("apiserver_storage_envelope_transformation_cache_misses_total 1"));
    assert!(text.contains(
        "apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"Unavailable\",\
         transformation_type=\"from_storage\",transformer_prefix=\"k8s:enc:kms:v2:vault:\"} 1"
    ), "{text}");
    let latency = "apiserver_envelope_encryption_kms_operations_latency_seconds_count";
    for method in ["Status", "Decrypt"] {
        let asked = format!(
            "{latency}{{grpc_status_code=\"Unavailable\",method_name=\"/v2.KeyManagementService/{method}\",\
             provider_name=\"vault\"}} 1"
        );
        assert!(text.contains(&asked), "{text}");
    }
}

/// All values in an etcd, as any client of it sees them.
async fn dump(server: &EtcdServer) -> BTreeMap<String, Vec<u8>> {
    let endpoints = [server.endpoint()];
    let mut client = Client::connect(endpoints, None).await.expect("connected");
    let all = GetOptions::new().with_all_keys();
    let answer = client.get("", Some(all)).await.expect("read");
    let pairs = answer.kvs().iter().map(|pair| {
        let key = pair.key_str().expect("text");
        (key.to_owned(), pair.value().to_vec())
    });
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_itself_is_given_nothing_that_is_not_encrypted() {
    const MARK: &[u8] = b"a-mark-that-nothing-else-has";
    let (inner, server) = make_etcd().await;
    let directory = TempDir::new().expect("temporary directory");
    let plugin = KmsPlugin::start(directory.path(), "key-1");
    let providers = [
        (Provider::AesGcm(vec![key("a", 1)]), "k8s:enc:aesgcm:v1:a:"),
        (Provider::AesCbc(vec![key("b", 2)]), "k8s:enc:aescbc:v1:b:"),
        (
            Provider::Secretbox(vec![key("c", 3)]),
            "k8s:enc:secretbox:v1:c:",
        ),
        (kms(&plugin, PLUGIN_TIMEOUT), "k8s:enc:kms:v2:vault:"),
    ];
    let resource = |index: usize| format!("things{index}");
    let rules: Vec<Rule> = providers
        .iter()
        .enumerate()
        .map(|(index, (provider, _))| rule(&[&resource(index)], std::slice::from_ref(provider)))
        .collect();
    let store = over(inner, &rules).await;
    let path = |index: usize| format!("/registry/{}/n/a", resource(index));
    for index in 0..providers.len() {
        let made = Operation::Create {
            key: Key::new(path(index)),
            value: MARK.into(),
        };
        let at = commit(&*store, vec![made]).await;
        let changed = Operation::Update {
            key: Key::new(path(index)),
            value: [MARK, b", changed"].concat().into(),
            expected: at,
        };
        commit(&*store, vec![changed]).await;
    }
    commit(&*store, vec![create("/registry/open/n/a", "plain")]).await;
    let dumped = dump(&server).await;
    assert_eq!(dumped["/registry/open/n/a"], b"plain", "read where it lies");
    for (index, (_, prefix)) in providers.iter().enumerate() {
        let lies = &dumped[&path(index)];
        assert!(lies.starts_with(prefix.as_bytes()), "{prefix}");
        assert!(!lies.windows(MARK.len()).any(|part| part == MARK));
        let read = value(&*store, &path(index)).await;
        assert_eq!(read, [MARK, b", changed"].concat());
    }
}

/// A metric that begins with this, with the rest of its line.
fn counted(registry: &Registry, begins: &str) -> Vec<String> {
    let text = TextEncoder::new().encode_to_string(&registry.gather());
    let text = text.expect("metrics");
    let begins = format!("apiserver_envelope_encryption_{begins}");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&*begins));
    lines.map(str::to_owned).collect()
}

/// The id `first`, hashed.
const FIRST: &str = "sha256:a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e";

async fn plugins_and_the_use_of_their_keys_are_counted(inner: Arc<dyn Storage>) {
    let directory = TempDir::new().expect("temporary directory");
    let plugin = KmsPlugin::start(directory.path(), "first");
    let rules = [rule(&["secrets"], &[kms(&plugin, PLUGIN_TIMEOUT)])];
    let registry = Registry::new();
    let over = over_counted(inner.clone(), &rules, &registry).await;
    let path = "/registry/secrets/n/a";
    commit(&*over, vec![create(path, "v")]).await;
    assert_eq!(value(&*over, path).await, "v");
    let of = |way: &str| {
        format!(
            "key_id_hash_total{{apiserver_id_hash=\"\",key_id_hash=\"{FIRST}\",provider_name=\"vault\",transformation_type=\"{way}\"}} "
        )
    };
    assert_eq!(counted(&registry, &of("to_storage")), ["1"]);
    assert_eq!(counted(&registry, &of("from_storage")), ["1"]);
    assert_eq!(
        counted(&registry, "key_id_hash_last_timestamp_seconds").len(),
        2
    );
    let told = format!(
        "key_id_hash_status_last_timestamp_seconds{{apiserver_id_hash=\"\",key_id_hash=\"{FIRST}\""
    );
    assert_eq!(counted(&registry, &told).len(), 1);
    assert_eq!(
        counted(&registry, "dek_source_cache_size{provider_name=\"vault\"} "),
        ["1"]
    );
    assert_eq!(counted(&registry, "dek_cache_fill_percent "), ["0"]);
    let latency = "kms_operations_latency_seconds_count{grpc_status_code=\"OK\",method_name=\"/v2.KeyManagementService/";
    let asked = [
        "Encrypt\",provider_name=\"vault\"} 1",
        "Status\",provider_name=\"vault\"} 1",
    ];
    assert_eq!(counted(&registry, latency), asked);
    assert_eq!(counted(&registry, "invalid_key_id"), [""; 0]);
    plugin.set(|plugin| plugin.key_id = String::new());
    let registry = Registry::new();
    let _ = over_counted(inner, &rules, &registry).await;
    let invalid = "invalid_key_id_from_status_total{error=\"empty\",provider_name=\"vault\"} ";
    assert_eq!(counted(&registry, invalid), ["1"]);
}

#[test]
fn keys_are_not_shown() {
    let shown = format!(
        "{:?}",
        rule(&["secrets"], &[Provider::AesGcm(vec![key("name", 77)])])
    );
    assert!(shown.contains("name") && !shown.contains("77"), "{shown}");
}
