//! Keeps a cache equal to the server: list, then watch from the list's revision, resume after interruptions, and list
//! again only when the server no longer keeps the revision (410).

use std::time::Duration;

use futures::TryStreamExt;
use kube::Client;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{ObjectList, Request, WatchEvent};

use crate::backoff::Backoff;
use crate::key::Object;
use crate::metrics::Metrics;
use crate::{Cache, Error};

/// Objects per page of a list: bounds the body of one answer.
const PAGE_SIZE: u32 = 500;
/// How long the server keeps a watch open; re-opening one costs a request, and finds connections that died silently.
const WATCH_SECONDS: u32 = 290;
/// A watch that ends sooner than this counts as a failure, so that a server that closes at once is not hammered.
const WATCH_HEALTHY_MIN: Duration = Duration::from_secs(1);

/// What is listed and watched.
#[derive(Clone)]
pub struct Reflector {
    /// The client.
    pub client: Client,
    /// The path of the collection, such as `/api/v1/pods`.
    pub path: String,
    /// Narrows the objects down by a field selector.
    pub fields: Option<&'static str>,
    /// Whether only the metadata is asked for.
    pub metadata_only: bool,
    /// Counts lists.
    pub metrics: Metrics,
}

impl Reflector {
    /// Runs for ever; drop it to stop.
    pub async fn run<K: Object>(self, cache: Cache<K>) {
        let mut failures = 0;
        let mut revision: Option<String> = None;
        loop {
            let started = tokio::time::Instant::now();
            match self.round(&cache, &mut revision).await {
                Ok(()) => {}
                Err(error) if error.is_gone() => {
                    tracing::debug!(path = %self.path, "revision is no longer kept; listing again");
                    revision = None;
                }
                // Nothing that needs this kind works before an administrator has done something about it.
                Err(error) if failures == 0 && is_refusal(&error) => {
                    tracing::warn!(path = %self.path, %error, "not allowed to watch; trying again");
                }
                Err(error) => {
                    tracing::debug!(path = %self.path, %error, "watch interrupted");
                }
            }
            if started.elapsed() < WATCH_HEALTHY_MIN {
                tokio::time::sleep(Backoff::CONNECT.delay(failures, &self.path)).await;
                failures += 1;
            } else {
                failures = 0;
            }
        }
    }

    /// One list if there is no revision to go on from, and one watch to its end.
    async fn round<K: Object>(
        &self,
        cache: &Cache<K>,
        revision: &mut Option<String>,
    ) -> Result<(), Error> {
        let from = match revision {
            Some(from) => from.clone(),
            None => revision.insert(self.list(cache).await?).clone(),
        };
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector = self.fields.map(Into::into);
        let request = Request::new(self.path.as_str());
        let request = if self.metadata_only {
            request.watch_metadata(&params, &from)?
        } else {
            request.watch(&params, &from)?
        };
        let events = self.client.request_events::<K>(request).await?;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await.map_err(Error::Api)? {
            self.take(cache, event, revision)?;
        }
        Ok(())
    }

    fn take<K: Object>(
        &self,
        cache: &Cache<K>,
        event: WatchEvent<K>,
        revision: &mut Option<String>,
    ) -> Result<(), Error> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                revision.clone_from(&object.meta().resource_version);
                cache.apply(object);
            }
            WatchEvent::Deleted(object) => {
                revision.clone_from(&object.meta().resource_version);
                cache.delete(object);
            }
            WatchEvent::Bookmark(bookmark) => {
                cache.progress(bookmark.metadata.resource_version.parse().unwrap_or(0));
                *revision = Some(bookmark.metadata.resource_version);
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        }
        Ok(())
    }

    async fn list<K: Object>(&self, cache: &Cache<K>) -> Result<String, Error> {
        self.metrics.listed(&self.path);
        let mut items = Vec::new();
        let mut params = ListParams::default().limit(PAGE_SIZE);
        params.field_selector = self.fields.map(Into::into);
        loop {
            let request = Request::new(self.path.as_str());
            let request = if self.metadata_only {
                request.list_metadata(&params)?
            } else {
                request.list(&params)?
            };
            let page: ObjectList<K> = self.client.request(request).await?;
            // Trimmed page by page: a whole list as it is decoded may take several times the cache's memory.
            items.extend(page.items.into_iter().map(|item| cache.kept(item)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let revision = page.metadata.resource_version.unwrap_or_default();
                    cache.replace_kept(items, revision.parse().unwrap_or(0));
                    return Ok(revision);
                }
            }
        }
    }
}

/// Whether the server knows what is asked for and does not want to answer.
fn is_refusal(error: &Error) -> bool {
    error.status().is_some_and(|s| matches!(s.code, 401 | 403))
}
