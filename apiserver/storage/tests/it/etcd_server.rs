//! An etcd of our own, on free loopback ports and in a temporary directory; gone when dropped, panics included.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpStream;

const START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct EtcdServer {
    child: Child,
    port: u16,
    peer_port: u16,
    directory: TempDir,
    tls: bool,
}

/// Certificates of a cluster that wants TLS: what a client needs.
pub struct ClientTls {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

/// Writes the server's certificates into its directory.
fn make_certificates(directory: &Path) -> ClientTls {
    let authority = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&authority).expect("a CA").pem();
    let issuer = Issuer::from_ca_cert_pem(&ca, authority).expect("an issuer");
    let sign = |names: &[&str]| {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        let certificate = params.signed_by(&key, &issuer).expect("signed").pem();
        (certificate, key.serialize_pem())
    };
    let (certificate, key) = sign(&["127.0.0.1"]);
    for (name, text) in [
        ("ca.crt", &ca),
        ("server.crt", &certificate),
        ("server.key", &key),
    ] {
        std::fs::write(directory.join(name), text).expect("written");
    }
    let (certificate, key) = sign(&["client"]);
    ClientTls {
        ca,
        certificate,
        key,
    }
}

impl EtcdServer {
    /// Starts a server and waits until it accepts connections.
    pub async fn start() -> Self {
        Self::start_in(TempDir::new().expect("temporary directory"), false).await
    }

    /// Starts a server that demands certificates of its clients.
    pub async fn start_with_tls() -> (Self, ClientTls) {
        let directory = TempDir::new().expect("temporary directory");
        let tls = make_certificates(directory.path());
        (Self::start_in(directory, true).await, tls)
    }

    async fn start_in(directory: TempDir, tls: bool) -> Self {
        // Another process may take a port between the look and etcd's bind: then etcd ends, and others are tried.
        for _ in 0..10 {
            let (port, peer_port) = free_ports();
            let mut child = spawn(&directory, port, peer_port, tls);
            if accepts(&mut child, port).await {
                return Self {
                    child,
                    port,
                    peer_port,
                    directory,
                    tls,
                };
            }
        }
        panic!("etcd does not start; is Debian's etcd-server installed?");
    }

    pub fn endpoint(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Kills the server and starts it again on the same data and port.
    pub async fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.directory, self.port, self.peer_port, self.tls);
        assert!(accepts(&mut self.child, self.port).await, "etcd comes back");
    }

    fn stop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_ports() -> (u16, u16) {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    let (one, other) = (listen(), listen());
    (port(&one), port(&other))
}

fn spawn(directory: &TempDir, port: u16, peer_port: u16, tls: bool) -> Child {
    let scheme = if tls { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new("etcd");
    if tls {
        let file = |name: &str| directory.path().join(name);
        command.arg("--client-cert-auth");
        command.arg("--trusted-ca-file").arg(file("ca.crt"));
        command.arg("--cert-file").arg(file("server.crt"));
        command.arg("--key-file").arg(file("server.key"));
    }
    command
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--logger", "zap", "--log-level", "error"])
        .arg("--unsafe-no-fsync")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd can be executed")
}

async fn accepts(child: &mut Child, port: u16) -> bool {
    let until = Instant::now() + START_TIMEOUT;
    while Instant::now() < until {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return true;
        }
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        // There is no event for another process beginning to listen.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}
