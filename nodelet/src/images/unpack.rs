//! Layers into directories: decompression, whiteouts, and names that try to escape.
//!
//! A layer is a tar that adds to the layers below. `.wh.NAME` says that NAME is gone: overlayfs wants a character
//! device 0/0 of that name. `.wh..wh..opq` says that the directory hides what is below: overlayfs wants the attribute
//! `trusted.overlay.opaque`. Every entry is placed below the target directory by walking real directories only; a
//! symbolic link in the way is replaced, never followed.

use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use tar::{Archive, Entry, EntryType};

use super::Error;

/// The most bytes that one layer may unpack to: a bomb should not fill the disk.
pub const LAYER_SIZE_MAX: u64 = 64 << 30;

/// The most entries of one layer.
const ENTRIES_MAX: u64 = 4_000_000;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks a layer into `target`, which must not exist; returns the size of its files.
pub fn unpack(reader: impl Read, target: &Path) -> Result<u64, Error> {
    std::fs::create_dir_all(target).map_err(Error::io("make a layer directory"))?;
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o755))
        .map_err(Error::io("make a layer directory"))?;
    let mut archive = Archive::new(decompress(reader)?);
    let mut size = 0;
    let mut directories = Vec::new();
    for (number, entry) in archive.entries().map_err(invalid)?.enumerate() {
        let mut entry = entry.map_err(invalid)?;
        size += entry.size();
        if size > LAYER_SIZE_MAX || number as u64 > ENTRIES_MAX {
            return Err(Error::Invalid("a layer is too large".into()));
        }
        place(&mut entry, target, &mut directories)?;
    }
    // Times of directories last: filling them changes them.
    for (path, time) in directories.into_iter().rev() {
        set_time(&path, time);
    }
    Ok(size)
}

fn invalid(error: std::io::Error) -> Error {
    Error::Invalid(format!("a layer's archive: {error}"))
}

/// Sees through gzip and zstd by their first bytes.
pub fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let magic: Vec<u8> = std::io::BufRead::fill_buf(&mut reader)
        .map_err(invalid)?
        .iter()
        .take(4)
        .copied()
        .collect();
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(reader).map_err(invalid)?)
        }
        _ => Box::new(reader),
    })
}

fn place(
    entry: &mut Entry<'_, impl Read>,
    target: &Path,
    directories: &mut Vec<(PathBuf, u64)>,
) -> Result<(), Error> {
    let path = entry.path().map_err(invalid)?.into_owned();
    let Some(relative) = clean(&path) else {
        return Err(Error::Invalid(format!("an entry is called {path:?}")));
    };
    let Some(name) = relative.file_name().map(|name| name.as_bytes().to_vec()) else {
        return Ok(());
    };
    let parent = enter(target, relative.parent().unwrap_or(Path::new("")))?;
    let io = |error: std::io::Error| Error::io(format!("unpack {}", relative.display()))(error);
    if name == OPAQUE {
        return set_attribute(&parent, c"trusted.overlay.opaque", b"y").map_err(io);
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        let full = parent.join(std::ffi::OsStr::from_bytes(gone));
        remove(&full).map_err(io)?;
        return mknod(&full, SFlag::S_IFCHR, Mode::empty(), 0).map_err(|error| io(error.into()));
    }
    let full = parent.join(std::ffi::OsStr::from_bytes(&name));
    let kind = entry.header().entry_type();
    let is_directory = std::fs::symlink_metadata(&full).is_ok_and(|metadata| metadata.is_dir());
    if !(kind == EntryType::Directory && is_directory) {
        remove(&full).map_err(io)?;
    }
    create(entry, kind, target, &full).map_err(|error| match error {
        Error::Io { source, .. } => io(source),
        other => other,
    })?;
    if kind == EntryType::Link || matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
        return Ok(());
    }
    finish(entry, kind, &full, directories).map_err(io)
}

