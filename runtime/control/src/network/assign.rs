//! Giving a task its place in a network.

use std::sync::Arc;

use neargate_model::vpc::{INTERFACE_GROUPS_MAX, NetworkError, SecurityGroup, Subnet, Vpc, interface_id};
use neargate_model::{
    Cidr, MacAddress, NetworkMode, Scope, SecurityGroupId, SubnetId, TaskKey, TaskNetwork, TaskShape, VpcId,
};
use neargate_store::Key;
use uuid::Uuid;

use super::addresses::{NoAddress, Place, Taken};
use super::{random, record_key};
use crate::place::Refusal;
use crate::tables::{GROUPS, SUBNETS, VPCS};
use crate::{Control, RunError};

/// The network that a request names for its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedNetwork {
    /// Subnets of one VPC, of which the one with most addresses is taken.
    pub subnets: Vec<SubnetId>,
    /// Security groups of that VPC; its default group when there are none.
    pub groups: Vec<SecurityGroupId>,
    /// Those whose account settings count, of whom the first that has one decides.
    pub principals: Vec<String>,
}

/// The network that a request names, found.
pub(crate) struct Assigned {
    vpc: Arc<Vpc>,
    subnets: Vec<Arc<Subnet>>,
    groups: Vec<SecurityGroupId>,
    /// Whether tasks get an IPv6 address where their subnet has a block.
    is_dual: bool,
}

impl Assigned {
    /// The block of which tasks get an IPv6 address in a subnet.
    fn block_v6(&self, subnet: &Subnet) -> Option<Cidr> {
        let (block, within) = (subnet.block_v6.as_ref()?.block, self.vpc.block_v6.as_ref()?.block);
        // The VPC may have another one since the subnet was read.
        (self.is_dual && within.contains(block.first())).then_some(block)
    }
}

impl Control {
    /// Finds what a request names; `None` for tasks that have no interface.
    pub(crate) async fn find_network(
        &self,
        scope: &Scope,
        shape: &TaskShape,
        wanted: Option<&WantedNetwork>,
    ) -> Result<Option<Assigned>, RunError> {
        if shape.network_mode != NetworkMode::Awsvpc {
            return Ok(None);
        }
        let wanted = wanted.filter(|wanted| !wanted.subnets.is_empty()).ok_or(RunError::NoNetwork)?;
        let subnets = self.find_subnets(scope, &wanted.subnets).await?;
        let vpc = subnets[0].vpc.clone();
        if let Some(other) = subnets.iter().find(|subnet| subnet.vpc != vpc) {
            return Err(NetworkError::SubnetElsewhere { id: other.id.clone(), vpc }.into());
        }
        let mut groups: Vec<SecurityGroupId> = wanted.groups.clone();
        groups.sort();
        groups.dedup();
        if groups.len() > INTERFACE_GROUPS_MAX {
            return Err(RunError::TooManyGroups { groups: groups.len() });
        }
        let vpc = self.find_vpc(scope, &vpc).await?;
        if groups.is_empty() {
            groups.push(vpc.default_group.clone());
        } else {
            self.check_groups(scope, &vpc.id, &groups).await?;
        }
        let has_v6 = vpc.block_v6.is_some() && subnets.iter().any(|subnet| subnet.block_v6.is_some());
        let is_dual = has_v6 && self.is_dual_stack(scope, &wanted.principals).await?;
        Ok(Some(Assigned { vpc, subnets, groups, is_dual }))
    }

    /// Gives a task an interface.
    pub(crate) fn assign_network(
        &self,
        task: &TaskKey,
        assigned: &Assigned,
    ) -> Result<TaskNetwork, NotAssigned> {
        let vpc = &assigned.vpc;
        let places: Vec<Place<'_>> = assigned
            .subnets
            .iter()
            .map(|subnet| Place {
                subnet: &subnet.id,
                block: subnet.block,
                block_v6: assigned.block_v6(subnet),
                vpc,
            })
            .collect();
        let taken = self.shared.networks.addresses.take(task, &places, &assigned.groups, self.now());
        let Taken { place, address, address_v6 } = taken.map_err(|why| match why {
            NoAddress::Full => NotAssigned::Refused(Refusal::Address),
            NoAddress::SubnetGone(id) => NotAssigned::Gone(NetworkError::SubnetNotFound { id }),
            NoAddress::GroupGone(id) => NotAssigned::Gone(NetworkError::GroupNotFound { id }),
        })?;
        let subnet = &assigned.subnets[place];
        Ok(TaskNetwork {
            interface: interface_id(random()),
            attachment: Uuid::new_v4().hyphenated().to_string(),
            vpc: assigned.vpc.id.clone(),
            vpc_block: assigned.vpc.block,
            subnet: subnet.id.clone(),
            zone: subnet.zone.clone(),
            address,
            address_v6,
            vpc_block_v6: address_v6.and(vpc.block_v6.as_ref()).map(|known| known.block),
            mac: MacAddress::of(address),
            groups: assigned.groups.clone(),
        })
    }

    async fn find_subnets(&self, scope: &Scope, ids: &[SubnetId]) -> Result<Vec<Arc<Subnet>>, RunError> {
        let keys: Vec<Key> = ids.iter().map(|id| record_key(&SUBNETS, scope, id.as_str())).collect();
        let found = self.memos().subnets.get_many(self.store(), &keys).await?;
        let subnets = ids.iter().zip(found).map(|(id, found)| match found {
            Some(found) => Ok(found.value),
            None => Err(NetworkError::SubnetNotFound { id: id.clone() }.into()),
        });
        subnets.collect()
    }

    async fn find_vpc(&self, scope: &Scope, id: &VpcId) -> Result<Arc<Vpc>, RunError> {
        let key = record_key(&VPCS, scope, id.as_str());
        let found = self.memos().vpcs.get(self.store(), &key).await?;
        Ok(found.ok_or_else(|| NetworkError::VpcNotFound { id: id.clone() })?.value)
    }

    async fn check_groups(
        &self,
        scope: &Scope,
        vpc: &VpcId,
        ids: &[SecurityGroupId],
    ) -> Result<(), RunError> {
        let keys: Vec<Key> = ids.iter().map(|id| record_key(&GROUPS, scope, id.as_str())).collect();
        let found = self.memos().groups.get_many(self.store(), &keys).await?;
        for (id, found) in ids.iter().zip(found) {
            let group: Option<Arc<SecurityGroup>> = found.map(|found| found.value);
            let group = group.ok_or_else(|| NetworkError::GroupNotFound { id: id.clone() })?;
            if group.vpc != *vpc {
                return Err(NetworkError::GroupElsewhere { id: id.clone(), vpc: vpc.clone() }.into());
            }
        }
        Ok(())
    }
}

/// Why a task gets no interface.
pub(crate) enum NotAssigned {
    /// There is no room for this one.
    Refused(Refusal),
    /// What the request names is being removed.
    Gone(NetworkError),
}
