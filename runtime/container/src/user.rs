//! Finds the user that a container runs as in the image's own `/etc/passwd` and `/etc/group`.
//!
//! Parsing is strict: a number that does not fit never becomes 0 (CVE-2024-40635), a second colon is
//! refused (CVE-2026-30892), and ids must lie in the container's range.

/// Ids of a container lie below this number.
pub(crate) const ID_RANGE: u32 = 65_536;
/// Most supplementary groups, `NGROUPS_MAX` of `getgroups(2)`.
const GROUPS_MAX: usize = 65_536;

/// Ids inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

impl User {
    /// The same where only ids below `count` can be had, without supplementary groups beyond; `None` where user or group
    /// are.
    pub(crate) fn within(mut self, count: u32) -> Option<Self> {
        self.groups.retain(|group| *group < count);
        (self.uid < count && self.gid < count).then_some(self)
    }
}

/// Resolves `user[:group]`. The error says which part is unknown.
///
/// A user given by name or number brings its primary and supplementary groups along, unless a group is
/// named, as `docker run --user` does. An unknown number is used as it is, with group 0.
pub(crate) fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((_, rest)) if rest.contains(':') => return Err("more than one colon".to_owned()),
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let entry = find_user(user, passwd)?;
    let Some(wanted_group) = wanted_group else {
        let groups = entry.name.as_deref().map(|name| groups_of(name, group)).unwrap_or_default();
        return Ok(User { uid: entry.uid, gid: entry.gid, groups });
    };
    Ok(User { uid: entry.uid, gid: find_group(wanted_group, group)?, groups: Vec::new() })
}

struct Entry {
    name: Option<Vec<u8>>,
    uid: u32,
    gid: u32,
}

fn find_user(user: &str, passwd: &[u8]) -> Result<Entry, String> {
    let number = number(user, "user")?;
    for fields in lines(passwd) {
        let [name, _, uid, gid, ..] = fields[..] else { continue };
        let (Some(uid), Some(gid)) = (strict_id(uid), strict_id(gid)) else { continue };
        if name == user.as_bytes() || number == Some(uid) {
            return Ok(Entry { name: Some(name.to_vec()), uid, gid });
        }
    }
    match number {
        Some(uid) => Ok(Entry { name: None, uid, gid: 0 }),
        None => Err(format!("no user {user:?} in /etc/passwd")),
    }
}

fn find_group(wanted: &str, group: &[u8]) -> Result<u32, String> {
    let number = number(wanted, "group")?;
    for fields in lines(group) {
        let [name, _, gid, ..] = fields[..] else { continue };
        if let Some(gid) = strict_id(gid)
            && name == wanted.as_bytes()
        {
            return Ok(gid);
        }
    }
    number.ok_or_else(|| format!("no group {wanted:?} in /etc/group"))
}

fn groups_of(user: &[u8], group: &[u8]) -> Vec<u32> {
    let is_member = |members: &[u8]| members.split(|&b| b == b',').any(|member| member == user);
    let mut groups: Vec<u32> = lines(group)
        .filter_map(|fields| match fields[..] {
            [_, _, gid, members, ..] if is_member(members) => strict_id(gid),
            _ => None,
        })
        .take(GROUPS_MAX)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// `Some` for a text of digits alone, `None` for a name.
fn number(text: &str, what: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match strict_id(text.as_bytes()) {
        Some(id) => Ok(Some(id)),
        None => Err(format!("{what} id {text} is not in 0 to {}", ID_RANGE - 1)),
    }
}

fn strict_id(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let id: u32 = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    (id < ID_RANGE).then_some(id)
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|&b| b == b'\n').map(|line| line.split(|&b| b == b':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n:x:::\nweb:x:33:34::/:\n\
        huge:x:4294967296:0::/:\nneg:x:-1:-1::/:\n1000:x:7:7::/:\nout:x:65536:1::/:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwww:x:34:\nadm:x:4:web,root\nlog:x:5:web\nbad:x:99999999999:web\nsub:x:6:webx\n";

    fn check(spec: &str, expect: Result<(u32, u32, &[u32]), &str>) {
        let got = resolve(spec, PASSWD, GROUP);
        match (&got, expect) {
            (Ok(user), Ok((uid, gid, groups))) => {
                assert_eq!((user.uid, user.gid, &user.groups[..]), (uid, gid, groups), "{spec:?}");
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{spec:?}: {why}"),
            _ => panic!("{spec:?}: {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn names_and_numbers() {
        check("root", Ok((0, 0, &[4])));
        check("0", Ok((0, 0, &[4])));
        check("web", Ok((33, 34, &[4, 5])));
        check("33", Ok((33, 34, &[4, 5])));
        check("web:adm", Ok((33, 4, &[])));
        check("web:77", Ok((33, 77, &[])));
        check("500", Ok((500, 0, &[])));
        check("500:500", Ok((500, 500, &[])));
        check("65535:65535", Ok((65535, 65535, &[])));
        check("1000", Ok((7, 7, &[])));
    }

    #[test]
    fn whatever_is_odd_is_refused() {
        check("", Err("user is empty"));
        check(":0", Err("user is empty"));
        check("web:", Err("group is empty"));
        check("a:b:c", Err("more than one colon"));
        check("nobody", Err("no user \"nobody\""));
        check("web:nogroup", Err("no group \"nogroup\""));
        check("4294967296", Err("not in 0 to 65535"));
        check("65536", Err("not in 0 to 65535"));
        check("99999999999999999999999", Err("not in 0 to 65535"));
        check("0:4294967296", Err("not in 0 to 65535"));
        check("-1", Err("no user \"-1\""));
        check("+0", Err("no user"));
        check(" 0", Err("no user"));
        check("0x0", Err("no user"));
        check("huge", Err("no user"));
        check("neg", Err("no user"));
        check("out", Err("no user"));
    }

    #[test]
    fn empty_files_know_numbers_only() {
        assert_eq!(resolve("0", b"", b""), Ok(User::default()));
        assert!(resolve("root", b"", b"").is_err());
    }
}
