//! Pulling from a registry: manifest, configuration, then layers, a few at a time, streamed through the digest check
//! straight into the unpacker.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use tokio::sync::{Semaphore, mpsc};

use super::archive::{choose, parse, record};
use super::reference::Reference;
use super::store::{Store, digest};
use super::{Credential, Error, Image};

/// How many images are pulled at once: a node that starts fifty pods should not open fifty downloads.
const PULLS_MAX: usize = 4;

/// How many layers of one image are fetched at once.
const LAYERS_MAX: usize = 3;

/// How many chunks wait between network and unpacker.
const CHUNKS_MAX: usize = 16;

const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Pulls images into a store.
pub struct Puller {
    store: Arc<Store>,
    insecure: Vec<String>,
    pulls: Semaphore,
}

impl Puller {
    pub(super) fn new(store: Arc<Store>, insecure: Vec<String>) -> Self {
        Self {
            store,
            insecure,
            pulls: Semaphore::new(PULLS_MAX),
        }
    }

    /// Pulls an image, trying each credential that fits its registry.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: &[Credential],
    ) -> Result<Image, Error> {
        let _permit = self
            .pulls
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut fitting: Vec<RegistryAuth> = credentials
            .iter()
            .filter(|credential| fits(credential, reference))
            .map(|credential| {
                RegistryAuth::Basic(credential.username.clone(), credential.password.clone())
            })
            .collect();
        if fitting.is_empty() {
            fitting.push(RegistryAuth::Anonymous);
        }
        let mut last = None;
        for auth in fitting {
            match self.pull_with(reference, &auth).await {
                Ok(image) => return Ok(image),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is at least one attempt"))
    }

    fn client(&self, reference: &Reference) -> oci_client::Client {
        let plain = is_loopback(&reference.registry) || self.insecure.contains(&reference.registry);
        let protocol = if plain {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        oci_client::Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(std::time::Duration::from_secs(30)),
            read_timeout: Some(std::time::Duration::from_secs(60)),
            ..ClientConfig::default()
        })
    }

    async fn pull_with(&self, reference: &Reference, auth: &RegistryAuth) -> Result<Image, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Pull {
            name: reference.to_string(),
            why: error.to_string(),
        };
        let client = self.client(reference);
        let remote = |digest: Option<&str>| match digest.or(reference.digest.as_deref()) {
            Some(digest) => oci_client::Reference::with_digest(
                reference.registry.clone(),
                reference.repository.clone(),
                digest.to_owned(),
            ),
            None => oci_client::Reference::with_tag(
                reference.registry.clone(),
                reference.repository.clone(),
                reference.tag.clone().unwrap_or_else(|| "latest".into()),
            ),
        };
        let fetch = async |name: oci_client::Reference| {
            let (bytes, claimed) = client
                .pull_manifest_raw(&name, auth, &MEDIA_TYPES)
                .await
                .map_err(|error| failed(&error))?;
            let expected = name.digest().map_or(claimed, str::to_owned);
            match digest(&bytes) == expected {
                true => Ok((bytes, expected)),
                false => Err(Error::Digest {
                    what: "manifest".into(),
                    expected,
                }),
            }
        };
        let (mut bytes, mut manifest_digest) = fetch(remote(None)).await?;
        let mut manifest = parse(&bytes)?;
        if manifest["manifests"].is_array() {
            let chosen = choose(&manifest)
                .ok_or_else(|| failed(&"no match for platform in manifest: not found"))?;
            (bytes, manifest_digest) = fetch(remote(Some(&chosen))).await?;
            manifest = parse(&bytes)?;
        }
        if let Some(image) = self.same(reference, &manifest_digest) {
            return Ok(image);
        }
        let missing = || Error::Invalid("the manifest names no configuration".into());
        let config_digest = manifest["config"]["digest"].as_str().ok_or_else(missing)?;
        let mut config = Vec::new();
        let name = remote(None);
        client
            .pull_blob(&name, config_digest, &mut config)
            .await
            .map_err(|error| failed(&error))?;
        if digest(&config) != config_digest {
            return Err(Error::Digest {
                what: "configuration".into(),
                expected: config_digest.to_owned(),
            });
        }
        let mut record = record(Some(manifest_digest), config_digest, &config)?;
        let layers: Vec<String> = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|layer| layer["digest"].as_str().map(str::to_owned))
            .collect();
        let mut fetched = futures::stream::iter(layers)
            .map(|layer| self.layer(&client, &name, layer, reference))
            .buffered(LAYERS_MAX);
        while let Some(layer) = fetched.next().await {
            let (layer, size) = layer?;
            record.layers.push(layer);
            record.size += size;
        }
        self.store.add(reference, record)
    }

    /// The image under this name already has that manifest.
    fn same(&self, reference: &Reference, manifest: &str) -> Option<Image> {
        self.store
            .find(reference)
            .filter(|image| image.id.ends_with(manifest))
    }

    async fn layer(
        &self,
        client: &oci_client::Client,
        name: &oci_client::Reference,
        digest: String,
        reference: &Reference,
    ) -> Result<(String, u64), Error> {
        if let Some(present) = self.store.has_layer(&digest) {
            return Ok(present);
        }
        let failed = |why: String| Error::Pull {
            name: reference.to_string(),
            why,
        };
        let mut stream = client
            .pull_blob_stream(name, digest.as_str())
            .await
            .map_err(|error| failed(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let store = self.store.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            store.add_layer(
                &digest,
                ChunkReader {
                    receiver,
                    current: Bytes::new(),
                },
            )
        });
        while let Some(chunk) = stream.stream.next().await {
            let broken = chunk.is_err();
            if sender.send(chunk).await.is_err() || broken {
                break;
            }
        }
        drop(sender);
        match unpacking.await {
            Ok(result) => result,
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Presents chunks that arrive asynchronously as a blocking reader.
struct ChunkReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether a credential is for this image's registry; Docker Hub goes by several names.
fn fits(credential: &Credential, reference: &Reference) -> bool {
    let wanted = credential
        .registry
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let wanted = wanted
        .trim_end_matches('/')
        .trim_end_matches("/v1")
        .trim_end_matches("/v2");
    let (host, path) = wanted.split_once('/').unwrap_or((wanted, ""));
    let host = if host == "index.docker.io" || host == "registry-1.docker.io" {
        "docker.io"
    } else {
        host
    };
    host == reference.registry && (path.is_empty() || reference.repository.starts_with(path))
}
