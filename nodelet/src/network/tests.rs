//! The network for real, as root, each test in network namespaces of its own that nothing outlives.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use super::bridge::{self, Bridge};
use super::links::Links;
use super::names::Names;
use super::nft::Table;
use super::range::Range;
use super::services::{Endpoint, PodPort, Protocol, Rules, ServicePort};

/// How long a connection may take that should work, or should be refused at once.
const PATIENCE: Duration = Duration::from_secs(3);

/// A network namespace that lives as long as its file is open.
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
            File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
        };
        Self(
            std::thread::spawn(make)
                .join()
                .expect("the thread ends well"),
        )
    }

    /// The file's path for others of this process.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.0.as_raw_fd()
        ))
    }

    /// Runs something inside on a thread with a runtime.
    fn run<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        let namespace = self.0.try_clone().expect("a descriptor");
        let inside = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root enters namespaces");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(work())
        };
        std::thread::spawn(inside)
            .join()
            .expect("the work does not panic")
    }

    /// Answers connections with a word until the test ends.
    fn serve(&self, port: u16, word: &'static str) {
        let listener =
            self.run(move || async move { TcpListener::bind(("0.0.0.0", port)).expect("binds") });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut { stream }, word.as_bytes());
            }
        });
    }

    /// What is answered at an address, or the error.
    fn fetch(&self, address: Ipv4Addr, port: u16) -> std::io::Result<String> {
        self.run(move || async move {
            let mut stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stream, &mut text)?;
            Ok(text)
        })
    }

    fn shell(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || async move {
            let output = Command::new("sh")
                .args(["-c", &script])
                .output()
                .expect("sh runs");
            assert!(
                output.status.success(),
                "{script}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }
}

fn range(text: &str) -> Range {
    text.parse().expect("a range")
}

fn rules(id: &str, pods: Range, services: Vec<ServicePort>) -> Rules {
    Rules {
        services,
        host_ports: Vec::new(),
        pod_range: pods,
        pod_ranges: [pods].into(),
        service_range: range("10.96.0.0/16"),
        bridge: Names::new(id).bridge(),
        bridge_filters: std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables")
            .exists(),
    }
}

fn service(name: &str, ip: u8, endpoints: &[Ipv4Addr]) -> ServicePort {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| Endpoint {
            address: *address,
            port: 8080,
        })
        .collect();
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, ip)],
        external_ips: vec![],
        node_port: None,
        affinity: None,
        internal: endpoints.clone(),
        external: endpoints.clone(),
        internal_hidden: false,
        external_hidden: false,
        external_local: false,
        all: endpoints,
    }
}

fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, last)
}

