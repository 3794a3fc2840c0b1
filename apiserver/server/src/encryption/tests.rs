use corral_storage::conformance::{commit, create};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use tempfile::TempDir;

use super::*;

fn embedded(directory: &Path) -> Arc<dyn Storage> {
    let config = EmbeddedConfig::new(directory);
    EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open")
}

async fn open(inner: &Arc<dyn Storage>, source: Source) -> Result<Arc<dyn Storage>, String> {
    let stop = CancellationToken::new();
    over(inner.clone(), source, KEYS, &Registry::new(), stop).await
}

#[test]
fn keys_of_the_store_are_known_by_their_resources() {
    for (key, resource) in [
        ("/registry/secrets/default/a", Some("secrets")),
        ("/registry/services/specs/default/a", Some("services")),
        ("/registry/services/endpoints/default/a", Some("endpoints")),
        ("/registry/minions/a", Some("nodes")),
        ("/registry/deployments/default/a", Some("deployments.apps")),
        (
            "/registry/ingress/default/a",
            Some("ingresses.networking.k8s.io"),
        ),
        ("/registry/events/default/a", Some("events")),
        (
            "/registry/apiextensions.k8s.io/customresourcedefinitions/a",
            Some("customresourcedefinitions.apiextensions.k8s.io"),
        ),
        (
            "/registry/stable.example.com/crontabs/default/a",
            Some("crontabs.stable.example.com"),
        ),
        ("/registry/claims/nodeports/tcp/30000", None),
        ("/registry/ranges/serviceips", None),
        ("/elsewhere/secrets/a", None),
    ] {
        assert_eq!(resource_of(key).as_deref(), resource, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_once_for_its_owner_alone_and_encrypts_secrets() {
    let directory = TempDir::new().expect("temporary directory");
    let inner = embedded(directory.path());
    let path = directory.path().join("encryption-config.yaml");
    // Stored by a server that did not encrypt.
    commit(&*inner, vec![create("/registry/secrets/n/old", "{}")]).await;
    let source = Source::Generated(path.clone());
    let store = open(&inner, source.clone()).await.expect("opened");
    let text = std::fs::read_to_string(&path).expect("made");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("made").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    commit(&*store, vec![create("/registry/secrets/n/a", "{}")]).await;
    commit(&*store, vec![create("/registry/configmaps/n/a", "{}")]).await;
    let raw = async |key: &str| {
        inner
            .get(&Key::from(key))
            .await
            .expect("read")
            .expect("there")
    };
    assert!(
        raw("/registry/secrets/n/a")
            .await
            .value
            .starts_with(b"k8s:enc:secretbox:v1:key1:")
    );
    assert_eq!(raw("/registry/configmaps/n/a").await.value, "{}");
    drop(store);
    let again = open(&inner, source).await.expect("opened again");
    assert_eq!(std::fs::read_to_string(&path).expect("kept"), text);
    for key in ["/registry/secrets/n/a", "/registry/secrets/n/old"] {
        let entry = again.get(&Key::from(key)).await.expect("read");
        assert_eq!(entry.expect("there").value, "{}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_key_does_not_start() {
    let directory = TempDir::new().expect("temporary directory");
    let inner = embedded(directory.path());
    let of = |name: &str| Source::Generated(directory.path().join(name));
    open(&inner, of("first.yaml")).await.expect("opened");
    let error = open(&inner, of("second.yaml"))
        .await
        .err()
        .expect("refused");
    assert!(
        error.contains("second.yaml")
            && error.contains("all servers of a store need the same keys"),
        "{error}"
    );
    open(&inner, of("first.yaml"))
        .await
        .expect("the first still may");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_configuration_is_taken_and_a_bad_one_is_not() {
    let directory = TempDir::new().expect("temporary directory");
    let inner = embedded(directory.path());
    let path = directory.path().join("config.yaml");
    let with = |providers: &str| {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers: [{providers}]\n"
        );
        std::fs::write(&path, text).expect("written");
    };
    with("{identity: {}}");
    let registry = Registry::new();
    let metrics = EncryptionMetrics::register(&registry).expect("registered");
    let text = read(&path).await.expect("read");
    let first = transformers(&path, &text, &metrics).await.expect("rules");
    let store = EncryptedStore::new(inner.clone(), first, Arc::new(resource_of));
    let mut reload = Reload {
        store: store.clone(),
        path: path.clone(),
        metrics,
        reloads: ReloadMetrics::register(&registry).expect("registered"),
        known: text,
    };
    assert_eq!(reload.look().await, Ok(false));
    let key = STANDARD.encode([7; KEY_BYTES]);
    with(&format!(
        "{{aesgcm: {{keys: [{{name: k, secret: {key}}}]}}}}, {{identity: {{}}}}"
    ));
    assert_eq!(reload.look().await, Ok(true));
    assert_eq!(reload.look().await, Ok(false));
    with("{aesgcm: {keys: []}}");
    assert!(reload.look().await.is_err());
    commit(&*store, vec![create("/registry/secrets/n/a", "{}")]).await;
    let raw = inner.get(&Key::from("/registry/secrets/n/a")).await;
    let raw = raw.expect("read").expect("there").value;
    assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:k:"));
}
