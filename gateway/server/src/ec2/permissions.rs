//! Rules of security groups between EC2's two ways of writing them and ours.

use std::net::IpAddr;

use neargate_model::vpc::{Direction, GroupRule, NetworkError, Networks, NewRule};
use neargate_model::{AccountId, Cidr, Peer, SecurityRule, Traffic};
use neargate_wire::ec2::{
    Ec2Error, IpPermission, IpRange, Ipv6Range, SecurityGroupRuleRequest, UserIdGroupPair,
};

use super::error::{self, invalid, missing};
use super::ids;

/// Characters of a rule's description (API reference, IpRange).
const DESCRIPTION_MAX: usize = 255;

/// What a request says of one rule in parameters of its own, instead of in a permission.
#[derive(Default)]
pub(super) struct Plain {
    pub(super) protocol: Option<String>,
    pub(super) from_port: Option<i32>,
    pub(super) to_port: Option<i32>,
    pub(super) cidr: Option<String>,
    pub(super) group_name: Option<String>,
    pub(super) group_owner: Option<String>,
}

impl Plain {
    /// As a permission; `None` if nothing was said.
    fn permission(self) -> Option<IpPermission> {
        let is_empty = self.protocol.is_none() && self.cidr.is_none() && self.group_name.is_none();
        if is_empty && self.from_port.is_none() && self.to_port.is_none() {
            return None;
        }
        // A group without a protocol means everything from it (API reference, SourceSecurityGroupName).
        let protocol = self.protocol.or_else(|| self.group_name.is_some().then(|| "-1".to_owned()));
        let pair = |name| UserIdGroupPair {
            group_name: Some(name),
            user_id: self.group_owner,
            ..UserIdGroupPair::default()
        };
        Some(IpPermission {
            ip_protocol: protocol,
            from_port: self.from_port,
            to_port: self.to_port,
            ip_ranges: self.cidr.map(|cidr| vec![IpRange { cidr_ip: Some(cidr), description: None }]),
            user_id_group_pairs: self.group_name.map(|name| vec![pair(name)]),
            ..IpPermission::default()
        })
    }
}

/// The rules of a request: of its permissions, or of its plain parameters.
pub(super) fn rules(
    networks: &Networks,
    account: &AccountId,
    permissions: Option<Vec<IpPermission>>,
    plain: Plain,
) -> Result<Vec<NewRule>, Ec2Error> {
    let permissions = match (permissions.unwrap_or_default(), plain.permission()) {
        (permissions, None) => permissions,
        (permissions, Some(plain)) if permissions.is_empty() => vec![plain],
        (_, Some(_)) => {
            let message = "The parameter ipPermissions may not be used in combination with ipProtocol, ports and sources";
            return Err(error::refuse("InvalidParameterCombination", message));
        }
    };
    let mut rules = Vec::new();
    for permission in permissions {
        add_rules(networks, account, permission, &mut rules)?;
    }
    Ok(rules)
}

fn add_rules(
    networks: &Networks,
    account: &AccountId,
    permission: IpPermission,
    rules: &mut Vec<NewRule>,
) -> Result<(), Ec2Error> {
    let protocol = permission.ip_protocol.as_deref().ok_or_else(|| missing("ipProtocol"))?;
    let traffic = traffic(protocol, permission.from_port, permission.to_port)?;
    if permission.prefix_list_ids.iter().flatten().next().is_some() {
        return Err(error::refuse("UnsupportedOperation", "Prefix lists are not supported by Neargate."));
    }
    let before = rules.len();
    let mut add = |peer, description: Option<String>| {
        let description = checked_description(description)?;
        rules.push(NewRule { rule: SecurityRule { traffic, peer }, description });
        Ok::<(), Ec2Error>(())
    };
    for range in permission.ip_ranges.into_iter().flatten() {
        let text = range.cidr_ip.ok_or_else(|| missing("cidrIp"))?;
        add(Peer::Block(block(&text, true)?), range.description)?;
    }
    for range in permission.ipv6_ranges.into_iter().flatten() {
        let text = range.cidr_ipv6.ok_or_else(|| missing("cidrIpv6"))?;
        add(Peer::Block(block(&text, false)?), range.description)?;
    }
    for pair in permission.user_id_group_pairs.into_iter().flatten() {
        let description = pair.description.clone();
        add(group_peer(networks, account, pair)?, description)?;
    }
    if rules.len() == before { Err(missing("cidrIp or groupId")) } else { Ok(()) }
}

fn group_peer(networks: &Networks, account: &AccountId, pair: UserIdGroupPair) -> Result<Peer, Ec2Error> {
    if pair.user_id.as_ref().is_some_and(|user| user != account.as_str()) {
        let message = "Security groups of other accounts need VPC peering, which Neargate does not have.";
        return Err(error::refuse("UnsupportedOperation", message));
    }
    let group = match (&pair.group_id, &pair.group_name) {
        (Some(id), _) => networks.group(&ids::group(id)?),
        (None, Some(name)) => networks.group_named(name),
        (None, None) => return Err(missing("groupId")),
    };
    let group = group.map_err(|error| error::network(&error))?;
    if pair.vpc_id.as_ref().is_some_and(|vpc| vpc != group.vpc.as_str()) {
        let elsewhere = NetworkError::GroupElsewhere { id: group.id.clone(), vpc: group.vpc.clone() };
        return Err(error::network(&elsewhere));
    }
    Ok(Peer::Group(group.id.clone()))
}