fn create(
    entry: &mut Entry<'_, impl Read>,
    kind: EntryType,
    target: &Path,
    full: &Path,
) -> Result<(), Error> {
    let io = || Error::io("unpack");
    match kind {
        EntryType::Directory => match std::fs::create_dir(full) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(io()),
        },
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mut file = std::fs::File::create_new(full).map_err(io())?;
            std::io::copy(entry, &mut file).map(drop).map_err(io())
        }
        EntryType::Symlink => {
            let link = link_name(entry)?;
            symlink(link, full).map_err(io())
        }
        EntryType::Link => {
            let link = link_name(entry)?;
            let relative =
                clean(&link).ok_or_else(|| Error::Invalid(format!("a hard link to {link:?}")))?;
            let parent = enter(target, relative.parent().unwrap_or(Path::new("")))?;
            let source = parent.join(relative.file_name().unwrap_or_default());
            std::fs::hard_link(source, full).map_err(io())
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let header = entry.header();
            let number =
                |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0).into();
            let device = nix::sys::stat::makedev(
                number(header.device_major()),
                number(header.device_minor()),
            );
            let kind = match kind {
                EntryType::Char => SFlag::S_IFCHR,
                EntryType::Block => SFlag::S_IFBLK,
                _ => SFlag::S_IFIFO,
            };
            mknod(full, kind, Mode::empty(), device).map_err(|error| io()(error.into()))
        }
        // Headers that describe other entries; the tar library has taken in those that matter.
        _ => Ok(()),
    }
}

fn link_name(entry: &Entry<'_, impl Read>) -> Result<PathBuf, Error> {
    let name = entry.link_name().map_err(invalid)?;
    name.map(std::borrow::Cow::into_owned)
        .ok_or_else(|| Error::Invalid("a link to nothing".into()))
}

fn finish(
    entry: &mut Entry<'_, impl Read>,
    kind: EntryType,
    full: &Path,
    directories: &mut Vec<(PathBuf, u64)>,
) -> std::io::Result<()> {
    let (uid, gid, mode, time) = {
        let header = entry.header();
        (
            header.uid()?,
            header.gid()?,
            header.mode()?,
            header.mtime().unwrap_or(0),
        )
    };
    let id = |value: u64| {
        u32::try_from(value).map_err(|_| std::io::Error::other("an owner's number is too large"))
    };
    lchown(full, Some(id(uid)?), Some(id(gid)?))?;
    if kind != EntryType::Symlink {
        // After the owner, because changing that clears set-user-id bits.
        std::fs::set_permissions(full, std::fs::Permissions::from_mode(mode & 0o7777))?;
    }
    for attribute in entry.pax_extensions()?.into_iter().flatten().flatten() {
        let Some(name) = attribute
            .key()
            .ok()
            .and_then(|key| key.strip_prefix("SCHILY.xattr."))
        else {
            continue;
        };
        // Attributes that steer overlayfs are ours to write, not the image's.
        if name.starts_with("trusted.") {
            continue;
        }
        if let Ok(name) = std::ffi::CString::new(name) {
            set_attribute(full, &name, attribute.value_bytes())?;
        }
    }
    match kind {
        EntryType::Directory => directories.push((full.to_owned(), time)),
        _ => set_time(full, time),
    }
    Ok(())
}

fn set_time(path: &Path, seconds: u64) {
    let time = nix::sys::time::TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0);
    let at = nix::fcntl::AT_FDCWD;
    // A wrong time is not worth failing for.
    let _ = nix::sys::stat::utimensat(
        at,
        path,
        &time,
        &time,
        nix::sys::stat::UtimensatFlags::NoFollowSymlink,
    );
}

/// Makes a path relative; `None` when it would leave the directory.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// Walks down, making directories; whatever else is in the way is replaced.
fn enter(target: &Path, relative: &Path) -> Result<PathBuf, Error> {
    let mut path = target.to_owned();
    for component in relative.components() {
        path.push(component);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(_) => {
                std::fs::remove_file(&path).map_err(Error::io("replace a file by a directory"))?
            }
            Err(_) => {}
        }
        std::fs::create_dir(&path).map_err(Error::io("make a directory"))?;
    }
    Ok(path)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn set_attribute(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> std::io::Result<()> {
    crate::sys::set_attribute(path, name, value)
}
