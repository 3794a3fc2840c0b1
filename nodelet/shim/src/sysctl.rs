//! Which kernel parameters belong to a namespace, so that a pod may have its own value of them.
//!
//! Everything else under `/proc/sys` is the machine's: writing it would change every pod and the machine itself.
//! [ipc_namespaces(7)](https://man7.org/linux/man-pages/man7/ipc_namespaces.7.html) and network_namespaces(7) say what
//! is whose.

use std::path::PathBuf;

/// The namespace that holds a kernel parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Network.
    Network,
}

/// Parameters of the IPC namespace; those below `fs.mqueue` come on top.
const OF_IPC: [&str; 8] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
];

/// A name with dots between its parts. As in sysctl(8), a name whose first separator is a slash has the two exchanged:
/// `net/ipv4/conf/eth0.1/forwarding` is `net.ipv4.conf.eth0/1.forwarding`.
pub fn normalize(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|char| match char {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The namespace of a parameter; `None` when it is the machine's.
pub fn scope(name: &str) -> Option<Scope> {
    let name = normalize(name);
    if OF_IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        return Some(Scope::Ipc);
    }
    name.starts_with("net.").then_some(Scope::Network)
}

/// The file of a parameter; `None` for a name whose parts would lead elsewhere.
pub fn path(name: &str) -> Option<PathBuf> {
    let name = normalize(name);
    let mut path = PathBuf::from("/proc/sys");
    for part in name.split('.') {
        let part = part.replace('/', ".");
        if part.is_empty() || part == "." || part == ".." {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_namespace_holds_has_a_scope() {
        assert_eq!(scope("kernel.shm_rmid_forced"), Some(Scope::Ipc));
        assert_eq!(scope("fs/mqueue/msg_max"), Some(Scope::Ipc));
        assert_eq!(scope("net.ipv4.tcp_syncookies"), Some(Scope::Network));
        for name in [
            "kernel.core_pattern",
            "kernel.shmwhatever",
            "vm.swappiness",
            "fs.file-max",
            "fs.mqueue",
            "network.x",
            "net",
            "",
        ] {
            assert_eq!(scope(name), None, "{name:?}");
        }
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding"),
            Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding".into())
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding"),
            Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding".into())
        );
        for name in [
            "net/../kernel/core_pattern",
            "net.//.kernel.core_pattern",
            "net..kernel",
            "net./.x",
            "net.",
        ] {
            assert_eq!(path(name), None, "{name:?}");
        }
    }
}
