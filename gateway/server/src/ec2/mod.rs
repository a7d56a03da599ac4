//! Amazon EC2: VPCs, subnets, security groups, network interfaces and their tags.
//!
//! Only conversion and EC2's own rules live here: which parameters go together, filters, pages and the words of errors.
//! What may be made and changed is decided in `neargate-model`, and kept by `neargate-control`.

mod blocks;
mod error;
mod filter;
mod groups;
mod ids;
mod interfaces;
mod page;
mod permissions;
mod render;
mod rules;
mod subnets;
mod tags;
mod vpcs;
mod zones;

use neargate_control::Control;
use neargate_wire::ec2::{
    AssociateSubnetCidrBlockRequest, AssociateSubnetCidrBlockResult, AssociateVpcCidrBlockRequest,
    AssociateVpcCidrBlockResult, AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupEgressResult,
    AuthorizeSecurityGroupIngressRequest, AuthorizeSecurityGroupIngressResult, CreateDefaultSubnetRequest,
    CreateDefaultSubnetResult, CreateDefaultVpcRequest, CreateDefaultVpcResult, CreateSecurityGroupRequest,
    CreateSecurityGroupResult, CreateSubnetRequest, CreateSubnetResult, CreateTagsRequest, CreateVpcRequest,
    CreateVpcResult, DeleteSecurityGroupRequest, DeleteSecurityGroupResult, DeleteSubnetRequest,
    DeleteTagsRequest, DeleteVpcRequest, DescribeAccountAttributesRequest, DescribeAccountAttributesResult,
    DescribeAvailabilityZonesRequest, DescribeAvailabilityZonesResult, DescribeNetworkInterfacesRequest,
    DescribeNetworkInterfacesResult, DescribeRegionsRequest, DescribeRegionsResult,
    DescribeSecurityGroupRulesRequest, DescribeSecurityGroupRulesResult, DescribeSecurityGroupsRequest,
    DescribeSecurityGroupsResult, DescribeSubnetsRequest, DescribeSubnetsResult, DescribeTagsRequest,
    DescribeTagsResult, DescribeVpcAttributeRequest, DescribeVpcAttributeResult, DescribeVpcsRequest,
    DescribeVpcsResult, DisassociateSubnetCidrBlockRequest, DisassociateSubnetCidrBlockResult,
    DisassociateVpcCidrBlockRequest, DisassociateVpcCidrBlockResult, Ec2, Ec2Error,
    ModifySecurityGroupRulesRequest, ModifySecurityGroupRulesResult, RevokeSecurityGroupEgressRequest,
    RevokeSecurityGroupEgressResult, RevokeSecurityGroupIngressRequest, RevokeSecurityGroupIngressResult,
    UpdateSecurityGroupRuleDescriptionsEgressRequest, UpdateSecurityGroupRuleDescriptionsEgressResult,
    UpdateSecurityGroupRuleDescriptionsIngressRequest, UpdateSecurityGroupRuleDescriptionsIngressResult,
};

use crate::RequestContext;

/// The EC2 API.
pub struct Ec2Api {
    control: Control,
}

impl Ec2Api {
    /// The EC2 API over control.
    pub fn new(control: Control) -> Self {
        Self { control }
    }
}

/// Most operations can be asked whether they would be allowed, without doing anything; here all are.
macro_rules! operations {
    (
        dry_run: { $($name:ident: $input:ident -> $output:ty as $run:ident in $module:ident;)* }
        no_dry_run: {
            $($plain:ident: $plain_input:ident -> $plain_output:ty as $plain_run:ident in $plain_module:ident;)*
        }
    ) => {
        impl Ec2 for Ec2Api {
            type Context = RequestContext;
            $(async fn $name(&self, cx: &RequestContext, input: $input) -> Result<$output, Ec2Error> {
                if input.dry_run == Some(true) {
                    return Err(error::dry_run());
                }
                $module::$run(self, cx, input).await
            })*
            $(async fn $plain(
                &self,
                cx: &RequestContext,
                input: $plain_input,
            ) -> Result<$plain_output, Ec2Error> {
                $plain_module::$plain_run(self, cx, input).await
            })*
        }
    };
}

