//! Which images of a repository are of no use any more (ECR User Guide, "Lifecycle policies in Amazon ECR").

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{LIFECYCLE_LEN_MAX, StoredImage};
use crate::Timestamp;
use crate::image::Digest;

/// Most rules of a policy (ECR User Guide, "Amazon ECR service quotas").
pub const RULES_MAX: usize = 50;
const PATTERNS_MAX: usize = 100;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Rules that say which images expire, with the text that they were read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LifecyclePolicy {
    text: String,
    /// By priority.
    rules: Vec<Rule>,
}

/// Why a text is no lifecycle policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Lifecycle policy validation failure: {why}")]
pub struct MalformedLifecycle {
    /// The rule that it breaks.
    pub why: String,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// The lowest is applied first.
    #[serde(rename = "rulePriority")]
    pub priority: u32,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Which images.
    pub selection: Selection,
    action: Action,
}

/// Which images a rule is about.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selection {
    /// By whether they have tags.
    pub tag_status: TagStatus,
    /// By the beginnings of tags; an image must have a tag for each.
    #[serde(default)]
    tag_prefix_list: Vec<String>,
    /// By patterns of tags with `*`; an image must have a tag for each.
    #[serde(default)]
    tag_pattern_list: Vec<String>,
    count_type: CountType,
    #[serde(default)]
    count_unit: Option<String>,
    count_number: u32,
}

/// Whether images have tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum TagStatus {
    Tagged,
    Untagged,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum CountType {
    /// All but that many of the youngest.
    ImageCountMoreThan,
    /// Pushed more than that many days ago.
    SinceImagePushed,
    /// Pulled, or pushed where that never was, more than that many days ago.
    SinceImagePulled,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    rules: Vec<Rule>,
}

/// An image that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The image.
    pub digest: Digest,
    /// The priority of the rule that says so.
    pub priority: u32,
}

impl LifecyclePolicy {
    /// Reads a policy.
    pub fn parse(text: &str) -> Result<Self, MalformedLifecycle> {
        let refuse = |why: String| MalformedLifecycle { why };
        if text.len() > LIFECYCLE_LEN_MAX {
            return Err(refuse(format!("it has more than {LIFECYCLE_LEN_MAX} characters")));
        }
        let raw: Raw = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let mut rules = raw.rules;
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(refuse(format!("it must have 1 to {RULES_MAX} rules")));
        }
        rules.iter().try_for_each(Rule::check).map_err(refuse)?;
        rules.sort_by_key(|rule| rule.priority);
        check_together(&rules).map_err(|why| refuse(why.to_owned()))?;
        Ok(Self { text: text.to_owned(), rules })
    }

    /// The text that it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The images that expire now, in the order of the rules. What an index of the repository leads to does not, before
    /// the index itself is gone.
    pub fn expired(&self, images: &[StoredImage], now: Timestamp) -> Vec<Expiry> {
        let in_index: BTreeSet<Digest> = images.iter().flat_map(|image| image.children.clone()).collect();
        let (mut claimed, mut expired) = (BTreeSet::new(), Vec::new());
        for rule in &self.rules {
            let mut matching: Vec<&StoredImage> =
                images.iter().filter(|image| rule.selection.matches(image)).collect();
            matching.sort_by_key(|image| (std::cmp::Reverse(image.pushed_at), image.digest));
            for (index, image) in matching.iter().enumerate() {
                let is_over = rule.selection.is_over(index, image, now);
                // What a rule of higher priority is about is none of this one's business, but it counts.
                if is_over && !claimed.contains(&image.digest) && !in_index.contains(&image.digest) {
                    expired.push(Expiry { digest: image.digest, priority: rule.priority });
                }
            }
            claimed.extend(matching.iter().map(|image| image.digest));
        }
        expired
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let Self { priority, selection, action, .. } = self;
        let refuse = |why: &str| Err(format!("rule {priority}: {why}"));
        if *priority == 0 {
            return refuse("rulePriority must be at least 1");
        }
        if action.kind != "expire" {
            return refuse(
                "the action must be expire; Neargate has no other storage class to move images to",
            );
        }
        if selection.count_number == 0 {
            return refuse("countNumber must be at least 1");
        }
        let is_count = selection.count_type == CountType::ImageCountMoreThan;
        match selection.count_unit.as_deref() {
            Some("days") if !is_count => {}
            None if is_count => {}
            _ => {
                return refuse(
                    "countUnit is days with sinceImagePushed and sinceImagePulled, and absent else",
                );
            }
        }
        let lists = [&selection.tag_prefix_list, &selection.tag_pattern_list];
        let given = lists.iter().filter(|list| !list.is_empty()).count();
        if lists.iter().any(|list| list.len() > PATTERNS_MAX || list.iter().any(String::is_empty)) {
            return refuse("a list of tags has at most 100 entries, none of them empty");
        }
        match selection.tag_status {
            TagStatus::Tagged if given != 1 => {
                refuse("tagStatus tagged needs either tagPrefixList or tagPatternList")
            }
            TagStatus::Untagged | TagStatus::Any if given != 0 => {
                refuse("tagPrefixList and tagPatternList are for tagStatus tagged")
            }
            _ => Ok(()),
        }
    }
}

