//! client-go's informers, with streamed lists and without.

use corral_e2e::Cluster;
use corral_e2e::machines::succeed;

use super::envtest::go;

#[test]
fn informers_of_every_kind_see_the_same() {
    let cluster = Cluster::server_with(&[], None);
    let mut tests = go();
    tests.args(["test", "-count=1", "-v", "./informers"]);
    succeed(tests.env("KUBECONFIG", cluster.kubeconfig()));
}
