//! Services on two nodes: endpoints that are replaced, traffic that stays local, clients that keep their endpoint.

use corral_e2e::Stream;
use corral_e2e::machines::{Links, Machines, SERVER};

/// Answers over HTTP and UDP with its name and the client's address.
fn pod(name: &str, node: &str, labels: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{labels}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: corral.dev/host
    command:
    - python3
    - -c
    - |
      import http.server, socket, threading
      class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
          self.send_response(200)
          self.end_headers()
          self.wfile.write(f'{name} {{self.client_address[0]}}'.encode())
      def udp():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(('', 9000))
        while True:
          s.sendto(b'{name}', s.recvfrom(2000)[1])
      threading.Thread(target=udp, daemon=True).start()
      http.server.HTTPServer(('', 8080), Handler).serve_forever()
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"
    )
}

const SERVICES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: udp}
spec: {selector: {app: udp}, ports: [{port: 9000, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec: {selector: {on: a}, internalTrafficPolicy: Local, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {selector: {on: a}, type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: any}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: same}
spec: {selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec: {selector: {app: nobody}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn services_follow_their_endpoints_their_policies_and_their_clients() {
    let mut machines = Machines::new(&[SERVER, "node-a", "node-b"], Links::Switch);
    machines.start_server("server", &[]);
    machines.start_agent("node-a");
    machines.start_agent("node-b");
    machines.await_nodes(2);
    let pods = [
        pod("web-a", "node-a", "app: web, on: a"),
        pod("web-b", "node-b", "app: web"),
        pod("web-c", "node-b", "app: web"),
        pod("udp-1", "node-a", "app: udp"),
    ];
    machines.apply(&format!("{SERVICES}{}", pods.concat()));
    machines.kubectl(&[
        "wait",
        "--for=condition=ready",
        "pod",
        "--all",
        "--timeout=60s",
    ]);

    local_endpoints(&machines);
    clients_keep_their_endpoint(&machines);
    a_udp_client_reaches_the_next_endpoint(&machines);
}

/// Traffic that is to stay local reaches the endpoint of its own node, and is dropped where there is none.
fn local_endpoints(machines: &Machines) {
    machines.wait("the rules of node-a", || {
        fetch(machines, "web-a", "inside").starts_with("web-a ")
    });
    machines.wait("the rules of node-b", || {
        fetch(machines, "web-b", "any").starts_with("web-")
    });
    // Before a node knows of the endpoint elsewhere it refuses.
    machines.wait("what is for node-a's clients to be dropped", || {
        fetch(machines, "web-b", "inside") == "timed out"
    });
    assert_eq!(fetch(machines, "web-b", "none"), "refused");

    let port = machines.kubectl(&[
        "get",
        "service",
        "outside",
        "-o",
        "jsonpath={.spec.ports[0].nodePort}",
    ]);
    let curl = |node: &str| {
        let place = format!("http://{}:{port}", machines.address(node));
        machines.try_shell(
            SERVER,
            &format!("curl --silent --show-error --max-time 2 {place}"),
        )
    };
    machines.wait("the node port", || curl("node-a").ok);
    let client = machines.address(SERVER);
    assert_eq!(
        curl("node-a").out,
        format!("web-a {client}"),
        "the client's address is kept"
    );
    // curl's code for a time-out: nothing was answered, not even a refusal.
    machines.wait("the other node to drop it", || {
        curl("node-b").code == Some(28)
    });
}

/// With session affinity a client stays with one of three; without, it does not.
fn clients_keep_their_endpoint(machines: &Machines) {
    let answers = |service: &str| {
        let code = format!(
            "
import urllib.request
for _ in range(30): print(urllib.request.urlopen('http://{service}', timeout=10).read().decode().split()[0])
"
        );
        let said = machines.python("web-a", &code);
        let all: std::collections::BTreeSet<String> = said.lines().map(str::to_owned).collect();
        all
    };
    machines.wait("all endpoints", || answers("any").len() == 3);
    assert_eq!(answers("same").len(), 1);
}

/// A client that goes on sending from one port is not held by what the kernel remembers of an endpoint that is gone.
fn a_udp_client_reaches_the_next_endpoint(machines: &Machines) {
    // It never pauses for as long as the kernel remembers a flow.
    let code = "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('udp', 9000))
s.settimeout(0.2)
last = None
end = time.monotonic() + 60
while time.monotonic() < end:
  try:
    s.send(b'x')
    answer = s.recv(2000).decode()
  except OSError:
    continue
  if answer != last:
    last = answer
    print(answer, flush=True)
";
    let mut client =
        Stream::of(&mut machines.kubectl_command(&["exec", "web-b", "--", "python3", "-c", code]));
    client.line_where(|line| line == "udp-1");
    machines.apply(&pod("udp-2", "node-b", "app: udp"));
    machines.kubectl(&[
        "wait",
        "--for=condition=ready",
        "pod/udp-2",
        "--timeout=60s",
    ]);
    machines.kubectl(&["delete", "pod/udp-1"]);
    client.line_where(|line| line == "udp-2");
}

/// What a pod gets from a Service.
fn fetch(machines: &Machines, pod: &str, service: &str) -> String {
    let code = format!(
        "
import urllib.error, urllib.request
try: print(urllib.request.urlopen('http://{service}', timeout=2).read().decode())
except TimeoutError: print('timed out')
except urllib.error.URLError as error:
  print({{TimeoutError: 'timed out', ConnectionRefusedError: 'refused'}}.get(type(error.reason), error))
"
    );
    machines.python(pod, &code).trim().to_owned()
}
