//! One typed method for each operation that Neargate implements.

use neargate_wire::{ecs, logs, sts};

use crate::call::{Operation, Repeat};
use crate::client::Client;
use crate::error::Error;

/// Defines the methods of an AWS service. `safe` calls are made again when an answer is lost, `once` calls only when
/// the server has surely not acted. An operation without output has no arrow.
macro_rules! operations {
    ($(#[$meta:meta])* $api:ident of $service:ident {
        $($repeat:ident $method:ident $name:literal($input:ident) $(-> $output:ident)?;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub struct $api<'a> {
            client: &'a Client,
            region: Option<&'a str>,
        }

        impl<'a> $api<'a> {
            /// For the test that no operation is forgotten.
            #[cfg(test)]
            const OPERATIONS: &'static [&'static str] = &[$($name),*];

            pub(crate) fn new(client: &'a Client) -> Self {
                Self { client, region: None }
            }

            /// Calls in another region than the client's own.
            pub fn in_region(self, region: &'a str) -> Self {
                Self { region: Some(region), ..self }
            }

            $(operations!(@method $service, $repeat, $method, $name, $input $(, $output)?);)*
        }
    };
    (@method $service:ident, $repeat:ident, $method:ident, $name:literal, $input:ident, $output:ident) => {
        #[doc = concat!("Calls `", $name, "`.")]
        pub async fn $method(self, input: $service::$input) -> Result<$service::$output, Error> {
            let operation = operations!(@operation $service, $repeat, $name);
            self.client.call(operation, &input, self.region).await
        }
    };
    (@method $service:ident, $repeat:ident, $method:ident, $name:literal, $input:ident) => {
        #[doc = concat!("Calls `", $name, "`.")]
        pub async fn $method(self, input: $service::$input) -> Result<(), Error> {
            let operation = operations!(@operation $service, $repeat, $name);
            self.client.call_for_nothing(operation, &input, self.region).await.map(drop)
        }
    };
    (@operation $service:ident, $repeat:ident, $name:literal) => {
        Operation { service: &$service::SERVICE, name: $name, repeat: operations!(@repeat $repeat) }
    };
    (@repeat safe) => { Repeat::Safe };
    (@repeat once) => { Repeat::IfUnseen };
}

operations! {
    /// The operations of ECS.
    Ecs of ecs {
        safe create_cluster "CreateCluster"(CreateClusterRequest) -> CreateClusterResponse;
        safe describe_clusters "DescribeClusters"(DescribeClustersRequest) -> DescribeClustersResponse;
        safe list_clusters "ListClusters"(ListClustersRequest) -> ListClustersResponse;
        safe update_cluster "UpdateCluster"(UpdateClusterRequest) -> UpdateClusterResponse;
        safe update_cluster_settings "UpdateClusterSettings"(UpdateClusterSettingsRequest)
            -> UpdateClusterSettingsResponse;
        safe delete_cluster "DeleteCluster"(DeleteClusterRequest) -> DeleteClusterResponse;
        once register_task_definition "RegisterTaskDefinition"(RegisterTaskDefinitionRequest)
            -> RegisterTaskDefinitionResponse;
        safe describe_task_definition "DescribeTaskDefinition"(DescribeTaskDefinitionRequest)
            -> DescribeTaskDefinitionResponse;
        safe list_task_definitions "ListTaskDefinitions"(ListTaskDefinitionsRequest) -> ListTaskDefinitionsResponse;
        safe list_task_definition_families "ListTaskDefinitionFamilies"(ListTaskDefinitionFamiliesRequest)
            -> ListTaskDefinitionFamiliesResponse;
        once deregister_task_definition "DeregisterTaskDefinition"(DeregisterTaskDefinitionRequest)
            -> DeregisterTaskDefinitionResponse;
        safe delete_task_definitions "DeleteTaskDefinitions"(DeleteTaskDefinitionsRequest)
            -> DeleteTaskDefinitionsResponse;
        safe stop_task "StopTask"(StopTaskRequest) -> StopTaskResponse;
        safe describe_tasks "DescribeTasks"(DescribeTasksRequest) -> DescribeTasksResponse;
        safe list_tasks "ListTasks"(ListTasksRequest) -> ListTasksResponse;
        safe get_task_protection "GetTaskProtection"(GetTaskProtectionRequest) -> GetTaskProtectionResponse;
        safe update_task_protection "UpdateTaskProtection"(UpdateTaskProtectionRequest) -> UpdateTaskProtectionResponse;
        safe tag_resource "TagResource"(TagResourceRequest) -> TagResourceResponse;
        safe untag_resource "UntagResource"(UntagResourceRequest) -> UntagResourceResponse;
        safe list_tags_for_resource "ListTagsForResource"(ListTagsForResourceRequest) -> ListTagsForResourceResponse;
        safe list_account_settings "ListAccountSettings"(ListAccountSettingsRequest) -> ListAccountSettingsResponse;
        safe put_account_setting "PutAccountSetting"(PutAccountSettingRequest) -> PutAccountSettingResponse;
        safe put_account_setting_default "PutAccountSettingDefault"(PutAccountSettingDefaultRequest)
            -> PutAccountSettingDefaultResponse;
        safe delete_account_setting "DeleteAccountSetting"(DeleteAccountSettingRequest) -> DeleteAccountSettingResponse;
    }
}

