//! Facts about this machine: capacity, identity, devices.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::eviction::{Amount, Readings};
use crate::images::collect::Disk;
use crate::node::Capacity;
use crate::runtime::spec::DeviceNode;

/// How many pods a node takes unless told otherwise; Kubernetes' default.
pub const PODS_MAX: i64 = 110;

/// How deep device directories are searched.
const DEVICE_DEPTH_MAX: usize = 4;

/// What this machine has; the disk is the one that holds `directory`.
pub fn capacity(directory: &Path) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?
                .trim()
                .to_owned();
            line.trim_end_matches(" kB").trim().parse::<i64>().ok()
        });
    let disk = nix::sys::statvfs::statvfs(directory).map(|stat| {
        i64::try_from(stat.blocks().saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX)
    });
    Capacity {
        milli_cpu: i64::try_from(cpus).unwrap_or(1) * 1000,
        memory: memory.unwrap_or(0) * 1024,
        disk: disk.unwrap_or(0),
        pods: PODS_MAX,
    }
}

/// How full the disk that holds `directory` is; nothing at all if it cannot be told.
pub fn disk(directory: &Path) -> Disk {
    let read = nix::sys::statvfs::statvfs(directory);
    let (capacity, available) = read.map_or((0, 0), |stat| {
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        (bytes(stat.blocks()), bytes(stat.blocks_available()))
    });
    Disk {
        capacity,
        available,
    }
}

/// What this machine has left, with pods in one directory and images in another.
pub fn readings(pods: &Path, images: &Path) -> Readings {
    let memory = capacity(pods).memory;
    let space = |directory: &Path| {
        let disk = disk(directory);
        (disk.capacity > 0).then_some(Amount {
            capacity: disk.capacity,
            available: disk.available,
        })
    };
    // Some file systems make inodes as they need them and count none.
    let inodes = |directory: &Path| {
        let stat = nix::sys::statvfs::statvfs(directory).ok()?;
        (stat.files() > 0).then_some(Amount {
            capacity: stat.files(),
            available: stat.files_available(),
        })
    };
    let bytes = |amount: i64| u64::try_from(amount).unwrap_or(0);
    Readings {
        memory: (memory > 0).then(|| Amount {
            capacity: bytes(memory),
            available: bytes(memory_available()),
        }),
        nodefs: space(pods),
        nodefs_inodes: inodes(pods),
        imagefs: space(images),
        imagefs_inodes: inodes(images),
    }
}

/// Bytes of memory that could still be used.
pub fn memory_available() -> i64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemAvailable:"))?
                .trim()
                .to_owned();
            line.trim_end_matches(" kB").trim().parse::<i64>().ok()
        })
        .unwrap_or(0)
        * 1024
}

/// The first line of a file, or nothing.
pub fn line(path: &str) -> String {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_default()
}

/// The kernel's release.
pub fn kernel() -> String {
    line("/proc/sys/kernel/osrelease")
}

/// The operating system's name for people.
pub fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || "Linux".to_owned(),
        |name| name.trim_matches('"').to_owned(),
    )
}

/// The device nodes that a privileged container sees.
pub fn devices() -> Vec<DeviceNode> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), 0, &mut found);
    found
}

fn collect(directory: &Path, depth: usize, found: &mut Vec<DeviceNode>) {
    // These are file systems of their own, which a container gets fresh; the rest the runtime makes itself.
    let own = [
        "pts",
        "shm",
        "mqueue",
        "hugepages",
        "fd",
        "console",
        "ptmx",
        "null",
        "zero",
        "full",
        "tty",
        "random",
        "urandom",
    ];
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if depth == 0 && name.to_str().is_some_and(|name| own.contains(&name)) {
            continue;
        }
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let kind = metadata.file_type();
        if kind.is_dir() && depth < DEVICE_DEPTH_MAX {
            collect(&entry.path(), depth + 1, found);
        }
        if !kind.is_char_device() && !kind.is_block_device() {
            continue;
        }
        let device = metadata.rdev();
        let number = |value: u64| i64::try_from(value).unwrap_or(0);
        found.push(DeviceNode {
            path: entry.path().to_string_lossy().into_owned(),
            kind: if kind.is_char_device() { 'c' } else { 'b' },
            major: number(nix::sys::stat::major(device)),
            minor: number(nix::sys::stat::minor(device)),
            mode: metadata.mode() & 0o7777,
        });
    }
}
