//! Security groups and their rules.

use super::{
    DEFAULT_GROUP, Direction, GROUPS_MAX, GroupRule, NetworkError, Networks, NewIds, RULES_MAX,
    SecurityGroup, Vpc, check_tags, resource,
};
use crate::{Cidr, Peer, SecurityGroupId, SecurityGroupRuleId, SecurityRule, Tags, Traffic, VpcId};

/// Characters of a group's name or description (API reference, CreateSecurityGroup).
const NAME_MAX: usize = 255;

/// A rule to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule {
    /// What it lets through.
    pub rule: SecurityRule,
    /// What it is for.
    pub description: Option<String>,
}

impl Networks {
    /// Makes a group that lets everything out and nothing in; in the default VPC where none is named.
    pub fn create_group(
        &mut self,
        vpc: Option<&VpcId>,
        name: &str,
        description: &str,
        tags: Tags,
        ids: NewIds<'_>,
    ) -> Result<SecurityGroupId, NetworkError> {
        check_tags(&tags)?;
        check_name(name)?;
        let Vpc { id: vpc, block_v6, .. } = match vpc {
            Some(id) => self.vpc(id)?,
            None => self.default_vpc().ok_or(NetworkError::NoDefaultVpc)?,
        };
        let (vpc, is_dual) = (vpc.clone(), block_v6.is_some());
        if self.groups.values().any(|group| group.vpc == vpc && group.name == name) {
            return Err(NetworkError::GroupExists { name: name.to_owned(), vpc });
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(NetworkError::GroupLimit);
        }
        let id = SecurityGroupId::new(resource("sg-", ids())).expect("17 digits");
        let group = SecurityGroup {
            id: id.clone(),
            vpc,
            name: name.to_owned(),
            description: description.to_owned(),
            rules: everywhere(is_dual).iter().map(|block| everything_out(*block, ids)).collect(),
            tags,
        };
        self.groups.insert(id.clone(), group);
        Ok(id)
    }

    /// The group of this name in the default VPC.
    pub fn group_named(&self, name: &str) -> Result<&SecurityGroup, NetworkError> {
        let vpc = self.default_vpc().ok_or(NetworkError::NoDefaultVpc)?;
        let found = self.groups.values().find(|group| group.vpc == vpc.id && group.name == name);
        found.ok_or_else(|| NetworkError::GroupNameNotFound { name: name.chars().take(NAME_MAX).collect() })
    }

    /// Removes a group, of which the caller knows that no interface is in it.
    pub fn delete_group(&mut self, id: &SecurityGroupId) -> Result<(), NetworkError> {
        let group = self.group(id)?;
        if group.name == DEFAULT_GROUP {
            return Err(NetworkError::GroupIsDefault { id: id.clone() });
        }
        let names = |rule: &GroupRule| rule.rule.peer == Peer::Group(id.clone());
        if self.groups.values().any(|other| other.id != *id && other.rules.iter().any(names)) {
            return Err(NetworkError::GroupInUse { id: id.clone() });
        }
        self.groups.remove(id);
        Ok(())
    }

    /// Adds rules, all or none.
    pub fn authorize(
        &mut self,
        id: &SecurityGroupId,
        direction: Direction,
        new: &[NewRule],
        tags: &Tags,
        ids: NewIds<'_>,
    ) -> Result<Vec<GroupRule>, NetworkError> {
        check_tags(tags)?;
        if new.len() > RULES_MAX {
            return Err(NetworkError::RuleLimit);
        }
        self.check_peers(id, new)?;
        let group = self.groups.get_mut(id).ok_or_else(|| NetworkError::GroupNotFound { id: id.clone() })?;
        let mut added = Vec::with_capacity(new.len());
        for (index, NewRule { rule, description }) in new.iter().enumerate() {
            if new[..index].iter().any(|earlier| earlier.rule == *rule) {
                return Err(NetworkError::RuleTwice);
            }
            if group.rules_of(direction).any(|known| known.rule == *rule) {
                return Err(NetworkError::RuleExists { rule: rule.clone() });
            }
            added.push(GroupRule {
                id: rule_id(ids),
                direction,
                rule: rule.clone(),
                description: description.clone(),
                tags: tags.clone(),
            });
        }
        if group.rules_of(direction).count() + added.len() > RULES_MAX {
            return Err(NetworkError::RuleLimit);
        }
        group.rules.extend(added.clone());
        Ok(added)
    }

