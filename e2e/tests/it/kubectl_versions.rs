//! The same battery with kubectl of every version that may be used with a v1.36 server.

use corral_e2e::{Cluster, Kubectl};

const VERSIONS: [&str; 3] = ["1.34", "1.35", "1.36"];

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: c, labels: {l: v}}
data: {a: '1'}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: corral.dev/host, command: [sh, -c, 'echo up; exec sleep 1000']}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

#[test]
fn every_supported_kubectl_passes_the_same_battery() {
    let cluster = Cluster::up();
    // Each has a namespace of its own, so that they may run at the same time.
    std::thread::scope(|scope| {
        for version in VERSIONS {
            let cluster = &cluster;
            scope.spawn(move || {
                let namespace = format!("of-{}", version.replace('.', "-"));
                battery(cluster, &cluster.client_of(version, &namespace), &namespace);
            });
        }
    });
}

fn battery(cluster: &Cluster, kubectl: &Kubectl<'_>, namespace: &str) {
    kubectl.run(&["create", "namespace", namespace]);
    applies(kubectl);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    gets(kubectl);
    watches(kubectl);
    describes(kubectl, namespace);
    patches(kubectl);
    runs(kubectl);
    rolls_out(cluster, kubectl);
    explains(kubectl);
    deletes(cluster, kubectl, namespace);
}

fn applies(kubectl: &Kubectl<'_>) {
    let apply = |manifest: &str, verb: &[&str]| {
        let args = [verb, &["-f", "-"]].concat();
        kubectl.try_run_with_input(&args, manifest)
    };
    let created = apply(MANIFEST, &["apply"]);
    let words = "configmap/c created\ndeployment.apps/web created\nservice/web created\n";
    assert_eq!(created.out, words, "{}", created.err);
    let again = apply(MANIFEST, &["apply"]);
    assert_eq!(again.out.matches(" unchanged\n").count(), 3, "{again:?}");

    let changed = MANIFEST.replace("data: {a: '1'}", "data: {a: '2'}");
    let diff = apply(&changed, &["diff"]);
    assert_eq!(diff.code, Some(1), "{diff:?}");
    assert!(
        diff.out.contains("-  a: \"1\"") && diff.out.contains("+  a: \"2\""),
        "{diff:?}"
    );
    assert_eq!(apply(MANIFEST, &["diff"]).code, Some(0));
    let rehearsed = apply(&changed, &["apply", "--dry-run=server"]);
    assert!(
        rehearsed
            .out
            .contains("configmap/c configured (server dry run)"),
        "{rehearsed:?}"
    );

    let ours = ["apply", "--server-side", "--field-manager=ours"];
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: server-side}\ndata: {a: '1'}\n";
    let applied = apply(config, &ours);
    assert_eq!(
        applied.out, "configmap/server-side serverside-applied\n",
        "{}",
        applied.err
    );
    let theirs = ["apply", "--server-side", "--field-manager=theirs"];
    let conflict = apply(&config.replace("'1'", "'2'"), &theirs);
    assert!(
        conflict.err.contains("conflict with \"ours\": .data.a"),
        "{conflict:?}"
    );
}

