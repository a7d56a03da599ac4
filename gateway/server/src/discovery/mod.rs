//! AWS Cloud Map: namespaces, services and instances that are found by name.
//!
//! Only conversion and Cloud Map's own words live here. What may be made is decided in `neargate_model::discovery`, kept
//! by `neargate-control`, and answered to tasks by its resolver.

mod error;
mod filter;
pub(crate) mod ids;
mod instances;
mod namespaces;
mod operations;
mod page;
mod registries;
mod render;
mod tags;

use neargate_control::Control;
use neargate_wire::servicediscovery::{
    CreateHttpNamespaceRequest, CreateHttpNamespaceResponse, CreatePrivateDnsNamespaceRequest,
    CreatePrivateDnsNamespaceResponse, CreateServiceRequest, CreateServiceResponse, DeleteNamespaceRequest,
    DeleteNamespaceResponse, DeleteServiceRequest, DeleteServiceResponse, DeregisterInstanceRequest,
    DeregisterInstanceResponse, DiscoverInstancesRequest, DiscoverInstancesResponse,
    DiscoverInstancesRevisionRequest, DiscoverInstancesRevisionResponse, GetInstanceRequest,
    GetInstanceResponse, GetInstancesHealthStatusRequest, GetInstancesHealthStatusResponse,
    GetNamespaceRequest, GetNamespaceResponse, GetOperationRequest, GetOperationResponse, GetServiceRequest,
    GetServiceResponse, ListInstancesRequest, ListInstancesResponse, ListNamespacesRequest,
    ListNamespacesResponse, ListOperationsRequest, ListOperationsResponse, ListServicesRequest,
    ListServicesResponse, ListTagsForResourceRequest, ListTagsForResourceResponse, RegisterInstanceRequest,
    RegisterInstanceResponse, ServiceDiscovery, ServiceDiscoveryError, TagResourceRequest,
    TagResourceResponse, UntagResourceRequest, UntagResourceResponse,
    UpdateInstanceCustomHealthStatusRequest, UpdateServiceRequest, UpdateServiceResponse,
};

use crate::RequestContext;

/// The Cloud Map API.
pub struct DiscoveryApi {
    control: Control,
}

impl DiscoveryApi {
    /// The Cloud Map API over control.
    pub fn new(control: Control) -> Self {
        Self { control }
    }
}

macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ty as $run:ident in $module:ident;)*) => {
        impl ServiceDiscovery for DiscoveryApi {
            type Context = RequestContext;
            $(async fn $name(
                &self,
                cx: &RequestContext,
                input: $input,
            ) -> Result<$output, ServiceDiscoveryError> {
                $module::$run(self, cx, input).await
            })*
        }
    };
}

operations! {
    create_http_namespace: CreateHttpNamespaceRequest -> CreateHttpNamespaceResponse as create_http in namespaces;
    create_private_dns_namespace: CreatePrivateDnsNamespaceRequest
        -> CreatePrivateDnsNamespaceResponse as create_private in namespaces;
    get_namespace: GetNamespaceRequest -> GetNamespaceResponse as get in namespaces;
    list_namespaces: ListNamespacesRequest -> ListNamespacesResponse as list in namespaces;
    delete_namespace: DeleteNamespaceRequest -> DeleteNamespaceResponse as delete in namespaces;
    get_operation: GetOperationRequest -> GetOperationResponse as get in operations;
    list_operations: ListOperationsRequest -> ListOperationsResponse as list in operations;
    create_service: CreateServiceRequest -> CreateServiceResponse as create in registries;
    get_service: GetServiceRequest -> GetServiceResponse as get in registries;
    update_service: UpdateServiceRequest -> UpdateServiceResponse as update in registries;
    list_services: ListServicesRequest -> ListServicesResponse as list in registries;
    delete_service: DeleteServiceRequest -> DeleteServiceResponse as delete in registries;
    register_instance: RegisterInstanceRequest -> RegisterInstanceResponse as register in instances;
    deregister_instance: DeregisterInstanceRequest -> DeregisterInstanceResponse as deregister in instances;
    get_instance: GetInstanceRequest -> GetInstanceResponse as get in instances;
    list_instances: ListInstancesRequest -> ListInstancesResponse as list in instances;
    update_instance_custom_health_status: UpdateInstanceCustomHealthStatusRequest -> () as set_health in instances;
    get_instances_health_status: GetInstancesHealthStatusRequest
        -> GetInstancesHealthStatusResponse as health in instances;
    discover_instances: DiscoverInstancesRequest -> DiscoverInstancesResponse as discover in instances;
    discover_instances_revision: DiscoverInstancesRevisionRequest
        -> DiscoverInstancesRevisionResponse as revision in instances;
    tag_resource: TagResourceRequest -> TagResourceResponse as tag in tags;
    untag_resource: UntagResourceRequest -> UntagResourceResponse as untag in tags;
    list_tags_for_resource: ListTagsForResourceRequest -> ListTagsForResourceResponse as list in tags;
}
