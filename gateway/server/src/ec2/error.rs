//! Errors of networks as EC2 words them. Every variant is named; nothing unexpected is shown to a client.

use neargate_control::NetworkChangeError;
use neargate_model::vpc::{NetworkError, RULES_MAX};
use neargate_model::{Peer, SecurityRule, Traffic};
use neargate_store::StoreError;
use neargate_wire::ErrorReply;
use neargate_wire::ec2::Ec2Error;

use super::permissions;

/// A refusal with one of EC2's codes.
pub(super) fn refuse(code: &'static str, message: impl Into<String>) -> Ec2Error {
    Ec2Error::Reply(ErrorReply::sender(400, code, message))
}

pub(super) fn invalid(message: impl Into<String>) -> Ec2Error {
    refuse("InvalidParameterValue", message)
}

pub(super) fn missing(parameter: &str) -> Ec2Error {
    refuse("MissingParameter", format!("The request must contain the parameter {parameter}"))
}

pub(super) fn dry_run() -> Ec2Error {
    let message = "Request would have succeeded, but DryRun flag is set.";
    Ec2Error::Reply(ErrorReply::sender(412, "DryRunOperation", message))
}

/// A failure of ours: its details are for the log, not for the client.
pub(super) fn store(error: &StoreError) -> Ec2Error {
    if let StoreError::TooLarge { what, size, limit } = error {
        let message = format!("The request is too large to be stored: {what} of {size} is over {limit}.");
        return refuse("RequestLimitExceeded", message);
    }
    tracing::error!(error = neargate_model::chain(error), "store failed");
    let (code, message) = match error {
        StoreError::Full { .. } => {
            ("InsufficientCapacity", "The server's disk is full; nothing was accepted.")
        }
        _ => ("InternalError", "The server could not reach its store; try again."),
    };
    Ec2Error::Reply(ErrorReply::receiver(500, code, message))
}

pub(super) fn change(error: &NetworkChangeError) -> Ec2Error {
    match error {
        NetworkChangeError::Network(error) => network(error),
        NetworkChangeError::Store(error) => store(error),
    }
}

