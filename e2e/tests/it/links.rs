//! Nodes that share no link: a router is between the machines, and pods reach each other over VXLAN.

use corral_e2e::machines::{Links, Machines, SERVER};

/// On one node each: a server of HTTP with a large page, and of UDP that sends back what comes.
fn pod(name: &str, node: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  volumes: [{{name: www, emptyDir: {{}}}}]
  containers:
  - name: http
    image: corral.dev/host
    workingDir: /www
    volumeMounts: [{{name: www, mountPath: /www}}]
    command: [sh, -c, 'head -c {PAGE_BYTES} /dev/zero > page && exec python3 -m http.server 8080']
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
  - name: udp
    image: corral.dev/host
    command:
    - python3
    - -c
    - |
      import socket
      s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9000))
      while True: s.sendto(*s.recvfrom(65535))
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: udp, port: 9000, protocol: UDP}}
"
    )
}

const PAGE_BYTES: usize = 1 << 20;
/// Below and above what fits into a packet beside VXLAN; the others come in fragments.
const DATAGRAMS: [usize; 3] = [1300, 1460, 4000];
/// What VXLAN leaves of the links' 1,500.
const MTU: &str = "1450";

#[test]
fn pods_of_nodes_behind_a_router_reach_each_other_with_large_payloads() {
    let mut machines = Machines::new(&[SERVER, "node-a", "node-b"], Links::Router);
    // The agents take the Services' usual addresses for granted, and another cluster may have them on this machine.
    let ranges = [
        "--node-name",
        SERVER,
        "--pod-range",
        "10.244.0.0/16",
        "--service-range",
        "10.96.0.0/16",
    ];
    machines.start_server("up", &ranges);
    machines.start_agent("node-a");
    machines.start_agent("node-b");
    machines.await_nodes(3);
    let nodes = [SERVER, "node-a", "node-b"];
    let manifests: String = nodes.map(|node| pod(&format!("on-{node}"), node)).concat();
    machines.apply(&manifests);
    machines.kubectl(&[
        "wait",
        "--for=condition=ready",
        "pod",
        "--all",
        "--timeout=60s",
    ]);
    for node in nodes {
        machines.wait("VXLAN", || {
            machines.shell(node, "ip -oneline link").contains(": cv-")
        });
    }
    // Between a node of `up` and an agent both ways, and between two agents.
    for (from, to) in [(SERVER, "node-a"), ("node-a", SERVER), ("node-a", "node-b")] {
        reach(&machines, &format!("on-{from}"), &format!("on-{to}"));
    }
}

#[track_caller]
fn reach(machines: &Machines, from: &str, to: &str) {
    let address = machines.kubectl(&["get", "pod", to, "-o", "jsonpath={.status.podIP}"]);
    let service = machines.kubectl(&["get", "service", to, "-o", "jsonpath={.spec.clusterIP}"]);
    let code = format!(
        "
import fcntl, socket, struct, urllib.request
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
SIOCGIFMTU = 0x8921
print('mtu', struct.unpack('16si', fcntl.ioctl(s, SIOCGIFMTU, struct.pack('16si', b'eth0', 0)))[1])
for place in ['{address}:8080', '{service}', '{to}', '{to}.default.svc.cluster.local']:
    print(place, len(urllib.request.urlopen('http://%s/page' % place, timeout=10).read()))
for place in ['{address}', '{service}', '{to}']:
    for size in {DATAGRAMS:?}:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(10)
        s.sendto(b'x' * size, (place, 9000))
        print(place, len(s.recv(65535)))
"
    );
    let said = machines.python(from, &code);
    let mut wanted = format!("mtu {MTU}\n");
    for place in [
        format!("{address}:8080"),
        service.clone(),
        to.to_owned(),
        format!("{to}.default.svc.cluster.local"),
    ] {
        wanted += &format!("{place} {PAGE_BYTES}\n");
    }
    for place in [&address, &service, &to.to_owned()] {
        for size in DATAGRAMS {
            wanted += &format!("{place} {size}\n");
        }
    }
    assert_eq!(said, wanted, "from {from} to {to}");
}
