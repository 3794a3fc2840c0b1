//! The images on disk: an index by name, blobs by digest, unpacked layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::unpack::unpack;
use super::{Error, Image};
use crate::runtime::spec::ImageConfig;

/// The largest manifest or configuration that is read: registries refuse larger ones.
pub const DOCUMENT_LEN_MAX: u64 = 4 << 20;

/// What the index remembers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The digest of the manifest, if it came with one.
    pub manifest: Option<String>,
    /// The digest of the configuration: the image's identity.
    pub config: String,
    /// Layer directories, lowest first.
    pub layers: Vec<String>,
    /// What it occupies unpacked, layers shared with others included.
    pub size: u64,
    /// How to run it.
    pub run: ImageConfig,
    /// Whether it stays when room is made: it was brought by hand, and no registry may have it.
    #[serde(default)]
    pub pinned: bool,
}

/// An image in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its names.
    pub names: Vec<String>,
    /// Its identity.
    pub id: String,
    /// Its size unpacked.
    pub size: u64,
}

/// The store.
pub struct Store {
    directory: PathBuf,
}

/// The index while nobody else, in this process or another, may change it.
struct Index {
    names: BTreeMap<String, Record>,
    // Held for its lock, which ends with it.
    _lock: Flock<File>,
}

impl Store {
    /// Opens or makes the store in `directory`.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        for part in ["blobs/sha256", "layers", "tmp"] {
            std::fs::create_dir_all(directory.join(part))
                .map_err(Error::io("make the image store"))?;
        }
        // Left by a process that died in the middle of an unpacking.
        for entry in std::fs::read_dir(directory.join("tmp"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_dir_all(entry.path())
                .or_else(|_| std::fs::remove_file(entry.path()));
        }
        Self::attach(directory)
    }

    /// Opens the store beside a process that has it open, such as the agent.
    pub fn attach(directory: &Path) -> Result<Self, Error> {
        for part in ["blobs/sha256", "layers", "tmp"] {
            std::fs::create_dir_all(directory.join(part))
                .map_err(Error::io("make the image store"))?;
        }
        let store = Self {
            directory: directory.to_owned(),
        };
        store.lock()?;
        Ok(store)
    }

    /// Takes the index for oneself. Short: never held while something is unpacked or across an await.
    fn lock(&self) -> Result<Index, Error> {
        let path = self.directory.join("index.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path);
        let file = file.map_err(Error::io("open the lock of the image index"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| Error::io("lock the image index")(error.into()))?;
        let names = match std::fs::read(self.directory.join("index.json")) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::Invalid(format!("the store's index.json: {error}")))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::io("read the image index")(error)),
        };
        Ok(Index { names, _lock: lock })
    }

    /// The directory that holds the unpacked layers.
    pub fn layers_dir(&self) -> PathBuf {
        self.directory.join("layers")
    }

    /// A path for something unfinished.
    pub fn temporary(&self) -> PathBuf {
        self.directory
            .join("tmp")
            .join(uuid::Uuid::new_v4().to_string())
    }

    /// The image of that name, if it is here.
    pub fn find(&self, reference: &Reference) -> Option<Image> {
        let index = self
            .lock()
            .map_err(|error| tracing::error!(%error, "the image index cannot be read"))
            .ok()?
            .names;
        let record = match &reference.digest {
            Some(digest) => index.values().find(|record| is(record, digest))?,
            None => index.get(&reference.to_string())?,
        };
        Some(image(&reference.to_string(), reference, record))
    }

    /// Gives an image a name.
    pub fn add(&self, reference: &Reference, record: Record) -> Result<Image, Error> {
        let name = reference.to_string();
        let made = image(&name, reference, &record);
        let mut index = self.lock()?;
        // Under the lock that removing takes: what is there now stays, for now it has a name.
        for layer in &record.layers {
            if !self.layers_dir().join(layer).exists() {
                return Err(Error::LayerGone(layer.clone()));
            }
        }
        index.names.insert(name, record);
        self.save(&index.names)?;
        Ok(made)
    }

    /// All images.
    pub fn list(&self) -> Vec<Listed> {
        let mut by_id: BTreeMap<String, Listed> = BTreeMap::new();
        let names = self
            .lock()
            .map(|index| index.names)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the image index cannot be read");
                BTreeMap::new()
            });
        for (name, record) in &names {
            let listed = by_id
                .entry(record.config.clone())
                .or_insert_with(|| Listed {
                    names: Vec::new(),
                    id: record.config.clone(),
                    size: record.size,
                });
            listed.names.push(name.clone());
        }
        by_id.into_values().collect()
    }

    /// The identities of images that stay when room is made.
    pub fn pinned(&self) -> Result<BTreeSet<String>, Error> {
        let index = self.lock()?.names;
        let pinned = index.values().filter(|record| record.pinned);
        Ok(pinned.map(|record| record.config.clone()).collect())
    }

    /// Lets an image stay when room is made, or go; says whether it is there.
    pub fn pin(&self, reference: &Reference, pinned: bool) -> Result<bool, Error> {
        let mut index = self.lock()?;
        let record = index.names.get_mut(&reference.to_string());
        let found = record.map(|record| record.pinned = pinned).is_some();
        self.save(&index.names)?;
        Ok(found)
    }

    /// Removes a name; says whether it was there. Layers go with [`Store::collect`].
    pub fn remove(&self, reference: &Reference) -> Result<bool, Error> {
        let mut index = self.lock()?;
        let removed = index.names.remove(&reference.to_string()).is_some();
        self.save(&index.names)?;
        Ok(removed)
    }

    /// The identities of those of these images that are here.
    pub fn ids(&self, references: &[Reference]) -> Result<BTreeSet<String>, Error> {
        let index = self.lock()?.names;
        let record = |reference: &Reference| match &reference.digest {
            Some(digest) => index.values().find(|record| is(record, digest)),
            None => index.get(&reference.to_string()),
        };
        let ids = references.iter().filter_map(record);
        Ok(ids.map(|record| record.config.clone()).collect())
    }

    /// Removes an image with all its names, and its layers but those that other images or mounts use; says how many
    /// bytes were freed.
    pub fn remove_image(&self, id: &str, mounted: &BTreeSet<String>) -> Result<u64, Error> {
        let mut index = self.lock()?;
        let mut own: BTreeSet<String> = BTreeSet::new();
        index.names.retain(|_, record| {
            let stays = record.config != id;
            if !stays {
                own.extend(record.layers.iter().cloned());
            }
            stays
        });
        self.save(&index.names)?;
        let named = named(&index);
        let mut moved = Vec::new();
        for layer in own {
            if !named.contains(&layer) && !mounted.contains(&layer) {
                moved.extend(self.set_aside(&layer)?);
            }
        }
        // Deleting many files takes time, in which others want the index.
        drop(index);
        delete(&moved)
    }

    /// Removes layers that nothing names or mounts and that are older than any pull takes: of images whose name went
    /// to another, and of pulls that failed.
    pub fn remove_orphans(&self, mounted: &BTreeSet<String>) -> Result<u64, Error> {
        let index = self.lock()?;
        let named = named(&index);
        let mut moved = Vec::new();
        for entry in std::fs::read_dir(self.layers_dir())
            .map_err(Error::io("list layers"))?
            .flatten()
        {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // The time of the renaming that made it whole.
            let made = entry.metadata().ok().and_then(|data| {
                let at = std::os::unix::fs::MetadataExt::ctime(&data);
                jiff::Timestamp::from_second(at).ok()
            });
            let old = made
                .is_some_and(|made| jiff::Timestamp::now().duration_since(made) > ORPHAN_AGE_MIN);
            if old && !named.contains(&name) && !mounted.contains(&name) {
                moved.extend(self.set_aside(&name)?);
            }
        }
        drop(index);
        delete(&moved)
    }

    /// Takes a layer's name away at once; the files go later.
    fn set_aside(&self, layer: &str) -> Result<Option<PathBuf>, Error> {
        let aside = self.temporary();
        match std::fs::rename(self.layers_dir().join(layer), &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("remove a layer")(error)),
        }
    }

    /// Removes layers that no image names and no container uses, and all blobs; returns what was freed in layers.
    pub fn collect(&self, in_use: &BTreeSet<String>) -> Result<usize, Error> {
        let index = self.lock()?;
        let named: BTreeSet<&String> = index
            .names
            .values()
            .flat_map(|record| &record.layers)
            .collect();
        let mut removed = 0;
        for entry in std::fs::read_dir(self.layers_dir())
            .map_err(Error::io("list layers"))?
            .flatten()
        {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !named.contains(&name) && !in_use.contains(&name) {
                std::fs::remove_dir_all(entry.path()).map_err(Error::io("remove a layer"))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Unpacks a layer (compressed or not) whose bytes have the digest `sha256:…`, unless it is here already.
    ///
    /// Returns the directory's name and the unpacked size.
    pub fn add_layer(&self, digest: &str, reader: impl Read) -> Result<(String, u64), Error> {
        let name = layer_name(digest)?;
        let target = self.layers_dir().join(&name);
        if target.exists() {
            return Ok((name, directory_size(&target)));
        }
        let temporary = self.temporary();
        let mut hashing = Hashing::new(reader);
        let unpacked = unpack(&mut hashing, &temporary);
        let outcome = unpacked.and_then(|size| hashing.verify(digest, "layer").map(|()| size));
        match outcome {
            Ok(size) => {
                match std::fs::rename(&temporary, &target) {
                    Ok(()) => {}
                    // Somebody else unpacked the same layer meanwhile.
                    Err(_) if target.exists() => drop(std::fs::remove_dir_all(&temporary)),
                    Err(error) => return Err(Error::io("keep a layer")(error)),
                }
                Ok((name, size))
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(&temporary);
                Err(error)
            }
        }
    }

    /// Whether a layer is here, and its size.
    pub fn has_layer(&self, digest: &str) -> Option<(String, u64)> {
        let name = layer_name(digest).ok()?;
        let target = self.layers_dir().join(&name);
        target.exists().then(|| (name, directory_size(&target)))
    }

    fn save(&self, index: &BTreeMap<String, Record>) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(index).expect("plain data serialises");
        let temporary = self.temporary();
        std::fs::write(&temporary, text).map_err(Error::io("write the image index"))?;
        std::fs::rename(&temporary, self.directory.join("index.json"))
            .map_err(Error::io("write the image index"))
    }
}

/// A layer without a name may belong to a pull that is under way; none takes so long.
const ORPHAN_AGE_MIN: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

fn is(record: &Record, digest: &str) -> bool {
    record.manifest.as_deref() == Some(digest) || record.config == digest
}

fn named(index: &Index) -> BTreeSet<String> {
    let layers = index.names.values().flat_map(|record| &record.layers);
    layers.cloned().collect()
}

fn delete(directories: &[PathBuf]) -> Result<u64, Error> {
    let mut freed = 0;
    for directory in directories {
        freed += crate::disk::size(directory);
        std::fs::remove_dir_all(directory).map_err(Error::io("remove a layer"))?;
    }
    Ok(freed)
}

fn image(name: &str, reference: &Reference, record: &Record) -> Image {
    let id = match &record.manifest {
        Some(manifest) => format!("{}@{manifest}", reference.base()),
        None => record.config.clone(),
    };
    Image {
        name: name.to_owned(),
        id,
        config: record.run.clone(),
        layers: Some(record.layers.clone()),
    }
}

/// A directory name short enough that the options of an overlay of a hundred layers fit in one page.
fn layer_name(digest: &str) -> Result<String, Error> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
    let hex = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex.map(|hex| hex[..24].to_owned())
        .ok_or_else(|| Error::Invalid(format!("{digest:?} is not a digest")))
}

