//! Networks as values: what may be made, changed and removed.

use super::*;
use crate::lifecycle::testing::scope;
use crate::{Peer, Traffic};

struct Bench {
    networks: Networks,
    count: u128,
}

impl Bench {
    /// With the default VPC.
    fn new() -> Self {
        let mut bench = Self { networks: Networks::default(), count: 0 };
        bench
            .change(|networks, ids| networks.create_default_vpc(block("172.31.0.0/16"), &region(), ids))
            .unwrap();
        bench
    }

    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Networks, NewIds<'_>) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        let count = &mut self.count;
        let mut ids = || {
            *count += 1;
            *count
        };
        change(&mut self.networks, &mut ids)
    }

    fn vpc(&mut self, text: &str) -> Result<VpcId, NetworkError> {
        self.change(|networks, ids| networks.create_vpc(block(text), Tags::new(), ids))
    }

    fn subnet(&mut self, vpc: &VpcId, text: &str) -> Result<SubnetId, NetworkError> {
        self.change(|networks, ids| {
            networks.create_subnet(vpc, block(text), None, &region(), Tags::new(), ids)
        })
    }

    fn group(&mut self, vpc: Option<&VpcId>, name: &str) -> Result<SecurityGroupId, NetworkError> {
        self.change(|networks, ids| networks.create_group(vpc, name, "for tests", Tags::new(), ids))
    }

    fn allow(
        &mut self,
        group: &SecurityGroupId,
        rules: &[SecurityRule],
    ) -> Result<Vec<GroupRule>, NetworkError> {
        let new = |rule: &SecurityRule| NewRule { rule: rule.clone(), description: None };
        let new: Vec<NewRule> = rules.iter().map(new).collect();
        self.change(|networks, ids| networks.authorize(group, Direction::Ingress, &new, &Tags::new(), ids))
    }
}

fn region() -> Region {
    scope().region
}

