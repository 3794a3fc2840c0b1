//! Logs, exec, attach, copy and port-forward.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use corral_e2e::Cluster;

fn pod(name: &str, restart: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {restart}\n  \
         terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: corral.dev/host, stdin: true, command: [sh, -c, '{command}']}}]\n"
    )
}

#[test]
fn a_command_runs_in_a_container_with_its_streams_and_exit_code() {
    let cluster = Cluster::up();
    cluster.apply(&pod("p", "Always", "sleep 1000"));
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let said = cluster.try_kubectl(&[
        "exec",
        "p",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", Some(7)));
    assert!(said.err.starts_with("err\n"), "{}", said.err);
    let echoed = cluster.kubectl_with_input(&["exec", "-i", "p", "--", "cat"], "through\n");
    assert_eq!(echoed.out, "through\n");

    cluster.kubectl(&["cp", "/etc/debian_version", "p:/tmp/copied"]);
    let there = cluster.kubectl(&["exec", "p", "--", "cat", "/tmp/copied"]);
    assert_eq!(
        Some(there),
        std::fs::read_to_string("/etc/debian_version").ok()
    );
    let write = "mkdir /tmp/tree && head -c 3000000 /dev/urandom > /tmp/tree/big && sha256sum < /tmp/tree/big";
    let digest = cluster.kubectl(&["exec", "p", "--", "sh", "-c", write]);
    let back = cluster.data_dir().join("back");
    cluster.kubectl(&["cp", "p:/tmp/tree", &back.display().to_string()]);
    let file = std::fs::File::open(back.join("big")).expect("the copied file");
    let sum = Command::new("sha256sum").stdin(file).output();
    assert_eq!(sum.ok().map(|sum| sum.stdout), Some(digest.into_bytes()));
}

/// `script` gives kubectl a terminal, which it demands for `-t`.
#[test]
fn a_pod_is_run_with_a_terminal_and_removed_after() {
    let cluster = Cluster::up();
    let run =
        "run -it --rm shell --image=corral.dev/host --restart=Never --quiet --command -- sh -c";
    // The shell asks once attached: what a pod says before that may be missed by whoever attaches.
    let asks = "'while ! read -r word; do :; done; tty; echo [$word]; exit 4'";
    let kubectl = corral_e2e::kubectl_path("1.36");
    let command = format!(
        "{} --kubeconfig {} {run} {asks}",
        kubectl.display(),
        cluster.kubeconfig().display()
    );
    let mut typed = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is installed");
    let mut stdin = typed.stdin.take().expect("stdin is a pipe");
    stdin.write_all(b"hello\n").expect("script reads");
    let output = typed.wait_with_output().expect("script ends");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        out.contains("/dev/pts/") && out.contains("[hello]"),
        "{out}"
    );
    assert_eq!(output.status.code(), Some(4), "{out}");
    drop(stdin);
    cluster.wait("the pod to be gone", || {
        cluster.kubectl(&["get", "pods", "-o", "name"]).is_empty()
    });
}

#[test]
fn logs_are_followed_and_those_of_the_last_container_are_kept() {
    let cluster = Cluster::up();
    cluster.apply(&pod("p", "Never", "echo first; read line; echo got $line"));
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let mut follow = cluster
        .kubectl_command(&["logs", "-f", "p"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "first");
    let attached = cluster.kubectl_with_input(&["attach", "-i", "p"], "hello\n");
    assert!(
        attached.out.contains("got hello"),
        "{} {}",
        attached.out,
        attached.err
    );
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "got hello");
    assert!(lines.next().is_none(), "the log ends with the container");
    follow.wait().expect("kubectl ends");
    assert_eq!(cluster.kubectl(&["logs", "p", "--tail=1"]), "got hello\n");

    cluster.apply(&pod(
        "again",
        "OnFailure",
        "echo life; [ -e /tmp/done ] && sleep 1000; exit 1",
    ));
    cluster.wait("a restart", || {
        cluster
            .jsonpath(
                &["pod", "again"],
                "{.status.containerStatuses[0].restartCount}",
            )
            .parse::<u32>()
            .is_ok_and(|n| n > 0)
    });
    assert_eq!(cluster.kubectl(&["logs", "again", "--previous"]), "life\n");
}

#[test]
fn a_port_is_forwarded() {
    let cluster = Cluster::up();
    let server = "import http.server; http.server.HTTPServer((\"127.0.0.1\", 8123), http.server.SimpleHTTPRequestHandler).serve_forever()";
    // A refused connection ends kubectl's forwarding, so the program must listen first.
    let probe = "import socket; socket.create_connection((\"127.0.0.1\", 8123))";
    let manifest = pod("p", "Always", "x").replace(
        "command: [sh, -c, 'x']",
        &format!("workingDir: /etc, command: [python3, -c, '{server}'], readinessProbe: {{exec: {{command: [python3, -c, '{probe}']}}, periodSeconds: 1}}"),
    );
    cluster.apply(&manifest);
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let mut forward = cluster
        .kubectl_command(&["port-forward", "pod/p", ":8123"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
    let line = lines.next().expect("a line").expect("UTF-8");
    let port: u16 = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("127.0.0.1:"))
        .and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("no port in {line:?}"));
    let mut answer = String::new();
    cluster.wait("an answer through the forwarded port", || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        answer.clear();
        let sent = stream.write_all(b"GET /debian_version HTTP/1.0\r\n\r\n");
        sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && !answer.is_empty()
    });
    forward.kill().expect("kubectl is ours");
    forward.wait().expect("kubectl is ours");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

const SPEAKER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: speaker, labels: {app: speaker}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: corral.dev/host
    command:
    - python3
    - -c
    - |
      import http.server
      class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
          if self.path == '/moved':
            self.send_response(302)
            self.send_header('Location', '/new')
            self.end_headers()
            return
          self.send_response(200)
          self.end_headers()
          who = self.headers.get('Authorization', 'nobody')
          self.wfile.write(f'{self.command} {self.path} {who}'.encode())
      http.server.HTTPServer(('', 8080), Handler).serve_forever()
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: speaker}
spec: {selector: {app: speaker}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
";

#[test]
fn pods_services_and_nodes_are_reached_through_the_api() {
    let cluster = Cluster::up();
    cluster.apply(SPEAKER);
    cluster.kubectl(&[
        "wait",
        "--for=condition=ready",
        "pod/speaker",
        "--timeout=60s",
    ]);
    let base = "/api/v1/namespaces/default";
    let raw = |path: &str| cluster.try_kubectl(&["get", "--raw", path]);
    for name in [
        "pods/speaker",
        "pods/http:speaker:8080",
        "pods/speaker:8080",
    ] {
        let said = raw(&format!("{base}/{name}/proxy/a/b?c=d"));
        // What identifies the client to the server is not for pods.
        assert_eq!(said.out, "GET /a/b?c=d nobody", "{name}: {said:?}");
    }
    // The endpoints of a Service follow its pods a moment later.
    cluster.wait("the service", || {
        raw(&format!("{base}/services/speaker/proxy/")).out == "GET / nobody"
    });
    for name in [
        "services/speaker:http",
        "services/speaker:80",
        "services/http:speaker:http",
    ] {
        let said = raw(&format!("{base}/{name}/proxy/x"));
        assert_eq!(said.out, "GET /x nobody", "{name}: {said:?}");
    }
    // A place on the host behind is found through here, too.
    assert_eq!(
        raw(&format!("{base}/pods/speaker/proxy/moved")).out,
        "GET /new nobody"
    );
    assert_eq!(
        raw(&format!("{base}/pods/speaker/proxy")).out,
        "GET / nobody"
    );
    for (path, words) in [
        (
            "services/nobody/proxy/",
            "no endpoints available for service \"nobody\"",
        ),
        (
            "services/speaker:9/proxy/",
            "no service port \"9\" found for service \"speaker\"",
        ),
        ("services/none/proxy/", "services \"none\" not found"),
        ("pods/none/proxy/", "pods \"none\" not found"),
        ("pods/speaker:81/proxy/", "error trying to reach service"),
    ] {
        let said = raw(&format!("{base}/{path}"));
        assert!(!said.ok && said.err.contains(words), "{path}: {said:?}");
    }
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]);
    let healthy = raw(&format!(
        "/api/v1/{}/proxy/healthz",
        node.trim().replace("node/", "nodes/")
    ));
    assert_eq!(healthy.out.trim(), "ok", "{healthy:?}");
}
