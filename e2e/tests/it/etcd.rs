//! A cluster whose objects are in an etcd that wants certificates.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use corral_e2e::Cluster;
use corral_e2e::machines::succeed;
use corral_storage::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use corral_storage::{ListOptions, Page, Storage};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
                   containers: [{name: c, image: corral.dev/host, command: [sleep, '1000']}]\n";

/// An etcd of the test's own.
pub struct Etcd {
    directory: tempfile::TempDir,
    process: Child,
    pub url: String,
}

impl Etcd {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("corral-etcd-")
            .tempdir()
            .expect("a temporary directory");
        certificates(&directory.path().display().to_string());
        let (clients, peers) = free_ports();
        let (url, peers) = (
            format!("https://127.0.0.1:{clients}"),
            format!("http://127.0.0.1:{peers}"),
        );
        let file = |name: &str| directory.path().join(name);
        let process = Command::new("etcd")
            .arg("--client-cert-auth")
            .arg("--trusted-ca-file")
            .arg(file("ca.crt"))
            .arg("--cert-file")
            .arg(file("server.crt"))
            .arg("--key-file")
            .arg(file("server.key"))
            .arg("--data-dir")
            .arg(file("data"))
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(file("log")).expect("the directory is ours"))
            .spawn()
            .expect("etcd is installed; run scripts/setup tests");
        Self {
            directory,
            process,
            url,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What is in it below a prefix, as it lies there.
    pub async fn list(&self, prefix: &str) -> Page {
        let read = |name: &str| std::fs::read(self.file(name)).expect("a file");
        let mut config = EtcdConfig::new(vec![self.url.clone()]);
        config.tls = Some(EtcdTls {
            ca_certificate: Some(read("ca.crt")),
            client_identity: Some((read("client.crt"), read("client.key"))),
            server_name: None,
        });
        let store = EtcdStore::connect(config).await.expect("connected");
        let page = store.list(prefix, ListOptions::default()).await;
        let page = page.expect("listed");
        assert!(!page.more);
        page
    }

    /// The flags of a server that keeps its objects here.
    pub fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.file(name).display().to_string();
        let flags = [
            "--etcd-servers",
            &self.url,
            "--etcd-cafile",
            &file("ca.crt"),
            "--etcd-certfile",
            &file("client.crt"),
            "--etcd-keyfile",
            &file("client.key"),
        ];
        flags.map(str::to_owned).into()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!(
                "etcd:\n{}",
                std::fs::read_to_string(self.file("log")).unwrap_or_default()
            );
        }
    }
}

/// An authority, a certificate of etcd's and one of its clients.
fn certificates(directory: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    let signed = |name: &str, usage: &str| {
        format!(
            "openssl req -x509 {key} -CA ca.crt -CAkey ca.key -keyout {name}.key -out {name}.crt -subj /CN={name} \
             -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage={usage} -addext subjectAltName=IP:127.0.0.1"
        )
    };
    let script = [
        "set -e".to_owned(),
        format!(
            "openssl req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=etcd-ca -addext keyUsage=critical,keyCertSign"
        ),
        signed("server", "serverAuth,clientAuth"),
        signed("client", "clientAuth"),
    ];
    succeed(
        Command::new("sh")
            .args(["-c", &script.join("\n")])
            .current_dir(directory),
    );
}

/// Two ports that are free now; both are held until both are known, so that they differ.
pub fn free_ports() -> (u16, u16) {
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    let [one, two] = ports.map(|port| port.local_addr().expect("it listens").port());
    (one, two)
}

#[test]
fn a_cluster_on_etcd_starts_again_and_shares_it_with_another_server() {
    let etcd = Etcd::start();
    let flags = etcd.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::up_with(&flags);
    cluster.apply(POD);
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let path = "{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let before = cluster.jsonpath(&["pod", "p"], path);
    cluster.kill();
    // Were the objects kept here, they would be gone now.
    std::fs::remove_dir_all(cluster.data_dir().join("store")).expect("the directory is made");
    cluster.start();
    cluster.wait("the node to take up its container", || {
        cluster.try_kubectl(&["exec", "p", "--", "true"]).ok
    });
    assert_eq!(cluster.jsonpath(&["pod", "p"], path), before);

    let text =
        std::fs::read(cluster.data_dir().join("network.json")).expect("corral up noted its ranges");
    let ranges: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let services = ranges["services"].as_str().expect("a range");
    // Only one of them controls and schedules: nobody elects a leader.
    let more = [
        "--no-controllers",
        "--no-scheduler",
        "--service-range",
        services,
    ];
    let other = Cluster::server_with(&[&flags[..], &more].concat(), Some(&cluster));
    assert_eq!(other.jsonpath(&["pod", "p"], path), before);
    for (writer, watcher, name) in [(&cluster, &other, "first"), (&other, &cluster, "second")] {
        let mut watch = watcher
            .client()
            .stream(&["get", "configmaps", "--watch", "-o", "name"]);
        // What is there already ends the list; what comes now comes by the watch.
        watch.line_where(|line| line.ends_with("/kube-root-ca.crt"));
        writer.kubectl(&["create", "configmap", name]);
        watch.line_where(|line| line.ends_with(&format!("/{name}")));
    }
    // What one of them is told, the other's controllers, scheduler and node do.
    other.apply(&POD.replace("name: p", "name: q"));
    other.kubectl(&["wait", "--for=condition=ready", "pod/q", "--timeout=60s"]);
}
