//! One of two candidates works; the other takes over when the lease is lost or handed back.

use std::sync::Arc;
use std::time::Duration;

use corral_runtime::Clock;
use corral_runtime::leader::{Election, ElectionConfig, run_elected};
use corral_runtime::testing::World;
use tokio_util::sync::CancellationToken;

fn election(world: &World, identity: &str) -> Election {
    let config = ElectionConfig::new("controllers", identity);
    Election::new(
        world.client.clone(),
        config,
        Arc::clone(&world.clock) as Arc<dyn Clock>,
    )
}

#[tokio::test(start_paused = true)]
async fn a_lease_changes_hands_only_after_it_has_expired() {
    let world = World::new();
    let (mut first, mut second) = (election(&world, "first"), election(&world, "second"));
    assert!(first.try_hold().await.expect("reachable"));
    assert!(!second.try_hold().await.expect("reachable"));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(first.try_hold().await.expect("reachable"));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(
        !second.try_hold().await.expect("reachable"),
        "renewed ten seconds ago"
    );
    tokio::time::advance(Duration::from_secs(15)).await;
    assert!(second.try_hold().await.expect("reachable"));
    assert!(!first.try_hold().await.expect("reachable"));
}

#[tokio::test(start_paused = true)]
async fn work_stops_when_the_lease_is_lost_and_is_handed_over_at_shutdown() {
    let world = World::new();
    let shutdown = CancellationToken::new();
    let (sender, mut started) = tokio::sync::mpsc::channel(4);
    let work = move |term: CancellationToken| {
        let sender = sender.clone();
        async move {
            sender.send("started").await.expect("room");
            term.cancelled().await;
            sender.send("stopped").await.expect("room");
        }
    };
    let running = tokio::spawn(run_elected(
        election(&world, "first"),
        shutdown.clone(),
        work,
    ));
    assert_eq!(started.recv().await, Some("started"));
    // A renewal can no longer be written.
    world
        .api
        .refuse(|_, path, _| path.contains("leases").then_some((500, "InternalError")));
    assert_eq!(started.recv().await, Some("stopped"));
    world.api.accept_all();
    assert_eq!(started.recv().await, Some("started"));
    shutdown.cancel();
    running.await.expect("ends");
    let mut second = election(&world, "second");
    assert!(
        second.try_hold().await.expect("reachable"),
        "no need to wait for the lease to expire"
    );
}
