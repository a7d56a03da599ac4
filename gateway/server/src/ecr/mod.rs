//! Amazon ECR: repositories, images and layers by API. The same images are at `/v2/`, see `registry`.
//!
//! Only conversion and ECR's own words live here.

mod error;
mod images;
mod layers;
mod lifecycle;
mod page;
mod policies;
mod repositories;
mod tags;
mod token;

use std::sync::Arc;

use neargate_control::Control;
use neargate_model::repository::Repository;
use neargate_model::{RepositoryName, Scope};
use neargate_wire::ecr::{
    BatchCheckLayerAvailabilityRequest, BatchCheckLayerAvailabilityResponse, BatchDeleteImageRequest,
    BatchDeleteImageResponse, BatchGetImageRequest, BatchGetImageResponse, CompleteLayerUploadRequest,
    CompleteLayerUploadResponse, CreateRepositoryRequest, CreateRepositoryResponse,
    DeleteLifecyclePolicyRequest, DeleteLifecyclePolicyResponse, DeleteRepositoryPolicyRequest,
    DeleteRepositoryPolicyResponse, DeleteRepositoryRequest, DeleteRepositoryResponse, DescribeImagesRequest,
    DescribeImagesResponse, DescribeRegistryRequest, DescribeRegistryResponse, DescribeRepositoriesRequest,
    DescribeRepositoriesResponse, Ecr, EcrError, GetAuthorizationTokenRequest, GetAuthorizationTokenResponse,
    GetDownloadUrlForLayerRequest, GetDownloadUrlForLayerResponse, GetLifecyclePolicyPreviewRequest,
    GetLifecyclePolicyPreviewResponse, GetLifecyclePolicyRequest, GetLifecyclePolicyResponse,
    GetRepositoryPolicyRequest, GetRepositoryPolicyResponse, InitiateLayerUploadRequest,
    InitiateLayerUploadResponse, ListImagesRequest, ListImagesResponse, ListTagsForResourceRequest,
    ListTagsForResourceResponse, PutImageRequest, PutImageResponse, PutImageScanningConfigurationRequest,
    PutImageScanningConfigurationResponse, PutImageTagMutabilityRequest, PutImageTagMutabilityResponse,
    PutLifecyclePolicyRequest, PutLifecyclePolicyResponse, SetRepositoryPolicyRequest,
    SetRepositoryPolicyResponse, StartLifecyclePolicyPreviewRequest, StartLifecyclePolicyPreviewResponse,
    TagResourceRequest, TagResourceResponse, UntagResourceRequest, UntagResourceResponse,
    UploadLayerPartRequest, UploadLayerPartResponse,
};

use crate::RequestContext;
use crate::registry::{Registry, Shelf};

/// The ECR API.
pub struct EcrApi {
    registry: Arc<Registry>,
}

impl EcrApi {
    /// The ECR API over a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    fn control(&self) -> &Control {
        &self.registry.shelf().control
    }

    fn shelf(&self) -> &Shelf {
        self.registry.shelf()
    }

    /// The name of a repository that there is.
    async fn repository(&self, place: &Place<'_>) -> Result<Repository, EcrError> {
        let found = self.control().repository(place.scope, &place.name).await;
        found.map_err(|error| place.change(error))
    }
}

/// Which repository a request is about.
struct Place<'a> {
    scope: &'a Scope,
    name: RepositoryName,
}

impl<'a> Place<'a> {
    fn of(cx: &'a RequestContext, registry: Option<&str>, name: &str) -> Result<Self, EcrError> {
        let invalid = |error: neargate_model::InvalidId| error::invalid(error.to_string());
        let place = Self { scope: &cx.scope, name: RepositoryName::new(name).map_err(invalid)? };
        match registry.filter(|registry| *registry != cx.scope.account.as_str()) {
            // There is no other registry here, which is what ECR says of one that is closed to the caller.
            Some(other) => Err(error::repository_not_found(name, other)),
            None => Ok(place),
        }
    }

