//! Which capabilities a container has.

use corral_api::k8s::api::core::v1::Capabilities;

use super::Error;

/// What a container has when it asks for nothing; the set that container runtimes agree on.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Every capability of Linux, in the kernel's order.
pub const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The container's capabilities with their `CAP_` prefix, sorted.
pub fn compute(wanted: Option<&Capabilities>, privileged: bool) -> Result<Vec<String>, Error> {
    let mut set: std::collections::BTreeSet<&str> = if privileged {
        ALL.into()
    } else {
        DEFAULT.into()
    };
    let add = wanted
        .and_then(|wanted| wanted.add.clone())
        .unwrap_or_default();
    let drop = wanted
        .and_then(|wanted| wanted.drop.clone())
        .unwrap_or_default();
    if add.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
        set = ALL.into();
    }
    if drop.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
        set.clear();
    }
    for name in add.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        set.insert(known(name)?);
    }
    for name in drop.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        set.remove(known(name)?);
    }
    Ok(set.into_iter().map(|name| format!("CAP_{name}")).collect())
}

fn known(name: &str) -> Result<&'static str, Error> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter()
        .find(|known| *known == bare)
        .ok_or_else(|| Error::Capability(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(add: &[&str], drop: &[&str]) -> Capabilities {
        let list = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        Capabilities {
            add: list(add),
            drop: list(drop),
        }
    }

    #[test]
    fn drop_all_then_add_one_leaves_one() {
        let capabilities =
            compute(Some(&wanted(&["net_admin"], &["ALL"])), false).expect("known names");
        assert_eq!(capabilities, ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn privileged_has_everything_and_a_stranger_is_refused() {
        assert_eq!(compute(None, true).expect("known names").len(), ALL.len());
        assert_eq!(
            compute(None, false).expect("known names").len(),
            DEFAULT.len()
        );
        assert!(compute(Some(&wanted(&["FLY"], &[])), false).is_err());
    }
}
