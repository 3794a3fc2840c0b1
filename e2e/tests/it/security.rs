//! Flags that say who may do what, with unmodified kubectl.

use corral_e2e::Cluster;

#[test]
fn a_token_of_a_file_is_believed_and_its_requests_are_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let tokens = file("tokens.csv", "let-me-in,jane,7,\"devs\"\n");
    let policy = file(
        "policy.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {level: Metadata, resources: [{group: \"\", resources: [secrets]}]}\n\
         - {level: RequestResponse, resources: [{group: \"\", resources: [configmaps]}]}\n",
    );
    let log = folder.path().join("audit.log");
    let cluster = Cluster::server_with(
        &[
            "--token-auth-file",
            &tokens,
            "--authorization-mode=RBAC,Node",
            "--audit-policy-file",
            &policy,
            "--audit-log-path",
            &log.display().to_string(),
            "--anonymous-auth=false",
        ],
        None,
    );
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=k=v"]);
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=k=hidden-from-the-log",
    ]);
    cluster.kubectl(&[
        "create",
        "rolebinding",
        "devs",
        "--clusterrole=view",
        "--group=devs",
    ]);
    let user = [
        "--token",
        "let-me-in",
        "--server",
        &cluster.server(),
        "--insecure-skip-tls-verify",
        "--kubeconfig",
        "/dev/null",
    ];
    let by_token = |args: &[&str]| cluster.try_kubectl(&[&user, args].concat());
    let whoami = by_token(&[
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ]);
    assert_eq!(whoami.out, "jane", "{}", whoami.err);
    cluster.wait("the binding to hold", || {
        by_token(&["get", "configmap", "c", "-o", "name"]).ok
    });
    let refused = by_token(&["get", "secret", "s"]);
    assert!(
        refused
            .err
            .contains("User \"jane\" cannot get resource \"secrets\""),
        "{}",
        refused.err
    );
    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(!text.contains("hidden-from-the-log") && !text.contains("let-me-in"));
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect();
    let of = |user: &str, verb: &str, resource: &str| {
        let mut found = events.iter().filter(|event| {
            event["user"]["username"] == user
                && event["verb"] == verb
                && event["objectRef"]["resource"] == resource
        });
        found.next().cloned().unwrap_or_default()
    };
    let refused = of("jane", "get", "secrets");
    assert_eq!(
        refused["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(refused["responseStatus"]["code"], 403);
    let read = of("jane", "get", "configmaps");
    let reason = read["annotations"]["authorization.k8s.io/reason"].as_str();
    assert_eq!(
        reason,
        Some(
            "RBAC: allowed by RoleBinding \"devs/default\" of ClusterRole \"view\" to Group \"devs\""
        )
    );
    assert_eq!(read["responseObject"]["data"]["k"], "v");
}
