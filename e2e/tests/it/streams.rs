//! Logs, exec, attach, copy and port-forward, the last four over WebSocket and over SPDY/3.1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use corral_e2e::{Cluster, Kubectl, Transport};

const TRANSPORTS: [Transport; 2] = [Transport::WebSocket, Transport::Spdy];

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
    for transport in TRANSPORTS {
        let kubectl = cluster.client().over(transport);
        a_command_runs(kubectl);
        files_are_copied(&cluster, kubectl);
    }
}

fn a_command_runs(kubectl: Kubectl<'_>) {
    let script = "echo out; echo err >&2; exit 7";
    let said = kubectl.try_run(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", Some(7)));
    assert!(said.err.starts_with("err\n"), "{}", said.err);
    let echoed = kubectl.run_with_input(&["exec", "-i", "p", "--", "cat"], "through\n");
    assert_eq!(echoed, "through\n");
    let said = kubectl.try_run(&["exec", "p", "--", "/no/such/program"]);
    assert_eq!(said.code, Some(127), "{said:?}");
    let said = kubectl.try_run(&["exec", "none", "--", "true"]);
    assert!(said.err.contains("pods \"none\" not found"), "{said:?}");

    // More than all queues and buffers on the way hold, both ways.
    let text = "0123456789abcde\n".repeat(8 << 16);
    let back = kubectl.run_with_input(&["exec", "-i", "p", "--", "cat"], &text);
    assert!(back == text, "{} of {} bytes", back.len(), text.len());
    let long = "head -c 8388608 /dev/zero | tr '\\000' x; exit 3";
    let said = kubectl.try_run(&["exec", "p", "--", "sh", "-c", long]);
    assert_eq!(
        (said.out.len(), said.code),
        (8 << 20, Some(3)),
        "{}",
        said.err
    );
}

fn files_are_copied(cluster: &Cluster, kubectl: Kubectl<'_>) {
    kubectl.run(&["cp", "/etc/debian_version", "p:/tmp/copied"]);
    let there = kubectl.run(&["exec", "p", "--", "cat", "/tmp/copied"]);
    assert_eq!(
        Some(there),
        std::fs::read_to_string("/etc/debian_version").ok()
    );
    let write = "rm -rf /tmp/tree /tmp/copied && mkdir /tmp/tree && head -c 3000000 /dev/urandom > /tmp/tree/big && sha256sum < /tmp/tree/big";
    let digest = kubectl.run(&["exec", "p", "--", "sh", "-c", write]);
    let back = cluster.data_dir().join("back");
    kubectl.run(&["cp", "p:/tmp/tree", &back.display().to_string()]);
    let file = std::fs::File::open(back.join("big")).expect("the copied file");
    let sum = Command::new("sha256sum").stdin(file).output();
    assert_eq!(sum.ok().map(|sum| sum.stdout), Some(digest.into_bytes()));
    std::fs::remove_dir_all(&back).expect("the copy is ours");
}

/// `script` gives kubectl a terminal, which it demands for `-t`.
#[test]
fn a_pod_is_run_with_a_terminal_and_removed_after() {
    let cluster = Cluster::up();
    for transport in TRANSPORTS {
        a_pod_is_run_with_a_terminal(&cluster, transport);
    }
}

fn a_pod_is_run_with_a_terminal(cluster: &Cluster, transport: Transport) {
    let run =
        "run -it --rm shell --image=corral.dev/host --restart=Never --quiet --command -- sh -c";
    // The shell asks once attached: what a pod says before that may be missed by whoever attaches.
    // kubectl sets a size one larger first, so that programs draw anew, and the terminal's own size
    // right after: the shell waits for the second, and says what it has if that does not come.
    let asks = "'while ! read -r word; do :; done; tty; \
                 for _ in $(seq 100); do [ \"$(stty size)\" = \"33 77\" ] && break; sleep 0.1; done; \
                 stty size; echo [$word]; exit 4'";
    let ours = cluster.client().over(transport).command(&[]);
    let arguments: Vec<_> = ours.get_args().map(|arg| arg.to_string_lossy()).collect();
    // The terminal that `script` makes has no size until it is given one.
    let command = format!(
        "stty rows 33 cols 77; {} {} {run} {asks}",
        ours.get_program().display(),
        arguments.join(" ")
    );
    let variables = ours.get_envs();
    let mut typed = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .envs(variables.filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is installed");
    let mut stdin = typed.stdin.take().expect("stdin is a pipe");
    stdin.write_all(b"hello\n").expect("script reads");
    let output = typed.wait_with_output().expect("script ends");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        out.contains("/dev/pts/") && out.contains("33 77") && out.contains("[hello]"),
        "{transport:?}: {out}"
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
    for transport in TRANSPORTS {
        a_container_is_attached_to(&cluster, transport);
    }
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

fn a_container_is_attached_to(cluster: &Cluster, transport: Transport) {
    let name = format!("attached-{transport:?}").to_lowercase();
    cluster.apply(&pod(
        &name,
        "Never",
        "echo first; read line; echo got $line",
    ));
    let ready = "--for=condition=ready";
    cluster.kubectl(&["wait", ready, "pod", &name, "--timeout=60s"]);
    let mut follow = cluster
        .kubectl_command(&["logs", "-f", &name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "first");
    let kubectl = cluster.client().over(transport);
    let attached = kubectl.try_run_with_input(&["attach", "-i", &name], "hello\n");
    assert!(attached.out.contains("got hello"), "{attached:?}");
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "got hello");
    assert!(lines.next().is_none(), "the log ends with the container");
    follow.wait().expect("kubectl ends");
    assert_eq!(cluster.kubectl(&["logs", &name, "--tail=1"]), "got hello\n");
}

#[test]
fn a_port_is_forwarded() {
    let cluster = Cluster::up();
    let server = "import http.server; http.server.ThreadingHTTPServer((\"127.0.0.1\", 8123), http.server.SimpleHTTPRequestHandler).serve_forever()";
    // A refused connection ends kubectl's forwarding, so the program must listen first.
    let probe = "import socket; socket.create_connection((\"127.0.0.1\", 8123))";
    let manifest = pod("p", "Always", "x").replace(
        "command: [sh, -c, 'x']",
        &format!("workingDir: /etc, command: [python3, -c, '{server}'], readinessProbe: {{exec: {{command: [python3, -c, '{probe}']}}, periodSeconds: 1}}"),
    );
    cluster.apply(&manifest);
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    for transport in TRANSPORTS {
        a_port_is_forwarded_over(&cluster, transport);
    }
}

fn a_port_is_forwarded_over(cluster: &Cluster, transport: Transport) {
    let mut forward = cluster
        .client()
        .over(transport)
        .command(&["port-forward", "pod/p", ":8123"])
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
    let connect = || TcpStream::connect(("127.0.0.1", port)).expect("kubectl listens");
    // Several connections are open at once, and the first that was opened is the last that asks.
    let mut connections: Vec<TcpStream> = (0..4).map(|_| connect()).collect();
    while let Some(mut stream) = connections.pop() {
        stream
            .write_all(b"GET /debian_version HTTP/1.0\r\n\r\n")
            .expect("kubectl takes it");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.0 200"),
            "{transport:?}: {answer}"
        );
    }
    forward.kill().expect("kubectl is ours");
    forward.wait().expect("kubectl is ours");
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
