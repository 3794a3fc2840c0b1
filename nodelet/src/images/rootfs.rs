//! Root file systems for containers: overlays over layers, or over the machine's own root.
//!
//! For [`super::HOST`] the upper layer is a tiny tmpfs that only serves to hold mount points; the container sees the
//! root read-only. An upper directory below the machine's root could not be used: the kernel refuses an overlay whose
//! upper layer lies inside a lower one. Overlays do not cross mounts, so further file systems of the machine are bound
//! in read-only by [`host_mounts`].

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::{Error, Image};

/// Room for mount points in the host image's upper layer.
const SCRATCH_OPTIONS: &str = "size=4m,mode=755";

/// File systems on real disks that are part of the machine's root as people see it.
const REAL: [&str; 8] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs",
];

/// Mounts the root file system of a container in `directory` (its bundle) and returns where.
pub fn mount_root(layers_dir: &Path, image: &Image, directory: &Path) -> Result<PathBuf, Error> {
    let root = directory.join("rootfs");
    let upper_base = match &image.layers {
        Some(_) => directory.to_owned(),
        None => directory.join("scratch"),
    };
    for path in [&root, &upper_base] {
        std::fs::create_dir_all(path).map_err(Error::io("make a container's directory"))?;
    }
    if image.layers.is_none() {
        mount(
            Some("tmpfs"),
            &upper_base,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(SCRATCH_OPTIONS),
        )
        .map_err(|error| Error::io("mount a tmpfs")(error.into()))?;
    }
    for name in ["upper", "work"] {
        std::fs::create_dir_all(upper_base.join(name))
            .map_err(Error::io("make a container's directory"))?;
    }
    let (from, lower) = match &image.layers {
        Some(layers) => {
            let names: Vec<&str> = layers.iter().rev().map(String::as_str).collect();
            (layers_dir.to_owned(), names.join(":"))
        }
        None => (PathBuf::from("/"), "/".to_owned()),
    };
    let (upper, work) = (upper_base.join("upper"), upper_base.join("work"));
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let mounted = in_directory(from, root.clone(), MsFlags::empty(), options);
    if let Err(error) = mounted {
        unmount_root(directory);
        return Err(Error::io("mount an overlay")(error));
    }
    Ok(root)
}

/// Mounts the layers of an image, merged, at `path`, above the empty directory `base`. Nobody can write there.
pub fn mount_volume(
    layers_dir: &Path,
    image: &Image,
    base: &Path,
    path: &Path,
) -> Result<(), Error> {
    let Some(layers) = &image.layers else {
        return Err(Error::Invalid("it has no layers to mount".into()));
    };
    // Two of them, so that even an image without layers has what an overlay needs.
    let bases = [base.join("0"), base.join("1")];
    for directory in bases.iter().map(PathBuf::as_path).chain([path]) {
        std::fs::create_dir_all(directory).map_err(Error::io("make a volume"))?;
    }
    let names = layers.iter().rev().cloned();
    let bases = bases.iter().map(|base| base.display().to_string());
    let lower: Vec<String> = names.chain(bases).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    in_directory(layers_dir.to_owned(), path.to_owned(), flags, options)
        .map_err(Error::io("mount an image"))
}

/// Mounts an overlay with lower directories relative to `from`, which keeps the options short. The working directory
/// of a thread of its own is changed, so no other is disturbed.
fn in_directory(
    from: PathBuf,
    root: PathBuf,
    flags: MsFlags,
    options: String,
) -> std::io::Result<()> {
    let work = move || -> std::io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&from)?;
        mount(
            Some("overlay"),
            &root,
            Some("overlay"),
            flags,
            Some(options.as_str()),
        )?;
        Ok(())
    };
    std::thread::spawn(work)
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the mounting thread failed")))
}

/// Undoes [`mount_root`]; what is not mounted is no error.
pub fn unmount_root(directory: &Path) {
    for name in ["rootfs", "scratch"] {
        let _ = umount2(
            &directory.join(name),
            MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW,
        );
    }
}

