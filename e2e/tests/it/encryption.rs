//! Secrets encrypted in the store: by default, by a configuration, and what is left when the keys are gone.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_e2e::Cluster;

use crate::etcd::Etcd;

/// Something that is nowhere but in the Secret.
const MARK: &str = "a-mark-that-nothing-else-has";
/// A part of that in base64, as the data of a Secret is.
const ENCODED: &str = "YS1tYXJrLXRoYXQtbm90aGluZy1lbHNlLWhhc";
/// What a ConfigMap holds.
const PLAIN: &str = "plain-mark-of-a-map";
const ALONE: [&str; 2] = ["--no-controllers", "--no-scheduler"];

/// A control plane with these flags, whose objects are in an etcd if there is one.
fn server(flags: &[&str], etcd: Option<&Etcd>) -> Cluster {
    let kept = etcd.map(Etcd::flags).unwrap_or_default();
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    Cluster::server_with(&[&ALONE[..], flags, &kept].concat(), None)
}

/// What lies in etcd for an object of the default namespace.
fn raw(etcd: &Etcd, resource: &str, name: &str) -> Vec<u8> {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let page = runtime.block_on(etcd.list(&format!("/registry/{resource}/default/{name}")));
    let [entry] = &page.entries[..] else {
        panic!("{} entries of {resource}/{name}", page.entries.len());
    };
    entry.value.to_vec()
}

/// Whether bytes hold a text.
fn hold(bytes: &[u8], text: &str) -> bool {
    let mut windows = bytes.windows(text.len());
    windows.any(|window| window == text.as_bytes())
}

/// Whether a file below a directory holds a text.
fn holds(directory: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .any(|path| {
            if path.is_dir() {
                return holds(&path, text);
            }
            hold(&std::fs::read(&path).expect("a file"), text)
        })
}

/// A key: 32 bytes of one letter.
fn secret(letter: char) -> String {
    STANDARD.encode(letter.to_string().repeat(32))
}

fn configuration(directory: &Path, name: &str, key: char) {
    let path = directory.join(name);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, configmaps]\n  \
         providers:\n  - aesgcm: {{keys: [{{name: key1, secret: {}}}]}}\n  - identity: {{}}\n",
        secret(key)
    );
    std::fs::write(path, text).expect("written");
}

#[test]
fn secrets_are_encrypted_without_a_word_and_read_after_a_restart() {
    let mut cluster = server(&[], None);
    create_both(&cluster);
    cluster.terminate();
    let store = cluster.data_dir().join("store");
    assert!(holds(&store, PLAIN), "the store is read right");
    assert!(!holds(&store, MARK) && !holds(&store, ENCODED));
    is_read_again(cluster);
}

#[test]
fn secrets_are_encrypted_in_etcd_without_a_word_and_read_after_a_restart() {
    let etcd = Etcd::start();
    let mut cluster = server(&[], Some(&etcd));
    create_both(&cluster);
    cluster.terminate();
    let plain = raw(&etcd, "configmaps", "c");
    assert!(hold(&plain, PLAIN), "etcd is read right");
    let sealed = raw(&etcd, "secrets", "s");
    assert!(sealed.starts_with(b"k8s:enc:"));
    assert!(!hold(&sealed, MARK) && !hold(&sealed, ENCODED));
    is_read_again(cluster);
}

fn create_both(cluster: &Cluster) {
    for (kind, value) in [
        (&["secret", "generic", "s"][..], MARK),
        (&["configmap", "c"], PLAIN),
    ] {
        let literal = format!("--from-literal=key={value}");
        cluster.kubectl(&[&["create"], kind, &[&literal]].concat());
    }
}

fn is_read_again(mut cluster: Cluster) {
    cluster.start();
    let read = cluster.jsonpath(&["secret", "s"], "{.data.key}");
    assert!(read.starts_with(ENCODED), "{read}");
    assert!(!cluster.log().contains(ENCODED));
}