operations! {
    /// The operations of CloudWatch Logs.
    CloudWatchLogs of logs {
        once create_log_group "CreateLogGroup"(CreateLogGroupRequest);
        once delete_log_group "DeleteLogGroup"(DeleteLogGroupRequest);
        safe describe_log_groups "DescribeLogGroups"(DescribeLogGroupsRequest) -> DescribeLogGroupsResponse;
        once create_log_stream "CreateLogStream"(CreateLogStreamRequest);
        once delete_log_stream "DeleteLogStream"(DeleteLogStreamRequest);
        safe describe_log_streams "DescribeLogStreams"(DescribeLogStreamsRequest) -> DescribeLogStreamsResponse;
        once put_log_events "PutLogEvents"(PutLogEventsRequest) -> PutLogEventsResponse;
        safe get_log_events "GetLogEvents"(GetLogEventsRequest) -> GetLogEventsResponse;
        safe filter_log_events "FilterLogEvents"(FilterLogEventsRequest) -> FilterLogEventsResponse;
        safe put_retention_policy "PutRetentionPolicy"(PutRetentionPolicyRequest);
        safe delete_retention_policy "DeleteRetentionPolicy"(DeleteRetentionPolicyRequest);
    }
}

operations! {
    /// The operations of STS.
    Sts of sts {
        safe get_caller_identity "GetCallerIdentity"(GetCallerIdentityRequest) -> GetCallerIdentityResponse;
        safe assume_role "AssumeRole"(AssumeRoleRequest) -> AssumeRoleResponse;
        safe get_session_token "GetSessionToken"(GetSessionTokenRequest) -> GetSessionTokenResponse;
    }
}

impl Ecs<'_> {
    /// Calls `RunTask`, with a new client token unless the input has one: with a token, the server starts the tasks of
    /// a repeated call once, so the call may be repeated when an answer is lost.
    pub async fn run_task(self, mut input: ecs::RunTaskRequest) -> Result<ecs::RunTaskResponse, Error> {
        input.client_token.get_or_insert_with(|| uuid::Uuid::new_v4().simple().to_string());
        let operation = Operation { service: &ecs::SERVICE, name: "RunTask", repeat: Repeat::Safe };
        self.client.call(operation, &input, self.region).await
    }
}

impl Client {
    /// ECS: clusters, task definitions and tasks.
    pub fn ecs(&self) -> Ecs<'_> {
        Ecs::new(self)
    }

    /// CloudWatch Logs: log groups, streams and events. For the output of one task there is [`Client::logs`].
    pub fn cloudwatch_logs(&self) -> CloudWatchLogs<'_> {
        CloudWatchLogs::new(self)
    }

    /// STS: who the keys belong to.
    pub fn sts(&self) -> Sts<'_> {
        Sts::new(self)
    }
}

#[cfg(test)]
mod tests {
    use neargate_wire::{Mark, Service};

    use super::*;

    fn check(service: &Service, mut called: Vec<&str>) {
        called.sort_unstable();
        let offered = service.operations.iter().filter(|operation| operation.mark != Mark::Refused);
        assert_eq!(called, offered.map(|operation| operation.name).collect::<Vec<_>>());
    }

    #[test]
    fn there_is_a_method_for_each_operation_that_the_server_has() {
        check(&ecs::SERVICE, [Ecs::OPERATIONS, &["RunTask"]].concat());
        check(&logs::SERVICE, CloudWatchLogs::OPERATIONS.to_vec());
        check(&sts::SERVICE, Sts::OPERATIONS.to_vec());
    }
}
