//! Admission webhooks and the kinds around them, with kubectl and a webhook in Python.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use corral_e2e::{Cluster, machines, root};

/// A webhook that ends with the test.
struct Webhook(Child);

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a webhook; answers its URL and its certificate, in base64.
fn start(directory: &Path) -> (Webhook, String, String) {
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ])
    .args([
        "-days",
        "2",
        "-subj",
        "/CN=webhook",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ])
    .arg("-out")
    .arg(&certificate)
    .arg("-keyout")
    .arg(&key);
    machines::succeed(&mut make);
    let mut child = Command::new("python3")
        .arg(root().join("e2e/clients/python/webhook.py"))
        .arg(&certificate)
        .arg(&key)
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let out = child.stdout.take().expect("it is piped");
    let webhook = Webhook(child);
    let mut port = String::new();
    BufReader::new(out).read_line(&mut port).expect("a line");
    let mut encode = Command::new("base64");
    let encoded = encode
        .arg("-w0")
        .arg(&certificate)
        .output()
        .expect("base64 runs");
    let bundle = String::from_utf8(encoded.stdout).expect("base64");
    (
        webhook,
        format!("https://127.0.0.1:{}/", port.trim()),
        bundle,
    )
}

const CONFIGURATION: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: by}
webhooks:
- name: by.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {url: 'URL', caBundle: BUNDLE}
  rules:
  - {operations: ['*'], apiGroups: [''], apiVersions: [v1], resources: [configmaps, pods/exec]}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}
";

#[test]
fn a_webhook_changes_refuses_and_warns() {
    let cluster = Cluster::up();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (webhook, url, bundle) = start(directory.path());
    cluster.apply(
        &CONFIGURATION
            .replace("URL", &url)
            .replace("BUNDLE", &bundle),
    );
    let listed = cluster.kubectl(&["get", "mutatingwebhookconfigurations", "--no-headers"]);
    assert!(listed.starts_with("by    1 "), "{listed}");

    cluster.kubectl(&["create", "configmap", "m", "--from-literal=a=b"]);
    let by = cluster.jsonpath(&["configmap", "m"], "{.data.by}");
    assert!(!by.is_empty(), "{by}");
    let refused = cluster.try_kubectl(&["create", "configmap", "bad"]);
    assert_eq!(
        refused.err.trim(),
        "error: failed to create configmap: admission webhook \"by.example.com\" denied the request: a bad name"
    );
    let gone = cluster.try_kubectl(&["delete", "configmap", "m"]);
    assert_eq!((gone.ok, gone.err.trim()), (true, "Warning: it is gone"));
    cluster.kubectl(&["create", "configmap", "bad", "-n", "kube-public"]);

    drop(webhook);
    let failed = cluster.try_kubectl(&["create", "configmap", "n"]);
    assert!(
        failed
            .err
            .contains("failed calling webhook \"by.example.com\""),
        "{}",
        failed.err
    );
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration", "by"]);
    cluster.wait("the webhook to be forgotten", || {
        cluster.try_kubectl(&["create", "configmap", "n"]).ok
    });
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  schedulingGates: [{name: example.com/wait}]
  containers: [{name: c, image: i, resources: {requests: {cpu: 10m}}}]
";

#[test]
fn kinds_that_nothing_acts_on_are_served_all_the_same() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "deployment", "d", "--image=i", "--replicas=0"]);
    let made = cluster.try_kubectl(&["autoscale", "deployment", "d", "--max=3", "--cpu=60%"]);
    assert!(
        made.ok && made.err.contains("not honoured by this server yet"),
        "{made:?}"
    );
    let row = cluster.kubectl(&["get", "hpa", "d", "--no-headers"]);
    assert!(
        row.contains("Deployment/d   cpu: <unknown>/60%   1     3     0"),
        "{row}"
    );
    let older = cluster.jsonpath(
        &["horizontalpodautoscalers.v1.autoscaling", "d"],
        "{.spec.targetCPUUtilizationPercentage}",
    );
    assert_eq!(older, "60");
    let status = cluster.kubectl(&["get", "componentstatuses", "etcd-0", "--no-headers"]);
    assert!(status.starts_with("etcd-0   Healthy   ok"), "{status}");
    let services = cluster.kubectl(&["get", "apiservices", "--no-headers"]);
    assert!(
        services.contains("v1.apps ") && services.contains("v2.autoscaling "),
        "{services}"
    );

    cluster.apply(POD);
    let bigger = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"20m"}}}]}}"#;
    let refused = cluster.try_kubectl(&["patch", "pod", "p", "-p", bigger]);
    assert!(
        refused.err.contains("pod updates may not change fields"),
        "{}",
        refused.err
    );
    cluster.kubectl(&["patch", "pod", "p", "--subresource", "resize", "-p", bigger]);
    let cpu = cluster.jsonpath(
        &["pod", "p"],
        "{.spec.containers[0].resources.requests.cpu}",
    );
    assert_eq!(cpu, "20m");
    let debug = [
        "debug",
        "p",
        "--image=i",
        "--container=look",
        "--attach=false",
    ];
    let added = cluster.try_kubectl(&debug);
    assert!(added.ok, "{added:?}");
    let names = cluster.jsonpath(&["pod", "p"], "{.spec.ephemeralContainers[*].name}");
    assert_eq!(names, "look");
}

const STRICT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}
";

#[test]
fn a_strict_namespace_refuses_pods_and_warns_of_workloads() {
    let cluster = Cluster::up();
    cluster.apply(STRICT);
    cluster.wait("pods have an account", || {
        cluster
            .try_kubectl(&["get", "sa", "default", "-n", "strict"])
            .ok
    });
    let refused = cluster.try_kubectl(&["run", "p", "--image=i", "-n", "strict"]);
    assert!(
        refused.err.contains(
            "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"
        ),
        "{}",
        refused.err
    );
    let made = cluster.try_kubectl(&["create", "deployment", "d", "--image=i", "-n", "strict"]);
    assert!(
        made.ok && made.err.starts_with("Warning: would violate PodSecurity"),
        "{made:?}"
    );
    cluster.kubectl(&[
        "run",
        "q",
        "--image=i",
        "--overrides",
        r#"{"spec":{"schedulingGates":[{"name":"example.com/wait"}]}}"#,
    ]);
    let label = [
        "label",
        "namespace",
        "default",
        "pod-security.kubernetes.io/enforce=restricted",
    ];
    let told = cluster.try_kubectl(&label);
    assert!(
        told.err
            .contains("existing pods in namespace \"default\" violate"),
        "{}",
        told.err
    );
}

#[test]
fn flags_say_which_admission_plugins_run() {
    let cluster = Cluster::server_with(
        &[
            "--enable-admission-plugins=AlwaysPullImages",
            "--disable-admission-plugins=PodSecurity",
        ],
        None,
    );
    cluster.apply(STRICT);
    cluster.wait("pods have an account", || {
        cluster
            .try_kubectl(&["get", "sa", "default", "-n", "strict"])
            .ok
    });
    cluster.kubectl(&["run", "p", "--image=i:1", "-n", "strict"]);
    let policy = cluster.jsonpath(
        &["pod", "p", "-n", "strict"],
        "{.spec.containers[0].imagePullPolicy}",
    );
    assert_eq!(policy, "Always");
    let unknown = Command::new(corral_e2e::corral())
        .args([
            "server",
            "--listen=127.0.0.1:0",
            "--enable-admission-plugins=Nothing",
            "--data-dir",
        ])
        .arg(cluster.data_dir().with_file_name("other"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(
        said.contains("enable-admission-plugins plugin \"Nothing\" is unknown"),
        "{said}"
    );
}
