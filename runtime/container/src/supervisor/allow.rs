//! Refuses what the operator's policy does not allow, whatever the server says.
//!
//! The server checks definitions, with better words. This is the last line, for mistakes of the server.

use crate::failure::{Failure, Step};
use crate::protocol::{Allowed, IpcPlan, NetworkPlan, PidPlan, SharingPlan, StartPlan};
use crate::seccomp::names_core;

/// Checks the network that a sandbox is to have.
pub(super) fn check_network(allowed: &Allowed, network: &NetworkPlan) -> Result<(), Failure> {
    match network {
        NetworkPlan::Host {} if !allowed.host_network => Err(refuse("the host's network")),
        NetworkPlan::Own {}
        | NetworkPlan::Managed {}
        | NetworkPlan::Host {}
        | NetworkPlan::Vpc { .. }
        | NetworkPlan::Bridge { .. } => Ok(()),
    }
}

/// Checks what the containers of a sandbox are to share.
pub(super) fn check_sharing(allowed: &Allowed, sharing: &SharingPlan) -> Result<(), Failure> {
    if sharing.pids == (PidPlan::Host {}) && !allowed.host_pid {
        return Err(refuse("the host's PID namespace"));
    }
    if sharing.ipc == (IpcPlan::Host {}) && !allowed.host_ipc {
        return Err(refuse("the host's IPC namespace"));
    }
    Ok(())
}

/// Checks what a container is to have.
pub(super) fn check_plan(allowed: &Allowed, plan: &StartPlan) -> Result<(), Failure> {
    if plan.capabilities & !allowed.capabilities != 0 {
        return Err(refuse("a capability"));
    }
    if plan.privileged && !allowed.privileged {
        return Err(refuse("a privileged container"));
    }
    match plan.devices.iter().all(|device| allowed.devices.contains(&device.source)) {
        true => Ok(()),
        false => Err(refuse("a device")),
    }
}

/// Refuses core dumps that the host would take: see [`seccomp`](crate::seccomp).
pub(super) fn check_core(plan: &StartPlan) -> Result<(), Failure> {
    if !names_core(plan) {
        return Ok(());
    }
    let pattern = std::fs::read("/proc/sys/kernel/core_pattern").step("read where core dumps go")?;
    if !is_handed_over(&pattern) {
        return Ok(());
    }
    let why = "this machine hands core dumps to a program of its own, which the kernel would start as root for a crash \
               in the task; `sysctl kernel.core_pattern` tells, and a name without | and @ makes them files of the task";
    Err(Failure::Unsupported { what: "a ulimit of core".to_owned(), why: why.to_owned() })
}

/// Whether core dumps go to a program or a socket (core(5)).
fn is_handed_over(pattern: &[u8]) -> bool {
    matches!(pattern.first(), Some(b'|' | b'@'))
}

fn refuse(what: &str) -> Failure {
    let why = "the supervisor was not told that the operator allows it; name it in the file of \
               `neargate serve --policy`";
    Failure::Unsupported { what: what.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DevicePlan;
    use crate::supervisor::journal::testing::plan;

    #[test]
    fn core_dumps_that_the_host_takes() {
        let check =
            |pattern: &str, expect| assert_eq!(is_handed_over(pattern.as_bytes()), expect, "{pattern}");
        check("core\n", false);
        check("/tmp/core.%p\n", false);
        check("", false);
        check("|/usr/lib/systemd/systemd-coredump %P\n", true);
        check("@/run/coredump.socket\n", true);
        let names = |ulimits: Vec<(u32, (u64, u64))>| names_core(&StartPlan { ulimits, ..plan("t", "c") });
        assert!(!names(vec![]));
        assert!(!names(vec![(libc::RLIMIT_CORE, (0, 1)), (libc::RLIMIT_NOFILE, (9, 9))]));
        assert!(names(vec![(libc::RLIMIT_CORE, (0, 4096))]));
    }

    #[test]
    fn only_what_is_allowed() {
        let nothing = Allowed {
            capabilities: 1,
            privileged: false,
            host_network: false,
            host_ipc: false,
            host_pid: false,
            devices: vec![],
            host_paths: vec![],
        };
        let device =
            DevicePlan { source: b"/dev/x".to_vec(), target: b"/dev/x".to_vec(), read: true, write: true };
        let all = Allowed {
            capabilities: 3,
            privileged: true,
            host_network: true,
            host_ipc: true,
            host_pid: true,
            devices: vec![b"/dev/x".to_vec()],
            host_paths: vec![],
        };
        assert!(check_network(&nothing, &NetworkPlan::Host {}).is_err());
        assert!(check_network(&nothing, &NetworkPlan::Managed {}).is_ok());
        assert!(check_network(&all, &NetworkPlan::Host {}).is_ok());
        let of_host = [
            SharingPlan { pids: PidPlan::Host {}, ..SharingPlan::NONE },
            SharingPlan { ipc: IpcPlan::Host {}, ..SharingPlan::NONE },
        ];
        for sharing in &of_host {
            assert!(check_sharing(&nothing, sharing).is_err(), "{sharing:?}");
            assert!(check_sharing(&all, sharing).is_ok(), "{sharing:?}");
        }
        let of_task = SharingPlan { pids: PidPlan::Task {}, ipc: IpcPlan::Task { shm_bytes: 1 } };
        for sharing in [&of_task, &SharingPlan::NONE] {
            assert!(check_sharing(&nothing, sharing).is_ok(), "{sharing:?}");
        }
        let changes: [fn(&mut StartPlan, &DevicePlan); 3] = [
            |plan, _| plan.capabilities = 2,
            |plan, _| plan.privileged = true,
            |plan, device| plan.devices.push(device.clone()),
        ];
        let plain = StartPlan { capabilities: 1, ..plan("t", "c") };
        assert!(check_plan(&nothing, &plain).is_ok());
        for (index, change) in changes.iter().enumerate() {
            let mut plan = plain.clone();
            change(&mut plan, &device);
            assert!(check_plan(&nothing, &plan).is_err(), "change {index}");
            assert!(check_plan(&all, &plan).is_ok(), "change {index}");
        }
    }
}
