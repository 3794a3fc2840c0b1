//! What is in a volume that is made of objects: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection,
};
use jiff::{SignedDuration, Timestamp};

use super::atomic::File;
use crate::env::{Facts, field_value, resource_value};
use crate::objects::{Error, Objects};

/// Permission bits of files whose volume does not say.
const DEFAULT_MODE: u32 = 0o644;

/// How long a token lives when the volume does not say.
const TOKEN_SECONDS: i64 = 3600;

/// The contents of a volume.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Files by relative path.
    pub files: BTreeMap<String, File>,
    /// When a token in it should be replaced.
    pub renew_at: Option<Timestamp>,
}

/// Whether a volume is made of objects.
pub fn is_rendered(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Fetches and lays out a volume's files.
pub async fn content(
    objects: &Objects,
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
) -> Result<Content, Error> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut content = Content::default();
    if let Some(source) = &volume.config_map {
        let mode = bits(source.default_mode);
        let optional = source.optional.unwrap_or(false);
        let data = config_map(objects, &namespace, &source.name, optional).await?;
        select(
            &mut content.files,
            ("configmap", &source.name),
            data,
            source.items.as_deref(),
            mode,
            optional,
        )?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let optional = source.optional.unwrap_or(false);
        let data = secret(objects, &namespace, &name, optional).await?;
        let mode = bits(source.default_mode);
        select(
            &mut content.files,
            ("secret", &name),
            data,
            source.items.as_deref(),
            mode,
            optional,
        )?;
    } else if let Some(source) = &volume.downward_api {
        downward(
            &mut content.files,
            pod,
            source.items.as_deref(),
            bits(source.default_mode),
            facts,
        )?;
    } else if let Some(source) = &volume.projected {
        for projection in source.sources.iter().flatten() {
            project(
                objects,
                pod,
                projection,
                bits(source.default_mode),
                facts,
                &mut content,
            )
            .await?;
        }
    }
    Ok(content)
}

async fn project(
    objects: &Objects,
    pod: &Pod,
    projection: &VolumeProjection,
    mode: u32,
    facts: &Facts,
    content: &mut Content,
) -> Result<(), Error> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(source) = &projection.config_map {
        let optional = source.optional.unwrap_or(false);
        let data = config_map(objects, &namespace, &source.name, optional).await?;
        select(
            &mut content.files,
            ("configmap", &source.name),
            data,
            source.items.as_deref(),
            mode,
            optional,
        )
    } else if let Some(source) = &projection.secret {
        let optional = source.optional.unwrap_or(false);
        let data = secret(objects, &namespace, &source.name, optional).await?;
        select(
            &mut content.files,
            ("secret", &source.name),
            data,
            source.items.as_deref(),
            mode,
            optional,
        )
    } else if let Some(source) = &projection.downward_api {
        downward(
            &mut content.files,
            pod,
            source.items.as_deref(),
            mode,
            facts,
        )
    } else if let Some(source) = &projection.service_account_token {
        let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let audience = source
            .audience
            .as_deref()
            .filter(|audience| !audience.is_empty());
        let token = objects.token(pod, audience, seconds).await?;
        // At four fifths of its life, so that a slow server does not let it lapse.
        let life = token
            .expires_at
            .duration_since(Timestamp::now())
            .max(SignedDuration::ZERO);
        let renew_at = token.expires_at - life / 5;
        content.renew_at = Some(
            content
                .renew_at
                .map_or(renew_at, |earlier| earlier.min(renew_at)),
        );
        content.files.insert(
            source.path.clone(),
            File {
                bytes: token.token.into_bytes(),
                mode,
            },
        );
        Ok(())
    } else {
        Err(Error::Unsupported("this kind of projected volume"))
    }
}

fn bits(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(DEFAULT_MODE)
}

type Data = BTreeMap<String, Vec<u8>>;

async fn config_map(
    objects: &Objects,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Data, Error> {
    let Some(object) = objects.config_map(namespace, name, optional).await? else {
        return Ok(Data::new());
    };
    let text = object
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.into_bytes()));
    let binary = object
        .binary_data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0));
    Ok(text.chain(binary).collect())
}

async fn secret(
    objects: &Objects,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Data, Error> {
    let found = objects.secret(namespace, name, optional).await?;
    let data = found.and_then(|object| object.data).unwrap_or_default();
    Ok(data
        .into_iter()
        .map(|(key, value)| (key, value.0))
        .collect())
}

fn select(
    files: &mut BTreeMap<String, File>,
    (kind, name): (&'static str, &str),
    data: Data,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), Error> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(
            data.into_iter()
                .map(|(key, bytes)| (key, File { bytes, mode })),
        );
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.map_or(mode, |mode| bits(Some(mode)));
                files.insert(
                    item.path.clone(),
                    File {
                        bytes: bytes.clone(),
                        mode,
                    },
                );
            }
            None if optional => {}
            None => {
                return Err(Error::NotFound {
                    kind,
                    name: format!("{name} (key {})", item.key),
                });
            }
        }
    }
    Ok(())
}

fn downward(
    files: &mut BTreeMap<String, File>,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    facts: &Facts,
) -> Result<(), Error> {
    let none = corral_api::k8s::api::core::v1::Container::default();
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, field, facts)?,
            (None, Some(resource)) => resource_value(pod, &none, resource, facts)?,
            (None, None) => continue,
        };
        let mode = item.mode.map_or(mode, |mode| bits(Some(mode)));
        files.insert(
            item.path.clone(),
            File {
                bytes: text.into_bytes(),
                mode,
            },
        );
    }
    Ok(())
}
