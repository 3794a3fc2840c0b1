//! Stopping, crashing and starting the cluster's process does not touch containers.

use corral_e2e::Cluster;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
                   containers: [{name: c, image: corral.dev/host, command: [sleep, '1000']}]\n";

fn container(cluster: &Cluster) -> String {
    cluster.jsonpath(
        &["pod", "p"],
        "{.status.phase} {.status.podIP} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}",
    )
}

#[test]
fn containers_survive_a_crash_and_are_taken_up_again() {
    let mut cluster = Cluster::up();
    cluster.apply(POD);
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    let before = container(&cluster);
    assert!(before.starts_with("Running "), "{before}");
    cluster.kill();
    cluster.start();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    assert_eq!(container(&cluster), before);
    cluster.terminate();
    cluster.start();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    assert_eq!(container(&cluster), before);
}

#[test]
fn the_exit_code_of_a_container_that_ended_meanwhile_is_known() {
    let mut cluster = Cluster::up();
    let flag = cluster.data_dir().join("go");
    let pod = POD.replace("command: [sleep, '1000']", "command: [sh, -c, 'until [ -e /flag/go ]; do sleep 0.1; done; exit 7'], volumeMounts: [{name: f, mountPath: /flag}]")
        .replace("spec:\n", &format!("spec:\n  restartPolicy: Never\n  volumes: [{{name: f, hostPath: {{path: {}}}}}]\n", cluster.data_dir().display()));
    cluster.apply(&pod);
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/p", "--timeout=60s"]);
    cluster.kill();
    std::fs::write(&flag, "").expect("the data directory is writable");
    cluster.start();
    cluster.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Failed",
        "pod/p",
        "--timeout=60s",
    ]);
    assert_eq!(
        cluster.jsonpath(
            &["pod", "p"],
            "{.status.containerStatuses[0].state.terminated.exitCode}"
        ),
        "7"
    );
}

#[test]
fn a_second_cluster_on_the_same_directory_is_refused() {
    let cluster = Cluster::up();
    let second = std::process::Command::new(corral_e2e::corral())
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(cluster.data_dir())
        .output()
        .expect("the corral binary is built");
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("in use by process"), "{text}");
}
