//! What clients find out about the API, and what it refuses.

use corral_e2e::Cluster;

#[test]
fn discovery_explain_and_access_reviews_answer() {
    let cluster = Cluster::up();
    let resources = cluster.kubectl(&["api-resources", "--no-headers"]);
    for kind in [
        "Pod",
        "Deployment",
        "CronJob",
        "EndpointSlice",
        "ClusterRole",
        "Lease",
    ] {
        assert!(
            resources
                .lines()
                .any(|line| line.trim_end().ends_with(kind)),
            "{kind} in\n{resources}"
        );
    }
    let explained =
        cluster.kubectl(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]);
    assert!(explained.contains("FIELD: maxSurge"), "{explained}");
    assert_eq!(
        cluster.kubectl(&["auth", "can-i", "delete", "nodes"]),
        "yes\n"
    );
    let nobody = cluster.try_kubectl(&["auth", "can-i", "delete", "nodes", "--as", "nobody"]);
    assert_eq!((nobody.out.as_str(), nobody.code), ("no\n", Some(1)));
}

#[test]
fn wrong_input_is_refused_in_the_words_of_kubernetes() {
    let cluster = Cluster::up();
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndatta: {}\n";
    let said = cluster.kubectl_with_input(&["apply", "-f", "-"], unknown);
    assert!(
        said.err
            .contains("strict decoding error: unknown field \"datta\""),
        "{}",
        said.err
    );

    let upper = cluster.try_kubectl(&["create", "configmap", "UPPER"]);
    assert!(
        upper
            .err
            .contains("metadata.name: Invalid value: \"UPPER\": a lowercase RFC 1123 subdomain"),
        "{}",
        upper.err
    );

    let missing = cluster.try_kubectl(&["get", "pod", "nobody"]);
    assert_eq!(
        missing.err,
        "Error from server (NotFound): pods \"nobody\" not found\n"
    );

    cluster.kubectl(&["create", "namespace", "again"]);
    let again = cluster.try_kubectl(&["create", "namespace", "again"]);
    assert_eq!(
        again.err,
        "Error from server (AlreadyExists): namespaces \"again\" already exists\n"
    );

    let forbidden = cluster.try_kubectl(&["get", "secrets", "--as", "nobody"]);
    let words = "secrets is forbidden: User \"nobody\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    assert!(forbidden.err.contains(words), "{}", forbidden.err);
}

#[test]
fn a_namespace_goes_with_everything_in_it() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "namespace", "gone"]);
    cluster.kubectl(&["-n", "gone", "create", "configmap", "c"]);
    cluster.kubectl(&[
        "-n",
        "gone",
        "create",
        "deployment",
        "d",
        "--image=corral.dev/host",
        "--replicas=2",
        "--",
        "sleep",
        "1000",
    ]);
    cluster.kubectl(&["delete", "namespace", "gone", "--timeout=60s"]);
    assert!(!cluster.try_kubectl(&["get", "namespace", "gone"]).ok);
    assert_eq!(cluster.kubectl(&["get", "pods", "-A", "--no-headers"]), "");
}
