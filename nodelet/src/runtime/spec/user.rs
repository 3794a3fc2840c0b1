//! Who a container runs as: the pod's wishes, the image's user, and the image's own user data base.

use corral_api::k8s::api::core::v1::{PodSecurityContext, SecurityContext};

use super::{Error, Input};

/// The image's `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// The text of `/etc/passwd`.
    pub passwd: String,
    /// The text of `/etc/group`.
    pub group: String,
}

/// A process's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?;
            Some(Account {
                name,
                uid,
                gid,
                home,
            })
        })
    }

    fn group(&self, name: &str) -> Option<u32> {
        self.groups()
            .find(|(known, _, _)| *known == name)
            .map(|(_, gid, _)| gid)
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }

    fn groups_of(&self, user: &str) -> impl Iterator<Item = u32> {
        self.groups()
            .filter(move |(_, _, members)| members.split(',').any(|name| name == user))
            .map(|(_, gid, _)| gid)
    }
}

/// Decides who runs a container.
pub(super) fn identify(
    input: &Input<'_>,
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
) -> Result<Identity, Error> {
    let id = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let wanted = id(context.run_as_user.or(pod_context.run_as_user));
    let image_user = input.image.user.as_deref().unwrap_or("").trim();
    let (user_part, group_part) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (image_user, None),
    };
    check_non_root(input, context, pod_context, wanted, user_part)?;
    let accounts = input.accounts;
    let uid = match wanted {
        Some(uid) => uid,
        None if user_part.is_empty() => 0,
        None => match user_part.parse() {
            Ok(uid) => uid,
            Err(_) => accounts
                .users()
                .find(|account| account.name == user_part)
                .map(|account| account.uid)
                .ok_or_else(|| Error::UnknownAccount {
                    what: "user",
                    name: user_part.to_owned(),
                })?,
        },
    };
    let account = accounts.users().find(|account| account.uid == uid);
    let image_gid = match group_part.filter(|_| wanted.is_none()) {
        Some(group) => Some(match group.parse() {
            Ok(gid) => gid,
            Err(_) => accounts.group(group).ok_or_else(|| Error::UnknownAccount {
                what: "group",
                name: group.to_owned(),
            })?,
        }),
        None => account.as_ref().map(|account| account.gid),
    };
    let gid = id(context.run_as_group.or(pod_context.run_as_group))
        .or(image_gid)
        .unwrap_or(0);
    let mut groups: Vec<u32> = Vec::new();
    if pod_context.supplemental_groups_policy.as_deref() != Some("Strict")
        && let Some(account) = &account
    {
        groups.extend(accounts.groups_of(account.name));
    }
    groups.extend(
        pod_context
            .supplemental_groups
            .iter()
            .flatten()
            .filter_map(|gid| u32::try_from(*gid).ok()),
    );
    groups.extend(id(pod_context.fs_group));
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = account
        .map(|account| account.home.to_owned())
        .filter(|home| !home.is_empty());
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.unwrap_or_else(|| "/".to_owned()),
    })
}

fn check_non_root(
    input: &Input<'_>,
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
    wanted: Option<u32>,
    image_user: &str,
) -> Result<(), Error> {
    if !context
        .run_as_non_root
        .or(pod_context.run_as_non_root)
        .unwrap_or(false)
    {
        return Ok(());
    }
    let name = |value: &Option<String>| value.clone().unwrap_or_default();
    let pod = format!(
        "{}_{}",
        name(&input.pod.metadata.name),
        name(&input.pod.metadata.namespace)
    );
    let container = input.container.name.clone();
    let numeric = image_user.parse::<u32>();
    match (wanted, numeric) {
        (Some(0), _) | (None, Ok(0)) => Err(Error::Root { pod, container }),
        (Some(_), _) | (None, Ok(_)) => Ok(()),
        (None, Err(_)) if image_user.is_empty() => Err(Error::Root { pod, container }),
        (None, Err(_)) => Err(Error::NamedUser {
            user: image_user.to_owned(),
            pod,
            container,
        }),
    }
}
