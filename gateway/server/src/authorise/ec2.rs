//! Resources of Amazon EC2.

use neargate_control::Control;
use neargate_model::Scope;
use neargate_model::vpc::BlockAssociation;

use super::{Fields, Target};

pub(super) async fn target(control: &Control, scope: &Scope, operation: &str, fields: &Fields<'_>) -> Target {
    // What describes has no resources there.
    if operation.starts_with("Describe") {
        return Target::default();
    }
    let Scope { account, region } = scope;
    let arn = |kind: &str, id: &str| format!("arn:aws:ec2:{region}:{account}:{kind}/{id}");
    let mut resources = Vec::new();
    match operation {
        "CreateVpc" | "CreateDefaultVpc" => resources.push(arn("vpc", "*")),
        "CreateSubnet" | "CreateDefaultSubnet" => resources.push(arn("subnet", "*")),
        "CreateSecurityGroup" => resources.push(arn("security-group", "*")),
        _ => {}
    }
    let named = [("VpcId", "vpc"), ("SubnetId", "subnet"), ("GroupId", "security-group")];
    resources.extend(named.iter().filter_map(|(field, kind)| Some(arn(kind, fields.text(field)?))));
    if fields.text("GroupId").is_none() && operation != "CreateSecurityGroup" {
        let group = group_by_name(control, scope, fields.text("GroupName")).await;
        resources.extend(group.map(|id| arn("security-group", &id)));
    }
    if let Some(id) = fields.text("AssociationId") {
        resources.extend(holder_of_block(control, scope, id).await.map(|(kind, id)| arn(kind, &id)));
    }
    let tagged = fields.list("ResourceId").into_iter();
    resources.extend(tagged.filter_map(|id| Some(arn(kind_of(id)?, id))));
    Target::of(resources)
}

/// The id of a group of the default VPC.
async fn group_by_name(control: &Control, scope: &Scope, name: Option<&str>) -> Option<String> {
    let networks = control.networks(scope).await.ok()?;
    let group = networks.group_named(name?).ok()?;
    Some(group.id.to_string())
}

/// The VPC or the subnet that has a block by an association.
async fn holder_of_block(control: &Control, scope: &Scope, id: &str) -> Option<(&'static str, String)> {
    let networks = control.networks(scope).await.ok()?;
    let has_it =
        |block_v6: &Option<BlockAssociation>| block_v6.as_ref().is_some_and(|known| known.id.as_str() == id);
    let vpc = networks.vpcs.values().find(|vpc| has_it(&vpc.block_v6));
    let subnet = networks.subnets.values().find(|subnet| has_it(&subnet.block_v6));
    let vpc = vpc.map(|vpc| ("vpc", vpc.id.to_string()));
    vpc.or_else(|| subnet.map(|subnet| ("subnet", subnet.id.to_string())))
}

fn kind_of(id: &str) -> Option<&'static str> {
    match id.rsplit_once('-')?.0 {
        "vpc" => Some("vpc"),
        "subnet" => Some("subnet"),
        "sg" => Some("security-group"),
        "sgr" => Some("security-group-rule"),
        "eni" => Some("network-interface"),
        _ => None,
    }
}