/// What no two rules may have, by priority.
fn check_together(rules: &[Rule]) -> Result<(), &'static str> {
    if rules.windows(2).any(|pair| pair[0].priority == pair[1].priority) {
        return Err("rulePriority must be unique");
    }
    let of = |status: TagStatus| rules.iter().filter(move |rule| rule.selection.tag_status == status);
    if of(TagStatus::Untagged).count() > 1 || of(TagStatus::Any).count() > 1 {
        return Err("only one rule may have tagStatus untagged, and one any");
    }
    let last = rules.last().map(|rule| rule.priority);
    if of(TagStatus::Any).any(|rule| Some(rule.priority) != last) {
        return Err("the rule with tagStatus any must have the highest rulePriority");
    }
    let mut prefixes = BTreeSet::new();
    if !rules.iter().flat_map(|rule| &rule.selection.tag_prefix_list).all(|prefix| prefixes.insert(prefix)) {
        return Err("a prefix may be in tagPrefixList of one rule only");
    }
    Ok(())
}

impl Selection {
    fn matches(&self, image: &StoredImage) -> bool {
        let has = |is_match: &dyn Fn(&str) -> bool| image.tags.iter().any(|tag| is_match(tag.as_str()));
        match self.tag_status {
            TagStatus::Any => true,
            TagStatus::Untagged => image.tags.is_empty(),
            TagStatus::Tagged => {
                self.tag_prefix_list.iter().all(|prefix| has(&|tag| tag.starts_with(prefix.as_str())))
                    && self.tag_pattern_list.iter().all(|pattern| has(&|tag| is_like(pattern, tag)))
            }
        }
    }

    /// Whether the image at this place among those that match, the youngest first, is too many or too old.
    fn is_over(&self, index: usize, image: &StoredImage, now: Timestamp) -> bool {
        let is_older = |since: Timestamp| {
            now.as_millis().saturating_sub(since.as_millis()) > i64::from(self.count_number) * DAY_MS
        };
        match self.count_type {
            CountType::ImageCountMoreThan => index >= self.count_number as usize,
            CountType::SinceImagePushed => is_older(image.pushed_at),
            CountType::SinceImagePulled => is_older(image.pulled_at.unwrap_or(image.pushed_at)),
        }
    }
}