operations! {
    dry_run: {
        describe_vpcs: DescribeVpcsRequest -> DescribeVpcsResult as describe in vpcs;
        create_vpc: CreateVpcRequest -> CreateVpcResult as create in vpcs;
        delete_vpc: DeleteVpcRequest -> () as delete in vpcs;
        create_default_vpc: CreateDefaultVpcRequest -> CreateDefaultVpcResult as create_default in vpcs;
        describe_vpc_attribute: DescribeVpcAttributeRequest -> DescribeVpcAttributeResult as describe_attribute in vpcs;
        describe_subnets: DescribeSubnetsRequest -> DescribeSubnetsResult as describe in subnets;
        create_subnet: CreateSubnetRequest -> CreateSubnetResult as create in subnets;
        delete_subnet: DeleteSubnetRequest -> () as delete in subnets;
        create_default_subnet: CreateDefaultSubnetRequest -> CreateDefaultSubnetResult as create_default in subnets;
        describe_security_groups: DescribeSecurityGroupsRequest -> DescribeSecurityGroupsResult as describe in groups;
        create_security_group: CreateSecurityGroupRequest -> CreateSecurityGroupResult as create in groups;
        delete_security_group: DeleteSecurityGroupRequest -> DeleteSecurityGroupResult as delete in groups;
        authorize_security_group_ingress: AuthorizeSecurityGroupIngressRequest
            -> AuthorizeSecurityGroupIngressResult as authorize_ingress in rules;
        authorize_security_group_egress: AuthorizeSecurityGroupEgressRequest
            -> AuthorizeSecurityGroupEgressResult as authorize_egress in rules;
        revoke_security_group_ingress: RevokeSecurityGroupIngressRequest
            -> RevokeSecurityGroupIngressResult as revoke_ingress in rules;
        revoke_security_group_egress: RevokeSecurityGroupEgressRequest
            -> RevokeSecurityGroupEgressResult as revoke_egress in rules;
        describe_security_group_rules: DescribeSecurityGroupRulesRequest
            -> DescribeSecurityGroupRulesResult as describe in rules;
        modify_security_group_rules: ModifySecurityGroupRulesRequest
            -> ModifySecurityGroupRulesResult as modify in rules;
        update_security_group_rule_descriptions_ingress: UpdateSecurityGroupRuleDescriptionsIngressRequest
            -> UpdateSecurityGroupRuleDescriptionsIngressResult as update_ingress in rules;
        update_security_group_rule_descriptions_egress: UpdateSecurityGroupRuleDescriptionsEgressRequest
            -> UpdateSecurityGroupRuleDescriptionsEgressResult as update_egress in rules;
        describe_network_interfaces: DescribeNetworkInterfacesRequest
            -> DescribeNetworkInterfacesResult as describe in interfaces;
        create_tags: CreateTagsRequest -> () as create in tags;
        delete_tags: DeleteTagsRequest -> () as delete in tags;
        describe_tags: DescribeTagsRequest -> DescribeTagsResult as describe in tags;
        describe_availability_zones: DescribeAvailabilityZonesRequest
            -> DescribeAvailabilityZonesResult as describe_zones in zones;
        describe_regions: DescribeRegionsRequest -> DescribeRegionsResult as describe_regions in zones;
        describe_account_attributes: DescribeAccountAttributesRequest
            -> DescribeAccountAttributesResult as describe_account in zones;
    }
    no_dry_run: {
        associate_vpc_cidr_block: AssociateVpcCidrBlockRequest
            -> AssociateVpcCidrBlockResult as associate_vpc in blocks;
        disassociate_vpc_cidr_block: DisassociateVpcCidrBlockRequest
            -> DisassociateVpcCidrBlockResult as disassociate_vpc in blocks;
        associate_subnet_cidr_block: AssociateSubnetCidrBlockRequest
            -> AssociateSubnetCidrBlockResult as associate_subnet in blocks;
        disassociate_subnet_cidr_block: DisassociateSubnetCidrBlockRequest
            -> DisassociateSubnetCidrBlockResult as disassociate_subnet in blocks;
    }
}
