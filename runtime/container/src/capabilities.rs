//! Which capabilities a container has.
//!
//! All of them count within the container's own user namespace only. Its network namespace belongs to the host's, so
//! that NET_BIND_SERVICE has no effect there and low ports are opened by a sysctl, unless its sandbox was asked for
//! a managed one.

use neargate_driver::StartError;
use neargate_model::capability;

/// The last capability that a set of 64 bits can name; the bounding set is emptied up to the kernel's own last.
pub(crate) const LAST: u64 = 63;

/// The set after a spec's additions and removals; removals are applied first, as Docker does for `ALL`.
pub(crate) fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<u64, StartError> {
    let mut set = if privileged { capability::KNOWN } else { capability::DEFAULT };
    for name in drop {
        set &= !bits("dropping", name)?;
    }
    for name in add {
        set |= bits("adding", name)?;
    }
    Ok(set)
}

fn bits(what: &str, name: &str) -> Result<u64, StartError> {
    if name.eq_ignore_ascii_case(capability::EVERY) {
        return Ok(capability::KNOWN);
    }
    capability::bit(name).ok_or_else(|| StartError::Unsupported {
        what: format!("{what} capability {name:?}"),
        why: "there is no capability of that name; names have no CAP_ prefix".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expect: Option<u64>) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(resolve(&owned(add), &owned(drop), false).ok(), expect, "+{add:?} -{drop:?}");
    }

    #[test]
    fn additions_and_removals() {
        check(&[], &[], Some(0x8004_05fb));
        check(&["SYS_PTRACE"], &[], Some(0x800c_05fb));
        check(&["sys_ptrace"], &["ALL"], Some(0x0008_0000));
        check(&["CHOWN"], &["ALL"], Some(1));
        check(&[], &["all"], Some(0));
        check(&[], &["CHOWN", "SETFCAP"], Some(0x0004_05fa));
        check(&[], &["NET_ADMIN"], Some(0x8004_05fb));
        check(&["NET_ADMIN", "NET_RAW"], &[], Some(0x8004_35fb));
        check(&["ALL"], &["CHOWN"], Some(capability::KNOWN));
        for unknown in ["CAP_CHOWN", "", "MAGIC"] {
            check(&[unknown], &[], None);
            check(&[], &[unknown], None);
        }
        assert_eq!(resolve(&[], &[], true).ok(), Some(capability::KNOWN));
        assert_eq!(resolve(&[], &["CHOWN".to_owned()], true).ok(), Some(capability::KNOWN - 1));
    }
}
