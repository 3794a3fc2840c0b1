//! Cgroup paths on v1 and v2, who is inside, killing them, and the count of OOM kills.
//!
//! Shared with the agent, which adds limits and usage on top. A *path* here is what a runtime spec's `cgroupsPath`
//! says: absolute from the root of each hierarchy (`/corral-x/pod-y/z`).

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ROOT: &str = "/sys/fs/cgroup";

/// How this machine lays out its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// One directory tree per controller (a v2 tree without controllers may exist beside them).
    V1,
    /// One tree for everything.
    V2,
}

/// Finds out which hierarchy is in use.
pub fn hierarchy() -> Hierarchy {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        Hierarchy::V2
    } else {
        Hierarchy::V1
    }
}

/// The directory of `path` for a controller (`memory`, `cpu`, `pids`, `cpuacct`…); on v2 the controller is ignored.
pub fn directory(hierarchy: Hierarchy, controller: &str, path: &str) -> PathBuf {
    let relative = path.trim_start_matches('/');
    match hierarchy {
        Hierarchy::V1 => Path::new(ROOT).join(controller).join(relative),
        Hierarchy::V2 => Path::new(ROOT).join(relative),
    }
}

/// The v1 controllers' directories that exist on this machine, or the one v2 root.
pub fn controllers(hierarchy: Hierarchy) -> Vec<String> {
    match hierarchy {
        Hierarchy::V2 => vec![String::new()],
        Hierarchy::V1 => {
            let mut names: Vec<String> = std::fs::read_dir(ROOT)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().join("cgroup.procs").exists())
                .filter_map(|entry| entry.file_name().into_string().ok())
                // `unified` is the v2 tree of a hybrid machine: present, without controllers.
                .filter(|name| name != "unified")
                .collect();
            names.sort();
            names
        }
    }
}

/// Every process in `path` and below it.
pub fn processes(hierarchy: Hierarchy, path: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    // On v1 the tree of any one controller names the same processes; pids may be missing, memory never is in practice.
    let directory = match hierarchy {
        Hierarchy::V1 => directory(hierarchy, "memory", path),
        Hierarchy::V2 => directory(hierarchy, "", path),
    };
    collect(&directory, &mut found)?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<i32>) -> io::Result<()> {
    match std::fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if gone(&error) => return Ok(()),
        // A threaded v2 cgroup refuses the read; its processes are listed by its domain parent.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Sends `signal` to everything in `path` and says how many processes there were.
pub fn signal_all(hierarchy: Hierarchy, path: &str, signal: Signal) -> io::Result<usize> {
    if signal == Signal::SIGKILL && hierarchy == Hierarchy::V2 {
        // One write kills the whole tree without races; kernels before 5.14 lack the file.
        let _ = std::fs::write(directory(hierarchy, "", path).join("cgroup.kill"), "1");
    }
    let processes = processes(hierarchy, path)?;
    for pid in &processes {
        // One that ended meanwhile is what was wanted. Pid 0 stands for a process outside our PID namespace.
        if *pid > 0 {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }
    Ok(processes.len())
}

/// How many processes of `path` the kernel killed for want of memory.
pub fn oom_kills(hierarchy: Hierarchy, path: &str) -> u64 {
    let file = match hierarchy {
        Hierarchy::V1 => directory(hierarchy, "memory", path).join("memory.oom_control"),
        Hierarchy::V2 => directory(hierarchy, "", path).join("memory.events"),
    };
    std::fs::read_to_string(file)
        .ok()
        .and_then(|text| field(&text, "oom_kill"))
        .unwrap_or(0)
}

/// The number behind `name` in a flat keyed file.
pub fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }

    #[test]
    fn a_cgroup_that_does_not_exist_is_empty() {
        assert!(
            processes(hierarchy(), "/corral-test-absent")
                .expect("readable")
                .is_empty()
        );
        assert_eq!(oom_kills(hierarchy(), "/corral-test-absent"), 0);
    }
}
