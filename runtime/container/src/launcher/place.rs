//! Groups and network of a process: the launcher's own, or a sandbox's.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::protocol::PlacePlan;
use crate::cgroup::Group;
use crate::failure::{Failure, Step};

/// Where a process is put before it puts up its fences.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// `None` for the launcher's own or empty one.
    pub(super) network: Option<OwnedFd>,
    /// v2 directory of its group.
    pub(super) unified: Option<OwnedFd>,
    /// v1 `tasks` files of its groups.
    pub(super) tasks: Vec<File>,
}

impl Place {
    /// A group of the launcher's own.
    pub(super) fn of(group: &Group) -> Result<Self, Failure> {
        const STEP: &str = "open cgroup";
        let unified = group.unified_fd().map(|fd| fd.try_clone_to_owned()).transpose().step(STEP)?;
        Ok(Self { network: None, unified, tasks: group.open_tasks().step(STEP)? })
    }

    /// Takes the descriptors that a plan promises from the end of those that came with it.
    pub(super) fn take(plan: &PlacePlan, fds: &mut Vec<OwnedFd>) -> Result<Self, Failure> {
        let count = 1 + usize::from(plan.unified) + plan.tasks as usize;
        let at = fds.len().checked_sub(count);
        let at = at.ok_or(Failure::System { step: "receive sandbox".to_owned(), errno: libc::EBADMSG })?;
        let mut lent = fds.split_off(at).into_iter();
        let network = lent.next();
        let unified = if plan.unified { lent.next() } else { None };
        Ok(Self { network, unified, tasks: lent.map(File::from).collect() })
    }
}
