//! Identifiers as clients write them.

use std::collections::BTreeSet;

use neargate_model::{InvalidId, NetworkInterfaceId, SecurityGroupId, SecurityGroupRuleId, SubnetId, VpcId};
use neargate_wire::ec2::Ec2Error;

use super::error::refuse;

/// An id of a kind of resources: text that begins otherwise is malformed, and what else is wrong names nothing.
fn read<T>(
    text: &str,
    prefix: &str,
    new: fn(String) -> Result<T, InvalidId>,
    malformed: &'static str,
    missing: impl Fn(&str) -> (&'static str, String),
) -> Result<T, Ec2Error> {
    let shown: String = text.chars().take(64).collect();
    if !text.starts_with(prefix) {
        return Err(refuse(malformed, format!("Invalid id: \"{shown}\" (expecting \"{prefix}...\")")));
    }
    new(text.to_owned()).map_err(|_| {
        let (code, message) = missing(&shown);
        refuse(code, message)
    })
}

pub(super) fn vpc(text: &str) -> Result<VpcId, Ec2Error> {
    let missing = |id: &str| ("InvalidVpcID.NotFound", format!("The vpc ID '{id}' does not exist"));
    read(text, "vpc-", VpcId::new, "InvalidVpcID.Malformed", missing)
}

pub(super) fn subnet(text: &str) -> Result<SubnetId, Ec2Error> {
    let missing = |id: &str| ("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"));
    read(text, "subnet-", SubnetId::new, "InvalidSubnetID.Malformed", missing)
}

pub(super) fn group(text: &str) -> Result<SecurityGroupId, Ec2Error> {
    let missing = |id: &str| ("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"));
    read(text, "sg-", SecurityGroupId::new, "InvalidGroupId.Malformed", missing)
}

pub(super) fn rule(text: &str) -> Result<SecurityGroupRuleId, Ec2Error> {
    let missing = |id: &str| {
        ("InvalidSecurityGroupRuleId.NotFound", format!("The security group rule ID '{id}' does not exist"))
    };
    read(text, "sgr-", SecurityGroupRuleId::new, "InvalidSecurityGroupRuleId.Malformed", missing)
}

pub(super) fn interface(text: &str) -> Result<NetworkInterfaceId, Ec2Error> {
    let missing = |id: &str| {
        ("InvalidNetworkInterfaceID.NotFound", format!("The networkInterface ID '{id}' does not exist"))
    };
    read(text, "eni-", NetworkInterfaceId::new, "InvalidNetworkInterfaceId.Malformed", missing)
}

/// All of a list, each once.
pub(super) fn all<T: Ord>(
    texts: Option<&Vec<String>>,
    read: fn(&str) -> Result<T, Ec2Error>,
) -> Result<BTreeSet<T>, Ec2Error> {
    texts.into_iter().flatten().map(|text| read(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_malformed_and_what_does_not_exist() {
        let check = |text: &str, expect: Result<(), &str>| {
            let code = |Ec2Error::Reply(reply): Ec2Error| reply.code;
            assert_eq!(group(text).map(drop).map_err(code), expect, "{text}");
        };
        check("sg-0123456789abcdef0", Ok(()));
        check("sg-12345678", Err("InvalidGroup.NotFound"));
        check("vpc-0123456789abcdef0", Err("InvalidGroupId.Malformed"));
        check("", Err("InvalidGroupId.Malformed"));
    }
}