fn directory_size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => directory_size(&entry.path()),
            Ok(_) => entry.metadata().map_or(0, |metadata| metadata.len()),
            Err(_) => 0,
        })
        .sum()
}

/// The digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads through, computing a digest.
pub struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    /// Wraps a reader.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    /// Reads what is left and compares.
    pub fn verify(mut self, expected: &str, what: &str) -> Result<(), Error> {
        std::io::copy(&mut self, &mut std::io::sink())
            .map_err(Error::io(format!("read a {what}")))?;
        let found = format!("sha256:{}", hex(&self.hash.finalize()));
        if found == expected {
            Ok(())
        } else {
            Err(Error::Digest {
                what: what.to_owned(),
                expected: expected.to_owned(),
            })
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// The parts of an image configuration that matter, from its JSON.
pub fn run_config(config: &[u8]) -> Result<ImageConfig, Error> {
    let config: serde_json::Value = serde_json::from_slice(config)
        .map_err(|error| Error::Invalid(format!("configuration: {error}")))?;
    let inner = &config["config"];
    let list = |name: &str| -> Vec<String> {
        inner[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let text = |name: &str| {
        inner[name]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    Ok(ImageConfig {
        entrypoint: list("Entrypoint"),
        command: list("Cmd"),
        env: list("Env"),
        working_dir: text("WorkingDir"),
        user: text("User"),
        stop_signal: text("StopSignal"),
    })
}
