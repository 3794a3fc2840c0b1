//! Every pod runs under a ServiceAccount; its containers get the account's token, unless they do not want it.

use std::collections::HashSet;

use corral_api::k8s::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, PodSpec, ProjectedVolumeSource, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use corral_api::meta::{GENERATED_SUFFIX_LENGTH, generated_name};
use corral_api::status::Status;
use corral_kinds::Object;

use super::Attributes;
use crate::api::Api;
use crate::authz::node::names;

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds of a token's life; an hour and a little more, so that renewal once an hour is in time.
const TOKEN_SECONDS: i64 = 3607;
/// Says that an account's pods may use no other secrets than the account names.
const ENFORCE_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) async fn admit(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Object,
) -> Result<(), Status> {
    let Some(pod) = object.get_mut::<Pod>() else {
        return Ok(());
    };
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    if names::mirrors(pod) {
        let why = pod.spec.as_ref().and_then(mirror_refusal);
        return why.map_or(Ok(()), |why| Err(attributes.forbidden(&pod_name, why)));
    }
    let Some(spec) = pod.spec.as_mut() else {
        return Ok(());
    };
    let name = match spec.service_account_name.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(name) => name.to_owned(),
    };
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name.clone());
    let accounts = api.core("serviceaccounts");
    let key = accounts.key(&attributes.cx.namespace, &name);
    let json = match accounts.cacher.peek(&key) {
        Some(stored) => Some(stored.json.clone()),
        None => accounts.fetch(&key).await?.map(|entry| entry.value),
    };
    let account: Option<ServiceAccount> = json.and_then(|json| serde_json::from_slice(&json).ok());
    let Some(account) = account else {
        let why = format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            attributes.cx.namespace
        );
        return Err(attributes.forbidden(&pod_name, &why));
    };
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.clone();
    }
    let automount = spec
        .automount_service_account_token
        .or(account.automount_service_account_token)
        .unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    if mounts_only_its_own(&account)
        && let Some(why) = foreign_secret(spec, &account, &name)
    {
        return Err(attributes.forbidden(&pod_name, &why));
    }
    Ok(())
}

/// Why a pod that stands for one of a node's own is refused: the node runs it without asking anybody, so it can have nothing
/// of the API's.
fn mirror_refusal(spec: &PodSpec) -> Option<&'static str> {
    let account = spec.service_account_name.as_deref();
    if account.is_some_and(|name| !name.is_empty()) {
        return Some("a mirror pod may not reference service accounts");
    }
    if names::secrets(spec).next().is_some() {
        return Some("a mirror pod may not reference secrets");
    }
    let token = names::projections(spec).any(|source| source.service_account_token.is_some());
    token.then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// The containers, each with what it is called among them.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let init = spec.init_containers.iter().flatten();
    let main = spec.containers.iter();
    init.map(|container| ("init container", container))
        .chain(main.map(|container| ("container", container)))
}

/// Whether an account's pods may use no other secrets than it names.
fn mounts_only_its_own(account: &ServiceAccount) -> bool {
    let annotations = account.metadata.annotations.as_ref();
    let said = annotations.and_then(|all| all.get(ENFORCE_ANNOTATION));
    said.is_some_and(|said| matches!(said.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// What a pod uses that its account does not name.
fn foreign_secret(spec: &PodSpec, account: &ServiceAccount, name: &str) -> Option<String> {
    let secrets = account.secrets.iter().flatten();
    let own: HashSet<&str> = secrets
        .filter_map(|secret| secret.name.as_deref())
        .collect();
    let refused = |what: String, of: &str| {
        format!("{what} is not allowed because service account {name} does not reference that {of}")
    };
    for volume in spec.volumes.iter().flatten() {
        let secret = volume
            .secret
            .as_ref()
            .and_then(|s| s.secret_name.as_deref());
        if let Some(secret) = secret.filter(|secret| !own.contains(secret)) {
            let what = format!("volume with secret.secretName={secret:?}");
            return Some(refused(what, "secret"));
        }
    }
    for (what, container) in containers(spec) {
        let secrets = names::secrets_of_environment(&container.env, &container.env_from);
        let mut foreign = secrets.filter(|(_, secret)| !own.contains(secret));
        if let Some((variable, secret)) = foreign.next() {
            let by = match variable {
                Some(variable) => format!("envVar {variable}"),
                None => "envFrom".to_owned(),
            };
            let container = &container.name;
            let what =
                format!("{what} {container} with {by} referencing secret.secretName={secret:?}");
            return Some(refused(what, "secret"));
        }
    }
    let pulled = account.image_pull_secrets.iter().flatten();
    let pulled: HashSet<&str> = pulled.map(|secret| secret.name.as_str()).collect();
    let mut given = spec.image_pull_secrets.iter().flatten().enumerate();
    let (index, secret) = given.find(|(_, secret)| !pulled.contains(secret.name.as_str()))?;
    let what = format!("imagePullSecrets[{index}].name={:?}", secret.name);
    Some(refused(what, "imagePullSecret"))
}

fn mount_token(spec: &mut PodSpec) {
    let random: [u8; GENERATED_SUFFIX_LENGTH] = rand::random();
    let volume = generated_name("kube-api-access-", random);
    let init = spec.init_containers.iter_mut().flatten();
    let mut mounted = false;
    for container in init.chain(spec.containers.iter_mut()) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().all(|mount| mount.mount_path != MOUNT_PATH) {
            mounted = true;
            mounts.push(VolumeMount {
                name: volume.clone(),
                mount_path: MOUNT_PATH.to_owned(),
                read_only: Some(true),
                ..Default::default()
            });
        }
    }
    if mounted {
        spec.volumes
            .get_or_insert_default()
            .push(token_volume(volume));
    }
}

fn token_volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
        ..Default::default()
    };
    let root_ca = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath {
            key: "ca.crt".to_owned(),
            path: "ca.crt".to_owned(),
            mode: None,
        }]),
        optional: None,
    };
    let namespace = DownwardAPIProjection {
        items: Some(vec![DownwardAPIVolumeFile {
            path: "namespace".to_owned(),
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.namespace".to_owned(),
            }),
            ..Default::default()
        }]),
    };
    Volume {
        name,
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o644),
            sources: Some(vec![
                VolumeProjection {
                    service_account_token: Some(token),
                    ..Default::default()
                },
                VolumeProjection {
                    config_map: Some(root_ca),
                    ..Default::default()
                },
                VolumeProjection {
                    downward_api: Some(namespace),
                    ..Default::default()
                },
            ]),
        }),
        ..Default::default()
    }
}
