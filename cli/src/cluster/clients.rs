//! Controllers and scheduler as clients of the API in the process that serves it, all the time or while it leads.

use std::sync::Arc;

use corral_controllers::{ClientFactory, Name, SigningCa};
use corral_runtime::leader::ElectionConfig;
use corral_server::authn::User;
use corral_server::local::Local;
use tokio_util::task::TaskTracker;

use super::control_plane::{ControlPlane, ControlPlaneArgs, DEFAULT_PODS};
use super::work::{
    self, CONTROLLERS_LEASE, Candidate, Controllers, SCHEDULER_LEASE, SCHEDULER_NAME, Shared, Work,
};

/// Who holds the lease of the controllers, and whose watches all components of this process share.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// The scheduler's user.
const SCHEDULER: &str = "system:kube-scheduler";

/// The cluster's CA, in the form of the controllers.
fn signing_ca(plane: &ControlPlane) -> SigningCa {
    let identity = plane.server.ca_identity();
    SigningCa {
        certificate: identity.certificate,
        key: identity.key,
    }
}

/// What controllers and scheduler of this process share.
pub struct Clients {
    local: Local,
    root_ca: String,
    signing_ca: SigningCa,
    shared: Shared,
    /// Who we are among the candidates; nothing when there is no election.
    identity: Option<String>,
}

impl Clients {
    /// The clients of a control plane.
    ///
    /// # Errors
    /// When there is to be an election and the machine's name cannot be told.
    pub fn of(plane: &ControlPlane, args: &ControlPlaneArgs) -> anyhow::Result<Self> {
        let local = plane.local(User::default());
        let client = client(&local, User::new(CONTROLLER_MANAGER, &[]));
        let registry = plane.registry.clone();
        Ok(Self {
            local,
            root_ca: plane.server.ca().to_owned(),
            signing_ca: signing_ca(plane),
            shared: Shared::new(client, registry, plane.clients_stop.clone()),
            identity: args.elects_leader().then(work::identity).transpose()?,
        })
    }

    /// Starts what the flags ask for.
    pub fn start(&self, args: &ControlPlaneArgs, tracker: &TaskTracker) {
        if !args.no_controllers {
            let pods = args.pod_range.map(|range| range.to_string());
            let pods = pods.unwrap_or_else(|| DEFAULT_PODS.to_owned());
            let candidate =
                self.candidate(CONTROLLER_MANAGER, CONTROLLERS_LEASE, CONTROLLERS_LEASE);
            tracker.spawn(work::run(&self.shared, candidate, self.controllers(pods)));
        }
        if !args.no_scheduler {
            let client = client(&self.local, User::new(SCHEDULER, &[]));
            let candidate = self.candidate(SCHEDULER, SCHEDULER_LEASE, SCHEDULER_NAME);
            let work = work::scheduler(&self.shared, client);
            tracker.spawn(work::run(&self.shared, candidate, work));
        }
    }

    fn candidate(&self, user: &str, lease: &str, component: &'static str) -> Candidate {
        let identity = self.identity.as_deref();
        Candidate {
            client: client(&self.local, User::new(user, &[])),
            component,
            election: identity.map(|identity| ElectionConfig::new(lease, identity)),
        }
    }

    fn controllers(&self, cluster_cidr: String) -> Work {
        let local = self.local.clone();
        let clients: ClientFactory =
            Arc::new(move |name: &str| client(&local, User::service_account("kube-system", name)));
        let controllers = Controllers {
            clients,
            root_ca: Some(self.root_ca.clone()),
            signing_ca: Some(self.signing_ca.clone()),
            cluster_cidr: Some(cluster_cidr),
            enabled: Name::ALL.to_vec(),
        };
        work::controllers(&self.shared, controllers)
    }
}

fn client(local: &Local, user: User) -> kube::Client {
    local.clone().with_user(user).client()
}
