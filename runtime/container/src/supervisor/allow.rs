//! Refuses what the operator's policy does not allow, whatever the server says.
//!
//! The server checks definitions, with better words. This is the last line, for mistakes of the server.

use crate::failure::Failure;
use crate::protocol::{Allowed, NetworkPlan, StartPlan};

/// Checks the network that a sandbox is to have.
pub(super) fn check_network(allowed: &Allowed, network: &NetworkPlan) -> Result<(), Failure> {
    match network {
        NetworkPlan::Host {} if !allowed.host_network => Err(refuse("the host's network")),
        NetworkPlan::Own {} | NetworkPlan::Managed {} | NetworkPlan::Host {} => Ok(()),
    }
}

/// Checks what a container is to have.
pub(super) fn check_plan(allowed: &Allowed, plan: &StartPlan) -> Result<(), Failure> {
    if plan.capabilities & !allowed.capabilities != 0 {
        return Err(refuse("a capability"));
    }
    if plan.privileged && !allowed.privileged {
        return Err(refuse("a privileged container"));
    }
    if plan.host_ipc && !allowed.host_ipc {
        return Err(refuse("the host's IPC namespace"));
    }
    match plan.devices.iter().all(|device| allowed.devices.contains(&device.source)) {
        true => Ok(()),
        false => Err(refuse("a device")),
    }
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
    fn only_what_is_allowed() {
        let nothing = Allowed {
            capabilities: 1,
            privileged: false,
            host_network: false,
            host_ipc: false,
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
            devices: vec![b"/dev/x".to_vec()],
            host_paths: vec![],
        };
        assert!(check_network(&nothing, &NetworkPlan::Host {}).is_err());
        assert!(check_network(&nothing, &NetworkPlan::Managed {}).is_ok());
        assert!(check_network(&all, &NetworkPlan::Host {}).is_ok());
        let changes: [fn(&mut StartPlan, &DevicePlan); 4] = [
            |plan, _| plan.capabilities = 2,
            |plan, _| plan.privileged = true,
            |plan, _| plan.host_ipc = true,
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
