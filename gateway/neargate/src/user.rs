//! The user that `serve` becomes.

use std::fs;

use anyhow::{Context, Result, bail};
use neargate_driver::VOLUME_ID_BASE;

/// The user's name, where the host has one of it.
const NAME: &str = "neargate";
/// The user's id where it has none: below those of volumes and of processes that own nothing, so that it is nobody's.
const ID: u32 = VOLUME_ID_BASE - 2;

/// A user of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl HostUser {
    /// The user that an option names, or else the usual one.
    pub(crate) fn find(option: Option<&str>) -> Result<Self> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
        match option {
            Some(text) => Self::parse(text, &passwd, &group).with_context(|| format!("read --user {text}")),
            None => Ok(entry(NAME, &passwd).unwrap_or(Self { uid: ID, gid: ID })),
        }
    }

    /// Reads `NAME`, `UID` or either with `:GROUP`; a number without a group that `/etc/passwd` does not know is its own
    /// group.
    fn parse(text: &str, passwd: &str, group: &str) -> Result<Self> {
        let (user, wanted) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let found = match (entry(user, passwd), id(user)) {
            (Some(found), _) => found,
            (None, Some(uid)) => Self { uid, gid: uid },
            (None, None) => bail!("there is no user {user:?} in /etc/passwd; make it, or give a number"),
        };
        let Some(wanted) = wanted else { return Ok(found) };
        let of_name = group.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.first() == Some(&wanted)).then(|| id(fields.get(2)?)).flatten()
        });
        match of_name.or_else(|| id(wanted)) {
            Some(gid) => Ok(Self { gid, ..found }),
            None => bail!("there is no group {wanted:?} in /etc/group; make it, or give a number"),
        }
    }

    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// The line of passwd(5) with this name or id.
fn entry(user: &str, passwd: &str) -> Option<HostUser> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields[..] else { return None };
        let found = HostUser { uid: id(uid)?, gid: id(gid)? };
        (name == user || id(user) == Some(found.uid)).then_some(found)
    })
}

/// A number that is an id: digits alone, and not the one that means "unchanged" to chown(2).
fn id(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nneargate:x:990:991::/:/sbin/nologin\n";
        let group = "root:x:0:\nneargate:x:991:\nlogs:x:50:a,b\n";
        let check = |text: &str, expect: Option<(u32, u32)>| {
            let found = HostUser::parse(text, passwd, group).ok().map(|user| (user.uid, user.gid));
            assert_eq!(found, expect, "{text:?}");
        };
        check("neargate", Some((990, 991)));
        check("990", Some((990, 991)));
        check("neargate:logs", Some((990, 50)));
        check("neargate:7", Some((990, 7)));
        check("1234", Some((1234, 1234)));
        check("1234:991", Some((1234, 991)));
        check("root", Some((0, 0)));
        for bad in
            ["", ":", "nobody-here", "neargate:", "neargate:none", "-1", "+1", "4294967295", "1:2:3", "0x1"]
        {
            check(bad, None);
        }
    }
}
