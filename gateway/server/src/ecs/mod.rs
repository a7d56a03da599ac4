//! Amazon ECS: clusters, task definitions, tasks, tags and account settings.
//!
//! Only conversion and ECS's own rules live here; what happens is decided in `neargate-control`.

mod clusters;
mod definitions;
mod devices;
mod error;
mod hosts;
mod labels;
pub(crate) mod names;
mod page;
mod ports;
pub(crate) mod protection;
mod register;
mod render;
mod roles;
mod run;
mod settings;
pub(crate) mod tags;
mod tasks;
mod volume_options;
mod volumes;

use neargate_control::Control;
use neargate_model::Policy;
use neargate_wire::ecs::{
    CreateClusterRequest, CreateClusterResponse, DeleteAccountSettingRequest, DeleteAccountSettingResponse,
    DeleteClusterRequest, DeleteClusterResponse, DeleteTaskDefinitionsRequest, DeleteTaskDefinitionsResponse,
    DeregisterTaskDefinitionRequest, DeregisterTaskDefinitionResponse, DescribeClustersRequest,
    DescribeClustersResponse, DescribeTaskDefinitionRequest, DescribeTaskDefinitionResponse,
    DescribeTasksRequest, DescribeTasksResponse, Ecs, EcsError, GetTaskProtectionRequest,
    GetTaskProtectionResponse, ListAccountSettingsRequest, ListAccountSettingsResponse, ListClustersRequest,
    ListClustersResponse, ListTagsForResourceRequest, ListTagsForResourceResponse,
    ListTaskDefinitionFamiliesRequest, ListTaskDefinitionFamiliesResponse, ListTaskDefinitionsRequest,
    ListTaskDefinitionsResponse, ListTasksRequest, ListTasksResponse, PutAccountSettingDefaultRequest,
    PutAccountSettingDefaultResponse, PutAccountSettingRequest, PutAccountSettingResponse,
    RegisterTaskDefinitionRequest, RegisterTaskDefinitionResponse, RunTaskRequest, RunTaskResponse,
    StopTaskRequest, StopTaskResponse, TagResourceRequest, TagResourceResponse, UntagResourceRequest,
    UntagResourceResponse, UpdateClusterRequest, UpdateClusterResponse, UpdateClusterSettingsRequest,
    UpdateClusterSettingsResponse, UpdateTaskProtectionRequest, UpdateTaskProtectionResponse,
};

use crate::RequestContext;

/// The ECS API.
pub struct EcsApi {
    control: Control,
    policy: Policy,
}

impl EcsApi {
    /// The ECS API over control, under an operator's policy.
    pub fn new(control: Control, policy: Policy) -> Self {
        Self { control, policy }
    }
}

macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ident in $module:ident;)*) => {
        impl Ecs for EcsApi {
            type Context = RequestContext;
            $(async fn $name(&self, cx: &RequestContext, input: $input) -> Result<$output, EcsError> {
                $module::$name(self, cx, input).await
            })*
        }
    };
}

operations! {
    create_cluster: CreateClusterRequest -> CreateClusterResponse in clusters;
    describe_clusters: DescribeClustersRequest -> DescribeClustersResponse in clusters;
    list_clusters: ListClustersRequest -> ListClustersResponse in clusters;
    update_cluster: UpdateClusterRequest -> UpdateClusterResponse in clusters;
    update_cluster_settings: UpdateClusterSettingsRequest -> UpdateClusterSettingsResponse in clusters;
    delete_cluster: DeleteClusterRequest -> DeleteClusterResponse in clusters;
    register_task_definition: RegisterTaskDefinitionRequest -> RegisterTaskDefinitionResponse in definitions;
    describe_task_definition: DescribeTaskDefinitionRequest -> DescribeTaskDefinitionResponse in definitions;
    list_task_definitions: ListTaskDefinitionsRequest -> ListTaskDefinitionsResponse in definitions;
    list_task_definition_families: ListTaskDefinitionFamiliesRequest -> ListTaskDefinitionFamiliesResponse in definitions;
    deregister_task_definition: DeregisterTaskDefinitionRequest -> DeregisterTaskDefinitionResponse in definitions;
    delete_task_definitions: DeleteTaskDefinitionsRequest -> DeleteTaskDefinitionsResponse in definitions;
    run_task: RunTaskRequest -> RunTaskResponse in run;
    stop_task: StopTaskRequest -> StopTaskResponse in tasks;
    describe_tasks: DescribeTasksRequest -> DescribeTasksResponse in tasks;
    list_tasks: ListTasksRequest -> ListTasksResponse in tasks;
    update_task_protection: UpdateTaskProtectionRequest -> UpdateTaskProtectionResponse in protection;
    get_task_protection: GetTaskProtectionRequest -> GetTaskProtectionResponse in protection;
    tag_resource: TagResourceRequest -> TagResourceResponse in tags;
    untag_resource: UntagResourceRequest -> UntagResourceResponse in tags;
    list_tags_for_resource: ListTagsForResourceRequest -> ListTagsForResourceResponse in tags;
    list_account_settings: ListAccountSettingsRequest -> ListAccountSettingsResponse in settings;
    put_account_setting: PutAccountSettingRequest -> PutAccountSettingResponse in settings;
    put_account_setting_default: PutAccountSettingDefaultRequest -> PutAccountSettingDefaultResponse in settings;
    delete_account_setting: DeleteAccountSettingRequest -> DeleteAccountSettingResponse in settings;
}
