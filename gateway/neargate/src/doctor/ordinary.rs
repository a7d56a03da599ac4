//! What an ordinary user's containers have on this machine and what they lack, item by item.

use neargate_container::{Need, try_without_root};

use super::{Check, Status, check};
use crate::containers::NAMESPACES_HINT;

/// The checks in place of those for root. To be called while this process has one thread.
pub(super) fn checks() -> Vec<Check> {
    let uid = rustix::process::geteuid().as_raw();
    let hint = "start `neargate serve` as root for all that it can do; without it containers run in a user namespace, with \
                what is told here";
    let needed = |name, need, there: &str, hint| match try_without_root(need) {
        Ok(()) => check(name, Status::Ok, there, hint),
        Err(error) => check(name, Status::Fail, error.to_string(), hint),
    };
    let proc_hint = "a container around neargate hides parts of /proc or /sys from it; let it see them (docker run \
                     --security-opt systempaths=unconfined), or start it outside";
    let overlay_hint = "use Linux 5.11 or newer, with overlay loaded (`modprobe overlay`, once, as root)";
    let limits_hint = "tasks with such limits, which all of Fargate are, stop with the reason unless `neargate serve \
                       --without-limits` runs them without; numbers of processes, open files and time are limited all the \
                       same";
    let ids_hint =
        "images run whose programs stay root; that root is you. For others, start neargate as root";
    let beyond_hint = "tasks reach each other and this server's names, metadata and APIs, and nothing else; start neargate \
                       as root for more";
    vec![
        check("root", Status::Warn, format!("uid {uid}"), hint),
        needed("without root: namespaces", Need::Namespaces, "user, network, mount", NAMESPACES_HINT),
        needed("without root: proc", Need::Proc, "can be mounted", proc_hint),
        needed("without root: overlay", Need::Overlay, "can be mounted", overlay_hint),
        check("without root: limits", Status::Warn, "CPU and memory are not limited", limits_hint),
        check("without root: user ids", Status::Warn, "one for each container, its root", ids_hint),
        check(
            "without root: beyond the host",
            Status::Warn,
            "not reached, no ports of the host",
            beyond_hint,
        ),
    ]
}
