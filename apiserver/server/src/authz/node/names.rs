//! What pods and volumes name, by which what belongs to a node is found. Pure.

use std::borrow::Cow;

use corral_api::k8s::api::core::v1::{
    Container, EnvFromSource, EnvVar, PersistentVolume, Pod, PodSpec, SecretReference, Volume,
    VolumeProjection,
};

/// The mark of a pod that stands for one that a node runs on its own account.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

type Names<'a> = Box<dyn Iterator<Item = Cow<'a, str>> + 'a>;

/// Whether a pod stands for one that a node runs on its own account.
pub fn mirrors(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// The objects of a kind, in its namespace, that a pod names. One that a node wrote itself names nothing for it.
pub fn of<'a>(pod: &'a Pod, resource: &str) -> Names<'a> {
    let Some(spec) = pod.spec.as_ref().filter(|_| !mirrors(pod)) else {
        return Box::new(std::iter::empty());
    };
    match resource {
        "serviceaccounts" => Box::new(
            spec.service_account_name
                .as_deref()
                .into_iter()
                .map(Cow::from),
        ),
        "secrets" => Box::new(secrets(spec).map(Cow::from)),
        "configmaps" => Box::new(config_maps(spec).map(Cow::from)),
        "persistentvolumeclaims" => Box::new(claims(pod, spec)),
        "resourceclaims" => Box::new(devices(pod, spec).map(Cow::from)),
        _ => Box::new(std::iter::empty()),
    }
}

/// The volumes of a pod.
pub fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

/// What a pod puts together in volumes.
pub fn projections(spec: &PodSpec) -> impl Iterator<Item = &VolumeProjection> {
    volumes(spec)
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
}

/// The environments of all containers.
fn environments(
    spec: &PodSpec,
) -> impl Iterator<Item = (&Option<Vec<EnvVar>>, &Option<Vec<EnvFromSource>>)> {
    let lasting = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let lasting = lasting.map(|container: &Container| (&container.env, &container.env_from));
    let passing = spec.ephemeral_containers.iter().flatten();
    lasting.chain(passing.map(|container| (&container.env, &container.env_from)))
}

/// Secrets that a pod names.
pub fn secrets(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let pull = spec.image_pull_secrets.iter().flatten();
    let pull = pull.map(|reference| reference.name.as_str());
    let mounted = volumes(spec).filter_map(secret_of);
    let projected = projections(spec).filter_map(|p| Some(p.secret.as_ref()?.name.as_str()));
    let environment = environments(spec).flat_map(|(env, from)| secrets_of_environment(env, from));
    let environment = environment.map(|(_, secret)| secret);
    pull.chain(mounted).chain(projected).chain(environment)
}

/// The Secrets of which an environment is made: by which variable, if by one, and of what name.
pub fn secrets_of_environment<'a>(
    env: &'a Option<Vec<EnvVar>>,
    from: &'a Option<Vec<EnvFromSource>>,
) -> impl Iterator<Item = (Option<&'a str>, &'a str)> {
    let one_by_one = env.iter().flatten().filter_map(|variable| {
        let reference = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        Some((Some(variable.name.as_str()), reference.name.as_str()))
    });
    let whole = from.iter().flatten();
    let whole = whole.filter_map(|from| Some((None, from.secret_ref.as_ref()?.name.as_str())));
    one_by_one.chain(whole)
}

/// The Secret that mounting a volume of a pod needs.
fn secret_of(volume: &Volume) -> Option<&str> {
    if let Some(secret) = &volume.secret {
        return secret.secret_name.as_deref();
    }
    if let Some(file) = &volume.azure_file {
        return Some(&file.secret_name);
    }
    let reference = (volume.cephfs.as_ref().and_then(|v| v.secret_ref.as_ref()))
        .or_else(|| volume.cinder.as_ref()?.secret_ref.as_ref())
        .or_else(|| volume.csi.as_ref()?.node_publish_secret_ref.as_ref())
        .or_else(|| volume.flex_volume.as_ref()?.secret_ref.as_ref())
        .or_else(|| volume.iscsi.as_ref()?.secret_ref.as_ref())
        .or_else(|| volume.rbd.as_ref()?.secret_ref.as_ref())
        .or_else(|| volume.scale_io.as_ref().map(|v| &v.secret_ref))
        .or_else(|| volume.storageos.as_ref()?.secret_ref.as_ref());
    reference.map(|reference| reference.name.as_str())
}

