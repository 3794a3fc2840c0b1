//! An operator as people write them with kube-rs: it bakes a ConfigMap for each Loaf.
//!
//! The kind is its own: derived, applied and awaited when it starts. Each line that it prints is JSON and tells what one of
//! three reflectors holds of the ConfigMaps on the shelf: one is filled by pages, one by a streamed list, and one has
//! metadata alone.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, CustomResource, CustomResourceExt, KubeSchema, Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

const MANAGER: &str = "baker";
const FINALIZER: &str = "bakery.example/oven";
/// When something that failed is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// Few enough that a list takes several pages.
const PAGE: u32 = 2;

/// Bread that is wanted.
#[derive(CustomResource, KubeSchema, Clone, Debug, Serialize, Deserialize)]
#[kube(
    group = "bakery.example",
    version = "v1",
    kind = "Loaf",
    plural = "loaves",
    namespaced,
    status = "LoafStatus",
    shortname = "lf",
    printcolumn = r#"{"name": "Grain", "type": "string", "jsonPath": ".spec.grain"}"#
)]
#[serde(rename_all = "camelCase")]
struct LoafSpec {
    #[x_kube(validation = "self != 'chalk'")]
    grain: String,
    #[serde(default = "dozen")]
    #[schemars(range(max = 50))]
    slices: u32,
}

fn dozen() -> u32 {
    12
}

/// What became of it.
#[derive(KubeSchema, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoafStatus {
    baked: Option<String>,
    observed_generation: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("asking the API")]
    Api(#[from] kube::Error),
    #[error("looking after the finalizer")]
    Finalizer(#[source] Box<finalizer::Error<Error>>),
}

/// What each reconciliation has at hand.
struct Bakery {
    client: Client,
    recorder: Recorder,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    describe(&client).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let bare: Api<PartialObjectMeta<ConfigMap>> = Api::default_namespaced(client.clone());
    let shelf = || watcher::Config::default().labels("shelf=yes");
    tokio::select! {
        () = reflect("paged", watcher(maps.clone(), shelf().page_size(PAGE))) => {}
        () = reflect("streamed", watcher(maps.clone(), shelf().streaming_lists())) => {}
        () = reflect("metadata", watcher(bare, shelf())) => {}
        () = bake(client, maps) => {}
    }
    Ok(())
}

/// Applies the definition of the kind, and waits until it is served.
async fn describe(client: &Client) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Loaf::crd_name();
    let params = PatchParams::apply(MANAGER).force();
    definitions
        .patch(name, &params, &Patch::Apply(Loaf::crd()))
        .await?;
    await_condition(definitions, name, conditions::is_crd_established()).await?;
    Ok(())
}

/// Tells what a reflector holds, each time that something has changed.
async fn reflect<K>(name: &str, events: impl Stream<Item = watcher::Result<watcher::Event<K>>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    let (store, writer) = reflector::store();
    let events = reflector(writer, events.default_backoff());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            // The store has all of a list only when that is done.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => {
                let mut names: Vec<String> = store.state().iter().map(|it| it.name_any()).collect();
                names.sort_unstable();
                println!("{}", json!({name: names}));
            }
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
}

async fn bake(client: Client, maps: Api<ConfigMap>) {
    let loaves: Api<Loaf> = Api::default_namespaced(client.clone());
    let bakery = Arc::new(Bakery {
        recorder: Recorder::new(client.clone(), MANAGER.into()),
        client,
    });
    let runs = Controller::new(loaves, watcher::Config::default())
        .owns(maps, watcher::Config::default())
        .run(reconcile, retry, bakery);
    runs.for_each(|run| async {
        if let Err(error) = run {
            eprintln!("reconciling: {error}");
        }
    })
    .await;
}

fn retry(loaf: Arc<Loaf>, error: &Error, _: Arc<Bakery>) -> Action {
    eprintln!("{}: {error}: {:?}", loaf.name_any(), error);
    Action::requeue(RETRY_PERIOD)
}

async fn reconcile(loaf: Arc<Loaf>, bakery: Arc<Bakery>) -> Result<Action, Error> {
    let loaves: Api<Loaf> = Api::default_namespaced(bakery.client.clone());
    finalizer(&loaves, FINALIZER, loaf, |event| async {
        match event {
            finalizer::Event::Apply(loaf) => apply(&loaf, &bakery, &loaves).await,
            finalizer::Event::Cleanup(loaf) => clean_up(&loaf, &bakery).await,
        }
    })
    .await
    .map_err(|error| Error::Finalizer(Box::new(error)))
}

async fn apply(loaf: &Loaf, bakery: &Bakery, loaves: &Api<Loaf>) -> Result<Action, Error> {
    let baked = format!("{} of {}", loaf.spec.slices, loaf.spec.grain);
    let owners = loaf.controller_owner_ref(&()).into_iter().collect();
    shelve(bakery, &loaf.name_any(), &baked, Some(owners)).await?;
    let before = loaf
        .status
        .as_ref()
        .and_then(|status| status.baked.as_ref());
    if before != Some(&baked) {
        let status = json!({
            "apiVersion": Loaf::api_version(&()), "kind": Loaf::kind(&()),
            "status": {"baked": baked, "observedGeneration": loaf.metadata.generation},
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&status);
        loaves
            .patch_status(&loaf.name_any(), &params, &patch)
            .await?;
        let event = Event {
            type_: EventType::Normal,
            reason: "Baked".into(),
            note: Some(baked),
            action: "Baking".into(),
            secondary: None,
        };
        bakery
            .recorder
            .publish(&event, &loaf.object_ref(&()))
            .await?;
    }
    Ok(Action::await_change())
}

/// Leaves something behind, by which others see that it was asked before the loaf went.
async fn clean_up(loaf: &Loaf, bakery: &Bakery) -> Result<Action, Error> {
    let name = format!("crumbs-of-{}", loaf.name_any());
    shelve(bakery, &name, "crumbs", None).await?;
    Ok(Action::await_change())
}

async fn shelve(
    bakery: &Bakery,
    name: &str,
    holds: &str,
    owners: Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>>,
) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::default_namespaced(bakery.client.clone());
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("shelf".into(), "yes".into())])),
            owner_references: owners,
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("holds".into(), holds.to_owned())])),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(MANAGER).force();
    maps.patch(name, &params, &Patch::Apply(&map)).await?;
    Ok(())
}