fn block(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn tcp(port: u16, from: &str) -> SecurityRule {
    SecurityRule { traffic: Traffic::Tcp(port, port), peer: Peer::Block(block(from)) }
}

#[test]
fn the_default_vpc_has_a_subnet_in_each_zone_and_a_group() {
    let bench = Bench::new();
    let vpc = bench.networks.default_vpc().unwrap();
    let mut subnets: Vec<_> = bench
        .networks
        .subnets
        .values()
        .map(|subnet| (subnet.zone.as_str(), subnet.block.to_string()))
        .collect();
    subnets.sort();
    let expected = [("us-east-1a", "172.31.0.0/20".to_owned()), ("us-east-1b", "172.31.16.0/20".to_owned())];
    assert_eq!(subnets, expected);
    let group = bench.networks.group(&vpc.default_group).unwrap();
    let rules = group.enforced();
    let from_itself = SecurityRule { traffic: Traffic::All, peer: Peer::Group(group.id.clone()) };
    let everything = SecurityRule { traffic: Traffic::All, peer: Peer::Block(Cidr::ANYWHERE_V4) };
    assert_eq!((rules.ingress, rules.egress), (vec![from_itself], vec![everything]));
    let capacities: Vec<u32> = bench.networks.subnets.values().map(Subnet::capacity).collect();
    assert_eq!(capacities, [4091, 4091]);
}

#[test]
fn blocks_of_vpcs_have_bounds_and_do_not_overlap() {
    let mut bench = Bench::new();
    for text in ["10.0.0.0/15", "10.0.0.0/29", "fd00::/20", "127.0.0.0/16", "169.254.0.0/20", "8.8.8.0/24"] {
        assert!(matches!(bench.vpc(text), Err(NetworkError::VpcBlock { .. })), "{text}");
    }
    assert!(matches!(bench.vpc("172.31.128.0/17"), Err(NetworkError::VpcOverlap { .. })));
    bench.vpc("10.0.0.0/16").unwrap();
    bench.vpc("10.1.0.0/28").unwrap();
    assert!(matches!(bench.vpc("10.1.0.0/16"), Err(NetworkError::VpcOverlap { .. })));
}

#[test]
fn subnets_lie_in_their_vpc_and_apart() {
    let mut bench = Bench::new();
    let vpc = bench.vpc("10.0.0.0/20").unwrap();
    for text in ["10.0.0.0/19", "10.0.16.0/24", "10.0.0.0/29", "fd00::/20"] {
        assert!(matches!(bench.subnet(&vpc, text), Err(NetworkError::SubnetBlock { .. })), "{text}");
    }
    bench.subnet(&vpc, "10.0.1.0/24").unwrap();
    assert!(matches!(bench.subnet(&vpc, "10.0.1.128/25"), Err(NetworkError::SubnetOverlap { .. })));
    assert!(matches!(bench.subnet(&vpc, "10.0.0.0/20"), Err(NetworkError::SubnetOverlap { .. })));
    let nowhere = bench.change(|networks, ids| {
        networks.create_subnet(&vpc, block("10.0.2.0/24"), Some("us-east-1z"), &region(), Tags::new(), ids)
    });
    assert!(matches!(nowhere, Err(NetworkError::ZoneNotFound { .. })));
    for third in 2..16 {
        bench.subnet(&vpc, &format!("10.0.{third}.0/24")).unwrap();
    }
    assert!(matches!(bench.networks.delete_vpc(&vpc), Err(NetworkError::VpcInUse { .. })));
    let subnets: Vec<SubnetId> = bench
        .networks
        .subnets
        .values()
        .filter(|subnet| subnet.vpc == vpc)
        .map(|subnet| subnet.id.clone())
        .collect();
    subnets.iter().for_each(|subnet| bench.networks.delete_subnet(subnet).unwrap());
    bench.networks.delete_vpc(&vpc).unwrap();
    assert_eq!((bench.networks.vpcs.len(), bench.networks.groups.len()), (1, 1));
}

#[test]
fn a_default_vpc_comes_back_when_it_was_deleted() {
    let mut bench = Bench::new();
    let make = |networks: &mut Networks, ids: NewIds<'_>| {
        networks.create_default_vpc(block("172.31.0.0/16"), &region(), ids)
    };
    assert!(matches!(bench.change(make), Err(NetworkError::DefaultVpcExists { .. })));
    let vpc = bench.networks.default_vpc().unwrap().id.clone();
    let subnets: Vec<SubnetId> = bench.networks.subnets.keys().cloned().collect();
    bench.networks.delete_subnet(&subnets[0]).unwrap();
    let again = |networks: &mut Networks, ids: NewIds<'_>| {
        networks.create_default_subnet("us-east-1a", &region(), ids)
    };
    let made = bench.change(again).unwrap();
    assert_eq!(bench.networks.subnet(&made).unwrap().block, block("172.31.0.0/20"));
    assert!(matches!(bench.change(again), Err(NetworkError::DefaultSubnetExists { .. })));
    bench.networks.subnets.clear();
    bench.networks.delete_vpc(&vpc).unwrap();
    assert!(matches!(bench.change(again), Err(NetworkError::NoDefaultVpc)));
    assert!(matches!(bench.group(None, "g"), Err(NetworkError::NoDefaultVpc)));
    bench.change(make).unwrap();
}

#[test]
fn a_small_default_vpc_is_divided_too() {
    let mut bench = Bench { networks: Networks::default(), count: 0 };
    bench.change(|networks, ids| networks.create_default_vpc(block("10.9.0.0/24"), &region(), ids)).unwrap();
    let mut blocks: Vec<Cidr> = bench.networks.subnets.values().map(|subnet| subnet.block).collect();
    blocks.sort();
    assert_eq!(blocks, [block("10.9.0.0/25"), block("10.9.0.128/25")]);
}

