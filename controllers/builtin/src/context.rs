//! What every controller is started with.

use std::sync::Arc;

use corral_runtime::key::Object;
use corral_runtime::{CacheFactory, Clock, Metrics, Objects, Recorder, Tasks};
use kube::Client;
use serde::Serialize;

/// Makes a client that acts in the name of a controller, such as `deployment-controller`.
pub type ClientFactory = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Shared parts of one process's controllers.
#[derive(Clone)]
pub struct Context {
    pub clients: ClientFactory,
    pub caches: CacheFactory,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub tasks: Tasks,
}

impl Context {
    /// A kind, written in the name of `controller`.
    pub fn objects<K>(&self, controller: &str) -> Objects<K>
    where
        K: Object<DynamicType = ()> + Serialize,
    {
        self.caches.objects(&(self.clients)(controller))
    }

    /// Events signed by `controller`.
    pub fn recorder(&self, controller: &str) -> Recorder {
        self.recorder_signed(controller, controller)
    }

    /// Events written in the name of `controller` that are signed otherwise, as Kubernetes signs them.
    pub fn recorder_signed(&self, controller: &str, signature: &str) -> Recorder {
        let client = (self.clients)(controller);
        Recorder::new(
            client,
            signature,
            Arc::clone(&self.clock),
            &self.metrics,
            &self.tasks,
        )
    }
}
