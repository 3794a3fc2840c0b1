//! The node's cgroups: one for all of Corral's pods, one per pod with the sums of its containers, and their use.
//!
//! ```text
//! /corral-<cluster>/            this node's pods
//!   shims/                      the shims themselves
//!   pod<uid>/                   limits of the pod
//!     <container>/              limits set by the runtime
//! ```
//!
//! Works on v1 (one tree per controller) and v2. Entering container cgroups and limiting them is libcontainer's work;
//! this module makes and removes what is needed around it and reads usage.

use std::io;
use std::path::PathBuf;

use corral_shim::cgroup::{Hierarchy, controllers, directory, field, hierarchy};

use crate::runtime::spec::cgroup::View;

/// The scheduler's period for CPU quotas, in microseconds; the kernel's default.
pub const CPU_PERIOD: u64 = 100_000;

/// The fewest CPU shares the kernel takes; what a container without a request gets.
pub const CPU_SHARES_MIN: u64 = 2;

/// Limits of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU weight as v1 shares (1024 per CPU requested).
    pub cpu_shares: Option<u64>,
    /// CPU time per [`CPU_PERIOD`], in microseconds.
    pub cpu_quota: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Number of processes.
    pub pids: Option<u64>,
}

/// What a cgroup uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the beginning, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory charged.
    pub memory_bytes: u64,
    /// Memory that is not inactive file cache.
    pub working_set_bytes: u64,
    /// Number of processes.
    pub n_pids: u64,
}

/// The cgroups of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    root: String,
}

impl Cgroups {
    /// The cgroups of the cluster (or data directory) that `id` names.
    pub fn new(id: &str) -> Self {
        Self {
            root: format!("/corral-{id}"),
        }
    }

    /// The path of a pod.
    pub fn pod(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.root)
    }

    /// The path of a container.
    pub fn container(&self, uid: &str, id: &str) -> String {
        format!("{}/pod{uid}/{id}", self.root)
    }

    /// Makes a pod's cgroup, or changes its limits.
    pub fn prepare_pod(&self, uid: &str, limits: &Limits) -> io::Result<()> {
        let hierarchy = hierarchy();
        let path = self.pod(uid);
        for controller in controllers(hierarchy) {
            let target = directory(hierarchy, &controller, &path);
            // A v1 cpuset must be told its CPUs and memory nodes before a process may enter.
            std::fs::create_dir_all(&target)?;
            if controller == "cpuset" {
                for level in [self.root.as_str(), path.as_str()] {
                    inherit_cpuset(&directory(hierarchy, &controller, level));
                }
            }
        }
        if hierarchy == Hierarchy::V2 {
            for level in ["", self.root.as_str(), path.as_str()] {
                let control = directory(hierarchy, "", level).join("cgroup.subtree_control");
                for controller in ["+cpu", "+memory", "+pids", "+io", "+cpuset"] {
                    // Not every kernel has every controller; limits that cannot be set fail below, where it matters.
                    let _ = std::fs::write(&control, controller);
                }
            }
        }
        apply(hierarchy, &path, limits)
    }

    /// Makes what a container will see of its cgroup: on v1 its directories, which must be there to be mounted.
    pub fn prepare_container(&self, uid: &str, id: &str) -> io::Result<View> {
        let hierarchy = hierarchy();
        if hierarchy == Hierarchy::V2 {
            return Ok(View::V2);
        }
        let path = self.container(uid, id);
        let mut shown = Vec::new();
        for controller in controllers(hierarchy) {
            // A tree for names only; the runtime does not put containers there.
            if controller == "systemd" {
                continue;
            }
            let target = directory(hierarchy, &controller, &path);
            std::fs::create_dir_all(&target)?;
            shown.push((controller, target));
        }
        Ok(View::V1(shown))
    }

    /// Removes what is left of an ended container's cgroup.
    pub fn remove_container(&self, uid: &str, id: &str) -> io::Result<()> {
        self.remove(&self.container(uid, id))
    }

    /// Moves a shim out of the agent's cgroup. Not vital: failing leaves the shim where it was started.
    pub fn adopt_shim(&self, pid: u32) {
        let hierarchy = hierarchy();
        let path = format!("{}/shims", self.root);
        for controller in controllers(hierarchy) {
            let target = directory(hierarchy, &controller, &path);
            if controller == "cpuset" || std::fs::create_dir_all(&target).is_err() {
                continue;
            }
            let _ = std::fs::write(target.join("cgroup.procs"), pid.to_string());
        }
    }

    /// Removes a pod's cgroup and what is left of its containers'; it must be empty of processes.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        self.remove(&self.pod(uid))
    }

    /// Removes the node's own cgroups when no pod is left.
    pub fn remove_all(&self) -> io::Result<()> {
        self.remove(&self.root)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let hierarchy = hierarchy();
        let mut result = Ok(());
        for controller in controllers(hierarchy) {
            let outcome = remove_tree(&directory(hierarchy, &controller, path));
            if outcome.is_err() {
                result = outcome;
            }
        }
        result
    }

    /// What all pods together use.
    pub fn usage_of_all(&self) -> Usage {
        self.usage(&self.root)
    }

    /// What a path of this node uses.
    pub fn usage(&self, path: &str) -> Usage {
        match hierarchy() {
            Hierarchy::V1 => usage_v1(path),
            Hierarchy::V2 => usage_v2(path),
        }
    }
}