#[test]
fn names_of_groups() {
    let mut bench = Bench::new();
    for name in ["", "sg-1", "default", "naïve", "tab\t", &"x".repeat(256)] {
        assert!(matches!(bench.group(None, name), Err(NetworkError::GroupName { .. })), "{name:?}");
    }
    let id = bench.group(None, "web (1)").unwrap();
    assert!(matches!(bench.group(None, "web (1)"), Err(NetworkError::GroupExists { .. })));
    assert_eq!(bench.networks.group_named("web (1)").unwrap().id, id);
    let vpc = bench.vpc("10.0.0.0/16").unwrap();
    bench.group(Some(&vpc), "web (1)").unwrap();
    assert!(matches!(bench.networks.group_named("x"), Err(NetworkError::GroupNameNotFound { .. })));
}

#[test]
fn rules_come_and_go_all_or_none() {
    let mut bench = Bench::new();
    let group = bench.group(None, "g").unwrap();
    let (a, b) = (tcp(80, "10.0.0.0/8"), tcp(443, "10.0.0.0/8"));
    let added = bench.allow(&group, std::slice::from_ref(&a)).unwrap();
    assert!(matches!(bench.allow(&group, &[b.clone(), a.clone()]), Err(NetworkError::RuleExists { .. })));
    assert!(matches!(bench.allow(&group, &[b.clone(), b.clone()]), Err(NetworkError::RuleTwice)));
    assert_eq!(bench.networks.group(&group).unwrap().enforced().ingress, std::slice::from_ref(&a));

    let described = NewRule { rule: a.clone(), description: Some("web".to_owned()) };
    bench.networks.describe_rules(&group, Direction::Ingress, &[described]).unwrap();
    let known = |bench: &Bench| {
        bench.networks.group(&group).unwrap().rules_of(Direction::Ingress).cloned().collect::<Vec<_>>()
    };
    assert_eq!(known(&bench)[0].description.as_deref(), Some("web"));
    let update = (added[0].id.clone(), NewRule { rule: b.clone(), description: None });
    bench.networks.modify_rules(&group, std::slice::from_ref(&update)).unwrap();
    assert_eq!((&known(&bench)[0].rule, &known(&bench)[0].id), (&b, &added[0].id));
    bench.allow(&group, std::slice::from_ref(&a)).unwrap();
    let clash = (added[0].id.clone(), NewRule { rule: a.clone(), description: None });
    assert!(matches!(bench.networks.modify_rules(&group, &[clash]), Err(NetworkError::RuleExists { .. })));

    // The default VPC is lenient about rules that are not there.
    let (removed, unknown) =
        bench.networks.revoke(&group, Direction::Ingress, &[b.clone(), tcp(1, "10.0.0.0/8")]).unwrap();
    assert_eq!((removed.len(), unknown), (1, vec![tcp(1, "10.0.0.0/8")]));
    let vpc = bench.vpc("10.0.0.0/16").unwrap();
    let other = bench.group(Some(&vpc), "g").unwrap();
    let refused = bench.networks.revoke(&other, Direction::Ingress, &[b]);
    assert_eq!(refused, Err(NetworkError::NoSuchRule));
    let id = known(&bench)[0].id.clone();
    assert!(matches!(
        bench.networks.revoke_by_id(&group, Direction::Egress, std::slice::from_ref(&id)),
        Err(NetworkError::RuleNotFound { .. })
    ));
    bench.networks.revoke_by_id(&group, Direction::Ingress, &[id]).unwrap();
    assert!(known(&bench).is_empty());
}

