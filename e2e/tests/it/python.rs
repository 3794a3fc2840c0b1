//! Kubernetes' own Python client.

use std::process::Command;

use corral_e2e::{Cluster, root};

#[test]
fn the_python_client_gets_what_it_needs() {
    let cluster = Cluster::up();
    let said = Command::new(root().join(".cache/clients/python/bin/python"))
        .arg(root().join("e2e/clients/python/battery.py"))
        .arg(cluster.kubeconfig())
        .output()
        .expect("the client is installed; run scripts/clients");
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(
        said.status.success() && out.ends_with("passed\n"),
        "{out}\n{err}"
    );
}
