//! Writes a kubeconfig that any client understands.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_server::pki::Identity;

/// A kubeconfig with one cluster and one user.
pub fn render(server: &str, ca: &str, user: &str, identity: &Identity) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: corral\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: corral\n  context:\n    cluster: corral\n    user: {user}\n\
         current-context: corral\n",
        encode(ca),
        encode(&identity.certificate),
        encode(&identity.key),
    )
}
