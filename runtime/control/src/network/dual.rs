//! Blocks of IPv6 of subnets, which go only when no interface has an address of them.

use neargate_model::vpc::{BlockAssociation, NetworkError, Networks, NewIds};
use neargate_model::{BlockAssociationId, Cidr, Scope, SubnetId};

use super::NetworkChangeError;
use crate::Control;

impl Control {
    /// Gives a subnet a block of IPv6, of which the tasks get addresses that are accepted from now on.
    pub async fn associate_subnet_block(
        &self,
        scope: &Scope,
        id: &SubnetId,
        block: Cidr,
    ) -> Result<BlockAssociation, NetworkChangeError> {
        let associate =
            |networks: &mut Networks, ids: NewIds<'_>| networks.associate_subnet_block(id, block, ids);
        let association = self.change_networks(scope, associate).await?;
        self.open_block(&association);
        Ok(association)
    }

    /// Has interfaces get addresses of a block that a subnet has come to have; another one may have had it before.
    pub fn open_block(&self, association: &BlockAssociation) {
        self.shared.networks.addresses.open_block_v6(&association.block);
    }

    /// Takes the block of IPv6 from a subnet in which no interface has an address of it.
    pub async fn disassociate_subnet_block(
        &self,
        scope: &Scope,
        id: &BlockAssociationId,
    ) -> Result<(SubnetId, BlockAssociation), NetworkChangeError> {
        let addresses = &self.shared.networks.addresses;
        let (_, BlockAssociation { block, .. }) = self.networks(scope).await?.subnet_with_block(id)?;
        if !addresses.close_block_v6(&block) {
            return Err(NetworkError::BlockInUse { id: id.clone() }.into());
        }
        let taken = self.change_networks(scope, |networks, _| networks.disassociate_subnet_block(id)).await;
        taken.inspect_err(|_| addresses.open_block_v6(&block))
    }
}
