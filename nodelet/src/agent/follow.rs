//! A list and then a watch, for ever: the little that a node needs of a reflector.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many changes wait for the reader; the watch is not read on while they do.
const CHANGES_MAX: usize = 64;

/// The wait after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How many objects are listed at once.
const PAGE: u32 = 500;

/// Something that changed.
#[derive(Debug)]
pub enum Change<K> {
    /// Everything there is.
    Listed(Vec<K>),
    /// A new or changed object.
    Applied(K),
    /// An object that is gone.
    Deleted(K),
}

/// Follows all objects of a kind that a field selector chooses.
pub fn follow<K>(
    client: Client,
    selector: Option<String>,
    shutdown: CancellationToken,
) -> mpsc::Receiver<Change<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHANGES_MAX);
    let api = Api::<K>::all(client);
    tokio::spawn(async move {
        let work = async {
            let mut delay = RETRY_FIRST;
            loop {
                match run(&api, selector.as_deref(), &sender, &mut delay).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::debug!(kind = %K::kind(&()), %error, "a watch ended; starting over")
                    }
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MAX);
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    });
    receiver
}

/// Keeps a map of objects by uid.
pub fn take<K: Resource<DynamicType = ()>>(map: &mut HashMap<String, K>, change: Change<K>) {
    let key = |object: &K| object.meta().uid.clone().unwrap_or_default();
    match change {
        Change::Listed(objects) => {
            *map = objects
                .into_iter()
                .map(|object| (key(&object), object))
                .collect()
        }
        Change::Applied(object) => drop(map.insert(key(&object), object)),
        Change::Deleted(object) => drop(map.remove(&key(&object))),
    }
}

/// One list and the watches that follow it, until something breaks; `Ok` when nobody listens any more.
async fn run<K>(
    api: &Api<K>,
    selector: Option<&str>,
    sender: &mpsc::Sender<Change<K>>,
    delay: &mut Duration,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut parameters = ListParams {
        field_selector: selector.map(str::to_owned),
        ..ListParams::default()
    };
    parameters.limit = Some(PAGE);
    let mut objects = Vec::new();
    let mut version;
    loop {
        let page = api.list(&parameters).await?;
        version = page.metadata.resource_version.clone().unwrap_or_default();
        parameters.continue_token = page
            .metadata
            .continue_
            .clone()
            .filter(|token| !token.is_empty());
        objects.extend(page.items);
        if parameters.continue_token.is_none() {
            break;
        }
    }
    if sender.send(Change::Listed(objects)).await.is_err() {
        return Ok(());
    }
    *delay = RETRY_FIRST;
    let watch = WatchParams {
        field_selector: selector.map(str::to_owned),
        bookmarks: true,
        ..WatchParams::default()
    };
    loop {
        let mut events = api.watch(&watch, &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            let change = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = object.meta().resource_version.clone().unwrap_or_default();
                    Change::Applied(object)
                }
                WatchEvent::Deleted(object) => {
                    version = object.meta().resource_version.clone().unwrap_or_default();
                    Change::Deleted(object)
                }
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                // 410 above all: only a new list helps.
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            };
            if sender.send(change).await.is_err() {
                return Ok(());
            }
        }
    }
}
