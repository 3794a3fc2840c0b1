//! Certificates by request: made with openssl, approved with kubectl.

use std::path::Path;
use std::process::Command;

use corral_e2e::{Cluster, machines};

/// A request made by openssl, in PEM in base64; its key is in `directory`.
fn request(directory: &Path, subject: &str) -> String {
    let (key, file) = (directory.join("user.key"), directory.join("user.csr"));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-new", "-newkey", "ec", "-nodes"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject])
        .args(["-keyout".as_ref(), key.as_os_str()])
        .args(["-out".as_ref(), file.as_os_str()]);
    machines::succeed(&mut openssl);
    let mut base64 = Command::new("base64");
    let said = base64.arg("-w0").arg(file).output();
    let said = said.expect("the command is installed");
    String::from_utf8(said.stdout).expect("base64 is text")
}

fn manifest(name: &str, signer: &str, request: &str) -> String {
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec:\n  request: {request}\n  signerName: {signer}\n  expirationSeconds: 3600\n  \
         usages: [digital signature, client auth]\n"
    )
}

#[test]
fn an_approved_request_gives_a_user_with_groups() {
    let cluster = Cluster::server_with(&[], None);
    let directory = cluster.data_dir();
    // Two groups: a subject may have several organizations.
    let csr = request(&directory, "/O=team/O=others/CN=somebody");
    cluster.apply(&manifest(
        "somebody",
        "kubernetes.io/kube-apiserver-client",
        &csr,
    ));
    let listed = cluster.kubectl(&["get", "csr", "somebody", "--no-headers"]);
    assert!(listed.trim_end().ends_with("Pending"), "{listed}");
    cluster.kubectl(&["certificate", "approve", "somebody"]);
    cluster.wait("the certificate", || {
        !cluster
            .jsonpath(&["csr", "somebody"], "{.status.certificate}")
            .is_empty()
    });
    let listed = cluster.kubectl(&["get", "csr", "somebody", "--no-headers"]);
    assert!(listed.contains("Approved,Issued"), "{listed}");
    let certificate = cluster.kubectl(&[
        "get",
        "csr",
        "somebody",
        "-o",
        "go-template={{.status.certificate | base64decode}}",
    ]);
    let file = directory.join("user.crt");
    std::fs::write(&file, certificate).expect("the directory is ours");
    let flags = [
        format!("--client-certificate={}", file.display()),
        format!("--client-key={}", directory.join("user.key").display()),
    ];
    // A user of its own: the administrator's identity in the kubeconfig would be used beside the flags.
    let config = directory.join("user.kubeconfig");
    std::fs::copy(cluster.kubeconfig(), &config).expect("the directory is ours");
    let config = format!("--kubeconfig={}", config.display());
    let user = [
        "config",
        "set-credentials",
        "somebody",
        &config,
        &flags[0],
        &flags[1],
    ];
    cluster.kubectl(&user);
    let who = cluster.kubectl(&[&config, "--user=somebody", "auth", "whoami", "-o", "json"]);
    for word in ["\"somebody\"", "\"team\"", "\"others\""] {
        assert!(who.contains(word), "{who}");
    }
}

#[test]
fn nobody_becomes_a_master_and_a_denied_request_gets_nothing() {
    let cluster = Cluster::server_with(&[], None);
    let directory = cluster.data_dir();
    let signer = "kubernetes.io/kube-apiserver-client";
    let master = request(&directory, "/O=system:masters/CN=somebody");
    let said =
        cluster.kubectl_with_input(&["create", "-f", "-"], &manifest("master", signer, &master));
    assert!(!said.ok);
    assert!(
        said.err.contains("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"),
        "{}",
        said.err
    );
    let csr = request(&directory, "/CN=somebody");
    cluster.apply(&manifest("somebody", signer, &csr));
    cluster.kubectl(&["certificate", "deny", "somebody"]);
    let said = cluster.try_kubectl(&["certificate", "approve", "somebody"]);
    assert!(said.err.contains("already Denied"), "{}", said.err);
    let listed = cluster.kubectl(&["get", "csr", "somebody", "--no-headers"]);
    assert!(listed.trim_end().ends_with("Denied"), "{listed}");
}