fn gets(kubectl: &Kubectl<'_>) {
    let get = |what: &str, form: &str| kubectl.run(&["get", what, "-o", form]);
    assert!(get("deploy/web", "wide").contains("corral.dev/host"));
    assert!(get("svc/web", "yaml").contains("kind: Service"));
    assert!(get("svc/web", "json").contains("\"kind\": \"Service\""));
    assert_eq!(get("cm/c", "name"), "configmap/c\n");
    assert_eq!(get("cm/c", "jsonpath={.data.a}"), "1");
    assert_eq!(
        get("cm/c", "jsonpath-as-json={.data.a}"),
        "[\n    \"1\"\n]\n"
    );
    assert_eq!(get("cm/c", "go-template={{.data.a}}"), "1");
    let columns = get("cm/c", "custom-columns=NAME:.metadata.name,A:.data.a");
    assert_eq!(columns, "NAME   A\nc      1\n");
    let mut kyaml = kubectl.command(&["get", "cm/c", "-o", "kyaml"]);
    let kyaml = kyaml.env("KUBECTL_KYAML", "true").output();
    let kyaml = String::from_utf8(kyaml.expect("kubectl is built").stdout);
    assert!(kyaml.is_ok_and(|text| text.contains("kind: \"ConfigMap\"")));

    let labels = kubectl.run(&["get", "cm", "-l", "l=v", "-L", "l", "--no-headers"]);
    assert_eq!(labels.split_whitespace().last(), Some("v"), "{labels}");
    let shown = kubectl.run(&["get", "cm", "c", "--show-labels"]);
    assert!(shown.contains("LABELS") && shown.contains("l=v"), "{shown}");
    let sorted = [
        "get",
        "cm",
        "--sort-by={.metadata.name}",
        "--field-selector=metadata.name!=kube-root-ca.crt",
        "-o",
        "name",
    ];
    assert_eq!(kubectl.run(&sorted), "configmap/c\nconfigmap/server-side\n");
    let paged = kubectl.run(&["get", "cm", "--chunk-size=1", "-o", "name"]);
    assert_eq!(paged.lines().count(), 3, "{paged}");
    assert!(
        kubectl
            .run(&["get", "all"])
            .contains("replicaset.apps/web-")
    );
    let missing = kubectl.try_run(&["get", "pod", "nobody"]);
    assert_eq!(
        missing.err,
        "Error from server (NotFound): pods \"nobody\" not found\n"
    );
}