/// Everything in one test: making namespaces is what takes the time.
#[test]
fn pods_reach_services_and_nothing_is_left_behind() {
    let (id, pods) = ("t1", range("10.77.1.0/24"));
    let node = Namespace::new();
    node.shell("ip link set lo up; ip link add up0 type bridge; ip addr add 192.0.2.7/24 dev up0; ip link set up0 up");
    let before = node.shell("ip -o link; ip route; ip -o addr; nft list tables");
    let (one, two) = (Namespace::new(), Namespace::new());
    let (ip_one, ip_two) = (Ipv4Addr::new(10, 77, 1, 2), Ipv4Addr::new(10, 77, 1, 3));
    let (path_one, path_two) = (one.path(), two.path());
    let connect = move || async move {
        let links = Links::open().expect("netlink");
        let names = Names::new(id);
        // Twice: an agent that starts again takes up what is there.
        for _ in 0..2 {
            let made = Bridge::ensure(
                links.clone(),
                names.clone(),
                pods,
                range("10.96.0.0/16"),
                bridge::MTU,
            )
            .await;
            let bridge = made.expect("a bridge");
            bridge
                .attach("one", &path_one, ip_one)
                .await
                .expect("attaches");
            bridge
                .attach("two", &path_two, ip_two)
                .await
                .expect("attaches");
        }
    };
    node.run(connect);
    one.serve(8080, "one");
    two.serve(8080, "two");
    assert_eq!(
        one.fetch(ip_two, 8080).expect("pods reach each other"),
        "two"
    );

    let mut sticky = service("sticky", 12, &[ip_one, ip_two]);
    sticky.affinity = Some(60);
    let mut public = service("public", 13, &[ip_two]);
    (public.node_port, public.external_ips) = (Some(30080), vec![Ipv4Addr::new(203, 0, 113, 5)]);
    let mut wanted = rules(
        id,
        pods,
        vec![
            service("both", 10, &[ip_one, ip_two]),
            service("none", 11, &[]),
            sticky,
            public,
            service("self", 14, &[ip_one]),
        ],
    );
    let to = Endpoint {
        address: ip_one,
        port: 8080,
    };
    wanted.host_ports = vec![PodPort {
        host_ip: None,
        host_port: 8088,
        protocol: Protocol::Tcp,
        to,
    }];
    let apply = |rules: Rules| {
        node.run(move || async move {
            let mut table = Table::open(Names::new(id).table()).await.expect("opens");
            table.apply(&rules).await.expect("nft takes the rules");
        });
    };
    apply(wanted.clone());

    let answers: std::collections::BTreeSet<_> = (0..24)
        .map(|_| two.fetch(vip(10), 80).expect("answers"))
        .collect();
    assert_eq!(answers.len(), 2, "both endpoints are used");
    assert!(
        node.fetch(vip(10), 80).is_ok(),
        "the node itself reaches services"
    );
    let started = Instant::now();
    let refused = two.fetch(vip(11), 80).expect_err("nobody serves");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "refused at once"
    );
    assert_eq!(one.fetch(vip(14), 80).expect("a pod reaches itself"), "one");
    let answers: std::collections::BTreeSet<_> = (0..12)
        .map(|_| two.fetch(vip(12), 80).expect("answers"))
        .collect();
    assert_eq!(answers.len(), 1, "a client stays with its endpoint");
    for client in [&node, &one] {
        assert_eq!(
            client
                .fetch(Ipv4Addr::new(192, 0, 2, 7), 30080)
                .expect("the node's port"),
            "two"
        );
        assert_eq!(
            client
                .fetch(Ipv4Addr::new(192, 0, 2, 7), 8088)
                .expect("the host port"),
            "one"
        );
    }
    assert_eq!(
        one.fetch(Ipv4Addr::new(203, 0, 113, 5), 80)
            .expect("the external address"),
        "two"
    );

    // What clients were told survives a change, what is gone goes.
    let kept = node.shell("nft list table ip corral-t1 | grep -c 'expires'");
    wanted.services.retain(|service| service.name != "both");
    apply(wanted.clone());
    assert_eq!(
        node.shell("nft list table ip corral-t1 | grep -c 'expires'"),
        kept
    );
    assert!(two.fetch(vip(10), 80).is_err());
    wanted.services.clear();
    apply(wanted);
    let left = node.shell("nft list table ip corral-t1");
    assert!(
        !left.contains("set a-") && !left.contains("chain s-") && !left.contains("chain e-"),
        "{left}"
    );

    node.run(move || async move {
        for _ in 0..2 {
            super::teardown(id).await.expect("tears down");
        }
    });
    let without_index = |text: String| text.lines().filter(|line| !line.contains("up0")).count();
    let after = node.shell("ip -o link; ip route; ip -o addr; nft list tables");
    assert_eq!(without_index(after), without_index(before));
}

#[test]
fn a_thousand_services_are_set_at_once() {
    let node = Namespace::new();
    let pods = range("10.77.0.0/16");
    let services: Vec<_> = (0..1000_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let mut service = service(
                &format!("s{n}"),
                0,
                &[
                    Ipv4Addr::new(10, 77, high, low),
                    Ipv4Addr::new(10, 77, 9, low),
                ],
            );
            service.cluster_ips = vec![Ipv4Addr::new(10, 96, high, low)];
            service
        })
        .collect();
    let rules = rules("t2", pods, services);
    let elapsed = node.run(move || async move {
        let mut table = Table::open(Names::new("t2").table()).await.expect("opens");
        table.apply(&rules).await.expect("nft takes the rules");
        let started = Instant::now();
        table.apply(&rules).await.expect("nft takes the rules");
        started.elapsed()
    });
    // Far below a second on an idle machine; the bound allows for one that builds something.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    eprintln!("1000 services: {elapsed:?}");
}