pub(super) fn network(error: &NetworkError) -> Ec2Error {
    use NetworkError as E;
    match error {
        E::VpcNotFound { id } => refuse("InvalidVpcID.NotFound", format!("The vpc ID '{id}' does not exist")),
        E::SubnetNotFound { id } => {
            refuse("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
        }
        E::GroupNotFound { id } => {
            refuse("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
        }
        E::GroupNameNotFound { name } => refuse(
            "InvalidGroup.NotFound",
            format!("The security group '{name}' does not exist in default VPC"),
        ),
        E::RuleNotFound { id } => refuse(
            "InvalidSecurityGroupRuleId.NotFound",
            format!("The security group rule ID '{id}' does not exist"),
        ),
        E::InterfaceNotFound { id } => refuse(
            "InvalidNetworkInterfaceID.NotFound",
            format!("The networkInterface ID '{id}' does not exist"),
        ),
        E::NoDefaultVpc => refuse("VPCIdNotSpecified", "No default VPC for this user"),
        E::DefaultVpcExists { .. } => {
            refuse("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
        }
        E::DefaultSubnetExists { zone } => refuse(
            "DefaultSubnetAlreadyExistsInAvailabilityZone",
            format!("'{zone}' already has a default subnet."),
        ),
        E::NoRoom => {
            refuse("InvalidSubnet.Conflict", "The default VPC has no room for another default subnet.")
        }
        E::ZoneNotFound { zone } => {
            invalid(format!("Value ({zone}) for parameter availabilityZone is invalid."))
        }
        E::VpcLimit => refuse("VpcLimitExceeded", "The maximum number of VPCs has been reached."),
        E::SubnetLimit => {
            refuse("SubnetLimitExceeded", "The maximum number of subnets for this VPC has been reached.")
        }
        E::GroupLimit => refuse(
            "SecurityGroupLimitExceeded",
            "The maximum number of security groups for this account has been reached.",
        ),
        E::RuleLimit => refuse(
            "RulesPerSecurityGroupLimitExceeded",
            format!(
                "The maximum number of rules per security group ({RULES_MAX} for each direction) has been reached."
            ),
        ),
        E::TagLimit => {
            refuse("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
        }
        E::VpcBlock { block, rule } => {
            refuse("InvalidVpc.Range", format!("The CIDR '{block}' is invalid: {rule}."))
        }
        E::VpcOverlap { block, other, vpc } => refuse(
            "InvalidVpc.Range",
            format!(
                "The CIDR '{block}' overlaps {other} of {vpc}: all VPCs share one routed address space here."
            ),
        ),
        E::SubnetBlock { block, .. } => {
            refuse("InvalidSubnet.Range", format!("The CIDR '{block}' is invalid."))
        }
        E::SubnetOverlap { block, .. } => {
            refuse("InvalidSubnet.Conflict", format!("The CIDR '{block}' conflicts with another subnet"))
        }
        E::NoBlock { vpc } => {
            refuse("InvalidSubnet.Range", format!("The vpc '{vpc}' has no associated IPv6 CIDR block."))
        }
        E::BlockLimit { of } => refuse(
            "CidrLimitExceeded",
            format!("This network '{of}' has met its maximum number of allowed IPv6 CIDRs: 1"),
        ),
        E::BlockNotFound { id } => {
            let code = match id.as_str().starts_with("subnet-") {
                true => "InvalidSubnetCidrBlockAssociationID.NotFound",
                false => "InvalidVpcCidrBlockAssociationID.NotFound",
            };
            refuse(code, format!("The association ID '{id}' does not exist"))
        }
        E::BlockInUse { id } => {
            dependent(format!("The CIDR block of '{id}' is in use and cannot be disassociated."))
        }
        E::VpcInUse { id } => dependent(format!("The vpc '{id}' has dependencies and cannot be deleted.")),
        E::SubnetInUse { id } => {
            dependent(format!("The subnet '{id}' has dependencies and cannot be deleted."))
        }
        E::GroupInUse { id } => dependent(format!("resource {id} has a dependent object")),
        E::GroupIsDefault { id } => refuse(
            "CannotDelete",
            format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user"),
        ),
        E::GroupExists { name, vpc } => refuse(
            "InvalidGroup.Duplicate",
            format!("The security group '{name}' already exists for VPC '{vpc}'"),
        ),
        E::GroupName { name, rule } => {
            invalid(format!("Value ({name}) for parameter GroupName is invalid. {rule}."))
        }
        E::GroupElsewhere { .. } | E::SubnetElsewhere { .. } => {
            refuse("InvalidParameter", "You have specified two resources that belong to different networks.")
        }
        E::RuleExists { rule } => refuse(
            "InvalidPermission.Duplicate",
            format!("the specified rule \"{}\" already exists", described(rule)),
        ),
        E::RuleTwice => invalid("The same permission must not appear multiple times"),
        E::NoSuchRule => {
            refuse("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
        }
    }
}

fn dependent(message: String) -> Ec2Error {
    refuse("DependencyViolation", message)
}

/// A rule as EC2's error for duplicates names it.
fn described(rule: &SecurityRule) -> String {
    let peer = match &rule.peer {
        Peer::Block(block) => block.to_string(),
        Peer::Group(group) => group.to_string(),
    };
    let (protocol, from, to) = permissions::traffic_parts(rule.traffic);
    let protocol = if rule.traffic == Traffic::All { "ALL".to_owned() } else { protocol.to_uppercase() };
    match (from, to) {
        (Some(from), Some(to)) => {
            format!("peer: {peer}, {protocol}, from port: {from}, to port: {to}, ALLOW")
        }
        _ => format!("peer: {peer}, {protocol}, ALLOW"),
    }
}
