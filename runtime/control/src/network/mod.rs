//! Networks of tasks: VPCs, subnets, security groups and interfaces.
//!
//! What may be changed is decided by [`Networks`], a value. A change reads all of a scope, decides, and commits what
//! differs, together with a record of the scope that every change rewrites; so that two changes that together would
//! break a rule cannot both be committed, on any store. Interfaces come and go with tasks and are not part of that.

mod addresses;
mod assign;
mod bridge;
mod dual;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use neargate_model::vpc::{NetworkError, NetworkInterface, Networks, NewIds, Subnet, Vpc, change_tags};
use neargate_model::{
    Cidr, NetworkInterfaceId, NodeCommand, Scope, SecurityGroupId, SubnetId, Tags, TaskKey, VpcId,
};
use neargate_store::{Key, Rev, StoreError, Table, Txn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::Control;
use crate::tables::{
    GROUPS, INTERFACES, NETWORKS, NOW, NetworkRecord, SUBNETS, VPCS, WRITE_ATTEMPTS, commit, scan_all,
    too_contended,
};

pub(crate) use addresses::{Addresses, Whereabouts};
pub use assign::WantedNetwork;
pub(crate) use assign::{Assigned, NotAssigned};
use bridge::Bridge;

/// How often the rules are read again for the node when the store fails, and how long is waited between.
const TELL_ATTEMPTS: usize = 5;
const TELL_PAUSE: Duration = Duration::from_millis(100);

/// Why networks were not changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkChangeError {
    /// The change breaks a rule.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    /// The networks of a scope. In the region of this server the default VPC is made when they are looked at for the first
    /// time; elsewhere looking makes nothing, and there is one once somebody has made it.
    pub async fn networks(&self, scope: &Scope) -> Result<Networks, StoreError> {
        Ok(self.load_networks(scope).await?.0)
    }

    /// Changes the networks of a scope. `change` is called again when others were quicker.
    pub async fn change_networks<T>(
        &self,
        scope: &Scope,
        change: impl Fn(&mut Networks, NewIds<'_>) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (before, rev) = self.load_networks(scope).await?;
            let mut after = before.clone();
            let value = change(&mut after, &mut random)?;
            if after == before {
                return Ok(value);
            }
            // Held until the new blocks are written, so that no other scope takes them meanwhile.
            let _turn = self.shared.networks.blocks.lock().await;
            self.check_blocks(scope, &before, &after).await?;
            let root = root_key(scope);
            let txn = match rev {
                Some(rev) => Txn::fresh().at_rev(&root, rev),
                None => Txn::fresh().absent(root),
            };
            if self.commit_networks(scope, &before, &after, txn).await? {
                return Ok(value);
            }
        }
        Err(too_contended().into())
    }

    /// Removes a subnet that has no interface.
    pub async fn delete_subnet(&self, scope: &Scope, id: &SubnetId) -> Result<(), NetworkChangeError> {
        let addresses = &self.shared.networks.addresses;
        self.networks(scope).await?.subnet(id)?;
        if !addresses.close_subnet(id) {
            return Err(NetworkError::SubnetInUse { id: id.clone() }.into());
        }
        let deleted = self.change_networks(scope, |networks, _| networks.delete_subnet(id)).await;
        deleted.inspect_err(|_| addresses.open_subnet(id))
    }

    /// Removes a security group that has no interface and that no rule of another one names.
    pub async fn delete_group(&self, scope: &Scope, id: &SecurityGroupId) -> Result<(), NetworkChangeError> {
        let addresses = &self.shared.networks.addresses;
        self.networks(scope).await?.group(id)?;
        if !addresses.close_group(id) {
            return Err(NetworkError::GroupInUse { id: id.clone() }.into());
        }
        let deleted = self.change_networks(scope, |networks, _| networks.delete_group(id)).await;
        deleted.inspect_err(|_| addresses.open_group(id))
    }

    /// How many interfaces a subnet has room for now.
    pub fn free_addresses(&self, subnet: &Subnet) -> u32 {
        self.shared.networks.addresses.free(subnet.block, self.now())
    }

    /// A subnet.
    pub async fn subnet(&self, scope: &Scope, id: &SubnetId) -> Result<Option<Arc<Subnet>>, StoreError> {
        let found = self.memos().subnets.get(self.store(), &record_key(&SUBNETS, scope, id.as_str())).await?;
        Ok(found.map(|found| found.value))
    }

    /// The task that has an address.
    pub fn task_at(&self, address: Ipv4Addr) -> Option<TaskKey> {
        self.shared.networks.addresses.holder(address)
    }

    /// The interfaces of a scope, in the order of their ids.
    pub async fn network_interfaces(&self, scope: &Scope) -> Result<Vec<NetworkInterface>, StoreError> {
        let prefix = INTERFACES.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let found = scan_all(self.store(), &INTERFACES, &prefix).await?;
        let mut interfaces: Vec<NetworkInterface> = found.into_iter().map(|(_, found)| found.value).collect();
        interfaces.sort_by(|a, b| a.network.interface.cmp(&b.network.interface));
        Ok(interfaces)
    }

    /// Changes the tags of an interface, as [`change_tags`]. `false` if there is none of this id.
    pub async fn tag_interface(
        &self,
        scope: &Scope,
        id: &NetworkInterfaceId,
        set: &Tags,
        remove: &[(String, Option<String>)],
    ) -> Result<bool, NetworkChangeError> {
        let prefix = INTERFACES.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        for _ in 0..WRITE_ATTEMPTS {
            let all = scan_all(self.store(), &INTERFACES, &prefix).await?;
            let found = all.into_iter().find(|(_, found)| found.value.network.interface == *id);
            let Some((key, found)) = found else { return Ok(false) };
            let mut interface = found.value;
            change_tags(&mut interface.tags, set, remove)?;
            let txn = INTERFACES.put(Txn::fresh().at_rev(&key, found.rev), &key, &interface)?;
            if commit(self.store(), txn).await? {
                return Ok(true);
            }
        }
        Err(too_contended().into())
    }

    /// All of a scope at one moment, and the revision that a change of it has to find again; none of a scope that has
    /// nothing.
    async fn load_networks(&self, scope: &Scope) -> Result<(Networks, Option<Rev>), StoreError> {
        let root = root_key(scope);
        for _ in 0..WRITE_ATTEMPTS {
            let Some(found) = NETWORKS.get(self.store(), &root, NOW).await? else {
                if scope.region != self.shared.host.region {
                    return Ok((Networks::default(), None));
                }
                self.make_default(scope).await?;
                continue;
            };
            let networks = Networks {
                vpcs: self.records(&VPCS, scope, |vpc| vpc.id.clone()).await?,
                subnets: self.records(&SUBNETS, scope, |subnet| subnet.id.clone()).await?,
                groups: self.records(&GROUPS, scope, |group| group.id.clone()).await?,
            };
            let again = NETWORKS.get(self.store(), &root, NOW).await?;
            if again.is_some_and(|again| again.rev == found.rev) {
                return Ok((networks, Some(found.rev)));
            }
        }
        Err(too_contended())
    }

    async fn records<Id: Ord, T: Serialize + DeserializeOwned>(
        &self,
        table: &Table<T>,
        scope: &Scope,
        id: impl Fn(&T) -> Id,
    ) -> Result<BTreeMap<Id, T>, StoreError> {
        let prefix = table.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), table, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| (id(&found.value), found.value)).collect())
    }

    /// Refuses blocks that overlap those of another scope: on a host all of them are routed side by side.
    async fn check_blocks(
        &self,
        scope: &Scope,
        before: &Networks,
        after: &Networks,
    ) -> Result<(), NetworkChangeError> {
        let known: Vec<Cidr> = before.vpcs.values().flat_map(Vpc::blocks).collect();
        let new: Vec<Cidr> =
            after.vpcs.values().flat_map(Vpc::blocks).filter(|block| !known.contains(block)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let bridge = self.known_bridge_block().await?;
        if let Some(block) = new.iter().find(|block| bridge.is_some_and(|bridge| bridge.overlaps(block))) {
            let rule = "tasks with networkMode bridge have it";
            return Err(NetworkError::VpcBlock { block: *block, rule }.into());
        }
        for (other, vpc) in self.blocks_elsewhere(scope).await? {
            if let Some(block) = new.iter().find(|block| block.overlaps(&other)) {
                return Err(NetworkError::VpcOverlap { block: *block, other, vpc }.into());
            }
        }
        Ok(())
    }

    /// The blocks of the VPCs of all other scopes.
    async fn blocks_elsewhere(&self, scope: &Scope) -> Result<Vec<(Cidr, VpcId)>, StoreError> {
        let own = VPCS.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), &VPCS, &VPCS.prefix(&[])).await?;
        let elsewhere = all.into_iter().filter(|(key, _)| !key.starts_with(&own));
        let blocks = |vpc: Vpc| vpc.blocks().map(|block| (block, vpc.id.clone())).collect::<Vec<_>>();
        Ok(elsewhere.flat_map(|(_, found)| blocks(found.value)).collect())
    }

    /// The block that a default VPC of a scope gets: the first that no other scope has.
    pub async fn default_vpc_block(&self, scope: &Scope) -> Result<Cidr, StoreError> {
        let (taken, bridge) = (self.blocks_elsewhere(scope).await?, self.known_bridge_block().await?);
        let blocks = &self.shared.host.default_vpcs;
        let others: Vec<Cidr> = taken.into_iter().map(|(block, _)| block).chain(bridge).collect();
        let is_free = |block: &&Cidr| !others.iter().any(|other| other.overlaps(block));
        // Where all are taken, the error that follows says by whom.
        Ok(blocks.iter().find(is_free).or(blocks.first()).copied().unwrap_or(Cidr::ANYWHERE_V4))
    }

    /// Makes what a scope has at first, unless somebody else was quicker.
    async fn make_default(&self, scope: &Scope) -> Result<(), StoreError> {
        let mut networks = Networks::default();
        let _turn = self.shared.networks.blocks.lock().await;
        let block = self.default_vpc_block(scope).await?;
        if let Err(error) = networks.create_default_vpc(block, &scope.region, &mut random) {
            // The operator's block is of no use; a scope without a default VPC is still one.
            tracing::error!(error = neargate_model::chain(&error), %block, "default VPC cannot be made");
            networks = Networks::default();
        }
        let txn = Txn::fresh().absent(root_key(scope));
        self.commit_networks(scope, &Networks::default(), &networks, txn).await.map(drop)
    }

    async fn commit_networks(
        &self,
        scope: &Scope,
        before: &Networks,
        after: &Networks,
        txn: Txn,
    ) -> Result<bool, StoreError> {
        let size = |networks: &Networks| networks.vpcs.len() + networks.subnets.len() + networks.groups.len();
        if size(after) > size(before) {
            self.check_disk()?;
        }
        let txn = NETWORKS.put(txn, &root_key(scope), &NetworkRecord { changed_at: self.now() })?;
        let txn = write_difference(txn, &VPCS, scope, &before.vpcs, &after.vpcs)?;
        let txn = write_difference(txn, &SUBNETS, scope, &before.subnets, &after.subnets)?;
        let txn = write_difference(txn, &GROUPS, scope, &before.groups, &after.groups)?;
        if !commit(self.store(), txn).await? {
            return Ok(false);
        }
        if before.groups != after.groups || before.vpcs != after.vpcs {
            self.tell_network().await;
        }
        Ok(true)
    }

    /// Tells the node the rules of all groups and the blocks of all VPCs there are.
    pub(crate) async fn tell_network(&self) {
        // One after the other, so that what is told last was read last.
        let _turn = self.shared.networks.telling.lock().await;
        for attempt in 1.. {
            match self.whole_network().await {
                Ok(network) => {
                    if let Err(error) = self.shared.node.send(network).await {
                        tracing::warn!(%error, "rules of security groups wait for the node");
                    }
                    return;
                }
                Err(error) if attempt == TELL_ATTEMPTS => {
                    let error = neargate_model::chain(&error);
                    tracing::error!(
                        error,
                        "rules of security groups are enforced as they were before the last change"
                    );
                    return;
                }
                Err(_) => tokio::time::sleep(TELL_PAUSE).await,
            }
        }
    }

    async fn whole_network(&self) -> Result<NodeCommand, StoreError> {
        let groups = scan_all(self.store(), &GROUPS, &GROUPS.prefix(&[])).await?;
        let vpcs = scan_all(self.store(), &VPCS, &VPCS.prefix(&[])).await?;
        let groups = groups.iter().map(|(_, found)| found.value.enforced()).collect();
        let blocks = vpcs.iter().flat_map(|(_, found)| found.value.blocks());
        let bridge = self.known_bridge_block().await?;
        Ok(NodeCommand::Network { groups, vpcs: blocks.chain(bridge).collect() })
    }
}

