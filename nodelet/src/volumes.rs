//! A pod's volumes: directories made for it, and files rendered from objects of the API.
//!
//! Each volume is `<pod dir>/volumes/<name>`. Secrets, tokens and memory volumes are on a tmpfs, so they never reach a
//! disk. Rendered volumes ([`atomic`]) change as one: a reader sees all old or all new files.
//!
//! Reading order: this file (kinds of volumes), [`render`] (contents), [`atomic`], [`ownership`], [`mounts`] (into
//! containers).

pub mod atomic;
pub mod mounts;
pub mod ownership;
pub mod render;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use corral_api::k8s::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use corral_api::quantity::Quantity;
use jiff::Timestamp;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::env::Facts;
use crate::objects::{Error, Objects};

/// Where the volumes of a pod are, by name.
pub type Paths = BTreeMap<String, PathBuf>;

/// Makes the volumes of pods.
#[derive(Clone)]
pub struct Volumes {
    objects: Objects,
}

impl Volumes {
    /// Volumes filled from these objects.
    pub fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// Makes (or finds again) every volume of a pod.
    pub async fn prepare(&self, pod_dir: &Path, pod: &Pod, facts: &Facts) -> Result<Paths, Error> {
        let mut paths = Paths::new();
        for volume in volumes(pod) {
            let path = match &volume.host_path {
                Some(source) => host_path(source)?,
                None => {
                    let path = pod_dir.join("volumes").join(&volume.name);
                    self.make(&path, pod, volume, facts).await?;
                    path
                }
            };
            paths.insert(volume.name.clone(), path);
        }
        Ok(paths)
    }

    /// Gives what volumes hold already to the pod's group; before any container of the pod runs. Host paths keep their
    /// owners, and rendered volumes are written with the right ones.
    pub async fn own(&self, pod_dir: &Path, pod: &Pod) -> Result<(), Error> {
        let Some(group) = fs_group(pod) else {
            return Ok(());
        };
        let paths: Vec<PathBuf> = volumes(pod)
            .filter(|volume| volume.empty_dir.is_some())
            .map(|volume| pod_dir.join("volumes").join(&volume.name))
            .collect();
        // A large volume takes a while, on a thread that may be blocked.
        let work = move || {
            paths
                .iter()
                .try_for_each(|path| ownership::give(path, group))
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(Error::io("give a volume its group"))
    }

    async fn make(
        &self,
        path: &Path,
        pod: &Pod,
        volume: &Volume,
        facts: &Facts,
    ) -> Result<(), Error> {
        std::fs::create_dir_all(path).map_err(Error::io("make a volume"))?;
        let group = fs_group(pod);
        if let Some(source) = &volume.empty_dir {
            return empty_dir(path, source, group);
        }
        // Its image is pulled and mounted when a container that wants it starts.
        if volume.image.is_some() {
            return Ok(());
        }
        if !render::is_rendered(volume) {
            return Err(Error::Unsupported("this kind of volume"));
        }
        if volume.secret.is_some() || volume.projected.is_some() {
            on_tmpfs(path, None)?;
        }
        let content = render::content(&self.objects, pod, volume, facts).await?;
        atomic::write(path, &content.files, group).map_err(Error::io("write a volume"))
    }

    /// Renders again what may have changed; returns when a token has to be renewed.
    pub async fn refresh(
        &self,
        pod_dir: &Path,
        pod: &Pod,
        facts: &Facts,
    ) -> Result<Option<Timestamp>, Error> {
        let mut renew_at: Option<Timestamp> = None;
        for volume in volumes(pod).filter(|volume| render::is_rendered(volume)) {
            let path = pod_dir.join("volumes").join(&volume.name);
            let content = render::content(&self.objects, pod, volume, facts).await?;
            atomic::write(&path, &content.files, fs_group(pod))
                .map_err(Error::io("write a volume"))?;
            renew_at = [renew_at, content.renew_at].into_iter().flatten().min();
        }
        Ok(renew_at)
    }
}

/// Whether a pod has volumes whose contents may change.
pub fn has_rendered(pod: &Pod) -> bool {
    volumes(pod).any(render::is_rendered)
}

/// Removes a pod's volumes with their contents; host paths are left alone.
pub fn remove(pod_dir: &Path) -> std::io::Result<()> {
    for directory in ["subpaths", "volumes"] {
        let directory = pod_dir.join(directory);
        unmount_below(&directory)?;
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Detaches everything that is mounted in `directory`, the innermost first. Nothing may be deleted through a mount.
pub fn unmount_below(directory: &Path) -> std::io::Result<()> {
    let info = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = info
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(directory))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), Error> {
    match source.medium.as_deref() {
        None | Some("") => {}
        Some("Memory") => {
            let limit = source
                .size_limit
                .as_ref()
                .and_then(|limit| Quantity::from_wire(limit).ok());
            on_tmpfs(path, limit.map(Quantity::value).filter(|bytes| *bytes > 0))?;
        }
        Some(_) => return Err(Error::Unsupported("this emptyDir medium")),
    }
    // Any user of the pod may write; with a group, what is made inside belongs to it.
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    std::os::unix::fs::chown(path, None, group).map_err(Error::io("give a volume its group"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(Error::io("open a volume to all"))
}

fn on_tmpfs(path: &Path, size: Option<i64>) -> Result<(), Error> {
    if is_mount_point(path) {
        return Ok(());
    }
    let options = size.map_or_else(
        || "mode=755".to_owned(),
        |bytes| format!("mode=755,size={bytes}"),
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|error| Error::io("mount a tmpfs")(error.into()))
}

pub(crate) fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent()
        .is_some_and(|parent| device(parent) != device(path))
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or("");
    let make = |path: &Path, directory: bool| -> std::io::Result<()> {
        if directory {
            std::fs::create_dir_all(path)?;
            return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
        }
        std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(path)
            .map(drop)
    };
    let exists = path.exists();
    if !exists && matches!(kind, "DirectoryOrCreate" | "FileOrCreate" | "") {
        // Without a type nothing is checked, and a container runtime makes what is missing a directory.
        make(&path, kind != "FileOrCreate")
            .map_err(Error::io(format!("make {}", path.display())))?;
    }
    let refuse = |what: &str| Err(Error::HostPath(format!("{} is not {what}", path.display())));
    let Ok(found) = std::fs::metadata(&path) else {
        return refuse("there");
    };
    let found = found.file_type();
    match kind {
        "Directory" | "DirectoryOrCreate" if !found.is_dir() => refuse("a directory"),
        "File" | "FileOrCreate" if !found.is_file() => refuse("a file"),
        "Socket" if !found.is_socket() => refuse("a socket file"),
        "CharDevice" if !found.is_char_device() => refuse("a character device"),
        "BlockDevice" if !found.is_block_device() => refuse("a block device"),
        _ => Ok(path),
    }
}
