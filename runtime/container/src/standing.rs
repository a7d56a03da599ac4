//! With which rights containers are made: those of the host's root, or those of an ordinary user in its
//! [`realm`](crate::realm).
//!
//! ```text
//!                   root                           in a realm
//!  a task's ids     65,536 that no other one has   one, the user's
//!  layers, volumes  id-mapped                      as they are: the user's files are the container's root's
//!  device nodes     made                           the host's own, bound
//!  limits           cgroups                        resource limits; what needs a cgroup is refused
//! ```

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::user::ID_RANGE;

/// Whether the process is in a realm. Looked up before anything is cloned, so that each child knows it by its copy of this
/// memory.
static IN_REALM: AtomicBool = AtomicBool::new(false);

/// The rights of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Those of the host's root, or of nobody in particular.
    Host,
    /// Those of root of a user namespace that has no other id.
    Realm,
}

impl Standing {
    /// Looks them up. To be called once, before a process is cloned that asks for its [`own`](Self::own).
    pub(crate) fn look_up() -> io::Result<Self> {
        let found = Self::of_map(&fs::read_to_string("/proc/self/uid_map")?);
        IN_REALM.store(found == Standing::Realm, Ordering::Relaxed);
        Ok(found)
    }

    /// What was looked up; until then those of the host's root.
    pub(crate) fn own() -> Self {
        if IN_REALM.load(Ordering::Relaxed) { Standing::Realm } else { Standing::Host }
    }

    /// Reads the map of a process (user_namespaces(7)): first id inside, first id outside, and count. Who has no other id
    /// than 0 has none to give to tasks.
    fn of_map(map: &str) -> Self {
        let words: Vec<&str> = map.split_whitespace().collect();
        if let ["0", _, "1"] = words[..] { Standing::Realm } else { Standing::Host }
    }

    pub(crate) fn is_host(self) -> bool {
        self == Standing::Host
    }

    /// The id map of a task to which the range from `ids` on was given.
    pub(crate) fn id_map(self, ids: u32) -> String {
        match self {
            Standing::Host => format!("0 {ids} {ID_RANGE}"),
            Standing::Realm => "0 0 1".to_owned(),
        }
    }

    /// The supervisor's id for root of that task.
    pub(crate) fn root_of(self, ids: u32) -> u32 {
        match self {
            Standing::Host => ids,
            Standing::Realm => 0,
        }
    }

    /// How many ids a container has.
    pub(crate) fn count(self) -> u32 {
        match self {
            Standing::Host => ID_RANGE,
            Standing::Realm => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_one_id_is_in_a_realm() {
        let check = |map: &str, expect: Standing| assert_eq!(Standing::of_map(map), expect, "{map:?}");
        check("         0          0 4294967295\n", Standing::Host);
        check("         0       1000          1\n", Standing::Realm);
        check("0 1000 1\n1 100000 65536\n", Standing::Host);
        check("0 100000 65536\n", Standing::Host);
        check("1000 1000 1\n", Standing::Host);
        check("", Standing::Host);
    }

    #[test]
    fn a_realm_gives_each_task_all_that_it_has() {
        let maps = [Standing::Host, Standing::Realm].map(|one| (one.id_map(7), one.root_of(7), one.count()));
        assert_eq!(maps, [("0 7 65536".to_owned(), 7, 65_536), ("0 0 1".to_owned(), 0, 1)]);
    }
}
