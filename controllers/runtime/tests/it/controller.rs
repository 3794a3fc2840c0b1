//! The harness works keys off, backs off on failure, and looks again when asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use corral_api::k8s::api::core::v1::ConfigMap;
use corral_runtime::controller::handler_fn;
use corral_runtime::testing::World;
use corral_runtime::{Action, Controller, Error};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_failing_key_is_tried_again_until_it_succeeds() {
    let world = World::new();
    world.api.add(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": "a"}}));
    let cache = world.factory.cache::<ConfigMap>();
    let tries = Arc::new(AtomicU32::new(0));
    let done = Arc::new(tokio::sync::Notify::new());
    let (count, finished) = (Arc::clone(&tries), Arc::clone(&done));
    let handler = handler_fn(move |_key| {
        let (count, finished) = (Arc::clone(&count), Arc::clone(&finished));
        async move {
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => Err(Error::Invalid("once".into())),
                1 => panic!("a panic counts as a failure"),
                2 => Ok(Action::After(Duration::from_secs(60))),
                _ => {
                    finished.notify_one();
                    Ok(Action::Done)
                }
            }
        }
    });
    Controller::new("test")
        .watch(&cache)
        .run(handler, 2, &world.metrics, &world.tasks);
    done.notified().await;
    assert_eq!(tries.load(Ordering::SeqCst), 4);
}
