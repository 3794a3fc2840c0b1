//! What an operator does with a server: looks at it, stops it, changes its certificates. With unmodified kubectl.

use std::path::Path;
use std::process::Command;

use corral_e2e::{Cluster, machines};

#[test]
fn a_server_that_stops_is_unready_first_and_loses_nothing() {
    let flags = ["--shutdown-delay-duration=5s", "--logging-format=json"];
    let mut cluster = Cluster::server_with(&flags, None);
    let raw = |path: &str| cluster.try_kubectl(&["get", "--raw", path]);
    assert_eq!(raw("/livez/etcd").out, "ok");
    let page = raw("/readyz?verbose").out;
    assert!(
        page.contains("[+]shutdown ok\n") && page.ends_with("readyz check passed\n"),
        "{page}"
    );
    let flags = raw("/flagz").out;
    assert!(flags.contains("\nshutdown-delay-duration=5s\n"), "{flags}");
    assert!(raw("/statusz").out.contains("apiserver statusz"));
    let configurations = raw("/configz").out;
    assert!(
        configurations.contains("AuthorizationConfiguration"),
        "{configurations}"
    );
    cluster.kubectl(&["create", "configmap", "before"]);
    let mut watch = cluster
        .client()
        .stream(&["get", "configmaps", "-w", "-o", "name"]);
    watch.line_where(|line| line == "configmap/before");

    cluster.tell_to_end();
    cluster.wait("the server to be unready", || {
        let said = raw("/readyz");
        !said.ok && said.err.contains("[-]shutdown failed: reason withheld")
    });
    // Those who distribute requests do not know it yet.
    cluster.kubectl(&["create", "configmap", "during"]);
    watch.line_where(|line| line == "configmap/during");
    // It ends of itself, and so does the watch.
    assert_eq!(watch.line(), None);
    cluster.terminate();
    let log = cluster.log();
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(
            event["level"].is_string() && event["fields"]["message"].is_string(),
            "{line}"
        );
    }
    cluster.start();
    let found = cluster.kubectl(&["get", "configmaps", "before", "during", "-o", "name"]);
    assert_eq!(found, "configmap/before\nconfigmap/during\n");
}

/// A certificate for a name, signed by itself, with its key.
fn certify(certificate: &Path, key: &Path) {
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ])
    .args(["-nodes", "-days", "2", "-subj", "/CN=api.example.com"])
    .args(["-addext", "subjectAltName=DNS:api.example.com"])
    .arg("-out")
    .arg(certificate)
    .arg("-keyout")
    .arg(key);
    machines::succeed(&mut make);
}

#[test]
fn certificates_and_tokens_change_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    certify(&path("old.crt"), &path("old.key"));
    certify(&path("new.crt"), &path("new.key"));
    let copy = |from: &str, to: &str| {
        std::fs::copy(path(from), path("next")).expect("copied");
        std::fs::rename(path("next"), path(to)).expect("renamed");
    };
    copy("old.crt", "tls.crt");
    copy("old.key", "tls.key");
    std::fs::write(path("tokens.csv"), "old-token,jane,7\n").expect("written");
    let flag = |name: &str, file: &str| format!("--{name}={}", path(file).display());
    let flags = [
        flag("tls-cert-file", "tls.crt"),
        flag("tls-private-key-file", "tls.key"),
        flag("token-auth-file", "tokens.csv"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::server_with(&flags, None);
    let server = cluster.server();
    let whoami = |certificate: &str, token: &str| {
        let ca = flag("certificate-authority", certificate);
        let (server, token) = (format!("--server={server}"), format!("--token={token}"));
        let name = "--tls-server-name=api.example.com";
        let whom = [
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ];
        let how = ["--kubeconfig=/dev/null", &server, &ca, name, &token];
        cluster.try_kubectl(&[&how[..], &whom[..]].concat()).out
    };
    assert_eq!(whoami("old.crt", "old-token"), "jane");
    copy("new.crt", "tls.crt");
    copy("new.key", "tls.key");
    std::fs::write(path("next"), "new-token,ann,8\n").expect("written");
    std::fs::rename(path("next"), path("tokens.csv")).expect("renamed");
    cluster.wait("both to be taken", || {
        whoami("new.crt", "new-token") == "ann"
    });
    assert_eq!(
        whoami("old.crt", "new-token"),
        "",
        "the old certificate is shown no more"
    );
    assert_eq!(whoami("new.crt", "old-token"), "");
    // The administrator's kubeconfig trusts the cluster's own certificate, which is still shown to it.
    cluster.kubectl(&["get", "namespaces"]);
}