    /// Removes rules by their content. Gives those that were removed, and those that the group did not have, which
    /// outside the default VPC is an error that leaves all as it was (API reference, RevokeSecurityGroupIngress).
    pub fn revoke(
        &mut self,
        id: &SecurityGroupId,
        direction: Direction,
        rules: &[SecurityRule],
    ) -> Result<(Vec<GroupRule>, Vec<SecurityRule>), NetworkError> {
        let group = self.group(id)?;
        let is_lenient = self.vpc(&group.vpc)?.is_default;
        let has = |rule: &SecurityRule| group.rules_of(direction).any(|known| known.rule == *rule);
        let unknown: Vec<SecurityRule> = rules.iter().filter(|rule| !has(rule)).cloned().collect();
        if !unknown.is_empty() && !is_lenient {
            return Err(NetworkError::NoSuchRule);
        }
        let is_meant = |known: &GroupRule| known.direction == direction && rules.contains(&known.rule);
        Ok((self.remove_rules(id, is_meant), unknown))
    }

    /// Removes rules by their ids, all or none.
    pub fn revoke_by_id(
        &mut self,
        id: &SecurityGroupId,
        direction: Direction,
        rules: &[SecurityGroupRuleId],
    ) -> Result<Vec<GroupRule>, NetworkError> {
        let group = self.group(id)?;
        for rule in rules {
            if !group.rules_of(direction).any(|known| known.id == *rule) {
                return Err(NetworkError::RuleNotFound { id: rule.clone() });
            }
        }
        Ok(self.remove_rules(id, |known| rules.contains(&known.id)))
    }

    /// Replaces the content of rules, all or none.
    pub fn modify_rules(
        &mut self,
        id: &SecurityGroupId,
        updates: &[(SecurityGroupRuleId, NewRule)],
    ) -> Result<(), NetworkError> {
        let new: Vec<NewRule> = updates.iter().map(|(_, new)| new.clone()).collect();
        self.check_peers(id, &new)?;
        let group = self.groups.get_mut(id).ok_or_else(|| NetworkError::GroupNotFound { id: id.clone() })?;
        let mut rules = group.rules.clone();
        for (rule, new) in updates {
            let known = rules.iter_mut().find(|known| known.id == *rule);
            let known = known.ok_or_else(|| NetworkError::RuleNotFound { id: rule.clone() })?;
            known.rule = new.rule.clone();
            known.description.clone_from(&new.description);
        }
        let same = |a: &GroupRule, b: &GroupRule| a.direction == b.direction && a.rule == b.rule;
        let twice = rules
            .iter()
            .enumerate()
            .find(|(index, rule)| rules[..*index].iter().any(|earlier| same(earlier, rule)));
        if let Some((_, rule)) = twice {
            return Err(NetworkError::RuleExists { rule: rule.rule.clone() });
        }
        group.rules = rules;
        Ok(())
    }

    /// Replaces descriptions of rules that are known by their content, all or none.
    pub fn describe_rules(
        &mut self,
        id: &SecurityGroupId,
        direction: Direction,
        rules: &[NewRule],
    ) -> Result<(), NetworkError> {
        let mut described = Vec::with_capacity(rules.len());
        let group = self.group(id)?;
        for NewRule { rule, description } in rules {
            let known = group.rules_of(direction).find(|known| known.rule == *rule);
            described.push((known.ok_or(NetworkError::NoSuchRule)?.id.clone(), description.clone()));
        }
        self.describe_rules_by_id(id, direction, &described)
    }

