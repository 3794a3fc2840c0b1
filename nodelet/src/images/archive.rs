//! Import: OCI layouts (directories or tars of them) and the archives that `docker save` writes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::reference::Reference;
use super::store::{DOCUMENT_LEN_MAX, Record, Store, digest, run_config};
use super::unpack::unpack;
use super::{Error, Image};

/// Imports everything that `path` (a directory or a tar, compressed or not) holds, under its own names or under `name`.
pub fn import(store: &Store, path: &Path, name: Option<&Reference>) -> Result<Vec<Image>, Error> {
    if path.is_dir() {
        return import_directory(store, path, name);
    }
    let temporary = store.temporary();
    let file = File::open(path).map_err(Error::io(format!("open {}", path.display())))?;
    let result = unpack(file, &temporary).and_then(|_| import_directory(store, &temporary, name));
    let _ = std::fs::remove_dir_all(&temporary);
    result
}

fn import_directory(
    store: &Store,
    directory: &Path,
    name: Option<&Reference>,
) -> Result<Vec<Image>, Error> {
    if directory.join("index.json").exists() {
        import_layout(store, directory, name)
    } else if directory.join("manifest.json").exists() {
        import_docker(store, directory, name)
    } else {
        Err(Error::Invalid(
            "neither an OCI layout nor a docker archive".into(),
        ))
    }
}

fn document(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io(format!("read {}", path.display())))?;
    let mut bytes = Vec::new();
    file.take(DOCUMENT_LEN_MAX)
        .read_to_end(&mut bytes)
        .map_err(Error::io(format!("read {}", path.display())))?;
    Ok(bytes)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Invalid(error.to_string()))
}

fn blob_path(directory: &Path, digest: &str) -> Result<PathBuf, Error> {
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let hex = hex.ok_or_else(|| Error::Invalid(format!("{digest:?} is not a digest")))?;
    Ok(directory.join("blobs/sha256").join(hex))
}

fn checked(directory: &Path, wanted: &str) -> Result<Vec<u8>, Error> {
    let bytes = document(&blob_path(directory, wanted)?)?;
    if digest(&bytes) == wanted {
        Ok(bytes)
    } else {
        Err(Error::Digest {
            what: "blob".into(),
            expected: wanted.to_owned(),
        })
    }
}

fn import_layout(
    store: &Store,
    directory: &Path,
    name: Option<&Reference>,
) -> Result<Vec<Image>, Error> {
    let index = parse(&document(&directory.join("index.json"))?)?;
    let mut images = Vec::new();
    for entry in index["manifests"].as_array().into_iter().flatten() {
        let Some(manifest_digest) = entry["digest"].as_str() else {
            continue;
        };
        let annotations = &entry["annotations"];
        // containerd writes the full name; others, only the tag.
        let own = annotations["io.containerd.image.name"]
            .as_str()
            .or_else(|| annotations["org.opencontainers.image.ref.name"].as_str());
        let reference = match (name, own) {
            (Some(name), _) => name.clone(),
            (None, Some(own)) => Reference::parse(own)?,
            (None, None) => return Err(Error::Invalid("the image has no name; give one".into())),
        };
        let bytes = checked(directory, manifest_digest)?;
        let (manifest, manifest_digest) =
            for_this_machine(&bytes, manifest_digest, |digest| checked(directory, digest))?;
        let config_digest = text(&manifest["config"]["digest"])?;
        let config = checked(directory, config_digest)?;
        let mut record = record(Some(manifest_digest), config_digest, &config)?;
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            let layer_digest = text(&layer["digest"])?;
            let file = File::open(blob_path(directory, layer_digest)?)
                .map_err(Error::io("open a layer"))?;
            let (layer, size) = store.add_layer(layer_digest, file)?;
            record.layers.push(layer);
            record.size += size;
        }
        record.pinned = true;
        images.push(store.add(&reference, record)?);
    }
    Ok(images)
}

fn import_docker(
    store: &Store,
    directory: &Path,
    name: Option<&Reference>,
) -> Result<Vec<Image>, Error> {
    let manifest = parse(&document(&directory.join("manifest.json"))?)?;
    let mut images = Vec::new();
    for entry in manifest.as_array().into_iter().flatten() {
        let config = document(&inside(directory, text(&entry["Config"])?)?)?;
        let mut record = record(None, &digest(&config), &config)?;
        let diffs = parse(&config)?["rootfs"]["diff_ids"].clone();
        let layers = entry["Layers"].as_array().cloned().unwrap_or_default();
        for (layer, diff) in layers.iter().zip(diffs.as_array().into_iter().flatten()) {
            let file =
                File::open(inside(directory, text(layer)?)?).map_err(Error::io("open a layer"))?;
            // The file may be compressed while the configuration promises the digest of the plain tar.
            let (layer, size) = store.add_layer(text(diff)?, super::unpack::decompress(file)?)?;
            record.layers.push(layer);
            record.size += size;
        }
        record.pinned = true;
        let own: Vec<String> = entry["RepoTags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tag| tag.as_str().map(str::to_owned))
            .collect();
        let references = match name {
            Some(name) => vec![name.clone()],
            None => own
                .iter()
                .map(|tag| Reference::parse(tag))
                .collect::<Result<_, _>>()?,
        };
        for reference in references {
            images.push(store.add(&reference, record.clone())?);
        }
    }
    Ok(images)
}

/// A path of the archive, which must not lead out of it.
fn inside(directory: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = Path::new(name);
    if path
        .components()
        .all(|component| matches!(component, std::path::Component::Normal(_)))
    {
        let full = directory.join(path);
        let real = full
            .canonicalize()
            .map_err(Error::io(format!("read {name}")))?;
        let root = directory
            .canonicalize()
            .map_err(Error::io("read the archive"))?;
        if real.starts_with(root) {
            return Ok(real);
        }
    }
    Err(Error::Invalid(format!("a file is called {name:?}")))
}

fn text(value: &Value) -> Result<&str, Error> {
    value
        .as_str()
        .ok_or_else(|| Error::Invalid("a name or digest is missing".into()))
}

/// Follows an index to the manifest for this machine's architecture.
fn for_this_machine(
    bytes: &[u8],
    digest: &str,
    fetch: impl Fn(&str) -> Result<Vec<u8>, Error>,
) -> Result<(Value, String), Error> {
    let value = parse(bytes)?;
    if !value["manifests"].is_array() {
        return Ok((value, digest.to_owned()));
    }
    let chosen =
        choose(&value).ok_or_else(|| Error::Invalid("no manifest for this machine".into()))?;
    Ok((parse(&fetch(&chosen)?)?, chosen))
}

/// The digest of the manifest for this machine in an index.
pub(super) fn choose(index: &Value) -> Option<String> {
    let entries = index["manifests"].as_array()?;
    let fits = |entry: &&Value| {
        entry["platform"]["os"] == "linux"
            && entry["platform"]["architecture"] == super::pack::architecture()
    };
    let single = || {
        entries
            .first()
            .filter(|entry| entries.len() == 1 && entry["platform"].is_null())
    };
    entries.iter().find(fits).or_else(single)?["digest"]
        .as_str()
        .map(str::to_owned)
}

pub(super) fn record(
    manifest: Option<String>,
    config_digest: &str,
    config: &[u8],
) -> Result<Record, Error> {
    Ok(Record {
        manifest,
        config: config_digest.to_owned(),
        layers: Vec::new(),
        size: 0,
        run: run_config(config)?,
        pinned: false,
    })
}
