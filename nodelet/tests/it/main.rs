//! A real agent with real shims and containers against an API server made of a map. Needs root; cleans up.

mod disk;
mod ending;
mod fake_api;
mod fields;
mod images;
mod isolation;
mod node_api;
mod pressure;
mod probing;
mod scenario;

use std::time::Duration;

use scenario::Scenario;
use serde_json::{Value, json};

fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn shell(script: &str) -> Value {
    json!({"name": "c", "image": "corral.dev/host", "command": ["/bin/sh", "-c", script]})
}

fn state<'a>(pod: &'a Value, which: &str) -> &'a Value {
    &pod["status"]["containerStatuses"][0]["state"][which]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_to_its_end() {
    let scenario = Scenario::new("once").await;
    let spec = json!({"restartPolicy": "Never", "containers": [shell(
        "echo hello; hostname; echo last words > /dev/termination-log; touch /x 2>/dev/null || echo read-only; exit 4")]});
    scenario.create(pod("once", spec));
    let pod = scenario
        .wait_for("once", |pod| pod["status"]["phase"] == "Failed")
        .await;
    let ended = state(&pod, "terminated");
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(4), &json!("Error"))
    );
    assert_eq!(ended["message"], "last words\n");
    let log = scenario.log("once", "c", 0);
    assert!(
        log.contains("hello") && log.contains("F once\n") && log.contains("read-only"),
        "{log}"
    );
    scenario.delete("once", 0);
    scenario.wait_gone("once").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_and_volumes_reach_the_container() {
    let scenario = Scenario::new("config").await;
    scenario.put(
        "configmaps",
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {"k": "from config", "n": "7"}}),
    );
    scenario.put(
        "secrets",
        "se",
        json!({"metadata": {"name": "se"}, "data": {"p": "c2VjcmV0"}}),
    );
    let mut container = shell(
        "echo $K-$IP-$LIMIT; cat /etc/cm/k /etc/se/p /etc/down/labels /etc/cm-sub; echo; echo x > /scratch/y && cat /scratch/y; \
         stat -c %a /etc/se/..data/p; id -u; id -G; ulimit -v; grep Seccomp: /proc/self/status; exec sleep 1000",
    );
    container["env"] = json!([
        {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
    ]);
    container["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
    container["volumeMounts"] = json!([
        {"name": "cm", "mountPath": "/etc/cm"}, {"name": "se", "mountPath": "/etc/se"},
        {"name": "down", "mountPath": "/etc/down"}, {"name": "scratch", "mountPath": "/scratch"},
        {"name": "cm", "mountPath": "/etc/cm-sub", "subPath": "n"},
    ]);
    container["securityContext"] = json!({"runAsUser": 1234, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    let spec = json!({"containers": [container], "securityContext": {"fsGroup": 555}, "volumes": [
        {"name": "cm", "configMap": {"name": "cm"}}, {"name": "se", "secret": {"secretName": "se", "defaultMode": 256}},
        {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "scratch", "emptyDir": {"medium": "Memory"}},
    ]});
    let mut object = pod("config", spec);
    object["metadata"]["labels"] = json!({"app": "a"});
    scenario.create(object);
    scenario
        .wait_for("config", |pod| pod["status"]["phase"] == "Running")
        .await;
    let log = scenario.wait_for_log("config", "c", 0, "Seccomp:").await;
    assert!(log.contains("from config-127.0.0.1-67108864"), "{log}");
    assert!(log.contains("F from configsecretapp=\"a\"7\n"), "{log}");
    assert!(
        log.contains("F x\n") && log.contains("F 440\n") && log.contains("F 1234\n"),
        "{log}"
    );
    assert!(log.contains("555") && log.contains("Seccomp:\t2"), "{log}");
    scenario.delete("config", 1);
    scenario.wait_gone("config").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_adopts_what_the_old_one_left() {
    let mut scenario = Scenario::new("adopt").await;
    scenario.create(pod(
        "stay",
        json!({"containers": [shell("echo up; exec sleep 1000")]}),
    ));
    let mut waiter = shell("echo up; while [ ! -e /sig/go ]; do sleep 0.05; done; exit 6");
    waiter["volumeMounts"] = json!([{"name": "v", "mountPath": "/sig"}]);
    scenario.create(pod(
        "end",
        json!({"restartPolicy": "Never",
        "containers": [waiter], "volumes": [{"name": "v", "emptyDir": {}}]}),
    ));
    let before = scenario
        .wait_for("stay", |pod| pod["status"]["phase"] == "Running")
        .await;
    scenario
        .wait_for("end", |pod| pod["status"]["phase"] == "Running")
        .await;
    scenario.stop_agent().await;
    assert_eq!(scenario.running_shims(), 2, "shims outlive the agent");
    let directory = scenario.pod_dir("end");
    std::fs::write(directory.join("volumes/v/go"), "").expect("written");
    while !directory.join("containers/c-0/exit.json").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scenario.start_agent().await;
    let ended = scenario
        .wait_for("end", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(
        state(&ended, "terminated")["exitCode"],
        6,
        "the end of a container while no agent ran is known"
    );
    // The agent has looked at everything once it acts on something new.
    scenario.create(pod(
        "new",
        json!({"containers": [shell("exec sleep 1000")]}),
    ));
    scenario
        .wait_for("new", |pod| pod["status"]["phase"] == "Running")
        .await;
    let after = scenario.get("stay").expect("there");
    assert_eq!(
        before["status"]["containerStatuses"], after["status"]["containerStatuses"],
        "nothing was restarted"
    );
    for name in ["stay", "end", "new"] {
        scenario.delete(name, 0);
    }
    for name in ["stay", "end", "new"] {
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_start_was_not_reported_is_started_and_ready() {
    let mut scenario = Scenario::new("unreported").await;
    let mut container = shell("exec sleep 1000");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/sig"}]);
    // The start is reported after the hook, so that the agent ends between the two.
    container["lifecycle"] = json!({"postStart":
        {"exec": {"command": ["sh", "-c", "touch /sig/hook; exec sleep 1000"]}}});
    scenario.create(pod(
        "p",
        json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}),
    ));
    let hook = || scenario.pod_dir("p").join("volumes/v/hook").exists();
    while !hook() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scenario.stop_agent().await;
    scenario.start_agent().await;
    let ready = scenario
        .wait_for("p", |pod| {
            pod["status"]["containerStatuses"][0]["ready"] == true
        })
        .await;
    let status = &ready["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["started"], &status["restartCount"]),
        (&json!(true), &json!(0))
    );
    scenario.delete("p", 0);
    scenario.wait_gone("p").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_restarted_and_a_killed_shim_is_noticed() {
    let scenario = Scenario::new("crash").await;
    scenario.create(pod(
        "crash",
        json!({"containers": [shell("echo up; exec sleep 1000")]}),
    ));
    scenario
        .wait_for("crash", |pod| pod["status"]["phase"] == "Running")
        .await;
    scenario.kill_shims();
    let pod = scenario
        .wait_for("crash", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 1
                && !state(pod, "running").is_null()
        })
        .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"]),
        (&json!(137), &json!("ContainerStatusUnknown"))
    );
    scenario.delete("crash", 0);
    scenario.wait_gone("crash").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_hooks_and_grace_work_together() {
    let scenario = Scenario::new("probes").await;
    let mut container =
        shell("trap 'echo asked; exit 0' TERM; echo up; while true; do sleep 0.05; done");
    container["readinessProbe"] =
        json!({"exec": {"command": ["/bin/sh", "-c", "exit 0"]}, "periodSeconds": 1});
    container["lifecycle"] = json!({
        // The hook may run before the container's program is executed; its output cannot be opened until then.
        "postStart": {"exec": {"command": ["/bin/sh", "-c", "until echo started > /proc/1/fd/1; do :; done"]}},
        "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo stopping > /proc/1/fd/1"]}},
    });
    scenario.create(pod("probes", json!({"containers": [container]})));
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    scenario.wait_for("probes", ready).await;
    // Before that line the signal would find nobody who listens.
    scenario.wait_for_log("probes", "c", 0, "up").await;
    let log_path = scenario.log_path("probes", "c", 0);
    scenario.delete("probes", 20);
    // The log goes with the pod; it is read while the pod ends.
    let mut log = String::new();
    while let Ok(text) = std::fs::read_to_string(&log_path) {
        log = text;
        if scenario.get("probes").is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scenario.wait_gone("probes").await;
    let position = |text: &str| {
        log.find(text)
            .unwrap_or_else(|| panic!("{text:?} is missing in {log}"))
    };
    assert!(position("started") < position("stopping") && position("stopping") < position("asked"));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why() {
    let scenario = Scenario::new("errors").await;
    let with = |name: &str, container: Value| {
        pod(
            name,
            json!({"restartPolicy": "Never", "containers": [container]}),
        )
    };
    scenario.create(with(
        "never",
        json!({"name": "c", "image": "none:1", "imagePullPolicy": "Never"}),
    ));
    scenario.create(with("name", json!({"name": "c", "image": "BAD//name"})));
    scenario.create(with(
        "program",
        json!({"name": "c", "image": "corral.dev/host", "command": ["no-such-thing"]}),
    ));
    let mut config = shell("true");
    config["envFrom"] = json!([{"configMapRef": {"name": "absent"}}]);
    scenario.create(with("config", config));
    for (name, reason) in [
        ("never", "ErrImageNeverPull"),
        ("name", "InvalidImageName"),
        ("config", "CreateContainerConfigError"),
    ] {
        let pod = scenario
            .wait_for(name, |pod| state(pod, "waiting")["reason"] == reason)
            .await;
        assert!(
            !state(&pod, "waiting")["message"]
                .as_str()
                .unwrap_or("")
                .is_empty()
        );
    }
    let pod = scenario
        .wait_for("program", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(state(&pod, "terminated")["exitCode"], 128);
    assert!(
        state(&pod, "terminated")["message"]
            .as_str()
            .expect("text")
            .contains("executable file not found")
    );
    for name in ["never", "name", "program", "config"] {
        scenario.delete(name, 0);
    }
    for name in ["never", "name", "program", "config"] {
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}