#[test]
fn keys_are_rotated_in_etcd_while_the_server_runs() {
    const KEYS: [(&str, char); 2] = [("key1", 'a'), ("key2", 'b')];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.yaml");
    let write = |name: &str, providers: &[String]| {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [secrets]\n  providers: [{}]\n\
             - resources: ['*.']\n  providers: [{{secretbox: {{keys: [{{name: core, secret: {}}}]}}}}, {{identity: {{}}}}]\n",
            providers.join(", "),
            secret('a'),
        );
        // In one step, so that no half of it is read.
        let new = directory.path().join(name);
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, &path).expect("renamed");
    };
    let aescbc = |keys: &[(&str, char)]| {
        let keys = keys
            .iter()
            .map(|(name, key)| format!("{{name: {name}, secret: {}}}", secret(*key)));
        let keys: Vec<String> = keys.collect();
        format!("{{aescbc: {{keys: [{}]}}}}", keys.join(", "))
    };
    let etcd = Etcd::start();
    let begins = |resource: &str, name: &str, prefix: &str| {
        let lies = raw(&etcd, resource, name);
        let shown: String = lies.iter().take(40).map(|byte| char::from(*byte)).collect();
        assert!(
            lies.starts_with(prefix.as_bytes()),
            "{resource} {name}: {shown}"
        );
        assert_eq!(hold(&lies, MARK), !prefix.starts_with("k8s:enc:"));
    };
    write("first", &[aescbc(&KEYS[..1])]);
    let flag = format!("--encryption-provider-config={}", path.display());
    let reload = "--encryption-provider-config-automatic-reload";
    let mut cluster = server(&[&flag, reload], Some(&etcd));
    let literal = format!("--from-literal=key={MARK}");
    let create = |cluster: &Cluster, kind: &[&str], name: &str| {
        cluster.kubectl(&[&["create"], kind, &[name, &literal]].concat());
    };
    create(&cluster, &["secret", "generic"], "old");
    create(&cluster, &["configmap"], "c");
    begins("secrets", "old", "k8s:enc:aescbc:v1:key1:");
    begins("configmaps", "c", "k8s:enc:secretbox:v1:core:");

    // The new key before the old one: what is written has the new one, and both are read.
    let both = [KEYS[1], KEYS[0]];
    write("second", &[aescbc(&both)]);
    let reloaded = "apiserver_encryption_config_controller_automatic_reloads_total";
    cluster.wait("the server to take the new key", || {
        let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
        let lines = metrics.lines().filter(|line| line.starts_with(reloaded));
        let mut taken = lines.filter(|line| line.contains("success"));
        taken.any(|line| line.ends_with(" 1"))
    });
    create(&cluster, &["secret", "generic"], "new");
    begins("secrets", "new", "k8s:enc:aescbc:v1:key2:");
    begins("secrets", "old", "k8s:enc:aescbc:v1:key1:");
    let read = |cluster: &Cluster, name: &str| {
        let read = cluster.jsonpath(&["secret", name], "{.data.key}");
        assert!(read.starts_with(ENCODED), "{read}");
    };
    read(&cluster, "old");
    // A write that changes nothing brings an object under the new key.
    let all = cluster.kubectl(&["get", "secrets", "-o", "json"]);
    let said = cluster.kubectl_with_input(&["replace", "-f", "-"], &all);
    assert!(said.ok, "{}", said.err);
    begins("secrets", "old", "k8s:enc:aescbc:v1:key2:");
    // The old key is not missed, and in the end nothing is encrypted any more.
    write("third", &[aescbc(&KEYS[1..])]);
    cluster.terminate();
    cluster.start();
    read(&cluster, "old");
    write("fourth", &["{identity: {}}".to_owned(), aescbc(&KEYS[1..])]);
    cluster.terminate();
    cluster.start();
    read(&cluster, "new");
    begins("secrets", "new", "k8s:enc:aescbc:v1:key2:");
    let patch = format!(
        "--patch={{\"stringData\":{{\"plain\":\"x\"}},\"metadata\":{{\"labels\":{{\"mark\":\"{MARK}\"}}}}}}"
    );
    cluster.kubectl(&["patch", "secret", "new", "--type=merge", &patch]);
    begins("secrets", "new", "{");
}

#[test]
fn an_object_that_nobody_can_decrypt_is_told_and_can_be_removed() {
    cannot_be_decrypted(None);
}

#[test]
fn an_object_in_etcd_that_nobody_can_decrypt_is_told_and_can_be_removed() {
    cannot_be_decrypted(Some(&Etcd::start()));
}

fn cannot_be_decrypted(etcd: Option<&Etcd>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.yaml");
    configuration(directory.path(), "config.yaml", 'a');
    let path = path.to_str().expect("text");
    let flag = format!("--encryption-provider-config={path}");
    let mut cluster = server(&[&flag], etcd);
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=a=b"]);
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=a=b"]);
    cluster.terminate();
    configuration(directory.path(), "config.yaml", 'b');
    cluster.start();
    let why = "Internal error occurred: StorageError: corrupt object, Code: 7, Key: /secrets/default/s, ResourceVersion: 0, \
               AdditionalErrorMsg: data from the storage is not transformable revision=0: cipher: message authentication failed";
    for verb in ["get", "delete"] {
        let said = cluster.try_kubectl(&[verb, "secret", "s"]);
        assert!(!said.ok && said.err.contains(why), "{}", said.err);
    }
    let list = cluster.try_kubectl(&["get", "--raw", "/api/v1/namespaces/default/secrets"]);
    let what = "storage is (re)initializing: failed to list *core.Secret: failed to read one or more secrets from the storage";
    assert!(!list.ok && list.err.contains(what), "{}", list.err);
    let patch = [
        "patch",
        "--type=merge",
        "configmap",
        "c",
        "-p",
        "{\"data\":{\"a\":\"c\"}}",
    ];
    let said = cluster.try_kubectl(&patch);
    assert!(
        !said.ok
            && said
                .err
                .contains("data from the storage is not transformable"),
        "{}",
        said.err
    );
    let unread = |resource: &str, more: &str| {
        let path = format!(
            "/api/v1/namespaces/default/{resource}?ignoreStoreReadErrorWithClusterBreakingPotential=true{more}"
        );
        cluster.try_kubectl(&["delete", "--raw", &path])
    };
    let said = unread("secrets/s", "&gracePeriodSeconds=0");
    assert!(
        said.err
            .contains("cannot be set together with .gracePeriodSeconds"),
        "{}",
        said.err
    );
    let said = unread("secrets/absent", "");
    assert!(
        said.err
            .contains("is exclusively used to delete corrupt object(s)"),
        "{}",
        said.err
    );
    for gone in ["secrets/s", "configmaps/c"] {
        let said = unread(gone, "");
        assert!(said.ok && said.out.contains("\"Success\""), "{}", said.err);
    }
    cluster.wait("Secrets to be listed again", || {
        cluster
            .try_kubectl(&["get", "--raw", "/api/v1/namespaces/default/secrets"])
            .ok
    });
    assert!(!cluster.try_kubectl(&["get", "secret", "s"]).ok);
}

#[test]
fn a_configuration_without_sense_stops_the_server_with_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.yaml");
    std::fs::write(
        &path,
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*']\n  \
         providers: [{identity: {}}]\n",
    )
    .expect("written");
    let output = std::process::Command::new(corral_e2e::corral())
        .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path().join("data"))
        .arg(format!("--encryption-provider-config={}", path.display()))
        .output()
        .expect("corral runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group"),
        "{said}"
    );
}