/// What a rule of a group is to become.
pub(super) fn update(networks: &Networks, request: SecurityGroupRuleRequest) -> Result<NewRule, Ec2Error> {
    let protocol = request.ip_protocol.as_deref().ok_or_else(|| missing("IpProtocol"))?;
    let traffic = traffic(protocol, request.from_port, request.to_port)?;
    let peer = match (&request.cidr_ipv4, &request.cidr_ipv6, &request.referenced_group_id) {
        (Some(text), None, None) => Peer::Block(block(text, true)?),
        (None, Some(text), None) => Peer::Block(block(text, false)?),
        (None, None, Some(id)) => {
            let group = networks.group(&ids::group(id)?).map_err(|error| error::network(&error))?;
            Peer::Group(group.id.clone())
        }
        (None, None, None) => return Err(missing("CidrIpv4, CidrIpv6 or ReferencedGroupId")),
        _ => {
            let message = "Specify one of CidrIpv4, CidrIpv6 and ReferencedGroupId";
            return Err(error::refuse("InvalidParameterCombination", message));
        }
    };
    let description = checked_description(request.description)?;
    Ok(NewRule { rule: SecurityRule { traffic, peer }, description })
}

/// A block as EC2 takes it: bits after the prefix are dropped.
pub(super) fn block(text: &str, is_v4: bool) -> Result<Cidr, Ec2Error> {
    let malformed = || invalid(format!("CIDR block {text:.64} is malformed"));
    let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    let is_number = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix = prefix.parse().ok().filter(|_| is_number).ok_or_else(malformed)?;
    let block = Cidr::containing(address, prefix).filter(|block| block.is_v4() == is_v4);
    block.ok_or_else(malformed)
}

pub(super) fn checked_description(description: Option<String>) -> Result<Option<String>, Ec2Error> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    match description.filter(|text| !text.is_empty()) {
        Some(text) if text.chars().count() > DESCRIPTION_MAX || !text.chars().all(is_allowed) => {
            Err(invalid(
                "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set: \
             a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*",
            ))
        }
        description => Ok(description),
    }
}

fn traffic(protocol: &str, from: Option<i32>, to: Option<i32>) -> Result<Traffic, Ec2Error> {
    let named = match protocol.to_ascii_lowercase().as_str() {
        "-1" | "all" => return Ok(Traffic::All),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "icmpv6" => Some(58),
        _ => None,
    };
    let is_number = protocol.bytes().all(|b| b.is_ascii_digit());
    let number = named.or_else(|| protocol.parse::<u8>().ok().filter(|_| is_number));
    let number = number.ok_or_else(|| {
        invalid(format!("Invalid value '{protocol:.32}' for IP protocol. Unknown protocol."))
    })?;
    match number {
        6 => ports(from, to).map(|(from, to)| Traffic::Tcp(from, to)),
        17 => ports(from, to).map(|(from, to)| Traffic::Udp(from, to)),
        1 => icmp(from, to).map(|(kind, code)| Traffic::Icmp(kind, code)),
        58 => icmp(from, to).map(|(kind, code)| Traffic::IcmpV6(kind, code)),
        other => Ok(Traffic::Protocol(other)),
    }
}

fn ports(from: Option<i32>, to: Option<i32>) -> Result<(u16, u16), Ec2Error> {
    let (Some(from), Some(to)) = (from, to) else {
        return Err(invalid(
            "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.",
        ));
    };
    let port =
        |port: i32| u16::try_from(port).map_err(|_| invalid(format!("TCP/UDP port ({port}) out of range")));
    let (from, to) = (port(from)?, port(to)?);
    if from > to {
        return Err(invalid(format!("Invalid TCP/UDP port range ({from}:{to})")));
    }
    Ok((from, to))
}

fn icmp(kind: Option<i32>, code: Option<i32>) -> Result<(Option<u8>, Option<u8>), Ec2Error> {
    let part = |value: Option<i32>, what: &str| match value {
        None | Some(-1) => Ok(None),
        Some(value) => {
            let bad = |_| invalid(format!("ICMP {what} ({value}) out of range"));
            u8::try_from(value).map(Some).map_err(bad)
        }
    };
    match (part(kind, "type")?, part(code, "code")?) {
        (None, Some(code)) => Err(invalid(format!("ICMP code ({code}) needs a type"))),
        both => Ok(both),
    }
}

