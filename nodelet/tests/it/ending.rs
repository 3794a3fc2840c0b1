//! How pods end: what the API is told, and in which order.

use http::Method;
use serde_json::{Value, json};

use crate::scenario::Scenario;
use crate::{pod, shell, state};

fn methods(writes: &[(Method, Value)]) -> Vec<Method> {
    writes.iter().map(|(method, _)| method.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_pod_is_told_before_its_object_goes() {
    let scenario = Scenario::new("order").await;
    scenario.create(pod(
        "quick",
        json!({"containers": [shell("trap 'exit 7' TERM; echo up; while true; do sleep 0.02; done")]}),
    ));
    scenario.create(pod(
        "never",
        json!({"containers": [{"name": "c", "image": "none:1", "imagePullPolicy": "Never"}]}),
    ));
    scenario.wait_for_log("quick", "c", 0, "up").await;
    scenario
        .wait_for("never", |pod| !state(pod, "waiting")["message"].is_null())
        .await;
    for (name, code, reason) in [
        ("quick", 7, "Error"),
        ("never", 137, "ContainerStatusUnknown"),
    ] {
        scenario.delete(name, 30);
        scenario.wait_gone(name).await;
        let writes = scenario.api.writes("pods", name);
        let (last, before) = writes.split_last().expect("the object was deleted");
        assert_eq!(last.0, Method::DELETE);
        assert!(!methods(before).contains(&Method::DELETE));
        let shown = &before.last().expect("a status was written").1;
        assert_eq!(shown["status"]["phase"], "Failed");
        let ended = state(shown, "terminated");
        assert_eq!(
            (&ended["exitCode"], &ended["reason"]),
            (&json!(code), &json!(reason))
        );
        assert_eq!(
            last.1["status"], shown["status"],
            "nothing was written after it"
        );
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_the_api_knows_is_not_told_anew() {
    let scenario = Scenario::new("known").await;
    let mut object = pod("known", json!({"containers": [shell("true")]}));
    object["spec"]["nodeName"] = json!("n1");
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    object["status"] = json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "image": "corral.dev/host",
        "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]});
    scenario.put("pods", "known", object);
    scenario.wait_gone("known").await;
    let writes = scenario.api.writes("pods", "known");
    assert_eq!(methods(&writes), [Method::DELETE]);
    assert_eq!(writes[0].1["status"]["phase"], "Succeeded");
    scenario.finish().await;
}
