//! Repositories.

use neargate_control::NewRepository;
use neargate_model::Scope;
use neargate_model::repository::{Mutability, Repository};
use neargate_wire::ecr::{
    self, CreateRepositoryRequest, CreateRepositoryResponse, DeleteRepositoryRequest,
    DeleteRepositoryResponse, DescribeRegistryRequest, DescribeRegistryResponse, DescribeRepositoriesRequest,
    DescribeRepositoriesResponse, EcrError, EncryptionConfiguration, EncryptionType,
    ImageScanningConfiguration, ImageTagMutability, PutImageScanningConfigurationRequest,
    PutImageScanningConfigurationResponse, PutImageTagMutabilityRequest, PutImageTagMutabilityResponse,
    ReplicationConfiguration,
};

use super::error::invalid;
use super::{EcrApi, Place, page, tags, time};
use crate::registry::repository_arn;
use crate::{RequestContext, face};

pub(super) async fn create(
    api: &EcrApi,
    cx: &RequestContext,
    input: CreateRepositoryRequest,
) -> Result<CreateRepositoryResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let filters = input.image_tag_mutability_exclusion_filters.is_some();
    let encryption = input.encryption_configuration.unwrap_or_else(default_encryption);
    if encryption.kms_key.is_some() || encryption.encryption_type != EncryptionType::Aes256 {
        return Err(invalid("Neargate has no KMS: encryptionType must be AES256."));
    }
    let shown = ecr::Repository {
        image_scanning_configuration: input.image_scanning_configuration,
        encryption_configuration: Some(encryption),
        ..ecr::Repository::default()
    };
    let new = NewRepository {
        name: place.name.clone(),
        mutability: mutability(input.image_tag_mutability.as_ref(), filters)?,
        tags: tags::to_model(input.tags)?,
        face: face::write(&shown),
    };
    let made = api.control().create_repository(place.scope, &new).await;
    let made = made.map_err(|error| place.change(error))?;
    Ok(CreateRepositoryResponse { repository: Some(render(api, cx, &made)) })
}

pub(super) async fn describe(
    api: &EcrApi,
    cx: &RequestContext,
    input: DescribeRepositoriesRequest,
) -> Result<DescribeRepositoriesResponse, EcrError> {
    let Some(names) = input.repository_names.filter(|names| !names.is_empty()) else {
        if let Some(other) = input.registry_id.filter(|registry| *registry != cx.scope.account.as_str()) {
            return Err(invalid(format!("There is no registry {other:.16} here.")));
        }
        let all = api.control().repositories(&cx.scope).await.map_err(|error| super::error::store(&error))?;
        let (all, next_token) = page::cut(
            all,
            |repository| repository.name.to_string(),
            input.next_token.as_deref(),
            input.max_results,
        )?;
        let all = all.iter().map(|repository| render(api, cx, repository)).collect();
        return Ok(DescribeRepositoriesResponse { repositories: Some(all), next_token });
    };
    let mut found = Vec::new();
    for name in names {
        let place = Place::of(cx, input.registry_id.as_deref(), &name)?;
        found.push(render(api, cx, &api.repository(&place).await?));
    }
    Ok(DescribeRepositoriesResponse { repositories: Some(found), next_token: None })
}

pub(super) async fn delete(
    api: &EcrApi,
    cx: &RequestContext,
    input: DeleteRepositoryRequest,
) -> Result<DeleteRepositoryResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let force = input.force.unwrap_or(false);
    let deleted = api.shelf().delete_repository(place.scope, &place.name, force).await;
    let deleted = deleted.map_err(|error| place.shelf(error))?;
    Ok(DeleteRepositoryResponse { repository: Some(render(api, cx, &deleted)) })
}

pub(super) async fn put_mutability(
    api: &EcrApi,
    cx: &RequestContext,
    input: PutImageTagMutabilityRequest,
) -> Result<PutImageTagMutabilityResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let filters = input.image_tag_mutability_exclusion_filters.is_some();
    let wanted = mutability(Some(&input.image_tag_mutability), filters)?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.mutability = wanted;
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(PutImageTagMutabilityResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        image_tag_mutability: Some(input.image_tag_mutability),
        ..PutImageTagMutabilityResponse::default()
    })
}

pub(super) async fn put_scanning(
    api: &EcrApi,
    cx: &RequestContext,
    input: PutImageScanningConfigurationRequest,
) -> Result<PutImageScanningConfigurationResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        let mut shown: ecr::Repository = face::read(&repository.face);
        shown.image_scanning_configuration = Some(input.image_scanning_configuration.clone());
        repository.face = face::write(&shown);
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(PutImageScanningConfigurationResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        image_scanning_configuration: Some(input.image_scanning_configuration),
    })
}

pub(super) async fn describe_registry(
    _api: &EcrApi,
    cx: &RequestContext,
    _input: DescribeRegistryRequest,
) -> Result<DescribeRegistryResponse, EcrError> {
    let replication_configuration = Some(ReplicationConfiguration { rules: Vec::new() });
    Ok(DescribeRegistryResponse {
        registry_id: Some(cx.scope.account.to_string()),
        replication_configuration,
    })
}

fn mutability(wanted: Option<&ImageTagMutability>, has_filters: bool) -> Result<Mutability, EcrError> {
    match wanted {
        None | Some(ImageTagMutability::Mutable) if !has_filters => Ok(Mutability::Mutable),
        Some(ImageTagMutability::Immutable) if !has_filters => Ok(Mutability::Immutable),
        _ => Err(invalid("Exclusion filters of tag mutability are not supported by Neargate.")),
    }
}

fn default_encryption() -> EncryptionConfiguration {
    EncryptionConfiguration { encryption_type: EncryptionType::Aes256, ..EncryptionConfiguration::default() }
}

/// A repository as ECR shows it, under the address by which the caller has reached the server.
fn render(api: &EcrApi, cx: &RequestContext, repository: &Repository) -> ecr::Repository {
    let shown: ecr::Repository = face::read(&repository.face);
    let scope: &Scope = &cx.scope;
    let scanning = shown.image_scanning_configuration;
    let never = || ImageScanningConfiguration { scan_on_push: Some(false) };
    ecr::Repository {
        repository_arn: Some(repository_arn(scope, &repository.name)),
        registry_id: Some(scope.account.to_string()),
        repository_name: Some(repository.name.to_string()),
        repository_uri: Some(format!("{}/{}", api.registry.host(cx.host.as_deref()), repository.name)),
        created_at: Some(time(repository.created_at)),
        image_tag_mutability: Some(match repository.mutability {
            Mutability::Mutable => ImageTagMutability::Mutable,
            Mutability::Immutable => ImageTagMutability::Immutable,
        }),
        image_scanning_configuration: Some(scanning.unwrap_or_else(never)),
        encryption_configuration: Some(shown.encryption_configuration.unwrap_or_else(default_encryption)),
        ..ecr::Repository::default()
    }
}