/// CPU shares for a request in thousandths of a CPU.
pub fn shares(milli_cpu: i64) -> u64 {
    u64::try_from(milli_cpu)
        .unwrap_or(0)
        .saturating_mul(1024)
        .div_euclid(1000)
        .clamp(CPU_SHARES_MIN, 262_144)
}

/// CPU quota per period for a limit in thousandths of a CPU; the kernel takes no less than a millisecond.
pub fn quota(milli_cpu: i64) -> u64 {
    (u64::try_from(milli_cpu)
        .unwrap_or(0)
        .saturating_mul(CPU_PERIOD)
        / 1000)
        .max(1000)
}

/// The v2 weight (1…10000) that stands for v1 shares (2…262144).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn apply(hierarchy: Hierarchy, path: &str, limits: &Limits) -> io::Result<()> {
    let write = |controller: &str, file: &str, value: String| {
        std::fs::write(directory(hierarchy, controller, path).join(file), value)
    };
    match hierarchy {
        Hierarchy::V1 => {
            if let Some(shares) = limits.cpu_shares {
                write("cpu", "cpu.shares", shares.to_string())?;
            }
            write(
                "cpu",
                "cpu.cfs_quota_us",
                limits
                    .cpu_quota
                    .map_or("-1".into(), |quota| quota.to_string()),
            )?;
            if let Some(memory) = limits.memory {
                write("memory", "memory.limit_in_bytes", memory.to_string())?;
            }
            if let Some(pids) = limits.pids {
                write("pids", "pids.max", pids.to_string())?;
            }
        }
        Hierarchy::V2 => {
            if let Some(shares) = limits.cpu_shares {
                write("", "cpu.weight", weight(shares).to_string())?;
            }
            if let Some(quota) = limits.cpu_quota {
                write("", "cpu.max", format!("{quota} {CPU_PERIOD}"))?;
            }
            if let Some(memory) = limits.memory {
                write("", "memory.max", memory.to_string())?;
            }
            if let Some(pids) = limits.pids {
                write("", "pids.max", pids.to_string())?;
            }
        }
    }
    Ok(())
}

/// Copies the parent's CPUs and memory nodes into an empty v1 cpuset.
fn inherit_cpuset(target: &std::path::Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = std::fs::read_to_string(target.join(file)).unwrap_or_default();
        if let (true, Some(parent)) = (own.trim().is_empty(), target.parent()) {
            let value = std::fs::read_to_string(parent.join(file)).unwrap_or_default();
            let _ = std::fs::write(target.join(file), value.trim());
        }
    }
}

fn remove_tree(directory: &PathBuf) -> io::Result<()> {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn number(path: PathBuf) -> u64 {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn usage_v1(path: &str) -> Usage {
    let at = |controller| directory(Hierarchy::V1, controller, path);
    let memory_bytes = number(at("memory").join("memory.usage_in_bytes"));
    let inactive = field(
        &text(at("memory").join("memory.stat")),
        "total_inactive_file",
    )
    .unwrap_or(0);
    Usage {
        cpu_nanoseconds: number(at("cpuacct").join("cpuacct.usage")),
        memory_bytes,
        working_set_bytes: memory_bytes.saturating_sub(inactive),
        n_pids: number(at("pids").join("pids.current")),
    }
}

fn usage_v2(path: &str) -> Usage {
    let at = directory(Hierarchy::V2, "", path);
    let memory_bytes = number(at.join("memory.current"));
    let inactive = field(&text(at.join("memory.stat")), "inactive_file").unwrap_or(0);
    Usage {
        cpu_nanoseconds: field(&text(at.join("cpu.stat")), "usage_usec")
            .unwrap_or(0)
            .saturating_mul(1000),
        memory_bytes,
        working_set_bytes: memory_bytes.saturating_sub(inactive),
        n_pids: number(at.join("pids.current")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_amounts_follow_the_kernels_units() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(500), 512);
        assert_eq!(quota(500), 50_000);
        assert_eq!(quota(1), 1000);
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }
}