/// Writes the records that differ and deletes those that are gone.
fn write_difference<Id: Ord + AsRef<str>, T: PartialEq + Serialize + DeserializeOwned>(
    mut txn: Txn,
    table: &Table<T>,
    scope: &Scope,
    before: &BTreeMap<Id, T>,
    after: &BTreeMap<Id, T>,
) -> Result<Txn, StoreError> {
    for (id, record) in after.iter().filter(|(id, record)| before.get(id) != Some(record)) {
        txn = table.put(txn, &record_key(table, scope, id.as_ref()), record)?;
    }
    for id in before.keys().filter(|id| !after.contains_key(id)) {
        txn = txn.delete(record_key(table, scope, id.as_ref()));
    }
    Ok(txn)
}

pub(crate) fn record_key<T>(table: &Table<T>, scope: &Scope, id: &str) -> Key {
    table.key(&[scope.account.as_str(), scope.region.as_str(), id])
}

fn root_key(scope: &Scope) -> Key {
    NETWORKS.key(&[scope.account.as_str(), scope.region.as_str()])
}

pub(crate) fn random() -> u128 {
    // Not the bits of the version and the variant, which are the same in all.
    let random = Uuid::new_v4().as_u128();
    (random >> 80 << 62) | (random & ((1 << 62) - 1))
}

/// What control keeps in memory of networks.
#[derive(Default)]
pub(crate) struct NetworkState {
    pub(crate) addresses: Addresses,
    pub(crate) bridge: Bridge,
    /// The block of tasks under `bridge`, once it is known.
    bridge_block: OnceLock<Cidr>,
    /// Held while the node is told of groups.
    telling: tokio::sync::Mutex<()>,
    /// Held while VPCs are made.
    blocks: tokio::sync::Mutex<()>,
}
