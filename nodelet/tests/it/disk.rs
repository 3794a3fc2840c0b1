//! What happens when pods or images take more of the disk than they may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corral_nodelet::agent::housekeeping::Housekeeping;
use corral_nodelet::images::archive;
use corral_nodelet::images::collect::{Disk, Policy};
use corral_nodelet::images::reference::Reference;
use serde_json::{Value, json};

use crate::images::{packed, packed_from};
use crate::scenario::{Scenario, plenty};
use crate::{pod, shell};

/// Often, so that a test need not wait.
const OFTEN: Duration = Duration::from_millis(20);

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fills_the_disk_is_evicted() {
    let housekeeping = Housekeeping {
        limits_period: OFTEN,
        ..plenty()
    };
    let scenario = Scenario::with("evict", housekeeping).await;
    let fill = "head -c 3000000 /dev/zero > /v/f; exec sleep 1000";
    let chatter = "head -c 2000000 /dev/zero | tr '\\0' a; exec sleep 1000";
    let mounted = |script: &str, limits: Value| {
        let mut container = shell(script);
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        container["resources"] = json!({"limits": limits});
        container
    };
    let volume = |source: Value| json!([{"name": "v", "emptyDir": source}]);
    for (name, container, volumes, message) in [
        (
            "volume",
            mounted(fill, json!({})),
            volume(json!({"sizeLimit": "1Mi"})),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ",
        ),
        (
            "pod",
            mounted(fill, json!({"ephemeral-storage": "2Mi"})),
            volume(json!({})),
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
        ),
        (
            "logs",
            mounted(chatter, json!({"ephemeral-storage": "1Mi"})),
            volume(json!({})),
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
        ),
    ] {
        scenario.create(pod(
            name,
            json!({"containers": [container], "volumes": volumes}),
        ));
        let evicted = scenario
            .wait_for(name, |pod| pod["status"]["phase"] == "Failed")
            .await;
        assert_eq!(evicted["status"]["reason"], "Evicted");
        assert_eq!(evicted["status"]["message"], message);
        let disruption = condition(&evicted, "DisruptionTarget");
        assert_eq!(
            (&disruption["status"], &disruption["reason"]),
            (&json!("True"), &json!("TerminationByKubelet"))
        );
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    writable_layer_counts(&scenario).await;
    // Within its limits, and measured at least as often as the ones above.
    scenario.create(pod(
        "small",
        json!({"containers": [mounted("echo > /v/f; echo up; exec sleep 1000", json!({"ephemeral-storage": "2Mi"}))],
            "volumes": volume(json!({"sizeLimit": "1Mi"}))}),
    ));
    scenario.wait_for_log("small", "c", 0, "F up").await;
    scenario.create(pod(
        "after",
        json!({"containers": [mounted(fill, json!({}))], "volumes": volume(json!({"sizeLimit": "1Mi"}))}),
    ));
    scenario
        .wait_for("after", |pod| pod["status"]["phase"] == "Failed")
        .await;
    let small = scenario.get("small").expect("there");
    assert_eq!(small["status"]["phase"], "Running");
    for name in ["small", "after"] {
        scenario.delete(name, 0);
        scenario.wait_gone(name).await;
    }
    scenario.finish().await;
}

/// A program that writes to its own root.
const WRITER: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(void) {
    FILE *f = fopen("/big", "w");
    for (int i = 0; i < 3000000; i++) fputc('a', f);
    fclose(f);
    for (;;) pause();
}
"#;

async fn writable_layer_counts(scenario: &Scenario) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = packed_from(directory.path(), WRITER, "writer:1");
    archive::import(scenario.shared().0.images.store(), &path, None).expect("imported");
    let limits = json!({"limits": {"ephemeral-storage": "2Mi"}});
    scenario.create(pod(
        "layer",
        json!({"containers": [{"name": "c", "image": "writer:1", "resources": limits}]}),
    ));
    let evicted = scenario
        .wait_for("layer", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(evicted["status"]["reason"], "Evicted");
    scenario.delete("layer", 0);
    scenario.wait_gone("layer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_images_go_when_the_disk_fills_up() {
    let available = Arc::new(AtomicU64::new(500));
    let reading = available.clone();
    let housekeeping = Housekeeping {
        images_period: OFTEN,
        images: Policy {
            age_min: Duration::ZERO,
            ..Policy::default()
        },
        disk: Arc::new(move |_| Disk {
            capacity: 1000,
            available: reading.load(Ordering::Relaxed),
        }),
        ..plenty()
    };
    let scenario = Scenario::with("imagegc", housekeeping).await;
    let store = scenario.shared().0.images.store().clone();
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = packed(directory.path(), "unused:1");
    archive::import(&store, &path, None).expect("imported");
    let by_hand = Reference::parse("unused:1").expect("a name");
    let present = |name: &str| {
        let reference = Reference::parse(name).expect("a name");
        store.find(&reference).is_some()
    };
    // The other image is another file, so that they share no layer.
    let source = directory.path().join("p.c");
    let text = std::fs::read_to_string(&source).expect("readable");
    let kept = directory.path().join("kept");
    std::fs::create_dir(&kept).expect("made");
    let path = packed_from(&kept, &text.replace("args", "arguments"), "used:1");
    archive::import(&store, &path, None).expect("imported");
    scenario.create(pod(
        "user",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "used:1"}]}),
    ));
    scenario
        .wait_for("user", |pod| {
            pod["status"]["containerStatuses"][0]["imageID"]
                .as_str()
                .is_some_and(|id| !id.is_empty())
        })
        .await;
    assert!(present("unused:1"), "there is room");
    available.store(100, Ordering::Relaxed);
    let events = || scenario.api.all("events");
    scenario
        .wait_until("there is too little room", || {
            events()
                .iter()
                .any(|event| event["reason"] == "FreeDiskSpaceFailed")
        })
        .await;
    assert!(present("unused:1"), "what was brought by hand stays");
    store.pin(&by_hand, false).expect("the index");
    scenario
        .wait_until("the unused image is removed", || !present("unused:1"))
        .await;
    assert!(present("used:1"));
    let layers = std::fs::read_dir(store.layers_dir())
        .expect("readable")
        .count();
    assert_eq!(layers, 1, "the layer of the image that is used");
    // What was removed (a megabyte) is more than what the reading asked for; without it, nothing is left to remove.
    let told = || {
        let events = scenario.api.all("events");
        let found = |reason: &str| {
            events
                .iter()
                .any(|event| event["reason"] == reason && event["involvedObject"]["kind"] == "Node")
        };
        found("FreeDiskSpaceFailed") && found("ImageGCFailed")
    };
    scenario
        .wait_until("the node tells that nothing more can go", told)
        .await;
    scenario.delete("user", 0);
    scenario.wait_gone("user").await;
    scenario.finish().await;
}
