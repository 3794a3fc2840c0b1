//! From a container's `volumeMounts` to bind mounts.
//!
//! A `subPath` is resolved by the kernel within its volume (a container could have put a symbolic link there that
//! leads elsewhere), and what was found is bound to a place of ours, so that it cannot be exchanged before the
//! container starts.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corral_api::k8s::api::core::v1::{Container, VolumeMount};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

use super::Paths;
use crate::objects::Error;
use crate::runtime::spec::Mount;
use crate::runtime::spec::expand::expand;

/// The bind mounts of a container's volumes.
pub fn resolve(
    pod_dir: &Path,
    container: &Container,
    volumes: &Paths,
    env: &[(String, String)],
) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    let mixed = container.volume_mounts.iter().flatten().any(from_host);
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = volumes.get(&mount.name) else {
            return Err(Error::NotFound {
                kind: "volume",
                name: mount.name.clone(),
            });
        };
        let path = sub_path(mount, env);
        // Beside a mount that follows the machine's, one that does not needs a private copy to be made from.
        let alone = mixed && !from_host(mount);
        let source = if path.is_some() || alone {
            let place = pod_dir
                .join("subpaths")
                .join(&container.name)
                .join(index.to_string());
            pin(volume, path.as_deref(), &place)?;
            if alone {
                make_private(&place)?;
            }
            place
        } else {
            volume.clone()
        };
        mounts.push(Mount {
            source,
            destination: mount.mount_path.clone(),
            read_only: mount.read_only.unwrap_or(false),
            recursive_read_only: matches!(
                mount.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            ),
            from_host: from_host(mount),
        });
    }
    Ok(mounts)
}

fn from_host(mount: &VolumeMount) -> bool {
    mount.mount_propagation.as_deref() == Some("HostToContainer")
}

fn make_private(place: &Path) -> Result<(), Error> {
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, place, None::<&str>, flags, None::<&str>)
        .map_err(|error| Error::io("make a mount private")(error.into()))
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Option<String> {
    let lookup = |name: &str| {
        env.iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let expanded = mount
        .sub_path_expr
        .as_ref()
        .filter(|path| !path.is_empty())
        .map(|path| expand(path, lookup));
    expanded
        .or_else(|| mount.sub_path.clone())
        .filter(|path| !path.is_empty())
}

/// Binds `volume`, or `path` below it, to `place`; missing directories are made.
fn pin(volume: &Path, path: Option<&str>, place: &Path) -> Result<(), Error> {
    let escaped = |error: nix::Error| match path {
        Some(path) => Error::io(format!("use subPath {path:?}"))(error.into()),
        None => Error::io("bind a volume")(error.into()),
    };
    let root = open(None, volume, ResolveFlag::empty()).map_err(escaped)?;
    let found = match path.map(Path::new) {
        None => root,
        Some(path) => match open_below(&root, path) {
            Err(nix::Error::ENOENT) => {
                make_below(&root, path).map_err(escaped)?;
                open_below(&root, path).map_err(escaped)?
            }
            other => other.map_err(escaped)?,
        },
    };
    let handle = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_directory = std::fs::metadata(&handle).is_ok_and(|metadata| metadata.is_dir());
    let parent = place.parent().unwrap_or(place);
    std::fs::create_dir_all(parent).map_err(Error::io("make a mount point"))?;
    super::unmount_below(place).map_err(Error::io("clear a mount point"))?;
    let _ = std::fs::remove_file(place);
    if is_directory {
        std::fs::create_dir_all(place).map_err(Error::io("make a mount point"))?;
    } else {
        let _ = std::fs::remove_dir(place);
        std::fs::File::create(place).map_err(Error::io("make a mount point"))?;
    }
    mount(
        Some(&handle),
        place,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(escaped)
}

/// Reads a file of a volume, of at most `len_max` bytes; nothing outside of the volume, and nothing that is no file.
pub(crate) fn read_below(volume: &Path, path: &Path, len_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let root = open(None, volume, ResolveFlag::empty())?;
    let found = open_below(&root, path)?;
    let handle = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    if !std::fs::metadata(&handle)?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(&handle)?.take(len_max + 1);
    file.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > len_max {
        return Err(std::io::Error::other("it is too large"));
    }
    Ok(bytes)
}

fn open(at: Option<&OwnedFd>, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    match at {
        Some(fd) => openat2(fd, path, how),
        None => openat2(AT_FDCWD, path, how),
    }
}

fn open_below(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    open(
        Some(root),
        path,
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    )
}

fn make_below(root: &OwnedFd, path: &Path) -> nix::Result<()> {
    let mut current = root.try_clone().map_err(|_| nix::Error::EMFILE)?;
    for component in path.components() {
        let name = Path::new(component.as_os_str());
        match mkdirat(&current, name, Mode::from_bits_truncate(0o750)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error),
        }
        current = open_below(&current, name)?;
    }
    Ok(())
}
