//! `corral envtest`: stand-ins for the binaries that tests of operators start, started as those do.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use corral_e2e::{Process, WAIT_MAX, corral, kubectl_path};

const TOKEN: &str = "a-token-of-the-test";

/// Ports that are free now. They are below those that the kernel gives to whoever asks for any, as the servers and clients
/// of all other tests do meanwhile.
fn ports<const N: usize>() -> [u16; N] {
    const CHOSEN: std::ops::Range<u16> = 12_000..32_000;
    let free = || {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = seed.expect("a clock").subsec_nanos() ^ std::process::id();
        let width = u32::from(CHOSEN.end - CHOSEN.start);
        let start = u16::try_from(seed % width).expect("it is smaller");
        let mut ports = (CHOSEN.start + start..CHOSEN.end).chain(CHOSEN);
        ports
            .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .expect("a free port")
    };
    let held = [(); N].map(|()| free());
    held.map(|listener| listener.local_addr().expect("an address").port())
}

fn etcd(assets: &Path, data: &Path, [clients, peers]: [u16; 2]) -> Process {
    Process::start(
        Command::new(assets.join("etcd"))
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{clients}"))
            .arg(format!(
                "--advertise-client-urls=http://127.0.0.1:{clients}"
            ))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"))
            .arg("--unsafe-no-fsync=true")
            .stderr(Stdio::null()),
    )
}

fn api_server(assets: &Path, directory: &Path, port: u16, etcd: u16) -> Process {
    let tokens = directory.join("tokens");
    std::fs::write(&tokens, format!("{TOKEN},admin,1,system:masters\n")).expect("a file");
    Process::start(
        Command::new(assets.join("kube-apiserver"))
            .arg(format!("--secure-port={port}"))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
            .arg(format!(
                "--cert-dir={}",
                directory.join("certificates").display()
            ))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg(format!(
                "--service-account-issuer=https://127.0.0.1:{port}/"
            ))
            .args([
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
            ])
            .args([
                "--disable-admission-plugins=ServiceAccount",
                "--allow-privileged=true",
            ])
            .stderr(Stdio::null()),
    )
}

fn kubectl(port: u16, args: &[&str]) -> Output {
    Command::new(kubectl_path("1.36"))
        .arg(format!("--server=https://127.0.0.1:{port}"))
        .arg(format!("--token={TOKEN}"))
        .arg("--insecure-skip-tls-verify")
        // Whatever whoever runs the tests has is not meant.
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .args(args)
        .output()
        .expect("kubectl is built; run scripts/clients")
}

#[track_caller]
fn until(what: &str, mut attempt: impl FnMut() -> Output) -> String {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let output = attempt();
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        assert!(Instant::now() < deadline, "{what}: {output:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn stand_ins_for_etcd_and_kube_apiserver_serve_an_api_that_outlives_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let assets = directory.path().join("assets");
    let make = || {
        let mut command = Command::new(corral());
        command.args(["envtest", "--dir"]).arg(&assets);
        command.output().expect("corral is built")
    };
    for _ in 0..2 {
        let made = make();
        assert!(made.status.success(), "{made:?}");
        let told = String::from_utf8_lossy(&made.stdout).into_owned();
        assert_eq!(
            told,
            format!("export KUBEBUILDER_ASSETS='{}'\n", assets.display())
        );
    }
    let [api, clients, peers] = ports();
    let _etcd = etcd(&assets, &directory.path().join("data"), [clients, peers]);
    let server = api_server(&assets, directory.path(), api, clients);
    let ready = || kubectl(api, &["get", "--raw", "/readyz"]);
    until("the API", ready);
    let made = kubectl(api, &["create", "configmap", "kept", "--from-literal=a=b"]);
    assert!(made.status.success(), "{made:?}");
    // No controllers: a Deployment stays as it is.
    let image = ["create", "deployment", "d", "--image=i"];
    assert!(kubectl(api, &image).status.success());
    let token = until("an account", || {
        let account = ["create", "serviceaccount", "robot"];
        kubectl(api, &account);
        kubectl(api, &["create", "token", "robot"])
    });
    assert_eq!(token.split('.').count(), 3);
    let issuer = until("the issuer", || {
        kubectl(api, &["get", "--raw", "/.well-known/openid-configuration"])
    });
    assert!(
        issuer.contains(&format!("https://127.0.0.1:{api}/")),
        "{issuer}"
    );

    drop(server);
    let _server = api_server(&assets, directory.path(), api, clients);
    until("the API", ready);
    let kept = kubectl(
        api,
        &["get", "configmap", "kept", "-o", "jsonpath={.data.a}"],
    );
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "b");
    let pods = kubectl(api, &["get", "pods,replicasets", "-o", "name"]);
    assert_eq!(String::from_utf8_lossy(&pods.stdout), "");

    // What somebody else has put there stays.
    std::fs::remove_file(assets.join("etcd")).expect("a link");
    std::fs::write(assets.join("etcd"), "theirs").expect("a file");
    let refused = make();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"));
}

#[test]
fn a_stand_in_refuses_what_it_does_not_honour() {
    let directory = tempfile::tempdir().expect("a directory");
    let assets = directory.path();
    let made = Command::new(corral())
        .args(["envtest", "--dir"])
        .arg(assets)
        .output();
    assert!(made.expect("corral is built").status.success());
    for (flags, why) in [
        (&["--feature-gates=A=true"][..], "unexpected argument"),
        (&["--allow-privileged=false"], "--allow-privileged=false"),
        (&[], "--etcd-servers must be specified"),
    ] {
        let output = Command::new(assets.join("kube-apiserver"))
            .args(flags)
            .output();
        let output = output.expect("corral is built");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(why),
            "{flags:?}: {told}"
        );
    }
}
