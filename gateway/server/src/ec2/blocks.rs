//! Blocks of IPv6: a VPC's, which is chosen here, and those parts of it that subnets have.

use neargate_model::BlockAssociationId;
use neargate_wire::ec2::{
    AssociateSubnetCidrBlockRequest, AssociateSubnetCidrBlockResult, AssociateVpcCidrBlockRequest,
    AssociateVpcCidrBlockResult, DisassociateSubnetCidrBlockRequest, DisassociateSubnetCidrBlockResult,
    DisassociateVpcCidrBlockRequest, DisassociateVpcCidrBlockResult, Ec2Error, SubnetCidrBlockStateCode,
    VpcCidrBlockStateCode,
};

use super::error::{self, missing, refuse};
use super::{Ec2Api, ids, permissions, render};
use crate::RequestContext;

pub(super) async fn associate_vpc(
    api: &Ec2Api,
    cx: &RequestContext,
    input: AssociateVpcCidrBlockRequest,
) -> Result<AssociateVpcCidrBlockResult, Ec2Error> {
    let id = ids::vpc(&input.vpc_id)?;
    if input.amazon_provided_ipv6_cidr_block != Some(true) {
        return Err(missing("amazonProvidedIpv6CidrBlock"));
    }
    let associated =
        api.control.change_networks(&cx.scope, |networks, ids| networks.associate_vpc_block(&id, ids));
    let association = associated.await.map_err(|error| error::change(&error))?;
    let shown = render::vpc_block(&cx.scope, &association, VpcCidrBlockStateCode::Associated);
    Ok(AssociateVpcCidrBlockResult { vpc_id: Some(id.to_string()), ipv6_cidr_block_association: Some(shown) })
}

pub(super) async fn disassociate_vpc(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DisassociateVpcCidrBlockRequest,
) -> Result<DisassociateVpcCidrBlockResult, Ec2Error> {
    let id = association(&input.association_id, "InvalidVpcCidrBlockAssociationID.NotFound")?;
    let taken = api.control.change_networks(&cx.scope, |networks, _| networks.disassociate_vpc_block(&id));
    let (vpc, association) = taken.await.map_err(|error| error::change(&error))?;
    let shown = render::vpc_block(&cx.scope, &association, VpcCidrBlockStateCode::Disassociated);
    Ok(DisassociateVpcCidrBlockResult {
        vpc_id: Some(vpc.to_string()),
        ipv6_cidr_block_association: Some(shown),
    })
}

pub(super) async fn associate_subnet(
    api: &Ec2Api,
    cx: &RequestContext,
    input: AssociateSubnetCidrBlockRequest,
) -> Result<AssociateSubnetCidrBlockResult, Ec2Error> {
    let id = ids::subnet(&input.subnet_id)?;
    let block = input.ipv6_cidr_block.ok_or_else(|| missing("ipv6CidrBlock"))?;
    let block = permissions::block(&block, false)?;
    let associated = api.control.associate_subnet_block(&cx.scope, &id, block).await;
    let association = associated.map_err(|error| error::change(&error))?;
    let shown = render::subnet_block(&association, SubnetCidrBlockStateCode::Associated);
    Ok(AssociateSubnetCidrBlockResult {
        subnet_id: Some(id.to_string()),
        ipv6_cidr_block_association: Some(shown),
    })
}

pub(super) async fn disassociate_subnet(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DisassociateSubnetCidrBlockRequest,
) -> Result<DisassociateSubnetCidrBlockResult, Ec2Error> {
    let id = association(&input.association_id, "InvalidSubnetCidrBlockAssociationID.NotFound")?;
    let taken = api.control.disassociate_subnet_block(&cx.scope, &id).await;
    let (subnet, association) = taken.map_err(|error| error::change(&error))?;
    let shown = render::subnet_block(&association, SubnetCidrBlockStateCode::Disassociated);
    Ok(DisassociateSubnetCidrBlockResult {
        subnet_id: Some(subnet.to_string()),
        ipv6_cidr_block_association: Some(shown),
    })
}

/// The id of an association; what is no id at all names nothing either.
fn association(text: &str, code: &'static str) -> Result<BlockAssociationId, Ec2Error> {
    let not_found = |_| {
        let shown: String = text.chars().take(64).collect();
        refuse(code, format!("The association ID '{shown}' does not exist"))
    };
    BlockAssociationId::new(text).map_err(not_found)
}
