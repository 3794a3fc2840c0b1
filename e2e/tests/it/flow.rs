//! Priority and fairness with unmodified kubectl: one who floods is kept apart from the others.

use std::net::TcpListener;

use corral_e2e::Cluster;

/// A level with one seat whose requests do not wait, and the schema that leads the flooder there. The webhook is asked about
/// ConfigMaps, and says nothing: whoever makes one keeps its seat meanwhile.
const OBJECTS: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: flood}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 1, lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {type: Reject}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: flood}
spec:
  priorityLevelConfiguration: {name: flood}
  matchingPrecedence: 500
  distinguisherMethod: {type: ByUser}
  rules:
  - subjects: [{kind: User, user: {name: flooder}}]
    resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*'], clusterScope: true}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: writers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: flooder}, {apiGroup: rbac.authorization.k8s.io, kind: User, name: quiet}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: silent}
webhooks:
- name: silent.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  failurePolicy: Ignore
  timeoutSeconds: 30
  clientConfig: {url: 'https://ADDRESS/'}
  rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [configmaps]}]
";

#[test]
fn a_flood_takes_no_seats_but_its_own() {
    // As many seats as make one for the flood.
    let flags = [
        "--max-requests-inflight=20",
        "--max-mutating-requests-inflight=20",
        "--no-controllers",
    ];
    let cluster = Cluster::server_with(&flags, None);
    let hook = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hook.local_addr().expect("an address").to_string();
    let applied = cluster.apply(&OBJECTS.replace("ADDRESS", &address));
    assert!(!applied.contains("Warning"), "{applied}");
    cluster.kubectl(&[
        "wait",
        "--for=condition=Dangling=False",
        "flowschema/flood",
        "--timeout=30s",
    ]);
    let uid = cluster.jsonpath(&["flowschema", "flood"], "{.metadata.uid}");
    let flooder = |args: &[&str]| cluster.kubectl_command(&[args, &["--as=flooder"]].concat());
    cluster.wait("the schema to be used", || {
        let mut get = flooder(&["get", "configmap", "none", "-v=8"]);
        let told = get.output().expect("kubectl runs").stderr;
        String::from_utf8_lossy(&told).contains(&uid)
    });
    let page = || {
        cluster.kubectl(&[
            "get",
            "--raw",
            "/debug/api_priority_and_fairness/dump_requests",
        ])
    };

    // kubectl comes back when it is told to, so that all of the flood but one are told again and again.
    let flood: Vec<_> = (0..5)
        .map(|index| {
            let name = format!("flood-{index}");
            let mut create = flooder(&["create", "configmap", &name]);
            create.spawn().expect("kubectl runs")
        })
        .collect();
    let rejected = || {
        let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
        let name = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"flood\",priority_level=\"flood\",reason=\"concurrency-limit\"} ";
        let found = metrics.lines().find_map(|line| line.strip_prefix(name));
        found.and_then(|n| n.parse().ok()).unwrap_or(0_u32)
    };
    cluster.wait("some of the flood to be refused", || rejected() >= 4);
    assert_eq!(
        page().matches("flood,").count(),
        2,
        "one request, by level and schema"
    );

    // Another is served while the flood goes on.
    let quiet = cluster.try_kubectl(&["create", "secret", "generic", "s", "--as=quiet"]);
    assert!(quiet.ok, "{}", quiet.err);
    assert_eq!(page().matches("flood,").count(), 2, "the same one still");
    let levels = cluster.kubectl(&[
        "get",
        "--raw",
        "/debug/api_priority_and_fairness/dump_priority_levels",
    ]);
    for line in levels
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with("flood"))
    {
        let rejected = line.split(',').nth(7).map(str::trim);
        assert_eq!(rejected, Some("0"), "{levels}");
    }

    // Once seats are free again, those who came back get one.
    drop(hook);
    for mut create in flood {
        assert!(create.wait().expect("kubectl ends").success());
    }
}
