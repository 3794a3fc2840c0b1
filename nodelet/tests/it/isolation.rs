//! Which namespaces and rights containers have, who they run as, and their last words.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::scenario::Scenario;
use crate::{pod, shell, state};

/// Runs pods to their end and gives their logs.
async fn logs(name: &str, specs: Vec<(&str, Value)>) -> Vec<String> {
    let scenario = Scenario::new(name).await;
    for (name, spec) in &specs {
        let mut spec = spec.clone();
        spec["restartPolicy"] = json!("Never");
        scenario.create(pod(name, spec));
    }
    let mut logs = Vec::new();
    for (name, _) in &specs {
        scenario
            .wait_for(name, |pod| pod["status"]["phase"] == "Succeeded")
            .await;
        logs.push(scenario.log(name, "c", 0));
        scenario.delete(name, 0);
    }
    for (name, _) in &specs {
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
    logs
}

fn namespace(kind: &str) -> u64 {
    let path = format!("/proc/self/ns/{kind}");
    std::fs::metadata(path).expect("a namespace").ino()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_of_the_machine_are_shared_when_asked_for() {
    let script = "for n in pid ipc net uts; do echo $n $(stat -Lc %i /proc/self/ns/$n); done";
    let spec = |field: &str| {
        let mut spec = json!({"containers": [shell(script)]});
        if !field.is_empty() {
            spec[field] = json!(true);
        }
        spec
    };
    let fields = ["", "hostPID", "hostIPC", "hostNetwork"];
    let logs = logs(
        "namespaces",
        vec![
            ("none", spec(fields[0])),
            ("pid", spec(fields[1])),
            ("ipc", spec(fields[2])),
            ("net", spec(fields[3])),
        ],
    )
    .await;
    for (log, field) in logs.iter().zip(fields) {
        for (kind, sharer) in [
            ("pid", "hostPID"),
            ("ipc", "hostIPC"),
            ("net", "hostNetwork"),
            ("uts", "hostNetwork"),
        ] {
            let same = log.contains(&format!("F {kind} {}\n", namespace(kind)));
            assert_eq!(same, field == sharer, "{kind} with {field:?}: {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_of_a_pod_share_what_the_pod_says() {
    let scenario = Scenario::new("shared").await;
    let script = "echo pid $(stat -Lc %i /proc/self/ns/pid) ipc $(stat -Lc %i /proc/self/ns/ipc); \
                  echo x > /dev/shm/$WHO; echo up; exec sleep 1000";
    let container = |name: &str| {
        let mut container = shell(script);
        container["name"] = json!(name);
        container["env"] = json!([{"name": "WHO", "value": name}]);
        container
    };
    for (name, shared) in [("shared", true), ("apart", false)] {
        scenario.create(pod(
            name,
            json!({"containers": [container("a"), container("b")], "shareProcessNamespace": shared,
                "terminationGracePeriodSeconds": 0}),
        ));
    }
    for (name, shared) in [("shared", true), ("apart", false)] {
        let numbers = |log: &str, after: &str| -> String {
            let mut words = log.split_whitespace().skip_while(|word| *word != after);
            words.nth(1).expect("a number").to_owned()
        };
        let a = scenario.wait_for_log(name, "a", 0, "up").await;
        let b = scenario.wait_for_log(name, "b", 0, "up").await;
        assert_eq!(numbers(&a, "pid") == numbers(&b, "pid"), shared);
        assert_eq!(numbers(&a, "ipc"), numbers(&b, "ipc"));
        assert_ne!(numbers(&a, "pid"), namespace("pid").to_string());
    }
    for name in ["shared", "apart"] {
        scenario.delete(name, 0);
    }
    for name in ["shared", "apart"] {
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_containers_have_all_rights_and_devices() {
    let script = "grep CapEff /proc/self/status; ls /dev | sort | tr '\\n' ' '; echo; \
                  mkdir -p /tmp/m && mount -t tmpfs x /tmp/m && echo mounted; \
                  echo $(cat /proc/sys/kernel/pid_max) > /proc/sys/kernel/pid_max && echo tuned; true";
    let plain = shell(script);
    let mut privileged = shell(script);
    privileged["securityContext"] = json!({"privileged": true});
    let logs = logs(
        "privileged",
        vec![
            ("plain", json!({"containers": [plain]})),
            ("privileged", json!({"containers": [privileged]})),
        ],
    )
    .await;
    let has = |text: &str| (logs[0].contains(text), logs[1].contains(text));
    assert_eq!(has("F mounted\n"), (false, true), "{logs:?}");
    assert_eq!(has("F tuned\n"), (false, true), "{logs:?}");
    // What the machine's own first process may do, a privileged container may.
    let all = std::fs::read_to_string("/proc/self/status").expect("readable");
    let all = all
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .expect("capabilities")
        .trim();
    assert_eq!(has(&format!("CapEff:\t{all}\n")), (false, true), "{logs:?}");
    let kmsg = std::path::Path::new("/dev/kmsg").exists();
    assert_eq!(has(" kmsg "), (false, kmsg), "{logs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_come_from_the_file_or_else_the_log() {
    let scenario = Scenario::new("words").await;
    for (name, script, policy, words) in [
        (
            "log",
            "echo from the log; exit 3",
            "FallbackToLogsOnError",
            Some("from the log\n"),
        ),
        ("good", "echo from the log", "FallbackToLogsOnError", None),
        (
            "file",
            "echo log; echo from the file > /dev/termination-log; exit 3",
            "FallbackToLogsOnError",
            Some("from the file\n"),
        ),
        ("only", "echo from the log; exit 3", "File", None),
    ] {
        let mut container = shell(script);
        container["terminationMessagePolicy"] = json!(policy);
        scenario.create(pod(
            name,
            json!({"restartPolicy": "Never", "containers": [container]}),
        ));
        let ended = scenario
            .wait_for(name, |pod| !state(pod, "terminated").is_null())
            .await;
        let message = state(&ended, "terminated")["message"].clone();
        assert_eq!(
            message,
            words.map_or(Value::Null, |words| json!(words)),
            "{name}"
        );
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}
