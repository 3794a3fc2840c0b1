//! Secrets encrypted in the store: by default, by a configuration, and what is left when the keys are gone.

use std::path::{Path, PathBuf};

use corral_e2e::Cluster;

/// Something that is nowhere but in the Secret.
const MARK: &str = "a-mark-that-nothing-else-has";
const ALONE: [&str; 2] = ["--no-controllers", "--no-scheduler"];

/// Whether a file below a directory holds a text.
fn holds(directory: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .any(|path| {
            if path.is_dir() {
                return holds(&path, text);
            }
            let bytes = std::fs::read(&path).expect("a file");
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        })
}

fn configuration(directory: &Path, name: &str, key: char) -> PathBuf {
    // 32 bytes of one letter, in base64 of whole groups of three and a rest of two.
    let three = match key {
        'a' => "YWFh",
        _ => "YmJi",
    };
    let rest = match key {
        'a' => "YWE=",
        _ => "YmI=",
    };
    let path = directory.join(name);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, configmaps]\n  \
         providers:\n  - aesgcm: {{keys: [{{name: key1, secret: {}{rest}}}]}}\n  - identity: {{}}\n",
        three.repeat(10)
    );
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn secrets_are_encrypted_without_a_word_and_read_after_a_restart() {
    let mut cluster = Cluster::server_with(&ALONE, None);
    let literal = format!("--from-literal=key={MARK}");
    cluster.kubectl(&["create", "secret", "generic", "s", &literal]);
    cluster.kubectl(&[
        "create",
        "configmap",
        "c",
        "--from-literal=key=plain-mark-of-a-map",
    ]);
    cluster.terminate();
    let store = cluster.data_dir().join("store");
    assert!(
        holds(&store, "plain-mark-of-a-map"),
        "the store is read right"
    );
    // A Secret's data is in base64, of which this is a part.
    let encoded = "YS1tYXJrLXRoYXQtbm90aGluZy1lbHNlLWhhc";
    assert!(!holds(&store, MARK) && !holds(&store, encoded));
    cluster.start();
    let read = cluster.jsonpath(&["secret", "s"], "{.data.key}");
    assert!(read.starts_with(encoded), "{read}");
    assert!(!cluster.log().contains(encoded));
}

#[test]
fn an_object_that_nobody_can_decrypt_is_told_and_can_be_removed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.yaml");
    configuration(directory.path(), "config.yaml", 'a');
    let path = path.to_str().expect("text");
    let flag = format!("--encryption-provider-config={path}");
    let mut cluster = Cluster::server_with(&[&ALONE[..], &[&flag]].concat(), None);
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
