//! Images made, imported, pulled from a registry, and run.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corral_nodelet::images::reference::Reference;
use corral_nodelet::images::{Images, PullPolicy, archive, pack};
use serde_json::json;

use crate::scenario::Scenario;

/// A static program: it says what it sees.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <dirent.h>
int main(int argc, char **argv) {
    printf("args %d %s\n", argc, argc > 1 ? argv[1] : "-");
    DIR *d = opendir("/"); struct dirent *e;
    while ((e = readdir(d))) printf("root %s\n", e->d_name);
    FILE *f = fopen("/written", "w");
    printf("write %s\n", f ? "ok" : "no");
    return 0;
}
"#;

fn program(directory: &Path, text: &str) -> std::path::PathBuf {
    let (source, program) = (directory.join("p.c"), directory.join("prog"));
    std::fs::write(&source, text).expect("written");
    let status = Command::new("gcc")
        .args(["-static", "-O1", "-o"])
        .arg(&program)
        .arg(&source)
        .status();
    assert!(status.expect("a compiler").success());
    program
}

pub fn packed(directory: &Path, name: &str) -> std::path::PathBuf {
    packed_from(directory, PROGRAM, name)
}

pub fn packed_from(directory: &Path, text: &str, name: &str) -> std::path::PathBuf {
    let out = directory.join("image.tar");
    let file = std::fs::File::create(&out).expect("a file");
    pack::pack(
        &program(directory, text),
        &Reference::parse(name).expect("a name"),
        file,
    )
    .expect("packed");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_program_is_imported_and_runs_in_its_own_root() {
    let scenario = Scenario::new("image").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let archive_path = packed(directory.path(), "prog:1");
    let store = scenario.shared().0.images.store().clone();
    let images = archive::import(&store, &archive_path, None).expect("imported");
    assert_eq!(images[0].name, "docker.io/library/prog:1");
    scenario.create(
        json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "prog:1", "args": ["hi"]}]}}),
    );
    let pod = scenario
        .wait_for("p", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    let id = pod["status"]["containerStatuses"][0]["imageID"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(id.starts_with("docker.io/library/prog@sha256:"), "{id}");
    let log = scenario.log("p", "c", 0);
    assert!(
        log.contains("args 2 hi") && log.contains("root prog") && log.contains("write ok"),
        "{log}"
    );
    assert!(
        !log.contains("root home"),
        "the machine's own root must not be seen: {log}"
    );
    assert!(
        store
            .remove(&Reference::parse("prog:1").expect("a name"))
            .expect("removed")
    );
    assert_eq!(store.collect(&Default::default()).expect("collected"), 1);
    scenario.delete("p", 0);
    scenario.wait_gone("p").await;
    scenario.finish().await;
}

/// Who may pull from a guarded registry, and the bcrypt hash of the password `word`.
const USER: &str = "user";
const PASSWORD_HASH: &str = "$2b$12$3ECjySE/qzvuCVeZJ2ZgE.sQQTrohnEp/We/Z63AuFqoT99HpbkLm";

struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(directory: &Path) -> Self {
        Self::configured(directory, "")
    }

    /// One that answers only `user` with `password`.
    fn guarded(directory: &Path) -> Self {
        let accounts = directory.join("htpasswd");
        std::fs::write(&accounts, format!("{USER}:{PASSWORD_HASH}\n")).expect("written");
        let more = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            accounts.display()
        );
        Self::configured(directory, &more)
    }

    fn configured(directory: &Path, more: &str) -> Self {
        // The registry cannot tell which port it chose; one that was free a moment ago is as good as it gets.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port")
            .port();
        let config = directory.join("registry.yml");
        let root = directory.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{more}",
            root.display()
        );
        std::fs::write(&config, text).expect("written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_pulled_from_a_registry() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let registry = Registry::start(directory.path());
    let archive_path = packed(directory.path(), "prog:1");
    let name = format!("localhost:{}/team/prog:1", registry.port);
    let pushed = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .arg(format!("oci-archive:{}", archive_path.display()))
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo is installed");
    assert!(
        pushed.status.success(),
        "{}",
        String::from_utf8_lossy(&pushed.stderr)
    );
    let images = Images::open(&directory.path().join("images"), vec![]).expect("a store");
    let never = images
        .ensure(&name, PullPolicy::Never, &[])
        .await
        .expect_err("not here yet");
    assert_eq!(never.reason(), "ErrImageNeverPull");
    let image = images
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .expect("pulled");
    assert_eq!(image.config.entrypoint, ["/prog"]);
    let layer = images
        .store()
        .layers_dir()
        .join(&image.layers.as_ref().expect("layers")[0]);
    assert!(layer.join("prog").exists());
    let again = images
        .ensure(&name, PullPolicy::Always, &[])
        .await
        .expect("pulled again");
    assert_eq!(again, image);
    let absent = format!("localhost:{}/team/absent:1", registry.port);
    assert_eq!(
        images
            .ensure(&absent, PullPolicy::Always, &[])
            .await
            .expect_err("absent")
            .reason(),
        "ErrImagePull"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_open_a_guarded_registry() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let registry = Registry::guarded(directory.path());
    let archive_path = packed(directory.path(), "prog:1");
    let name = format!("localhost:{}/team/prog:1", registry.port);
    let pushed = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .args(["--dest-creds", "user:word"])
        .arg(format!("oci-archive:{}", archive_path.display()))
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo is installed");
    assert!(
        pushed.status.success(),
        "{}",
        String::from_utf8_lossy(&pushed.stderr)
    );
    let scenario = Scenario::new("secrets").await;
    let secret = |password: &str| {
        let encode =
            |text: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let auth = encode(format!("{USER}:{password}"));
        let auths = json!({"auths": {format!("localhost:{}", registry.port): {"auth": auth}}});
        json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encode(auths.to_string())}})
    };
    for (secret_name, password) in [("right", "word"), ("wrong", "other")] {
        let mut object = secret(password);
        object["metadata"] = json!({"name": secret_name});
        scenario.put("secrets", secret_name, object);
    }
    let create = |pod_name: &str, secrets: serde_json::Value| {
        scenario.create(
            json!({"metadata": {"name": pod_name, "namespace": "default"}, "spec": {
            "restartPolicy": "Never", "imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": name, "imagePullPolicy": "Always"}]}}),
        );
    };
    create("none", json!([]));
    create("wrong", json!([{"name": "wrong"}]));
    for pod_name in ["none", "wrong"] {
        let pod = scenario
            .wait_for(pod_name, |pod| {
                let reason = &crate::state(pod, "waiting")["reason"];
                reason == "ErrImagePull" || reason == "ImagePullBackOff"
            })
            .await;
        let message = crate::state(&pod, "waiting")["message"].to_string();
        assert!(!message.contains("other"), "no password in {message}");
    }
    // One that is missing does not matter beside one that fits.
    create("right", json!([{"name": "absent"}, {"name": "right"}]));
    scenario
        .wait_for("right", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    for pod_name in ["none", "wrong", "right"] {
        scenario.delete(pod_name, 0);
        scenario.wait_gone(pod_name).await;
    }
    scenario.finish().await;
}