fn watches(kubectl: &Kubectl<'_>) {
    let mut watch = kubectl.stream(&[
        "get",
        "cm",
        "-l",
        "watched=yes",
        "--watch",
        "--output-watch-events",
        "-o",
        "jsonpath={.type} {.object.metadata.name} {.object.data.a}{\"\\n\"}",
    ]);
    let mut only = kubectl.stream(&["get", "cm", "c", "--watch-only", "-o", "name"]);
    // The first line comes when the watch runs for sure.
    kubectl.run(&["create", "cm", "w", "--from-literal=a=1"]);
    kubectl.run(&["label", "cm", "w", "watched=yes"]);
    assert_eq!(watch.line().as_deref(), Some("ADDED w 1"));
    kubectl.run(&["patch", "cm", "w", "-p", r#"{"data":{"a":"2"}}"#]);
    assert_eq!(watch.line().as_deref(), Some("MODIFIED w 2"));
    kubectl.run(&["label", "cm", "w", "watched-"]);
    assert_eq!(watch.line().as_deref(), Some("DELETED w 2"));
    kubectl.run(&["delete", "cm", "w"]);
    kubectl.run(&["annotate", "cm", "c", "seen=yes"]);
    assert_eq!(only.line().as_deref(), Some("configmap/c"));

    let mut table = kubectl.stream(&["get", "deploy", "web", "-w"]);
    table.line_where(|line| line.starts_with("NAME"));
    table.line_where(|line| line.starts_with("web") && line.contains("1/1"));
    let mut yaml = kubectl.stream(&["get", "cm", "c", "-o", "yaml", "-w"]);
    yaml.line_where(|line| line == "  seen: \"yes\"" || line == "    seen: \"yes\"");
    kubectl.run(&["annotate", "cm", "c", "seen=again", "--overwrite"]);
    yaml.line_where(|line| line == "    seen: again");
}

fn describes(kubectl: &Kubectl<'_>, namespace: &str) {
    for (what, words) in [
        ("deploy/web", "NewReplicaSetAvailable"),
        ("svc/web", "Endpoints:"),
        ("cm/c", "a:\n----\n1"),
        ("pods", "Started"),
        ("node/node-1", "Allocated resources:"),
    ] {
        let described = kubectl.run(&["describe", what]);
        assert!(described.contains(words), "{what}: {described}");
    }
    let described = kubectl.run(&["describe", "namespace", namespace]);
    assert!(described.contains("Status:       Active"), "{described}");
    let events = kubectl.run(&["events", "--for", "deploy/web"]);
    assert!(events.contains("ScalingReplicaSet"), "{events}");
}

fn patches(kubectl: &Kubectl<'_>) {
    for (kind, patch, data) in [
        ("strategic", r#"{"data":{"b":"2"}}"#, r#"{"a":"1","b":"2"}"#),
        ("merge", r#"{"data":{"a":null}}"#, r#"{"b":"2"}"#),
        (
            "json",
            r#"[{"op":"test","path":"/data/b","value":"2"},{"op":"move","from":"/data/b","path":"/data/c"}]"#,
            r#"{"c":"2"}"#,
        ),
    ] {
        kubectl.run(&["patch", "cm", "c", "--type", kind, "-p", patch]);
        let now = kubectl.run(&["get", "cm", "c", "-o", "jsonpath={.data}"]);
        assert_eq!(now, data, "{kind}");
    }
    let failed = r#"[{"op":"test","path":"/data/c","value":"3"}]"#;
    let refused = kubectl.try_run(&["patch", "cm", "c", "--type=json", "-p", failed]);
    assert!(!refused.ok, "{refused:?}");
    let scale = r#"{"spec":{"replicas":1}}"#;
    kubectl.run(&[
        "patch",
        "deploy",
        "web",
        "--subresource=scale",
        "--type=merge",
        "-p",
        scale,
    ]);
    kubectl.run(&["label", "cm", "c", "l=w", "--overwrite"]);
    let replaced = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {z: '9'}\n";
    let said = kubectl.try_run_with_input(&["replace", "-f", "-"], replaced);
    assert_eq!(said.out, "configmap/c replaced\n", "{said:?}");
}

fn runs(kubectl: &Kubectl<'_>) {
    assert_eq!(kubectl.run(&["logs", "deploy/web"]), "up\n");
    let prefixed = kubectl.run(&["logs", "-l", "app=web", "--prefix", "--tail=1"]);
    assert!(
        prefixed.starts_with("[pod/web-") && prefixed.ends_with("/web] up\n"),
        "{prefixed}"
    );
    let stamped = kubectl.run(&["logs", "deploy/web", "--timestamps"]);
    assert!(stamped.ends_with("Z up\n"), "{stamped}");
    let said = kubectl.try_run(&["exec", "deploy/web", "--", "sh", "-c", "echo out; exit 3"]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", Some(3)));
    let echoed = kubectl.try_run_with_input(&["exec", "-i", "deploy/web", "--", "cat"], "in\n");
    assert_eq!(echoed.out, "in\n", "{}", echoed.err);
}

fn rolls_out(cluster: &Cluster, kubectl: &Kubectl<'_>) {
    let status = || kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    kubectl.run(&[
        "scale",
        "deploy/web",
        "--current-replicas=1",
        "--replicas=2",
    ]);
    let ready = "--for=jsonpath={.status.readyReplicas}=2";
    kubectl.run(&["wait", "deploy/web", ready, "--timeout=60s"]);
    let stale = kubectl.try_run(&[
        "scale",
        "deploy/web",
        "--current-replicas=1",
        "--replicas=2",
    ]);
    assert!(
        stale.err.contains("Expected replicas to be 1, was 2"),
        "{stale:?}"
    );

    kubectl.run(&["rollout", "pause", "deploy/web"]);
    kubectl.run(&["set", "env", "deploy/web", "A=b"]);
    let paused = kubectl.try_run(&["rollout", "undo", "deploy/web"]);
    assert!(!paused.ok, "{paused:?}");
    kubectl.run(&["rollout", "resume", "deploy/web"]);
    assert!(status().contains("successfully rolled out"));
    let revisions = || {
        let history = kubectl.run(&["rollout", "history", "deploy/web"]);
        let numbers = history.lines().filter_map(|line| line.split(' ').next());
        let numbers: Vec<u32> = numbers.filter_map(|word| word.parse().ok()).collect();
        numbers
    };
    assert_eq!(revisions(), [1, 2]);
    let second = kubectl.run(&["rollout", "history", "deploy/web", "--revision=2"]);
    assert!(second.contains("A:\tb"), "{second}");
    kubectl.run(&["rollout", "undo", "deploy/web", "--to-revision=1"]);
    status();
    assert_eq!(revisions(), [2, 3]);
    kubectl.run(&["rollout", "restart", "deploy/web"]);
    status();
    let restarted = "{.spec.template.metadata.annotations.kubectl\\.kubernetes\\.io/restartedAt}";
    let path = format!("jsonpath={restarted}");
    assert!(
        !kubectl
            .run(&["get", "deploy", "web", "-o", &path])
            .is_empty()
    );

    // An image that nobody has: the old pods stay until the way back.
    let nowhere = "127.0.0.1:1/nothing:1";
    kubectl.run(&["set", "image", "deploy/web", &format!("web={nowhere}")]);
    let stuck = kubectl.try_run(&["rollout", "status", "deploy/web", "--timeout=1s"]);
    assert!(!stuck.ok, "{stuck:?}");
    let available = "jsonpath={.status.availableReplicas}";
    assert_eq!(kubectl.run(&["get", "deploy", "web", "-o", available]), "2");
    kubectl.run(&["rollout", "undo", "deploy/web"]);
    status();
    cluster.wait("the pods of other templates to be gone", || {
        let images = "jsonpath={.items[*].spec.containers[0].image}";
        kubectl.run(&["get", "pods", "-o", images]) == "corral.dev/host corral.dev/host"
    });
}

fn explains(kubectl: &Kubectl<'_>) {
    let field = kubectl.run(&["explain", "deploy.spec.strategy.rollingUpdate.maxSurge"]);
    assert!(field.contains("FIELD: maxSurge"), "{field}");
    let tree = kubectl.run(&["explain", "pod.spec.volumes", "--recursive"]);
    assert!(tree.contains("defaultMode\t<integer>"), "{tree}");
    // The format of old takes protobuf alone.
    let old = kubectl.run(&["explain", "cm.data", "--output=plaintext-openapiv2"]);
    assert!(old.contains("FIELD:    data <map[string]string>"), "{old}");
    let kinds = kubectl.run(&["api-resources", "--namespaced=true", "-o", "name"]);
    assert!(kinds.contains("deployments.apps\n"), "{kinds}");
    assert!(kubectl.run(&["api-versions"]).contains("batch/v1\n"));
    let version = kubectl.run(&["version"]);
    assert!(
        version.contains("Server Version: v1.36") && !version.contains("WARNING"),
        "{version}"
    );
}

fn deletes(cluster: &Cluster, kubectl: &Kubectl<'_>, namespace: &str) {
    let dry = kubectl.run(&["delete", "cm", "c", "--dry-run=server"]);
    assert!(dry.contains("(server dry run)"), "{dry}");
    kubectl.run(&["delete", "cm", "c", "--wait=false"]);
    kubectl.run(&["wait", "--for=delete", "cm/c", "--timeout=60s"]);
    let selected = kubectl.run(&["delete", "pods", "-l", "app=web", "--now"]);
    assert_eq!(selected.lines().count(), 2, "{selected}");
    kubectl.run_with_input(&["delete", "-f", "-", "--ignore-not-found"], MANIFEST);
    cluster.wait("pods to go", || {
        kubectl.run(&["get", "pods", "-o", "name"]).is_empty()
    });
    kubectl.run(&["delete", "namespace", namespace, "--timeout=60s"]);
}
