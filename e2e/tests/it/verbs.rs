//! The verbs of `corral` itself.

use std::process::{Command, Output};

use corral_e2e::{Cluster, corral};

fn run(cluster: &Cluster, args: &[&str]) -> Output {
    Command::new(corral())
        .args(args)
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .expect("the binary is built")
}

#[track_caller]
fn ok(cluster: &Cluster, args: &[&str]) -> String {
    let output = run(cluster, args);
    assert!(
        output.status.success(),
        "corral {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn people_without_kubectl_get_along() {
    let cluster = Cluster::up();
    let manifest = cluster.data_dir().join("pod.yaml");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  restartPolicy: Never\n  containers:\n  \
               - {name: c, image: corral.dev/host, command: [sh, -c, 'echo hello; sleep 2']}\n";
    std::fs::write(&manifest, pod).expect("a writable directory");
    let file = manifest.to_string_lossy();
    assert_eq!(ok(&cluster, &["apply", "-f", &file]), "pod/p created\n");
    assert_eq!(
        ok(&cluster, &["wait", "pod/p", "--for", "condition=Ready"]),
        "pod/p condition met\n"
    );
    assert_eq!(
        ok(&cluster, &["exec", "p", "--", "echo", "inside"]),
        "inside\n"
    );
    assert_eq!(
        run(&cluster, &["exec", "p", "--", "sh", "-c", "exit 5"])
            .status
            .code(),
        Some(5)
    );
    assert_eq!(ok(&cluster, &["logs", "-f", "p"]), "hello\n");
    ok(
        &cluster,
        &[
            "wait",
            "pod/p",
            "--for",
            "jsonpath={.status.phase}=Succeeded",
        ],
    );
    assert!(ok(&cluster, &["get", "pods"]).starts_with("NAME"));
    assert_eq!(ok(&cluster, &["get", "pods", "-o", "name"]), "pod/p\n");
    assert!(ok(&cluster, &["get", "pod", "p", "-o", "yaml"]).contains("kind: Pod"));
    assert!(ok(&cluster, &["describe", "pod/p"]).contains("Started"));
    assert!(ok(&cluster, &["events", "--for", "pod/p"]).contains("Scheduled"));
    assert_eq!(ok(&cluster, &["delete", "pod", "p"]), "pod \"p\" deleted\n");
    let nothing = run(&cluster, &["get", "pods"]);
    assert_eq!(
        String::from_utf8_lossy(&nothing.stderr),
        "No resources found in default namespace.\n"
    );
    let unknown = run(&cluster, &["get", "pots"]);
    assert_eq!(
        String::from_utf8_lossy(&unknown.stderr),
        "corral: the server doesn't have a resource type \"pots\"\n"
    );
}

#[test]
fn a_program_becomes_an_image_and_runs() {
    let cluster = Cluster::up();
    let program = cluster.data_dir().join("hello");
    let source = cluster.data_dir().join("hello.rs");
    std::fs::write(&source, "fn main() { println!(\"from an image\") }")
        .expect("a writable directory");
    let built = Command::new("rustc")
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .expect("rustc is there");
    assert!(built.success());
    let data_dir = cluster.data_dir();
    let place = ["--data-dir", data_dir.to_str().expect("UTF-8")];
    let packed = ok(
        &cluster,
        &[
            &[
                "image",
                "pack",
                program.to_str().expect("UTF-8"),
                "-t",
                "example.com/hello:1",
            ],
            &place[..],
        ]
        .concat(),
    );
    assert_eq!(packed, "example.com/hello:1\n");
    assert!(ok(&cluster, &[&["image", "ls"], &place[..]].concat()).contains("example.com/hello:1"));
    cluster.kubectl(&[
        "run",
        "hello",
        "--image=example.com/hello:1",
        "--restart=Never",
    ]);
    cluster.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "pod/hello",
        "--timeout=60s",
    ]);
    assert_eq!(cluster.kubectl(&["logs", "hello"]), "from an image\n");
}
