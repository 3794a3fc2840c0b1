//! Sets of files that change at once.
//!
//! The files live in a directory of their own, `..<time>.<random>`; `..data` is a symbolic link to it, replaced by a
//! rename; what the container sees are links through `..data`. Programs that watch for changes watch `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Makes `directory` show exactly `files` (relative paths), unless it does already.
pub fn write(
    directory: &Path,
    files: &BTreeMap<String, File>,
    group: Option<u32>,
) -> io::Result<()> {
    for path in files.keys() {
        if !safe(path) {
            return Err(io::Error::other(format!("a file is called {path:?}")));
        }
    }
    let data = directory.join("..data");
    let old = std::fs::read_link(&data).ok();
    if old
        .as_ref()
        .is_some_and(|old| same(&directory.join(old), files))
    {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now().as_second();
    let fresh = format!("..{stamp}.{:08x}", rand::random::<u32>());
    let target = directory.join(&fresh);
    make_directory(&target, group)?;
    for (path, file) in files {
        place(&target, path, file, group)?;
    }
    let link = directory.join("..data_tmp");
    let _ = std::fs::remove_file(&link);
    symlink(&fresh, &link)?;
    std::fs::rename(&link, &data)?;
    show(directory, files)?;
    if let Some(old) = old.filter(|old| old.components().count() == 1) {
        let _ = std::fs::remove_dir_all(directory.join(old));
    }
    Ok(())
}

fn safe(path: &str) -> bool {
    let normal = Path::new(path)
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    normal && !path.is_empty() && !path.starts_with("..")
}

fn same(directory: &Path, files: &BTreeMap<String, File>) -> bool {
    let mut found = 0;
    count(directory, &mut found);
    found == files.len()
        && files.iter().all(|(path, file)| {
            std::fs::read(directory.join(path)).is_ok_and(|bytes| bytes == file.bytes)
        })
}

fn count(directory: &Path, found: &mut usize) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => count(&entry.path(), found),
            _ => *found += 1,
        }
    }
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir(path)?;
    chown(path, None, group)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

fn place(target: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let full = target.join(path);
    let parents: Vec<PathBuf> = Path::new(path)
        .ancestors()
        .skip(1)
        .map(Path::to_owned)
        .collect();
    for parent in parents
        .into_iter()
        .rev()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        let parent = target.join(parent);
        if !parent.exists() {
            make_directory(&parent, group)?;
        }
    }
    // Nobody may open it between its creation and its permissions.
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    io::Write::write_all(&mut options.open(&full)?, &file.bytes)?;
    chown(&full, None, group)?;
    // The pod's group must be able to read what is its own.
    let mode = if group.is_some() {
        file.mode | 0o440
    } else {
        file.mode
    };
    std::fs::set_permissions(&full, std::fs::Permissions::from_mode(mode))
}

/// Makes the visible links, and removes those of files that are gone.
fn show(directory: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &wanted {
        let link = directory.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let stale = name
            .to_str()
            .is_some_and(|name| !name.starts_with("..") && !wanted.contains(name));
        if stale && entry.file_type()?.is_symlink() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
        };
        list.iter()
            .map(|(path, text)| ((*path).to_owned(), file(text)))
            .collect()
    }

    #[test]
    fn contents_are_swapped_and_stale_names_vanish() {
        let directory =
            std::env::temp_dir().join(format!("corral-atomic-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).expect("made");
        write(&directory, &files(&[("a", "1"), ("b/c", "2")]), None).expect("written");
        let first = std::fs::read_link(directory.join("..data")).expect("linked");
        assert_eq!(
            std::fs::read_to_string(directory.join("b/c")).expect("readable"),
            "2"
        );
        write(&directory, &files(&[("a", "1"), ("b/c", "2")]), None).expect("written");
        assert_eq!(
            std::fs::read_link(directory.join("..data")).expect("linked"),
            first,
            "nothing changed"
        );
        write(&directory, &files(&[("a", "9")]), None).expect("written");
        assert_eq!(
            std::fs::read_to_string(directory.join("a")).expect("readable"),
            "9"
        );
        assert!(!directory.join("b").exists());
        assert!(!directory.join(first).exists());
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for path in ["../x", "a/../b", "..data/x", "/etc/x", ""] {
            assert!(!safe(path), "{path:?}");
        }
    }
}