/// The layers that root file systems of this machine are made of just now.
pub fn mounted_layers() -> std::collections::BTreeSet<String> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    lower_directories(&info)
}

fn lower_directories(mountinfo: &str) -> std::collections::BTreeSet<String> {
    let overlays = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - overlay "));
    let options = overlays.flat_map(|(_, rest)| rest.split([' ', ',']));
    let lower = options.filter_map(|option| {
        option
            .strip_prefix("lowerdir=")
            .or_else(|| option.strip_prefix("lowerdir+="))
    });
    lower
        .flat_map(|list| list.split(':'))
        .filter_map(|path| path.rsplit('/').next())
        .map(str::to_owned)
        .collect()
}

/// OCI mounts for a container on the machine's own root: other disks of the machine read-only, writable scratch
/// directories, and nothing of `hidden` (Corral's data directory, which holds keys).
pub fn host_mounts(mountinfo: &str, hidden: &Path) -> Vec<Value> {
    let mut list = Vec::new();
    for (point, kind) in mountinfo.lines().filter_map(mount_point) {
        let shown = point != "/" && !point.starts_with("/proc") && !point.starts_with("/sys");
        let inside = Path::new(&point).starts_with(hidden);
        if REAL.contains(&kind) && shown && !inside && !covered(&point) {
            list.push(json!({
                "destination": point, "type": "bind", "source": point, "options": ["bind", "ro", "nosuid", "nodev"],
            }));
        }
    }
    let scratch = [
        ("/tmp", "mode=1777"),
        ("/run", "mode=755"),
        ("/var/tmp", "mode=1777"),
    ];
    for (destination, mode) in scratch {
        list.push(json!({
            "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", mode],
        }));
    }
    if !scratch.iter().any(|(path, _)| hidden.starts_with(path)) {
        list.push(json!({
            "destination": hidden, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "noexec", "ro", "size=4k", "mode=000"],
        }));
    }
    list
}

/// Below a directory that gets a fresh file system anyway.
fn covered(point: &str) -> bool {
    ["/tmp", "/run", "/var/tmp", "/dev"]
        .iter()
        .any(|path| Path::new(point).starts_with(path))
}

/// Mount point and file system type of a line of mountinfo.
fn mount_point(line: &str) -> Option<(String, &str)> {
    let (front, back) = line.split_once(" - ")?;
    let point = front.split(' ').nth(4)?;
    // Spaces and the like are written as octal escapes; such mount points are left out rather than misread.
    if point.contains('\\') {
        return None;
    }
    Some((point.to_owned(), back.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_in_use_are_read_from_the_mounts() {
        let info = "31 23 0:28 / /a rw,relatime - overlay overlay rw,lowerdir=aa:bb,upperdir=/u,workdir=/w\n\
                    32 23 0:29 / /b rw - overlay overlay rw,lowerdir+=/x/cc,upperdir=/u\n\
                    33 23 0:30 / /c rw - ext4 /dev/vda rw,lowerdir=no\n";
        let found: Vec<String> = lower_directories(info).into_iter().collect();
        assert_eq!(found, ["aa", "bb", "cc"]);
    }

    #[test]
    fn only_real_file_systems_of_the_machine_are_shown() {
        let info = "1 1 8:1 / / rw - ext4 /dev/a rw\n\
                    2 1 8:2 / /usr rw - ext4 /dev/b rw\n\
                    3 1 8:3 / /data/corral/pods/x rw - ext4 /dev/c rw\n\
                    4 1 0:5 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    5 1 0:6 / /x rw - overlay overlay rw\n";
        let mounts = host_mounts(info, Path::new("/data/corral"));
        let points: Vec<&str> = mounts
            .iter()
            .filter_map(|mount| mount["destination"].as_str())
            .collect();
        assert_eq!(points, ["/usr", "/tmp", "/run", "/var/tmp", "/data/corral"]);
    }
}
