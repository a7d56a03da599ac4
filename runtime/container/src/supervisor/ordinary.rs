//! What an ordinary user's supervisor refuses, because the kernel gives it only to the host's root, and what stands in for
//! cgroups.

use crate::failure::Failure;
use crate::protocol::{IpcPlan, NetworkPlan, SharingPlan, StartPlan};
use crate::standing::Standing;

/// Refuses the host's namespaces and its ports, and a PID namespace for a whole task: without a cgroup nobody can tell which of its
/// processes a container has left when its first one ends.
pub(super) fn check_sandbox(network: &NetworkPlan, sharing: &SharingPlan) -> Result<(), Failure> {
    let has_ports = match network {
        NetworkPlan::Bridge { containers, .. } => {
            containers.iter().any(|container| !container.ports.is_empty())
        }
        NetworkPlan::Own {} | NetworkPlan::Managed {} | NetworkPlan::Host {} | NetworkPlan::Vpc { .. } => {
            false
        }
    };
    let refused = [
        (has_ports, "a port of the host"),
        (*network == (NetworkPlan::Host {}), "networkMode host"),
        (sharing.shares_pids(), "a pidMode"),
        (sharing.ipc == (IpcPlan::Host {}), "ipcMode host"),
    ];
    match refused.into_iter().find(|(is_asked, _)| *is_asked && !Standing::own().is_host()) {
        None => Ok(()),
        Some((_, what)) => Err(Failure::Unsupported {
            what: what.to_owned(),
            why: "it cannot be had without root; start neargate as root".to_owned(),
        }),
    }
}

/// Lets a container have no more processes than its task may have, where no cgroup counts them: by a resource limit, which
/// the kernel counts for each user in each user namespace, and so for each container.
pub(super) fn bound_processes(plan: &mut StartPlan, task_max: Option<u32>) {
    let Some(most) = plan.limits.pids_max.into_iter().chain(task_max).min() else { return };
    if Standing::own().is_host() {
        return;
    }
    let most = u64::from(most);
    match plan.ulimits.iter_mut().find(|(resource, _)| *resource == libc::RLIMIT_NPROC) {
        Some((_, (soft, hard))) => (*soft, *hard) = ((*soft).min(most), (*hard).min(most)),
        None => plan.ulimits.push((libc::RLIMIT_NPROC, (most, most))),
    }
}
