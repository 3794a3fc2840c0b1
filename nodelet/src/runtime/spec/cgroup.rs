//! What a container sees at `/sys/fs/cgroup`: its own cgroup, which tells programs how much they may use.
//!
//! On v1 a tmpfs with one bind mount per controller, as the machine has it; on v2 the file system itself, seen from a
//! cgroup namespace. Only privileged containers may write there.

use std::path::PathBuf;

use serde_json::{Value, json};

/// Where the cgroups are mounted.
pub const PATH: &str = "/sys/fs/cgroup";

/// A container's cgroup on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// The container's directory for each controller.
    V1(Vec<(String, PathBuf)>),
    /// One tree; what is shown follows from the namespace.
    V2,
}

impl View {
    /// The mounts, the tmpfs before what is inside of it.
    pub fn mounts(&self, privileged: bool) -> Vec<Value> {
        let access = if privileged { "rw" } else { "ro" };
        let flags = ["nosuid", "noexec", "nodev"];
        let Self::V1(controllers) = self else {
            return vec![json!({
                "destination": PATH, "type": "cgroup", "source": "cgroup",
                "options": [flags[0], flags[1], flags[2], "relatime", access],
            })];
        };
        let top = json!({
            "destination": PATH, "type": "tmpfs", "source": "tmpfs",
            "options": [flags[0], flags[1], flags[2], "relatime", "mode=755"],
        });
        let inside = controllers.iter().map(|(name, source)| {
            json!({
                "destination": format!("{PATH}/{name}"), "type": "bind", "source": source,
                "options": ["bind", flags[0], flags[1], flags[2], access],
            })
        });
        std::iter::once(top).chain(inside).collect()
    }

    /// Whether the container gets a cgroup namespace. As with containerd, a privileged one sees the machine's tree.
    pub fn namespaced(&self, privileged: bool) -> bool {
        *self == Self::V2 && !privileged
    }

    /// What must be made read-only after everything is mounted: a tmpfs that was so from the start could hold nothing.
    pub fn sealed(&self, privileged: bool) -> Option<&'static str> {
        (matches!(self, Self::V1(_)) && !privileged).then_some(PATH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1() -> View {
        View::V1(vec![("memory".into(), "/m/a".into())])
    }

    #[test]
    fn v1_shows_each_controller_inside_a_tmpfs() {
        let mounts = v1().mounts(false);
        assert_eq!(mounts[0]["type"], "tmpfs");
        assert_eq!(mounts[1]["destination"], "/sys/fs/cgroup/memory");
        assert_eq!(mounts[1]["source"], "/m/a");
        assert!(
            mounts[1]["options"]
                .as_array()
                .expect("a list")
                .contains(&json!("ro"))
        );
        assert_eq!(v1().sealed(false), Some(PATH));
        assert!(!v1().namespaced(false));
    }

    #[test]
    fn v2_is_one_mount_in_a_namespace() {
        let mounts = View::V2.mounts(false);
        assert_eq!((mounts.len(), &mounts[0]["type"]), (1, &json!("cgroup")));
        assert!(View::V2.namespaced(false) && View::V2.sealed(false).is_none());
    }

    #[test]
    fn privileged_containers_may_write() {
        for view in [v1(), View::V2] {
            let mounts = view.mounts(true);
            let last = mounts.last().expect("a mount");
            assert!(
                last["options"]
                    .as_array()
                    .expect("a list")
                    .contains(&json!("rw"))
            );
            assert!(view.sealed(true).is_none() && !view.namespaced(true));
        }
    }
}
