//! Volumes of type `image`: pulled when the first container that mounts them starts, and mounted read-only.

use std::path::Path;

use corral_api::k8s::api::core::v1::{Container, ImageVolumeSource, Pod};

use super::sandbox::chain;
use super::start::Failure;
use crate::images::rootfs::mount_volume;
use crate::images::{HOST, PullPolicy};
use crate::node::Node;
use crate::volumes::is_mount_point;

/// The lowest layer of every such volume, which is empty: an overlay of one layer could not be mounted.
const BASE: &str = "image-base";

/// Makes the image volumes that a container mounts. One that is there already stays what it is as long as the pod does.
pub(super) async fn prepare(
    node: &Node,
    pod: &Pod,
    container: &Container,
    pod_dir: &Path,
) -> Result<(), Failure> {
    let mounted = |name: &str| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == name)
    };
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes.filter(|volume| mounted(&volume.name)) {
        let Some(source) = &volume.image else {
            continue;
        };
        let path = pod_dir.join("volumes").join(&volume.name);
        if !is_mount_point(&path) {
            make(node, pod, source, pod_dir, &path).await?;
        }
    }
    Ok(())
}

async fn make(
    node: &Node,
    pod: &Pod,
    source: &ImageVolumeSource,
    pod_dir: &Path,
    path: &Path,
) -> Result<(), Failure> {
    let name = source.reference.clone().unwrap_or_default();
    if name == HOST {
        let message = format!("{HOST} cannot be a volume; use hostPath");
        return Err(Failure::Create("CreateContainerConfigError", message));
    }
    let policy = PullPolicy::of(source.pull_policy.as_deref(), &name);
    let credentials = node.objects.pull_credentials(pod).await;
    let image = node
        .images
        .ensure(&name, policy, &credentials)
        .await
        .map_err(|error| Failure::Create(error.reason(), chain(&error)))?;
    let base = pod_dir.join(BASE);
    let layers = node.images.store().layers_dir();
    mount_volume(&layers, &image, &base, path)
        .map_err(|error| Failure::Create("CreateContainerError", chain(&error)))
}