#[test]
fn a_group_that_another_names_stays() {
    let mut bench = Bench::new();
    let (a, b) = (bench.group(None, "a").unwrap(), bench.group(None, "b").unwrap());
    let from =
        |group: &SecurityGroupId| SecurityRule { traffic: Traffic::All, peer: Peer::Group(group.clone()) };
    bench.allow(&a, &[from(&a), from(&b)]).unwrap();
    assert!(matches!(bench.networks.delete_group(&b), Err(NetworkError::GroupInUse { .. })));
    bench.networks.delete_group(&a).unwrap();
    bench.networks.delete_group(&b).unwrap();
    let default = bench.networks.default_vpc().unwrap().default_group.clone();
    assert!(matches!(bench.networks.delete_group(&default), Err(NetworkError::GroupIsDefault { .. })));
    let vpc = bench.vpc("10.0.0.0/16").unwrap();
    let far = bench.group(Some(&vpc), "far").unwrap();
    assert!(matches!(bench.allow(&default, &[from(&far)]), Err(NetworkError::GroupElsewhere { .. })));
    assert!(matches!(bench.allow(&default, &[from(&b)]), Err(NetworkError::GroupNotFound { .. })));
}

#[test]
fn there_are_limits() {
    let mut bench = Bench::new();
    let group = bench.group(None, "g").unwrap();
    let rules: Vec<SecurityRule> = (0..60).map(|port| tcp(port, "10.0.0.0/8")).collect();
    bench.allow(&group, &rules).unwrap();
    assert!(matches!(bench.allow(&group, &[tcp(60, "10.0.0.0/8")]), Err(NetworkError::RuleLimit)));
    for second in 1..100 {
        bench.vpc(&format!("10.{second}.0.0/16")).unwrap();
    }
    assert!(matches!(bench.vpc("10.200.0.0/16"), Err(NetworkError::VpcLimit)));
    let tags: Tags = (0..51).map(|number| (number.to_string(), String::new())).collect();
    assert!(matches!(change_tags(&mut Tags::new(), &tags, &[]), Err(NetworkError::TagLimit)));
}

