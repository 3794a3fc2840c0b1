//! Limits, quotas and the kinds of networking, with kubectl.

use corral_e2e::Cluster;

const LIMITS: &str = "
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec:
  limits:
  - {type: Container, default: {cpu: 100m}, defaultRequest: {cpu: 50m}, max: {cpu: '1'}}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: nowhere
  containers: [{name: c, image: i, resources: {limits: {LIMITS}}}]
";

fn pod(cluster: &Cluster, name: &str, limits: &str) -> String {
    let manifest = POD.replace("NAME", name).replace("LIMITS", limits);
    cluster
        .kubectl_with_input(&["create", "-f", "-"], &manifest)
        .err
}

fn used(cluster: &Cluster) -> String {
    cluster.jsonpath(&["quota", "q"], "{.status.used}")
}

#[test]
fn a_namespace_keeps_to_its_limits_and_quotas() {
    let cluster = Cluster::up();
    cluster.wait("pods have an account", || {
        cluster
            .try_kubectl(&["get", "serviceaccount", "default"])
            .ok
    });
    cluster.apply(LIMITS);
    let hard = "--hard=pods=2,requests.cpu=1,count/configmaps=3,services.nodeports=1";
    cluster.kubectl(&["create", "quota", "q", hard]);
    let counted =
        r#"{"count/configmaps":"1","pods":"0","requests.cpu":"0","services.nodeports":"0"}"#;
    // kube-root-ca.crt is there, too.
    cluster.wait("the quota is counted", || used(&cluster) == counted);

    assert_eq!(pod(&cluster, "small", ""), "");
    let resources = "{.spec.containers[0].resources}";
    assert_eq!(
        cluster.jsonpath(&["pod", "small"], resources),
        r#"{"limits":{"cpu":"100m"},"requests":{"cpu":"50m"}}"#
    );
    let large = pod(&cluster, "large", "cpu: 2");
    assert!(
        large.contains(
            "pods \"large\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
        ),
        "{large}"
    );
    let much = pod(&cluster, "much", "cpu: 1");
    assert!(
        much.contains("exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=50m, limited: requests.cpu=1"),
        "{much}"
    );
    let described = cluster.kubectl(&["describe", "quota", "q"]);
    assert!(
        described.contains("requests.cpu        50m   1"),
        "{described}"
    );
    cluster.kubectl(&["delete", "pod", "small", "--force", "--grace-period=0"]);
    assert_eq!(used(&cluster), counted);

    cluster.kubectl(&["create", "configmap", "a"]);
    cluster.kubectl(&["create", "configmap", "b"]);
    let third = cluster.try_kubectl(&["create", "configmap", "c"]);
    assert!(third.err.contains("exceeded quota: q"), "{}", third.err);
    // More is allowed at once where the quota grows.
    cluster.kubectl(&[
        "patch",
        "quota",
        "q",
        "-p",
        r#"{"spec":{"hard":{"count/configmaps":"4"}}}"#,
    ]);
    cluster.wait("the quota has grown", || {
        cluster.try_kubectl(&["create", "configmap", "c"]).code == Some(0)
    });
}

const CLASS: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: main, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}
spec: {controller: example.com/c}
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {}}
";

#[test]
fn an_ingress_gets_the_default_class_and_a_policy_says_that_nobody_enforces_it() {
    let cluster = Cluster::up();
    cluster.apply(CLASS);
    cluster.wait("the class is the default", || {
        let made =
            cluster.try_kubectl(&["create", "ingress", "web", "--rule=a.example.com/*=web:80"]);
        let class = cluster.jsonpath(&["ingress", "web"], "{.spec.ingressClassName}");
        if class.is_empty() {
            cluster.try_kubectl(&["delete", "ingress", "web"]);
        }
        made.code == Some(0) && class == "main"
    });
    let row = cluster.kubectl(&["get", "ingress", "web", "--no-headers"]);
    let cells: Vec<&str> = row.split_whitespace().take(4).collect();
    assert_eq!(cells, ["web", "main", "a.example.com", "80"]);
    let classes = cluster.kubectl(&["get", "ingressclass", "--no-headers"]);
    assert!(classes.starts_with("main (default)"), "{classes}");

    let said = cluster.kubectl_with_input(&["apply", "-f", "-"], POLICY);
    assert!(
        said.err
            .contains("network policies are accepted, but not honoured by this server yet"),
        "{}",
        said.err
    );
    assert_eq!(
        cluster.jsonpath(&["netpol", "nobody"], "{.spec.policyTypes}"),
        r#"["Ingress"]"#
    );
}

#[test]
fn addresses_of_services_are_listed_with_who_has_them() {
    let cluster = Cluster::up();
    let range = cluster.kubectl(&["get", "servicecidr", "kubernetes", "--no-headers"]);
    assert!(range.starts_with("kubernetes"), "{range}");
    cluster.kubectl(&["create", "service", "clusterip", "web", "--tcp=80"]);
    let address = cluster.jsonpath(&["service", "web"], "{.spec.clusterIP}");
    let row = cluster.kubectl(&["get", "ip", &address, "--no-headers"]);
    let cells: Vec<&str> = row.split_whitespace().take(2).collect();
    assert_eq!(cells, [address.as_str(), "services/default/web"]);
    cluster.kubectl(&["delete", "service", "web"]);
    let gone = cluster.try_kubectl(&["get", "ip", &address]);
    assert!(gone.err.contains("NotFound"), "{}", gone.err);
}
