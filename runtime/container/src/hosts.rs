//! Hosts that share VPCs, as they cross the supervisor's socket.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use neargate_model::{Cidr, HostEnd, HostNumber, Hosts, OtherHost, RemoteTask};

use crate::failure::Failure;
use crate::interface::group_id;
use crate::protocol::{BlockPlan, HostEndPlan, HostsPlan, OtherHostPlan, RemoteTaskPlan};

impl HostsPlan {
    /// What the supervisor is told.
    pub(crate) fn of(hosts: &Hosts) -> Self {
        let other = |other: &OtherHost| OtherHostPlan {
            end: HostEndPlan::of(other.end),
            blocks: other.blocks.iter().map(BlockPlan::of).collect(),
            tasks: other.tasks.iter().map(RemoteTaskPlan::of).collect(),
        };
        Self { own: HostEndPlan::of(hosts.own), others: hosts.others.iter().map(other).collect() }
    }

    /// The same, checked: each host and each address once.
    pub(crate) fn read(&self) -> Result<Hosts, Failure> {
        let own = self.own.read()?;
        let others = self.others.iter().map(OtherHostPlan::read).collect::<Result<Vec<_>, _>>()?;
        let (mut numbers, mut addresses) = (BTreeSet::from([own.number]), BTreeSet::from([own.address]));
        let is_new = |end: HostEnd| numbers.insert(end.number) && addresses.insert(end.address);
        let are_new = others.iter().map(|other| other.end).all(is_new);
        let blocks: Vec<&Cidr> = others.iter().flat_map(|other| &other.blocks).collect();
        let overlaps = |(at, block): (usize, &&Cidr)| blocks[..at].iter().any(|other| other.overlaps(block));
        let tasks: usize = others.iter().map(|other| other.tasks.len()).sum();
        let is_sound = are_new
            && others.len() <= Hosts::OTHERS_MAX
            && tasks <= Hosts::TASKS_MAX
            && blocks.len() <= Hosts::BLOCKS_MAX
            && !blocks.iter().enumerate().any(overlaps);
        if is_sound { Ok(Hosts { own, others }) } else { Err(malformed()) }
    }
}

impl HostEndPlan {
    fn of(end: HostEnd) -> Self {
        Self { number: end.number.get(), address: end.address.to_bits() }
    }

    fn read(&self) -> Result<HostEnd, Failure> {
        let number = HostNumber::new(self.number).ok_or_else(malformed)?;
        Ok(HostEnd { number, address: Ipv4Addr::from_bits(self.address) })
    }
}

impl OtherHostPlan {
    fn read(&self) -> Result<OtherHost, Failure> {
        let blocks = self.blocks.iter().map(BlockPlan::read).collect::<Result<Vec<_>, _>>()?;
        let tasks = self.tasks.iter().map(RemoteTaskPlan::read).collect::<Result<Vec<_>, _>>()?;
        let is_in_one = |task: &RemoteTask| blocks.iter().any(|block| block.contains(task.address.into()));
        let is_sound = blocks.iter().all(Cidr::is_v4) && tasks.iter().all(is_in_one);
        if is_sound { Ok(OtherHost { end: self.end.read()?, blocks, tasks }) } else { Err(malformed()) }
    }
}

impl RemoteTaskPlan {
    fn of(task: &RemoteTask) -> Self {
        Self {
            address: task.address.to_bits(),
            groups: task.groups.iter().map(ToString::to_string).collect(),
        }
    }

    fn read(&self) -> Result<RemoteTask, Failure> {
        let groups = self.groups.iter().map(|group| group_id(group)).collect::<Result<_, _>>()?;
        Ok(RemoteTask { address: Ipv4Addr::from_bits(self.address), groups })
    }
}

fn malformed() -> Failure {
    Failure::System { step: "read the hosts that share VPCs".to_owned(), errno: libc::EBADMSG }
}

#[cfg(test)]
mod tests {
    use neargate_ipc::channel::MESSAGE_MAX;
    use neargate_ipc::wire::encode;
    use neargate_model::SecurityGroupId;

    use super::*;
    use crate::protocol::Request;

    fn end(number: u16) -> HostEnd {
        let [high, low] = number.to_be_bytes();
        HostEnd { number: HostNumber::new(number).unwrap(), address: Ipv4Addr::new(192, 0, high, low) }
    }

    fn other(number: u16, block: &str) -> OtherHost {
        OtherHost { end: end(number), blocks: vec![block.parse().unwrap()], tasks: vec![] }
    }

    fn hosts(others: Vec<OtherHost>) -> Hosts {
        Hosts { own: end(1), others }
    }

    #[test]
    fn hosts_come_back_as_they_went() {
        let groups = vec![SecurityGroupId::new(format!("sg-{}", "a".repeat(17))).unwrap()];
        let mut with_task = other(2, "10.0.1.0/24");
        with_task.tasks.push(RemoteTask { address: Ipv4Addr::new(10, 0, 1, 4), groups });
        let hosts = hosts(vec![with_task, other(3, "10.0.2.0/24")]);
        assert_eq!(HostsPlan::of(&hosts).read().unwrap(), hosts);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let check = |others: Vec<OtherHost>| {
            assert!(HostsPlan::of(&hosts(others.clone())).read().is_err(), "{others:?}");
        };
        check(vec![other(1, "10.0.1.0/24")]);
        check(vec![other(2, "10.0.1.0/24"), other(2, "10.0.2.0/24")]);
        check(vec![other(2, "10.0.1.0/24"), other(3, "10.0.0.0/16")]);
        check(vec![OtherHost {
            end: HostEnd { address: end(1).address, ..end(2) },
            ..other(2, "10.0.1.0/24")
        }]);
        check(vec![other(2, "fd00::/64")]);
        let stray = RemoteTask { address: Ipv4Addr::new(10, 0, 2, 4), groups: vec![] };
        check(vec![OtherHost { tasks: vec![stray], ..other(2, "10.0.1.0/24") }]);
        let many =
            |count: u16| (2..2 + count).map(|n| other(n, &format!("10.{n}.0.0/16"))).collect::<Vec<_>>();
        assert!(HostsPlan::of(&hosts(many(64))).read().is_ok());
        check(many(65));
    }

    #[test]
    fn as_many_tasks_as_may_be_fit_into_a_message() {
        let group = |n: usize| SecurityGroupId::new(format!("sg-{n:017x}")).unwrap();
        let task = |n: usize| RemoteTask {
            address: Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap()),
            groups: (0..5).map(group).collect(),
        };
        let mut one = other(2, "10.0.0.0/8");
        one.tasks = (0..Hosts::TASKS_MAX).map(task).collect();
        let request = Request::Hosts { hosts: Some(HostsPlan::of(&hosts(vec![one]))) };
        assert!(encode(&request).len() <= MESSAGE_MAX);
    }
}
