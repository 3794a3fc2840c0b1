//! Giving a volume that has contents to the pod's group (`fsGroup`).
//!
//! `fsGroupChangePolicy` speaks of volumes that live longer than a pod; on the kinds that this node mounts it has no
//! effect, in Kubernetes neither.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

/// What the group may do with files.
const FILE_MODE: u32 = 0o660;

/// What it may do with directories; what is made inside belongs to it again.
const DIRECTORY_MODE: u32 = 0o2770;

/// Gives everything in `directory` to `group`. Symbolic links are not followed; other file systems are left alone.
///
/// No container of the pod may run: between looking at a name and changing it, a container could exchange what it
/// stands for.
pub fn give(directory: &Path, group: u32) -> io::Result<()> {
    let device = std::fs::symlink_metadata(directory)?.dev();
    let mut left: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.dev() != device {
            continue;
        }
        lchown(&path, None, Some(group))?;
        if metadata.is_symlink() {
            continue;
        }
        let wanted = if metadata.is_dir() {
            DIRECTORY_MODE
        } else {
            FILE_MODE
        };
        let mode = (metadata.mode() & 0o7777) | wanted;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_to_the_group_and_links_not_followed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (volume, outside) = (directory.path().join("v"), directory.path().join("outside"));
        std::fs::create_dir_all(volume.join("d")).expect("made");
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set")
        };
        for (path, mode) in [
            (volume.join("d/f"), 0o600),
            (volume.join("run"), 0o4711),
            (outside.clone(), 0o600),
        ] {
            std::fs::write(&path, "").expect("written");
            set(&path, mode);
        }
        set(&volume.join("d"), 0o700);
        std::os::unix::fs::symlink(&outside, volume.join("link")).expect("linked");
        give(&volume, 555).expect("given");
        let seen = |path: &Path| {
            let metadata = std::fs::symlink_metadata(path).expect("there");
            (metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!(seen(&volume.join("d")), (555, 0o2770));
        assert_eq!(seen(&volume.join("d/f")), (555, 0o660));
        // A change of owner takes the set-user-ID bit away; it is part of the mode that was there.
        assert_eq!(seen(&volume.join("run")), (555, 0o4771));
        assert_eq!(seen(&volume.join("link")).0, 555);
        let own = std::fs::metadata(directory.path()).expect("there").gid();
        assert_eq!(seen(&outside), (own, 0o600));
    }
}