/// Whether a tag is like a pattern, of which `*` stands for any characters.
fn is_like(pattern: &str, tag: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = tag.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl TryFrom<String> for LifecyclePolicy {
    type Error = MalformedLifecycle;
    fn try_from(text: String) -> Result<Self, MalformedLifecycle> {
        Self::parse(&text)
    }
}

impl From<LifecyclePolicy> for String {
    fn from(policy: LifecyclePolicy) -> String {
        policy.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageTag;

    const NOW: i64 = 100 * DAY_MS;

    /// An image that was pushed so many days before now.
    fn image(id: u8, days: i64, tags: &[&str]) -> StoredImage {
        StoredImage {
            digest: Digest::from_bytes([id; 32]),
            media_type: "m".to_owned(),
            artifact_type: None,
            manifest_bytes: 1,
            content_bytes: 1,
            pushed_at: Timestamp(NOW - days * DAY_MS),
            pulled_at: None,
            tags: tags.iter().map(|tag| ImageTag::new(*tag).unwrap()).collect(),
            subject: None,
            children: Vec::new(),
        }
    }

    fn rule(priority: u32, selection: &str) -> String {
        format!(r#"{{"rulePriority":{priority},"selection":{{{selection}}},"action":{{"type":"expire"}}}}"#)
    }

    fn policy(rules: &[String]) -> Result<LifecyclePolicy, MalformedLifecycle> {
        LifecyclePolicy::parse(&format!(r#"{{"rules":[{}]}}"#, rules.join(",")))
    }

    const UNTAGGED: &str =
        r#""tagStatus":"untagged","countType":"sinceImagePushed","countUnit":"days","countNumber":14"#;
    const ANY_3: &str = r#""tagStatus":"any","countType":"imageCountMoreThan","countNumber":3"#;

    fn tagged(how: &str, count: u32) -> String {
        format!(r#""tagStatus":"tagged",{how},"countType":"imageCountMoreThan","countNumber":{count}"#)
    }

    fn check(rules: &[String], images: &[StoredImage], expect: &[(u8, u32)]) {
        let found = policy(rules).unwrap().expired(images, Timestamp(NOW));
        let found: Vec<(u8, u32)> =
            found.iter().map(|one| (one.digest.as_bytes()[0], one.priority)).collect();
        assert_eq!(found, expect, "{rules:?}");
    }

    #[test]
    fn images_expire_by_age_and_count() {
        let images = [image(1, 30, &[]), image(2, 14, &[]), image(3, 15, &["v1"]), image(4, 1, &[])];
        check(&[rule(1, UNTAGGED)], &images, &[(1, 1)]);
        check(&[rule(1, ANY_3)], &images, &[(1, 1)]);
        let pulled =
            r#""tagStatus":"any","countType":"sinceImagePulled","countUnit":"days","countNumber":10"#;
        let mut images = images;
        images[0].pulled_at = Some(Timestamp(NOW - DAY_MS));
        check(&[rule(1, pulled)], &images, &[(2, 1), (3, 1)]);
    }

    #[test]
    fn rules_of_higher_priority_claim_their_images() {
        // The example of the User Guide, "Filtering on multiple rules".
        let images = [image(1, 4, &["beta-1"]), image(2, 3, &["prod-1", "beta-2"]), image(3, 2, &["prod-2"])];
        let prod = rule(1, &tagged(r#""tagPrefixList":["prod"]"#, 1));
        let beta = rule(2, &tagged(r#""tagPrefixList":["beta"]"#, 1));
        check(&[prod.clone(), beta.clone()], &images, &[(2, 1), (1, 2)]);
        // The newest of the second rule is the first one's: it counts, and is not expired.
        let any = rule(3, r#""tagStatus":"any","countType":"imageCountMoreThan","countNumber":1"#);
        check(&[beta, any], &images, &[(1, 2)]);
    }

    #[test]
    fn parts_of_an_index_stay_with_it() {
        let mut index = image(9, 1, &["v1"]);
        index.children = vec![Digest::from_bytes([1; 32])];
        check(&[rule(1, UNTAGGED)], &[image(1, 30, &[]), image(2, 30, &[]), index], &[(2, 1)]);
    }

    #[test]
    fn patterns() {
        let check = |pattern, tag, expect| assert_eq!(is_like(pattern, tag), expect, "{pattern} {tag}");
        check("prod*", "prod", true);
        check("*prod", "a-prod", true);
        check("*prod", "prod-a", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("a*a", "a", false);
        check("v1", "v1", true);
        check("v1", "v10", false);
        check("*", "x", true);
    }

    #[test]
    fn what_is_no_policy() {
        let refuse = |rules: &[String], word: &str| {
            let error = policy(rules).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refuse(&[], "rules");
        refuse(&[rule(0, ANY_3)], "at least 1");
        refuse(&[rule(1, ANY_3), rule(2, UNTAGGED)], "highest");
        refuse(&[rule(1, UNTAGGED), rule(1, ANY_3)], "unique");
        refuse(&[rule(1, UNTAGGED), rule(2, UNTAGGED)], "only one");
        refuse(
            &[rule(1, r#""tagStatus":"tagged","countType":"imageCountMoreThan","countNumber":3"#)],
            "tagPrefixList",
        );
        refuse(
            &[rule(1, r#""tagStatus":"any","countType":"sinceImagePushed","countNumber":3"#)],
            "countUnit",
        );
        refuse(&[rule(1, r#""tagStatus":"any","countType":"never","countNumber":3"#)], "never");
        refuse(&[rule(1, ANY_3).replace("expire", "transition")], "expire");
        assert!(LifecyclePolicy::parse("{").is_err());
    }
}