/// The protocol and the two numbers of ports, or of type and code, that EC2 shows; none for protocols without them.
pub(super) fn traffic_parts(traffic: Traffic) -> (String, Option<i32>, Option<i32>) {
    let wild = |value: Option<u8>| Some(value.map_or(-1, i32::from));
    let (protocol, from, to) = match traffic {
        Traffic::All => ("-1", None, None),
        Traffic::Tcp(from, to) => ("tcp", Some(i32::from(from)), Some(i32::from(to))),
        Traffic::Udp(from, to) => ("udp", Some(i32::from(from)), Some(i32::from(to))),
        Traffic::Icmp(kind, code) => ("icmp", wild(kind), wild(code)),
        Traffic::IcmpV6(kind, code) => ("icmpv6", wild(kind), wild(code)),
        Traffic::Protocol(number) => return (number.to_string(), None, None),
    };
    (protocol.to_owned(), from, to)
}

/// Rules as permissions, one for all rules of the same traffic.
pub(super) fn to_permissions<'a>(
    account: &AccountId,
    rules: impl Iterator<Item = (&'a SecurityRule, Option<&'a String>)>,
) -> Vec<IpPermission> {
    let mut permissions: Vec<(Traffic, IpPermission)> = Vec::new();
    for (rule, description) in rules {
        let known = permissions.iter().position(|(traffic, _)| *traffic == rule.traffic);
        let index = known.unwrap_or_else(|| {
            let (protocol, from_port, to_port) = traffic_parts(rule.traffic);
            let permission = IpPermission {
                ip_protocol: Some(protocol),
                from_port,
                to_port,
                user_id_group_pairs: Some(Vec::new()),
                ip_ranges: Some(Vec::new()),
                ipv6_ranges: Some(Vec::new()),
                prefix_list_ids: Some(Vec::new()),
            };
            permissions.push((rule.traffic, permission));
            permissions.len() - 1
        });
        add_peer(account, &mut permissions[index].1, &rule.peer, description.cloned());
    }
    permissions.into_iter().map(|(_, permission)| permission).collect()
}

fn add_peer(account: &AccountId, permission: &mut IpPermission, peer: &Peer, description: Option<String>) {
    match peer {
        Peer::Block(block) if block.is_v4() => {
            let range = IpRange { cidr_ip: Some(block.to_string()), description };
            permission.ip_ranges.get_or_insert_default().push(range);
        }
        Peer::Block(block) => {
            let range = Ipv6Range { cidr_ipv6: Some(block.to_string()), description };
            permission.ipv6_ranges.get_or_insert_default().push(range);
        }
        Peer::Group(group) => {
            permission.user_id_group_pairs.get_or_insert_default().push(UserIdGroupPair {
                group_id: Some(group.to_string()),
                user_id: Some(account.to_string()),
                description,
                ..UserIdGroupPair::default()
            });
        }
    }
}

/// Those of a group's rules that go one way, as permissions.
pub(super) fn of_direction(
    account: &AccountId,
    rules: &[GroupRule],
    direction: Direction,
) -> Vec<IpPermission> {
    let rules = rules.iter().filter(|rule| rule.direction == direction);
    to_permissions(account, rules.map(|rule| (&rule.rule, rule.description.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_and_ports() {
        let check = |protocol: &str, from: Option<i32>, to: Option<i32>, expect: Option<Traffic>| {
            assert_eq!(traffic(protocol, from, to).ok(), expect, "{protocol} {from:?} {to:?}");
        };
        check("-1", None, None, Some(Traffic::All));
        check("-1", Some(80), Some(80), Some(Traffic::All));
        check("tcp", Some(0), Some(65_535), Some(Traffic::Tcp(0, 65_535)));
        check("6", Some(80), Some(80), Some(Traffic::Tcp(80, 80)));
        check("UDP", Some(53), Some(53), Some(Traffic::Udp(53, 53)));
        check("tcp", Some(80), None, None);
        check("tcp", Some(-1), Some(-1), None);
        check("tcp", Some(81), Some(80), None);
        check("udp", Some(0), Some(65_536), None);
        check("icmp", Some(-1), Some(-1), Some(Traffic::Icmp(None, None)));
        check("icmp", Some(8), Some(-1), Some(Traffic::Icmp(Some(8), None)));
        check("icmp", Some(-1), Some(0), None);
        check("icmpv6", None, None, Some(Traffic::IcmpV6(None, None)));
        check("50", None, None, Some(Traffic::Protocol(50)));
        check("256", None, None, None);
        check("+6", Some(1), Some(1), None);
        check("", None, None, None);
        check("http", None, None, None);
    }

    #[test]
    fn blocks_lose_what_follows_their_prefix() {
        let check = |text: &str, is_v4, expect: Option<&str>| {
            assert_eq!(block(text, is_v4).ok().map(|block| block.to_string()).as_deref(), expect, "{text}");
        };
        check("100.68.0.18/18", true, Some("100.68.0.0/18"));
        check("0.0.0.0/0", true, Some("0.0.0.0/0"));
        check("::/0", false, Some("::/0"));
        check("::/0", true, None);
        check("10.0.0.0/8", false, None);
        for text in ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "x/8"] {
            check(text, true, None);
        }
    }
}
