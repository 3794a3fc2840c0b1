//! Images: names, the store on disk, where they come from, and root file systems made of them.
//!
//! ```text
//! <data>/images/
//!   index.json            name → image
//!   blobs/sha256/<hex>    configurations (and layers while they are unpacked)
//!   layers/<16 hex>/      one unpacked layer, shared by all images and containers
//! ```
//!
//! A layer appears under its final name only when it is whole. Reading order: [`reference`], [`store`], [`unpack`],
//! [`archive`] (import), [`pull`], [`pack`], [`rootfs`], [`collect`].

pub mod archive;
pub mod collect;
pub mod pack;
pub mod pull;
pub mod reference;
pub mod rootfs;
pub mod store;
pub mod unpack;

use std::sync::Arc;

use crate::runtime::spec::ImageConfig;
use reference::Reference;
use store::Store;

/// The image that is no image: the machine's own root file system, read-only.
pub const HOST: &str = "corral.dev/host";

/// The identity that [`HOST`] has in container statuses.
const HOST_ID: &str = "corral.dev/host@native";

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// Only when the image is not here.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// The policy of a container: its own, or by its image's tag.
    pub fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if Reference::parse(image).is_ok_and(|reference| reference.is_latest()) => {
                Self::Always
            }
            _ => Self::IfNotPresent,
        }
    }
}

/// An image that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name by which it was asked for, in full.
    pub name: String,
    /// What identifies its content (`name@sha256:…` or `sha256:…`).
    pub id: String,
    /// What it says about running it.
    pub config: ImageConfig,
    /// Directory names of its layers, lowest first; `None` for the machine's own root.
    pub layers: Option<Vec<String>>,
}

/// Why an image cannot be used; [`Error::reason`] is what a pod's status says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is malformed.
    #[error("couldn't parse image name {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is not here, and must not be pulled.
    #[error("container image {0:?} is not present with pull policy of Never")]
    Never(String),
    /// The registry refused or failed.
    #[error("failed to pull image {name:?}: {why}")]
    Pull {
        /// The image.
        name: String,
        /// What the registry or the network said.
        why: String,
    },
    /// What was received is not what its digest promises.
    #[error("{what} does not have the digest {expected}")]
    Digest {
        /// Which blob.
        what: String,
        /// What it should have been.
        expected: String,
    },
    /// The collector of unused images was quicker; what needed the layer has to get it again.
    #[error("layer {0} was removed meanwhile")]
    LayerGone(String),
    /// An archive or manifest is malformed or unsafe.
    #[error("image is not valid: {0}")]
    Invalid(String),
    /// The disk failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let action = action.into();
        move |source| Error::Io { action, source }
    }

    /// The reason in Kubernetes' words.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Name { .. } => "InvalidImageName",
            Error::Never(_) => "ErrImageNeverPull",
            _ => "ErrImagePull",
        }
    }
}

/// A user name and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The registry's host, with a path prefix if it is limited to one.
    pub registry: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// The images of a node.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    puller: Arc<pull::Puller>,
}

impl Images {
    /// Opens the store below `directory`. Registries in `insecure` are spoken to without TLS, as are loopback ones.
    pub fn open(directory: &std::path::Path, insecure: Vec<String>) -> Result<Self, Error> {
        let store = Arc::new(Store::open(directory)?);
        Ok(Self {
            puller: Arc::new(pull::Puller::new(store.clone(), insecure)),
            store,
        })
    }

    /// The store behind, for listing, importing and removing.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Gives an image that is ready to be run, pulling it if the policy says so.
    pub async fn ensure(
        &self,
        name: &str,
        policy: PullPolicy,
        credentials: &[Credential],
    ) -> Result<Image, Error> {
        if name == HOST {
            return Ok(host());
        }
        let reference = Reference::parse(name)?;
        let present = self.store.find(&reference);
        match (policy, present) {
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(image)) => Ok(image),
            (PullPolicy::Never, None) => Err(Error::Never(name.to_owned())),
            (PullPolicy::Always | PullPolicy::IfNotPresent, _) => {
                self.puller.pull(&reference, credentials).await
            }
        }
    }
}

/// The image that stands for the machine itself.
fn host() -> Image {
    Image {
        name: HOST.into(),
        id: HOST_ID.into(),
        config: ImageConfig::default(),
        layers: None,
    }
}
