//! Fields of a pod that change how it is run, each seen from inside a real container.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::scenario::Scenario;
use crate::{pod, shell};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_sysctls_are_set_and_others_refused() {
    let scenario = Scenario::new("sysctls").await;
    let set = |name: &str, value: &str| json!({"sysctls": [{"name": name, "value": value}]});
    let swappiness = std::fs::read_to_string("/proc/sys/vm/swappiness").expect("readable");
    scenario.create(pod(
        "safe",
        json!({"restartPolicy": "Never", "containers": [shell("cat /proc/sys/net/ipv4/tcp_fin_timeout")],
            "securityContext": set("net.ipv4.tcp_fin_timeout", "17")}),
    ));
    for (name, sysctl) in [("unsafe", "kernel.msgmax"), ("host", "vm.swappiness")] {
        scenario.create(pod(
            name,
            json!({"containers": [shell("exec sleep 1000")], "securityContext": set(sysctl, "61")}),
        ));
        let refused = scenario
            .wait_for(name, |pod| pod["status"]["phase"] == "Failed")
            .await;
        assert_eq!(refused["status"]["reason"], "SysctlForbidden");
        assert_eq!(
            refused["status"]["message"],
            format!("Pod was rejected: forbidden sysctl: {sysctl:?} not allowlisted")
        );
        assert!(refused["status"]["containerStatuses"].is_null());
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario
        .wait_for("safe", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    let log = scenario.log("safe", "c", 0);
    assert!(log.contains("F 17\n"), "{log}");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/vm/swappiness").expect("readable"),
        swappiness
    );
    scenario.delete("safe", 0);
    scenario.wait_gone("safe").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_come_from_a_file_that_an_init_container_wrote() {
    let scenario = Scenario::new("envfile").await;
    let mut writer =
        shell("printf \"A='one'\\nB='two\\nlines'\\n\" > /v/env; ln -s /etc/hostname /v/out");
    writer["name"] = json!("i");
    writer["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let reader = |path: &str, key: &str, optional: bool| {
        let mut reader = shell("echo A=$A B=\"$B\" C=${C-unset} DISK=$DISK");
        let file = |path: &str, key: &str, optional: bool| json!({"fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional}});
        reader["env"] = json!([
            {"name": "A", "valueFrom": file("env", "A", false)},
            {"name": "B", "valueFrom": file("env", "B", false)},
            {"name": "C", "valueFrom": file(path, key, optional)},
            {"name": "DISK", "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage", "divisor": "1"}}},
        ]);
        json!({"restartPolicy": "Never", "initContainers": [writer], "containers": [reader],
            "volumes": [{"name": "v", "emptyDir": {}}]})
    };
    scenario.create(pod("good", reader("env", "C", true)));
    scenario
        .wait_for("good", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    let log = scenario.log("good", "c", 0);
    assert!(log.contains("F A=one B=two\n"), "{log}");
    let disk = scenario.shared().0.capacity.disk;
    assert!(
        log.contains(&format!("F lines C=unset DISK={disk}\n")),
        "{log}"
    );
    for (name, path, message) in [
        (
            "key",
            "env",
            "environment variable key \"C\" not found in file \"env\"",
        ),
        ("file", "absent", "couldn't parse env file"),
        ("link", "out", "couldn't parse env file"),
    ] {
        scenario.create(pod(name, reader(path, "C", false)));
        let waiting = scenario
            .wait_for(name, |pod| {
                crate::state(pod, "waiting")["reason"] == "CreateContainerConfigError"
            })
            .await;
        let shown = crate::state(&waiting, "waiting")["message"].clone();
        assert!(
            shown.as_str().is_some_and(|shown| shown.contains(message)),
            "{shown}"
        );
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario.delete("good", 0);
    scenario.wait_gone("good").await;
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_see_their_own_cgroup() {
    let scenario = Scenario::new("cgroup").await;
    let v1 = corral_shim::cgroup::hierarchy() == corral_shim::cgroup::Hierarchy::V1;
    let (limit, inside) = match v1 {
        true => ("memory/memory.limit_in_bytes", "memory/mine"),
        false => ("memory.max", "mine"),
    };
    let script = format!(
        "cd /sys/fs/cgroup; cat {limit}; mkdir {inside} && echo made && rmdir {inside}; \
         mkdir top 2>/dev/null && echo top && rmdir top; echo end"
    );
    let mut limited = shell(&script);
    limited["resources"] = json!({"limits": {"memory": "64Mi"}});
    let mut privileged = limited.clone();
    privileged["securityContext"] = json!({"privileged": true});
    if !v1 {
        // It sees the machine's own tree, whose root has no limit.
        privileged["command"] = json!(["/bin/sh", "-c", script.replace("cat", "echo 67108864")]);
    }
    for (name, container) in [("plain", limited), ("privileged", privileged)] {
        scenario.create(pod(
            name,
            json!({"restartPolicy": "Never", "containers": [container]}),
        ));
        scenario
            .wait_for(name, |pod| pod["status"]["phase"] == "Succeeded")
            .await;
        let log = scenario.log(name, "c", 0);
        assert!(log.contains("F 67108864\n"), "{log}");
        assert_eq!(log.contains("F made\n"), name == "privileged", "{log}");
        assert!(!log.contains("F top\n") || name == "privileged", "{log}");
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_the_name_that_it_asks_for() {
    let scenario = Scenario::new("names").await;
    let script =
        "hostname; cat /etc/hostname; echo env $HOSTNAME; grep 127.0.0.1 /etc/hosts; echo end";
    scenario.create(pod(
        "over",
        json!({"restartPolicy": "Never", "containers": [shell(script)], "hostname": "short",
            "subdomain": "sub", "hostnameOverride": "db.example.com"}),
    ));
    scenario.create(pod(
        "full",
        json!({"restartPolicy": "Never", "containers": [shell(script)], "subdomain": "sub",
            "setHostnameAsFQDN": true}),
    ));
    for (name, kernel, line) in [
        ("over", "db.example.com", "127.0.0.1\tdb.example.com\n"),
        (
            "full",
            "full.sub.default.svc.cluster.test",
            "127.0.0.1\tfull.sub.default.svc.cluster.test\tfull\n",
        ),
    ] {
        scenario
            .wait_for(name, |pod| pod["status"]["phase"] == "Succeeded")
            .await;
        let log = scenario.log(name, "c", 0);
        assert_eq!(log.matches(&format!("F {kernel}\n")).count(), 2, "{log}");
        assert!(log.contains(&format!("env {kernel}\n")), "{log}");
        assert!(log.contains(line), "{log}");
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

/// A file system that is shared with those who see it, as disks of a machine are under most init systems.
struct Shared<'a>(&'a Path);

impl<'a> Shared<'a> {
    fn new(path: &'a Path) -> Self {
        tmpfs(path);
        mount(
            None::<&str>,
            path,
            None::<&str>,
            MsFlags::MS_SHARED,
            None::<&str>,
        )
        .expect("shared");
        Self(path)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.0.join("late"), MntFlags::MNT_DETACH);
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn tmpfs(path: &Path) {
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=1m"),
    )
    .expect("mounted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_mounts_of_the_machine_appear_only_where_they_are_wanted() {
    let scenario = Scenario::new("propagation").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let shared = Shared::new(directory.path());
    let late = directory.path().join("late");
    std::fs::create_dir(&late).expect("made");
    let script = "echo up; while [ ! -e /v/go ]; do sleep 0.05; done; \
                  for v in v w; do [ -e /$v/late/seen ] && echo $v later || echo $v nothing; done";
    let from_host = json!({"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"});
    let alone = json!({"name": "v", "mountPath": "/v", "mountPropagation": "None"});
    let unsaid = json!({"name": "v", "mountPath": "/w"});
    for (name, mounts) in [
        ("none", json!([alone, unsaid])),
        ("mixed", json!([from_host, unsaid])),
    ] {
        let mut container = shell(script);
        container["volumeMounts"] = mounts;
        scenario.create(pod(
            name,
            json!({"restartPolicy": "Never", "containers": [container],
                "volumes": [{"name": "v", "hostPath": {"path": directory.path()}}]}),
        ));
        scenario.wait_for_log(name, "c", 0, "F up").await;
    }
    tmpfs(&late);
    std::fs::write(late.join("seen"), "").expect("written");
    std::fs::write(directory.path().join("go"), "").expect("written");
    for (name, said) in [("none", "F v nothing"), ("mixed", "F v later")] {
        scenario
            .wait_for(name, |pod| pod["status"]["phase"] == "Succeeded")
            .await;
        let log = scenario.log(name, "c", 0);
        assert!(
            log.contains(said) && log.contains("F w nothing"),
            "{name}: {log}"
        );
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    drop(shared);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_volume_holds_is_given_to_the_pods_group() {
    let scenario = Scenario::new("group").await;
    let script = "if [ -e /v/d/f ]; then stat -c '%n %g %a' /v/d /v/d/f; echo second; exec sleep 1000; fi; \
                  mkdir -m 700 /v/d; echo > /v/d/f; chgrp -R 7 /v/d; chmod 700 /v/d; chmod 600 /v/d/f; \
                  echo first; exec sleep 1000";
    let mut container = shell(script);
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}],
        "securityContext": {"fsGroup": 555}});
    scenario.create(pod("group", spec));
    scenario.wait_for_log("group", "c", 0, "F first").await;
    // A new sandbox sets the volumes up again, with what they hold.
    scenario.kill_shims();
    let log = scenario.wait_for_log("group", "c", 1, "F second").await;
    assert!(log.contains("F /v/d 555 2770\n"), "{log}");
    assert!(log.contains("F /v/d/f 555 660\n"), "{log}");
    scenario.delete("group", 0);
    scenario.wait_gone("group").await;
    scenario.finish().await;
}
