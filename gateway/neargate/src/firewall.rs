//! Whether another program on this host drops what tasks send through it.
//!
//! Docker and ufw set the policy of iptables' chain FORWARD to DROP. Our own table cannot undo that: a packet that one
//! table lets through may be dropped by another (nft(8), "verdict statement"). It can only be said.

use std::process::{Command, Stdio};

/// What an administrator has to do.
pub(crate) const HINT: &str = "let packets of tasks through: `iptables -I FORWARD -i ngu+ -j ACCEPT` and \
     `iptables -I FORWARD -o ngu+ -j ACCEPT`";

/// Whether iptables drops what is forwarded, and nothing lets packets of tasks through. `None` where it cannot be told:
/// without iptables, or without root.
pub(crate) fn drops_forwarded() -> Option<bool> {
    let mut command = Command::new("iptables");
    command.args(["-w", "2", "-S", "FORWARD"]).env_clear().env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    let listed = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    listed.status.success().then(|| drops(&String::from_utf8_lossy(&listed.stdout)))
}

fn drops(rules: &str) -> bool {
    let is_dropped = rules.lines().any(|line| line.starts_with("-P FORWARD DROP"));
    let is_let = |side: &str| {
        rules
            .lines()
            .any(|line| line.starts_with("-A FORWARD") && line.contains(side) && line.ends_with("-j ACCEPT"))
    };
    is_dropped && !(is_let("-i ngu+") && is_let("-o ngu+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drops_is_found_unless_tasks_are_let_through() {
        assert!(!drops("-P FORWARD ACCEPT\n-A FORWARD -j DOCKER-USER\n"));
        assert!(drops("-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n"));
        let half = "-P FORWARD DROP\n-A FORWARD -i ngu+ -j ACCEPT\n";
        assert!(drops(half));
        assert!(!drops(&format!("{half}-A FORWARD -o ngu+ -j ACCEPT\n")));
    }
}
