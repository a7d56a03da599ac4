//! From the model to IAM's shapes.

use neargate_model::iam::{AwsManaged, CustomerPolicy, PolicyArn};
use neargate_model::{Tags, Timestamp};
use neargate_wire::Timestamp as WireTimestamp;
use neargate_wire::iam::{AttachedPolicy, Policy, Role, Tag};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The version of policies that have one.
pub(super) const VERSION: &str = "v1";

/// What stays as it is in a document (RFC 3986, 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A document as IAM gives it back (API reference, GetRole: "compliant with RFC 3986").
pub(super) fn document(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

pub(super) fn time(at: Timestamp) -> WireTimestamp {
    // IAM knows whole seconds.
    WireTimestamp::from_millis(at.as_millis() / 1000 * 1000)
}

pub(super) fn tags(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect()
}

pub(super) fn role(role: &neargate_model::iam::Role) -> Role {
    Role {
        path: role.path.clone(),
        role_name: role.name.to_string(),
        role_id: role.id.clone(),
        arn: role.arn().to_string(),
        create_date: time(role.created_at),
        assume_role_policy_document: Some(document(role.trust.text())),
        description: role.description.clone(),
        max_session_duration: Some(i32::try_from(role.session_s_max).unwrap_or(i32::MAX)),
        tags: Some(tags(&role.tags)).filter(|tags| !tags.is_empty()),
        ..Role::default()
    }
}

pub(super) fn attached(arn: &PolicyArn) -> AttachedPolicy {
    AttachedPolicy { policy_name: Some(arn.name.to_string()), policy_arn: Some(arn.to_string()) }
}

pub(super) fn policy(policy: &CustomerPolicy) -> Policy {
    Policy {
        policy_name: Some(policy.name.to_string()),
        policy_id: Some(policy.id.clone()),
        arn: Some(policy.arn().to_string()),
        path: Some(policy.path.clone()),
        default_version_id: Some(VERSION.to_owned()),
        attachment_count: Some(i32::try_from(policy.attachments).unwrap_or(i32::MAX)),
        permissions_boundary_usage_count: Some(0),
        is_attachable: Some(true),
        description: policy.description.clone(),
        create_date: Some(time(policy.created_at)),
        update_date: Some(time(policy.created_at)),
        tags: Some(tags(&policy.tags)).filter(|tags| !tags.is_empty()),
    }
}

pub(super) fn managed(managed: &AwsManaged) -> Policy {
    Policy {
        policy_name: Some(managed.name().to_string()),
        policy_id: Some(managed.id.to_owned()),
        arn: Some(managed.arn.to_string()),
        path: Some(managed.arn.path.clone()),
        default_version_id: Some(managed.version.to_owned()),
        permissions_boundary_usage_count: Some(0),
        is_attachable: Some(true),
        description: Some(managed.description.to_owned()),
        ..Policy::default()
    }
}