#[test]
fn tags_are_removed_by_key_or_by_key_and_value() {
    let mut tags = Tags::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    let remove = [("a".to_owned(), Some("other".to_owned())), ("b".to_owned(), None)];
    change_tags(&mut tags, &Tags::from([("c".to_owned(), "3".to_owned())]), &remove).unwrap();
    assert_eq!(tags.keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn zones_have_ids_as_amazon_forms_them() {
    let check = |region: &str, id: &str| assert_eq!(zone_id(&Region::new(region).unwrap(), 1), id);
    check("us-east-1", "use1-az1");
    check("ap-southeast-2", "apse2-az1");
    check("eu-central-1", "euc1-az1");
    check("us-gov-west-1", "usgw1-az1");
    check("local", "local-az1");
    assert_eq!(zones(&region()), ["us-east-1a", "us-east-1b"]);
}

#[test]
fn addresses_have_names_by_their_region() {
    let name = |region: &str| private_dns_name(&Region::new(region).unwrap(), Ipv4Addr::new(172, 31, 0, 5));
    assert_eq!(name("us-east-1"), "ip-172-31-0-5.ec2.internal");
    assert_eq!(name("eu-west-3"), "ip-172-31-0-5.eu-west-3.compute.internal");
}

#[test]
fn blocks_of_ipv6_come_and_go_from_the_subnet_up() {
    let mut bench = Bench::new();
    let vpc = bench.vpc("10.0.0.0/16").unwrap();
    let subnet = bench.subnet(&vpc, "10.0.1.0/24").unwrap();
    let other = bench.subnet(&vpc, "10.0.2.0/24").unwrap();
    let associate = |bench: &mut Bench, subnet: &SubnetId, text: &str| {
        bench.change(|networks, ids| networks.associate_subnet_block(subnet, block(text), ids))
    };
    let none = associate(&mut bench, &subnet, "fd00::/64");
    assert_eq!(none, Err(NetworkError::NoBlock { vpc: vpc.clone() }));
    let of_vpc = bench.change(|networks, ids| networks.associate_vpc_block(&vpc, ids)).unwrap();
    let (first, text) = (of_vpc.block.first(), of_vpc.block.to_string());
    assert!(text.starts_with("fd") && text.ends_with("::/56"), "{text}");
    let twice = bench.change(|networks, ids| networks.associate_vpc_block(&vpc, ids));
    assert_eq!(twice, Err(NetworkError::BlockLimit { of: vpc.to_string() }));
    let own = format!("{first}/64");
    for wrong in ["fd99::/64", &format!("{first}/65"), &text, "10.0.1.0/24"] {
        let within = of_vpc.block;
        let refused = Err(NetworkError::SubnetBlock { block: block(wrong), within });
        assert_eq!(associate(&mut bench, &subnet, wrong), refused);
    }
    let of_subnet = associate(&mut bench, &subnet, &own).unwrap();
    let overlap = Err(NetworkError::SubnetOverlap { block: block(&own), other: subnet.clone() });
    assert_eq!(associate(&mut bench, &other, &own), overlap);
    let in_use = bench.change(|networks, _| networks.disassociate_vpc_block(&of_vpc.id));
    assert_eq!(in_use, Err(NetworkError::BlockInUse { id: of_vpc.id.clone() }));
    let crossed = bench.change(|networks, _| networks.disassociate_subnet_block(&of_vpc.id));
    assert_eq!(crossed, Err(NetworkError::BlockNotFound { id: of_vpc.id.clone() }));
    let taken = bench.change(|networks, _| networks.disassociate_subnet_block(&of_subnet.id));
    assert_eq!(taken, Ok((subnet, of_subnet.clone())));
    let again = bench.change(|networks, _| networks.disassociate_subnet_block(&of_subnet.id));
    assert_eq!(again, Err(NetworkError::BlockNotFound { id: of_subnet.id }));
    let taken = bench.change(|networks, _| networks.disassociate_vpc_block(&of_vpc.id));
    assert_eq!(taken, Ok((vpc.clone(), of_vpc)));
    assert_eq!(bench.networks.vpc(&vpc).unwrap().block_v6, None);
}

#[test]
fn what_lets_everything_out_does_so_by_both() {
    let mut bench = Bench::new();
    let out = |bench: &Bench, group: &SecurityGroupId| {
        let rules = bench.networks.group(group).unwrap().enforced().egress;
        rules.into_iter().map(|rule| rule.peer).collect::<Vec<_>>()
    };
    let (v4, v6) = (Peer::Block(Cidr::ANYWHERE_V4), Peer::Block(Cidr::ANYWHERE_V6));
    let (plain, changed) = (bench.vpc("10.0.0.0/16").unwrap(), bench.vpc("10.1.0.0/16").unwrap());
    let default_of = |bench: &Bench, vpc: &VpcId| bench.networks.vpc(vpc).unwrap().default_group.clone();
    let (of_plain, of_changed) = (default_of(&bench, &plain), default_of(&bench, &changed));
    let all = SecurityRule { traffic: Traffic::All, peer: v4.clone() };
    bench.change(|networks, _| networks.revoke(&of_changed, Direction::Egress, &[all])).unwrap();
    for vpc in [&plain, &changed] {
        bench.change(|networks, ids| networks.associate_vpc_block(vpc, ids)).unwrap();
    }
    assert_eq!(out(&bench, &of_plain), [v4.clone(), v6.clone()]);
    assert_eq!(out(&bench, &of_changed), []);
    let new = bench.group(Some(&plain), "new").unwrap();
    assert_eq!(out(&bench, &new), [v4, v6]);
}

#[test]
fn an_address_of_ipv6_ends_as_that_of_ipv4() {
    let block = block("fdaa:bbcc:ddee:ff00::/64");
    let address = address_in(&block, Ipv4Addr::new(172, 31, 0, 5)).unwrap();
    assert_eq!(address.to_string(), "fdaa:bbcc:ddee:ff00::ac1f:5");
    assert_eq!(subnet_block_of(address), block);
    assert_eq!(address_in(&Cidr::ANYWHERE_V4, Ipv4Addr::LOCALHOST), None);
}