/// Says who runs it.
const WHO: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    gid_t groups[32];
    int n = getgroups(32, groups);
    printf("uid %d gid %d home %s groups", getuid(), getgid(), getenv("HOME"));
    for (int i = 0; i < n; i++) printf(" %d", groups[i]);
    printf(".\n");
    return 0;
}
"#;

/// What `docker save` writes of an image with one layer and a user who has a name.
fn docker_archive(directory: &Path, name: &str, user: &str) -> std::path::PathBuf {
    let tar_of = |files: &[(&str, u32, Vec<u8>)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(*mode);
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, path, bytes.as_slice())
                .expect("appended");
        }
        tar.into_inner().expect("a tar")
    };
    let binary = std::fs::read(program(directory, WHO)).expect("a program");
    let accounts = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n".to_vec();
    let groups = b"root:x:0:\nstaff:x:50:\nextra:x:60:web\n".to_vec();
    let layer = tar_of(&[
        ("prog", 0o755, binary),
        ("etc/passwd", 0o644, accounts),
        ("etc/group", 0o644, groups),
    ]);
    let digest = corral_nodelet::images::store::digest(&layer);
    let config = json!({
        "architecture": pack::architecture(), "os": "linux",
        "config": {"User": user, "Entrypoint": ["/prog"]},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["l/layer.tar"]}]);
    let path = directory.join("saved.tar");
    let saved = tar_of(&[
        ("manifest.json", 0o644, manifest.to_string().into_bytes()),
        ("config.json", 0o644, config.to_string().into_bytes()),
        ("l/layer.tar", 0o644, layer),
    ]);
    std::fs::write(&path, saved).expect("written");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_image_runs_as_the_user_that_it_names() {
    let scenario = Scenario::new("users").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = scenario.shared().0.images.store().clone();
    for (name, user) in [
        ("web:1", "web"),
        ("staff:1", "web:staff"),
        ("lost:1", "nobody"),
        ("num:1", "33"),
    ] {
        let saved = docker_archive(directory.path(), name, user);
        let images = archive::import(&store, &saved, None).expect("imported");
        assert_eq!(images[0].name, format!("docker.io/library/{name}"));
    }
    let create = |pod_name: &str, image: &str, context: serde_json::Value| {
        scenario.create(
            json!({"metadata": {"name": pod_name, "namespace": "default"}, "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "c", "image": image, "securityContext": context}]}}),
        );
    };
    for (pod_name, image, context, said) in [
        (
            "named",
            "web:1",
            json!({}),
            "uid 33 gid 34 home /srv groups 34 60.",
        ),
        (
            "group",
            "staff:1",
            json!({}),
            "uid 33 gid 50 home /srv groups 50 60.",
        ),
        (
            "other",
            "staff:1",
            json!({"runAsUser": 1234, "runAsGroup": 7, "runAsNonRoot": true}),
            "uid 1234 gid 7 home / groups 7.",
        ),
        (
            "number",
            "num:1",
            json!({"runAsNonRoot": true}),
            "uid 33 gid 34 home /srv groups 34 60.",
        ),
    ] {
        create(pod_name, image, context);
        scenario
            .wait_for(pod_name, |pod| pod["status"]["phase"] == "Succeeded")
            .await;
        let log = scenario.log(pod_name, "c", 0);
        assert!(log.contains(said), "{pod_name}: {log}");
        scenario.delete(pod_name, 0);
        scenario.wait_gone(pod_name).await;
    }
    for (pod_name, image, context, message) in [
        ("unknown", "lost:1", json!({}), "unable to find user nobody"),
        (
            "unsure",
            "web:1",
            json!({"runAsNonRoot": true}),
            "image has non-numeric user (web)",
        ),
        (
            "root",
            "num:1",
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            "runAsNonRoot",
        ),
    ] {
        create(pod_name, image, context);
        let pod = scenario
            .wait_for(pod_name, |pod| {
                crate::state(pod, "waiting")["reason"] == "CreateContainerConfigError"
            })
            .await;
        let shown = crate::state(&pod, "waiting")["message"].to_string();
        assert!(shown.contains(message), "{shown}");
        scenario.delete(pod_name, 0);
        scenario.wait_gone(pod_name).await;
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_can_be_a_volume() {
    let scenario = Scenario::new("volume").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = scenario.shared().0.images.store().clone();
    let archive_path = packed(directory.path(), "prog:1");
    archive::import(&store, &archive_path, None).expect("imported");
    let volumes = |reference: &str| json!([{"name": "v", "image": {"reference": reference, "pullPolicy": "Never"}}]);
    let mut container = crate::shell(
        "ls /vol; (touch /vol/x) 2>/dev/null || echo read-only; cmp /vol/prog /file && echo same; /file hello",
    );
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/vol"},
        {"name": "v", "mountPath": "/file", "subPath": "prog"}]);
    let spec = |reference: &str, container: &serde_json::Value| json!({"restartPolicy": "Never", "containers": [container], "volumes": volumes(reference)});
    scenario.create(crate::pod("there", spec("prog:1", &container)));
    scenario
        .wait_for("there", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    let log = scenario.log("there", "c", 0);
    for line in ["F prog\n", "F read-only\n", "F same\n", "F args 2 hello\n"] {
        assert!(log.contains(line), "{line:?} is missing in {log}");
    }
    scenario.create(crate::pod("missing", spec("none:1", &container)));
    scenario
        .wait_for("missing", |pod| {
            crate::state(pod, "waiting")["reason"] == "ErrImageNeverPull"
        })
        .await;
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/vol", "subPath": "absent"}]);
    scenario.create(crate::pod("absent", spec("prog:1", &container)));
    scenario
        .wait_for("absent", |pod| {
            crate::state(pod, "waiting")["reason"] == "CreateContainerConfigError"
        })
        .await;
    for name in ["there", "missing", "absent"] {
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    let layers = std::fs::read_dir(store.layers_dir()).expect("layers");
    assert_eq!(layers.count(), 1, "volumes are no copies");
    scenario.finish().await;
}

#[test]
fn layers_with_whiteouts_and_traps_unpack_safely() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, link: Option<&str>, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        if let Some(link) = link {
            header.set_link_name(link).expect("a link");
        }
        // Written by hand: the library refuses names that a hostile archive would have.
        header.as_gnu_mut().expect("GNU").name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, bytes).expect("appended");
    };
    add("dir/.wh.gone", tar::EntryType::Regular, None, b"");
    add("whole/.wh..wh..opq", tar::EntryType::Regular, None, b"");
    add("trap", tar::EntryType::Symlink, Some("/tmp"), b"");
    add("trap/inside", tar::EntryType::Regular, None, b"safe");
    let bytes = archive.into_inner().expect("bytes");
    let target = directory.path().join("layer");
    corral_nodelet::images::unpack::unpack(bytes.as_slice(), &target).expect("unpacked");
    assert!(
        target
            .join("trap")
            .symlink_metadata()
            .expect("there")
            .is_dir(),
        "the link was replaced, not followed"
    );
    assert_eq!(
        std::fs::read(target.join("trap/inside")).expect("there"),
        b"safe"
    );
    let gone = std::fs::symlink_metadata(target.join("dir/gone")).expect("there");
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &gone.file_type()
    ));

    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.as_gnu_mut().expect("GNU").name[..9].copy_from_slice(b"../escape");
    header.set_cksum();
    archive.append(&header, std::io::empty()).expect("appended");
    let mut bytes = archive.into_inner().expect("bytes");
    bytes.flush().expect("a vector");
    let refused =
        corral_nodelet::images::unpack::unpack(bytes.as_slice(), &directory.path().join("other"));
    assert!(refused.is_err() && !directory.path().join("escape").exists());
}
