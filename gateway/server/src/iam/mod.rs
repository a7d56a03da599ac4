//! AWS IAM: roles, their policies, and managed policies.
//!
//! Only conversion and IAM's own rules live here; what a document says is read in `neargate-model`, and what may be
//! changed is decided in `neargate-control`.

mod error;
mod page;
mod policies;
mod read;
mod render;
mod roles;

use neargate_control::Control;
use neargate_wire::iam::{
    AttachRolePolicyRequest, CreatePolicyRequest, CreatePolicyResponse, CreateRoleRequest,
    CreateRoleResponse, DeletePolicyRequest, DeleteRolePolicyRequest, DeleteRoleRequest,
    DetachRolePolicyRequest, GetPolicyRequest, GetPolicyResponse, GetPolicyVersionRequest,
    GetPolicyVersionResponse, GetRolePolicyRequest, GetRolePolicyResponse, GetRoleRequest, GetRoleResponse,
    Iam, IamError, ListAttachedRolePoliciesRequest, ListAttachedRolePoliciesResponse, ListPoliciesRequest,
    ListPoliciesResponse, ListRolePoliciesRequest, ListRolePoliciesResponse, ListRoleTagsRequest,
    ListRoleTagsResponse, ListRolesRequest, ListRolesResponse, PutRolePolicyRequest, TagRoleRequest,
    UntagRoleRequest, UpdateAssumeRolePolicyRequest,
};

use crate::RequestContext;

/// The IAM API.
pub struct IamApi {
    control: Control,
}

impl IamApi {
    /// The IAM API over control.
    pub fn new(control: Control) -> Self {
        Self { control }
    }
}

macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ty as $run:ident in $module:ident;)*) => {
        impl Iam for IamApi {
            type Context = RequestContext;
            $(async fn $name(&self, cx: &RequestContext, input: $input) -> Result<$output, IamError> {
                $module::$run(self, cx, input).await
            })*
        }
    };
}

operations! {
    create_role: CreateRoleRequest -> CreateRoleResponse as create in roles;
    get_role: GetRoleRequest -> GetRoleResponse as get in roles;
    list_roles: ListRolesRequest -> ListRolesResponse as list in roles;
    delete_role: DeleteRoleRequest -> () as delete in roles;
    update_assume_role_policy: UpdateAssumeRolePolicyRequest -> () as update_trust in roles;
    tag_role: TagRoleRequest -> () as tag in roles;
    untag_role: UntagRoleRequest -> () as untag in roles;
    list_role_tags: ListRoleTagsRequest -> ListRoleTagsResponse as list_tags in roles;
    put_role_policy: PutRolePolicyRequest -> () as put_policy in roles;
    get_role_policy: GetRolePolicyRequest -> GetRolePolicyResponse as get_policy in roles;
    list_role_policies: ListRolePoliciesRequest -> ListRolePoliciesResponse as list_policies in roles;
    delete_role_policy: DeleteRolePolicyRequest -> () as delete_policy in roles;
    attach_role_policy: AttachRolePolicyRequest -> () as attach in policies;
    detach_role_policy: DetachRolePolicyRequest -> () as detach in policies;
    list_attached_role_policies: ListAttachedRolePoliciesRequest
        -> ListAttachedRolePoliciesResponse as list_attached in policies;
    create_policy: CreatePolicyRequest -> CreatePolicyResponse as create in policies;
    get_policy: GetPolicyRequest -> GetPolicyResponse as get in policies;
    get_policy_version: GetPolicyVersionRequest -> GetPolicyVersionResponse as get_version in policies;
    list_policies: ListPoliciesRequest -> ListPoliciesResponse as list in policies;
    delete_policy: DeletePolicyRequest -> () as delete in policies;
}
