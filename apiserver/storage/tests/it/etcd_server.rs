//! An etcd of our own, on free loopback ports and in a temporary directory; gone when dropped, panics included.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpStream;

const START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct EtcdServer {
    child: Child,
    port: u16,
    peer_port: u16,
    directory: TempDir,
}

impl EtcdServer {
    /// Starts a server and waits until it accepts connections.
    pub async fn start() -> Self {
        let directory = TempDir::new().expect("temporary directory");
        // Another process may take a port between the look and etcd's bind: then etcd ends, and others are tried.
        for _ in 0..10 {
            let (port, peer_port) = free_ports();
            let mut child = spawn(&directory, port, peer_port);
            if accepts(&mut child, port).await {
                return Self {
                    child,
                    port,
                    peer_port,
                    directory,
                };
            }
        }
        panic!("etcd does not start; is Debian's etcd-server installed?");
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills the server and starts it again on the same data and port.
    pub async fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.directory, self.port, self.peer_port);
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

fn spawn(directory: &TempDir, port: u16, peer_port: u16) -> Child {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    Command::new("etcd")
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