/// ConfigMaps that a pod names.
pub fn config_maps(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let mounted = volumes(spec).filter_map(|v| Some(v.config_map.as_ref()?.name.as_str()));
    let projected = projections(spec).filter_map(|p| Some(p.config_map.as_ref()?.name.as_str()));
    let environment = environments(spec).flat_map(|(env, from)| {
        let each = env.iter().flatten().filter_map(|env| {
            let reference = env.value_from.as_ref()?.config_map_key_ref.as_ref()?;
            Some(reference.name.as_str())
        });
        let whole = from.iter().flatten();
        each.chain(whole.filter_map(|from| Some(from.config_map_ref.as_ref()?.name.as_str())))
    });
    mounted.chain(projected).chain(environment)
}

fn claims<'a>(pod: &'a Pod, spec: &'a PodSpec) -> impl Iterator<Item = Cow<'a, str>> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes(spec).filter_map(move |volume| {
        if volume.ephemeral.is_some() {
            return Some(format!("{name}-{}", volume.name).into());
        }
        let claim = volume.persistent_volume_claim.as_ref()?;
        Some(claim.claim_name.as_str().into())
    })
}

/// Claims of devices: those that stand in the spec, and those that were made for the pod.
fn devices<'a>(pod: &'a Pod, spec: &'a PodSpec) -> impl Iterator<Item = &'a str> {
    let named = spec.resource_claims.iter().flatten();
    let named = named.filter_map(|claim| claim.resource_claim_name.as_deref());
    let status = pod.status.as_ref();
    let made = status.and_then(|status| status.resource_claim_statuses.as_ref());
    let made = made.into_iter().flatten();
    let extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    let extended = extended.map(|extended| extended.resource_claim_name.as_str());
    named
        .chain(made.filter_map(|claim| claim.resource_claim_name.as_deref()))
        .chain(extended)
}

/// The namespace and name of the claim that a volume is bound to.
pub fn claim_of(volume: &PersistentVolume) -> Option<(String, String)> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((claim.namespace.clone()?, claim.name.clone()?))
}

/// Namespaces and names of the Secrets that a volume which is bound to a claim needs on a node. What only controllers
/// need is not among them.
pub fn secrets_of<'a>(
    volume: &'a PersistentVolume,
    of_claim: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let spec = volume.spec.as_ref();
    let azure = spec.and_then(|spec| spec.azure_file.as_ref()).map(|file| {
        let namespace = file.secret_namespace.as_deref();
        (namespace, Some(file.secret_name.as_str()))
    });
    let storageos = spec.and_then(|spec| spec.storageos.as_ref()?.secret_ref.as_ref());
    let storageos = storageos.map(|of| (of.namespace.as_deref(), of.name.as_deref()));
    let csi = spec.and_then(|spec| spec.csi.as_ref());
    let references: [Option<&SecretReference>; 9] = [
        spec.and_then(|spec| spec.cephfs.as_ref()?.secret_ref.as_ref()),
        spec.and_then(|spec| spec.cinder.as_ref()?.secret_ref.as_ref()),
        spec.and_then(|spec| spec.flex_volume.as_ref()?.secret_ref.as_ref()),
        spec.and_then(|spec| spec.iscsi.as_ref()?.secret_ref.as_ref()),
        spec.and_then(|spec| spec.rbd.as_ref()?.secret_ref.as_ref()),
        spec.and_then(|spec| spec.scale_io.as_ref().map(|v| &v.secret_ref)),
        csi.and_then(|csi| csi.node_expand_secret_ref.as_ref()),
        csi.and_then(|csi| csi.node_publish_secret_ref.as_ref()),
        csi.and_then(|csi| csi.node_stage_secret_ref.as_ref()),
    ];
    let references = references.into_iter().flatten();
    let references = references.map(|of| (of.namespace.as_deref(), of.name.as_deref()));
    let all = azure.into_iter().chain(storageos).chain(references);
    all.filter_map(move |(namespace, name)| {
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        Some((namespace.unwrap_or(of_claim), name?))
    })
}