    fn account(&self) -> String {
        self.scope.account.to_string()
    }
}

fn time(time: neargate_model::Timestamp) -> neargate_wire::Timestamp {
    neargate_wire::Timestamp::from_millis(time.as_millis())
}

macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ty as $run:ident in $module:ident;)*) => {
        impl Ecr for EcrApi {
            type Context = RequestContext;
            $(async fn $name(
                &self,
                cx: &RequestContext,
                input: $input,
            ) -> Result<$output, EcrError> {
                $module::$run(self, cx, input).await
            })*
        }
    };
}

operations! {
    get_authorization_token: GetAuthorizationTokenRequest -> GetAuthorizationTokenResponse as get in token;
    create_repository: CreateRepositoryRequest -> CreateRepositoryResponse as create in repositories;
    describe_repositories: DescribeRepositoriesRequest -> DescribeRepositoriesResponse as describe in repositories;
    delete_repository: DeleteRepositoryRequest -> DeleteRepositoryResponse as delete in repositories;
    put_image_tag_mutability: PutImageTagMutabilityRequest
        -> PutImageTagMutabilityResponse as put_mutability in repositories;
    put_image_scanning_configuration: PutImageScanningConfigurationRequest
        -> PutImageScanningConfigurationResponse as put_scanning in repositories;
    describe_registry: DescribeRegistryRequest -> DescribeRegistryResponse as describe_registry in repositories;
    set_repository_policy: SetRepositoryPolicyRequest -> SetRepositoryPolicyResponse as set in policies;
    get_repository_policy: GetRepositoryPolicyRequest -> GetRepositoryPolicyResponse as get in policies;
    delete_repository_policy: DeleteRepositoryPolicyRequest -> DeleteRepositoryPolicyResponse as delete in policies;
    put_lifecycle_policy: PutLifecyclePolicyRequest -> PutLifecyclePolicyResponse as put in lifecycle;
    get_lifecycle_policy: GetLifecyclePolicyRequest -> GetLifecyclePolicyResponse as get in lifecycle;
    delete_lifecycle_policy: DeleteLifecyclePolicyRequest -> DeleteLifecyclePolicyResponse as delete in lifecycle;
    start_lifecycle_policy_preview: StartLifecyclePolicyPreviewRequest
        -> StartLifecyclePolicyPreviewResponse as start_preview in lifecycle;
    get_lifecycle_policy_preview: GetLifecyclePolicyPreviewRequest
        -> GetLifecyclePolicyPreviewResponse as get_preview in lifecycle;
    list_images: ListImagesRequest -> ListImagesResponse as list in images;
    describe_images: DescribeImagesRequest -> DescribeImagesResponse as describe in images;
    batch_get_image: BatchGetImageRequest -> BatchGetImageResponse as batch_get in images;
    batch_delete_image: BatchDeleteImageRequest -> BatchDeleteImageResponse as batch_delete in images;
    put_image: PutImageRequest -> PutImageResponse as put in images;
    batch_check_layer_availability: BatchCheckLayerAvailabilityRequest
        -> BatchCheckLayerAvailabilityResponse as check in layers;
    get_download_url_for_layer: GetDownloadUrlForLayerRequest -> GetDownloadUrlForLayerResponse as url in layers;
    initiate_layer_upload: InitiateLayerUploadRequest -> InitiateLayerUploadResponse as initiate in layers;
    upload_layer_part: UploadLayerPartRequest -> UploadLayerPartResponse as part in layers;
    complete_layer_upload: CompleteLayerUploadRequest -> CompleteLayerUploadResponse as complete in layers;
    tag_resource: TagResourceRequest -> TagResourceResponse as tag in tags;
    untag_resource: UntagResourceRequest -> UntagResourceResponse as untag in tags;
    list_tags_for_resource: ListTagsForResourceRequest -> ListTagsForResourceResponse as list in tags;
}