    /// Replaces descriptions of rules that are known by their ids, all or none.
    pub fn describe_rules_by_id(
        &mut self,
        id: &SecurityGroupId,
        direction: Direction,
        rules: &[(SecurityGroupRuleId, Option<String>)],
    ) -> Result<(), NetworkError> {
        let group = self.groups.get_mut(id).ok_or_else(|| NetworkError::GroupNotFound { id: id.clone() })?;
        let mut changed = group.rules.clone();
        for (rule, description) in rules {
            let known = changed.iter_mut().find(|known| known.direction == direction && known.id == *rule);
            let known = known.ok_or_else(|| NetworkError::RuleNotFound { id: rule.clone() })?;
            known.description.clone_from(description);
        }
        group.rules = changed;
        Ok(())
    }

    /// The groups that rules name have to be in the same VPC.
    fn check_peers(&self, id: &SecurityGroupId, new: &[NewRule]) -> Result<(), NetworkError> {
        let vpc = &self.group(id)?.vpc;
        for NewRule { rule, .. } in new {
            let Peer::Group(peer) = &rule.peer else { continue };
            if self.group(peer)?.vpc != *vpc {
                return Err(NetworkError::GroupElsewhere { id: peer.clone(), vpc: vpc.clone() });
            }
        }
        Ok(())
    }

    fn remove_rules(
        &mut self,
        id: &SecurityGroupId,
        is_meant: impl Fn(&GroupRule) -> bool,
    ) -> Vec<GroupRule> {
        let Some(group) = self.groups.get_mut(id) else { return Vec::new() };
        let (removed, kept) = std::mem::take(&mut group.rules).into_iter().partition(is_meant);
        group.rules = kept;
        removed
    }
}

/// All addresses of those versions of the protocol that a VPC has.
fn everywhere(is_dual: bool) -> &'static [Cidr] {
    if is_dual { &[Cidr::ANYWHERE_V4, Cidr::ANYWHERE_V6] } else { &[Cidr::ANYWHERE_V4] }
}

/// The rules of a VPC's default group: all from its own members, and everything out.
pub(super) fn default_rules(group: &SecurityGroupId, ids: NewIds<'_>) -> Vec<GroupRule> {
    let from_itself = GroupRule {
        id: rule_id(ids),
        direction: Direction::Ingress,
        rule: SecurityRule { traffic: Traffic::All, peer: Peer::Group(group.clone()) },
        description: None,
        tags: Tags::new(),
    };
    vec![from_itself, everything_out(Cidr::ANYWHERE_V4, ids)]
}

/// The rule by which everything goes out to a block.
pub(super) fn everything_out(block: Cidr, ids: NewIds<'_>) -> GroupRule {
    GroupRule {
        id: rule_id(ids),
        direction: Direction::Egress,
        rule: SecurityRule { traffic: Traffic::All, peer: Peer::Block(block) },
        description: None,
        tags: Tags::new(),
    }
}

fn rule_id(ids: NewIds<'_>) -> SecurityGroupRuleId {
    SecurityGroupRuleId::new(resource("sgr-", ids())).expect("17 digits")
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    let bad = |rule| Err(NetworkError::GroupName { name: name.chars().take(NAME_MAX).collect(), rule });
    if name.is_empty() || name.chars().count() > NAME_MAX {
        return bad("a name has 1 to 255 characters");
    }
    if name.starts_with("sg-") {
        return bad("a name does not begin with sg-");
    }
    if name == DEFAULT_GROUP {
        return bad("it is the name of the group that every VPC has");
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if !name.chars().all(is_allowed) {
        return bad("a name has letters, digits, spaces and ._-:/()#,@[]+=&;{}!$*");
    }
    Ok(())
}
