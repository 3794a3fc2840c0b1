//! Volumes and claims as the API keeps them; nothing binds them yet.

use corral_e2e::Cluster;

const CLASS: &str = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: fast\n  \
                     annotations: {storageclass.kubernetes.io/is-default-class: 'true'}\n\
                     provisioner: example.com/p\n";
const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec:\n  \
                     accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n";

#[test]
fn a_claim_gets_the_default_class_and_says_that_nothing_binds_it() {
    let cluster = Cluster::server_with(&[], None);
    cluster.apply(CLASS);
    assert!(cluster.kubectl(&["get", "sc"]).contains("fast (default)"));
    cluster.wait("the default namespace's account", || {
        cluster.try_kubectl(&["get", "sa", "default"]).ok
    });
    let said = cluster.kubectl_with_input(&["create", "-f", "-"], CLAIM);
    assert!(said.ok, "{}", said.err);
    assert!(
        said.err
            .contains("the binding of claims to volumes is not honoured"),
        "{}",
        said.err
    );
    let row = cluster.kubectl(&["get", "pvc", "data", "--no-headers"]);
    assert!(row.contains("Pending") && row.contains("fast"), "{row}");
    let finalizers = cluster.jsonpath(&["pvc", "data"], "{.metadata.finalizers[*]}");
    assert_eq!(finalizers, "kubernetes.io/pvc-protection");
    let patch = "--patch={\"spec\":{\"resources\":{\"requests\":{\"storage\":\"2Gi\"}}}}";
    let said = cluster.try_kubectl(&["patch", "pvc", "data", patch]);
    assert!(said.err.contains("spec is immutable"), "{}", said.err);
    // The finalizer does not hold a claim that nobody uses.
    cluster.kubectl(&["delete", "pvc", "data", "--timeout=60s"]);
}

#[test]
fn a_bound_claim_grows_only_if_its_class_allows_it() {
    let cluster = Cluster::server_with(&[], None);
    cluster.apply(CLASS);
    cluster.wait("the default namespace's account", || {
        cluster.try_kubectl(&["get", "sa", "default"]).ok
    });
    cluster.apply(CLAIM);
    let bound = "--patch={\"status\":{\"phase\":\"Bound\",\"capacity\":{\"storage\":\"1Gi\"}}}";
    cluster.kubectl(&["patch", "pvc", "data", "--subresource=status", bound]);
    let grow = "--patch={\"spec\":{\"resources\":{\"requests\":{\"storage\":\"2Gi\"}}}}";
    let said = cluster.try_kubectl(&["patch", "pvc", "data", grow]);
    assert!(
        said.err
            .contains("the storageclass that provisions the pvc must support resize"),
        "{}",
        said.err
    );
    cluster.kubectl(&[
        "patch",
        "sc",
        "fast",
        "--patch={\"allowVolumeExpansion\":true}",
    ]);
    cluster.kubectl(&["patch", "pvc", "data", grow]);
    let wanted = cluster.jsonpath(&["pvc", "data"], "{.spec.resources.requests.storage}");
    assert_eq!(wanted, "2Gi");
}
