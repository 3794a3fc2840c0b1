//! Tokens that a node asks for: for its own pods, and for those alone whom these talk to.

use corral_api::k8s::api::authentication::v1::TokenRequestSpec;
use corral_api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use corral_api::k8s::api::storage::v1::CSIDriver;
use corral_api::status::Status;
use serde::de::DeserializeOwned;

use crate::api::Api;
use crate::authn::User;
use crate::authz::node::names;
use crate::authz::{Access, Authorizer};

/// By this verb an administrator lets nodes ask for tokens for somebody whom no pod names.
const VERB: &str = "request-serviceaccounts-token-audience";

/// A request for a token by a node.
pub struct Asked<'a> {
    /// Whose objects these are.
    pub api: &'a Api,
    /// Who knows what nodes may besides.
    pub authorizer: &'a Authorizer,
    /// The node's user.
    pub user: &'a User,
    /// The name of its Node.
    pub node: &'a str,
    /// The namespace of the account.
    pub namespace: &'a str,
    /// The account.
    pub account: &'a str,
}

impl Asked<'_> {
    /// Checks the request.
    ///
    /// # Errors
    /// 403 for a token that is not for a pod of the node, 404 for one for no pod.
    pub async fn check(&self, spec: &TokenRequestSpec) -> Result<(), Status> {
        let reference = spec.bound_object_ref.as_ref();
        let pod = reference.filter(|reference| {
            reference.kind.as_deref() == Some("Pod")
                && reference.api_version.as_deref() == Some("v1")
        });
        let Some(pod) = pod else {
            return self.refuse("node requested token not bound to a pod");
        };
        let wanted = pod.uid.as_deref().unwrap_or("");
        if wanted.is_empty() {
            return self.refuse("node requested token with a pod binding without a uid");
        }
        let name = pod.name.as_deref().unwrap_or("");
        let pod: Option<Pod> = self.live("pods", name).await?;
        let pod = pod.ok_or_else(|| Status::not_found("", "pod", name))?;
        if pod.metadata.uid.as_deref() != Some(wanted) {
            return self.refuse(&format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node != Some(self.node) {
            return self
                .refuse("node requested token bound to a pod scheduled on a different node");
        }
        match spec.audiences.as_deref().unwrap_or_default() {
            [] => self.check_audience(&pod, "").await,
            [audience] => self.check_audience(&pod, audience).await,
            _ => self.refuse("node may only request 0 or 1 audiences"),
        }
    }

    fn refuse(&self, why: &str) -> Result<(), Status> {
        Err(Status::forbidden("", "serviceaccounts", self.account, why))
    }

    /// Whether the pod, or a driver of its volumes, talks to somebody; `""` is the API itself.
    async fn check_audience(&self, pod: &Pod, audience: &str) -> Result<(), Status> {
        let spec = pod.spec.clone().unwrap_or_default();
        let is_it = |given: Option<&str>| given.unwrap_or("") == audience;
        let projected = names::projections(&spec).any(|source| {
            let token = source.service_account_token.as_ref();
            token.is_some_and(|token| is_it(token.audience.as_deref()))
        });
        if projected {
            return Ok(());
        }
        let mut missing = Vec::new();
        for driver in self.drivers(pod, &mut missing) {
            let Some(driver) =
                self.api
                    .cached::<CSIDriver>("storage.k8s.io", "csidrivers", "", &driver)
            else {
                missing.push(format!("csidriver.storage.k8s.io {driver:?} not found"));
                continue;
            };
            let mut requests = driver.spec.token_requests.iter().flatten();
            if requests.any(|request| request.audience == audience) {
                return Ok(());
            }
        }
        match missing.as_slice() {
            [] => {}
            [only] => {
                return self.refuse(&format!("error validating audience {audience:?}: {only}"));
            }
            all => {
                let all = all.join(", ");
                return self.refuse(&format!("error validating audience {audience:?}: [{all}]"));
            }
        }
        let access = Access {
            verb: VERB.to_owned(),
            version: "*".to_owned(),
            resource: audience.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.account.to_owned(),
            ..Default::default()
        };
        if !audience.is_empty() && self.authorizer.allows(self.user, &access).await {
            return Ok(());
        }
        self.refuse(&format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            self.user.name
        ))
    }

    /// The drivers of a pod's volumes; what is not there is told apart.
    fn drivers(&self, pod: &Pod, missing: &mut Vec<String>) -> Vec<String> {
        let pod_name = pod.metadata.name.as_deref().unwrap_or("");
        let volumes = pod.spec.iter().flat_map(names::volumes);
        let mut drivers = Vec::new();
        for volume in volumes {
            if let Some(csi) = &volume.csi {
                drivers.push(csi.driver.clone());
                continue;
            }
            let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(claim), _) => claim.claim_name.clone(),
                (None, Some(_)) => format!("{pod_name}-{}", volume.name),
                (None, None) => {
                    let moved = [
                        (volume.aws_elastic_block_store.is_some(), "ebs.csi.aws.com"),
                        (volume.azure_disk.is_some(), "disk.csi.azure.com"),
                        (volume.azure_file.is_some(), "file.csi.azure.com"),
                        (volume.cinder.is_some(), "cinder.csi.openstack.org"),
                        (
                            volume.gce_persistent_disk.is_some(),
                            "pd.csi.storage.gke.io",
                        ),
                        (volume.portworx_volume.is_some(), "pxd.portworx.com"),
                        (volume.vsphere_volume.is_some(), "csi.vsphere.vmware.com"),
                    ];
                    drivers.extend(moved_to(&moved));
                    continue;
                }
            };
            let plural = "persistentvolumeclaims";
            let bound: Option<PersistentVolumeClaim> =
                self.api.cached("", plural, self.namespace, &claim);
            let Some(bound) = bound else {
                missing.push(format!("persistentvolumeclaim {claim:?} not found"));
                continue;
            };
            let name = bound.spec.and_then(|spec| spec.volume_name);
            let name = name.unwrap_or_default();
            let volume: Option<PersistentVolume> =
                self.api.cached("", "persistentvolumes", "", &name);
            match volume {
                Some(volume) => drivers.extend(driver_of(&volume)),
                None => missing.push(format!("persistentvolume {name:?} not found")),
            }
        }
        drivers
    }

    async fn live<T: DeserializeOwned>(
        &self,
        plural: &str,
        name: &str,
    ) -> Result<Option<T>, Status> {
        let resource = self.api.core(plural);
        let entry = resource.fetch(&resource.key(self.namespace, name)).await?;
        let read = entry.map(|entry| serde_json::from_slice(&entry.value));
        read.transpose().map_err(Status::internal)
    }
}

/// The driver that a kind of volume which Kubernetes once had built in is served by today.
fn moved_to(kinds: &[(bool, &str)]) -> Option<String> {
    let found = kinds.iter().find(|(is_it, _)| *is_it);
    found.map(|(_, driver)| (*driver).to_owned())
}

fn driver_of(volume: &PersistentVolume) -> Option<String> {
    let spec = volume.spec.as_ref()?;
    if let Some(csi) = &spec.csi {
        return Some(csi.driver.clone());
    }
    moved_to(&[
        (spec.aws_elastic_block_store.is_some(), "ebs.csi.aws.com"),
        (spec.azure_disk.is_some(), "disk.csi.azure.com"),
        (spec.azure_file.is_some(), "file.csi.azure.com"),
        (spec.cinder.is_some(), "cinder.csi.openstack.org"),
        (spec.gce_persistent_disk.is_some(), "pd.csi.storage.gke.io"),
        (spec.portworx_volume.is_some(), "pxd.portworx.com"),
        (spec.vsphere_volume.is_some(), "csi.vsphere.vmware.com"),
    ])
}
