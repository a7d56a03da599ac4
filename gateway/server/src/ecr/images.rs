//! Images of repositories.

use bytes::Bytes;
use neargate_control::{ImageWanted, Put, RepositoryChangeError};
use neargate_model::ImageTag;
use neargate_model::image::Digest;
use neargate_model::repository::{RepositoryError, StoredImage};
use neargate_wire::ecr::{
    BatchDeleteImageRequest, BatchDeleteImageResponse, BatchGetImageRequest, BatchGetImageResponse,
    DescribeImagesRequest, DescribeImagesResponse, EcrError, Image, ImageDetail, ImageFailure,
    ImageFailureCode, ImageIdentifier, ImageStatus, ImageStatusFilter, ListImagesRequest, ListImagesResponse,
    PutImageRequest, PutImageResponse, TagStatus,
};

use super::error::{invalid, store};
use super::{EcrApi, Place, page, time};
use crate::RequestContext;
use crate::registry::shelf::ShelfError;

pub(super) async fn list(
    api: &EcrApi,
    cx: &RequestContext,
    input: ListImagesRequest,
) -> Result<ListImagesResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let all = api.control().images(place.scope, &place.name).await.map_err(|error| store(&error))?;
    let filter = input.filter.as_ref();
    let status = filter.and_then(|filter| filter.tag_status.as_ref());
    let is_active = is_active(filter.and_then(|filter| filter.image_status.as_ref()));
    let wanted = all.iter().filter(|image| is_active && has_status(image, status));
    let ids: Vec<ImageIdentifier> = wanted.flat_map(|image| identifiers(image, None)).collect();
    let name = |id: &ImageIdentifier| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{} {}", text(&id.image_digest), text(&id.image_tag))
    };
    let (ids, next_token) = page::cut(ids, name, input.next_token.as_deref(), input.max_results)?;
    Ok(ListImagesResponse { image_ids: Some(ids), next_token })
}

pub(super) async fn describe(
    api: &EcrApi,
    cx: &RequestContext,
    input: DescribeImagesRequest,
) -> Result<DescribeImagesResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let status = input.filter.as_ref().and_then(|filter| filter.tag_status.as_ref());
    let is_active = is_active(input.filter.as_ref().and_then(|filter| filter.image_status.as_ref()));
    let (images, next_token) = match input.image_ids.filter(|ids| !ids.is_empty()) {
        Some(ids) => {
            let mut found: Vec<StoredImage> = Vec::new();
            for id in ids {
                let image =
                    find(api, &place, &id).await.map_err(|failure| failure.into_error(&place, &id))?;
                if !found.iter().any(|known| known.digest == image.digest) {
                    found.push(image);
                }
            }
            (found, None)
        }
        None => {
            let all = api.control().images(place.scope, &place.name).await.map_err(|error| store(&error))?;
            let name = |image: &StoredImage| image.digest.to_string();
            let wanted = all.into_iter().filter(|image| is_active && has_status(image, status)).collect();
            page::cut(wanted, name, input.next_token.as_deref(), input.max_results)?
        }
    };
    let details = images.iter().filter(|image| has_status(image, status)).map(|image| detail(&place, image));
    Ok(DescribeImagesResponse { image_details: Some(details.collect()), next_token })
}

pub(super) async fn batch_get(
    api: &EcrApi,
    cx: &RequestContext,
    input: BatchGetImageRequest,
) -> Result<BatchGetImageResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let (mut images, mut failures) = (Vec::new(), Vec::new());
    for id in &input.image_ids {
        let image = match find(api, &place, id).await {
            Ok(image) => image,
            Err(failure) => {
                failures.push(failure.into_failure(&place, id)?);
                continue;
            }
        };
        let bytes = api.shelf().manifest(place.scope, &place.name, image.digest).await;
        let bytes = bytes.map_err(|error| place.shelf(error))?;
        let manifest = bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let Some(manifest) = manifest else {
            failures.push(Failure::NotFound.into_failure(&place, id)?);
            continue;
        };
        api.shelf().note_pull(place.scope, &place.name, &image).await;
        let tag = id.image_tag.clone();
        images.push(render(&place, &image, tag, manifest));
    }
    Ok(BatchGetImageResponse { images: Some(images), failures: Some(failures) })
}

pub(super) async fn batch_delete(
    api: &EcrApi,
    cx: &RequestContext,
    input: BatchDeleteImageRequest,
) -> Result<BatchDeleteImageResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for id in &input.image_ids {
        match delete(api, &place, id).await {
            Ok(ids) => deleted.extend(ids),
            Err(failure) => failures.push(failure.into_failure(&place, id)?),
        }
    }
    Ok(BatchDeleteImageResponse { image_ids: Some(deleted), failures: Some(failures) })
}

/// By its digest, an image goes with all its tags; by a tag, with its last one.
async fn delete(
    api: &EcrApi,
    place: &Place<'_>,
    id: &ImageIdentifier,
) -> Result<Vec<ImageIdentifier>, Failure> {
    let image = find(api, place, id).await?;
    if let Some(tag) = id.image_tag.as_ref().and_then(|tag| ImageTag::new(tag.clone()).ok())
        && image.tags.len() > 1
    {
        api.control().remove_tag(place.scope, &place.name, &tag).await?;
        return Ok(identifiers(&image, Some(&tag)));
    }
    api.shelf().delete(place.scope, &place.name, image.digest).await?;
    Ok(identifiers(&image, None))
}

pub(super) async fn put(
    api: &EcrApi,
    cx: &RequestContext,
    input: PutImageRequest,
) -> Result<PutImageResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let tag = input.image_tag.clone().map(ImageTag::new).transpose();
    let tag = tag.map_err(|error| invalid(error.to_string()))?;
    let bytes = Bytes::from(input.image_manifest.clone().into_bytes());
    if let Some(expected) = &input.image_digest {
        let expected: Digest = expected.parse().map_err(|_| invalid("imageDigest is not a digest."))?;
        let actual = crate::registry::shelf::digest_of(&bytes);
        if expected != actual {
            return Err(place.shelf(ShelfError::WrongDigest { expected, actual }));
        }
    }
    let wanted = tag.clone().map(ImageWanted::Tag);
    let sent = (bytes, input.image_manifest_media_type.as_deref());
    let shelved = api.shelf().put(place.scope, &place.name, sent, wanted.as_ref()).await;
    let shelved = shelved.map_err(|error| place.shelf(error))?;
    if shelved.put == Put::Same {
        let tag = tag.map_or_else(|| "null".to_owned(), |tag| tag.to_string());
        return Err(place.change(RepositoryError::ImageExists { digest: shelved.digest, tag }.into()));
    }
    let image = api.control().image(place.scope, &place.name, &ImageWanted::Digest(shelved.digest)).await;
    let image = image.map_err(|error| place.change(error))?;
    Ok(PutImageResponse { image: Some(render(&place, &image, input.image_tag, input.image_manifest)) })
}

/// Why one image of several was not found or not removed.
enum Failure {
    NotFound,
    MissingId,
    BadDigest,
    OtherDigest,
    InIndex(Digest),
    Failed(ShelfError),
}

impl From<RepositoryChangeError> for Failure {
    fn from(error: RepositoryChangeError) -> Self {
        match error {
            RepositoryChangeError::Repository(RepositoryError::ImageNotFound { .. }) => Self::NotFound,
            RepositoryChangeError::Repository(RepositoryError::InIndex { index, .. }) => Self::InIndex(index),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<ShelfError> for Failure {
    fn from(error: ShelfError) -> Self {
        match error {
            ShelfError::Change(error) => error.into(),
            other => Self::Failed(other),
        }
    }
}

impl Failure {
    /// An entry of a batch's list of failures.
    fn into_failure(self, place: &Place<'_>, id: &ImageIdentifier) -> Result<ImageFailure, EcrError> {
        let (code, reason) = match self {
            Self::NotFound => (ImageFailureCode::ImageNotFound, "Requested image not found".to_owned()),
            Self::MissingId => (
                ImageFailureCode::MissingDigestAndTag,
                "Invalid request parameters: both tag and digest cannot be null".to_owned(),
            ),
            Self::BadDigest => (
                ImageFailureCode::InvalidImageDigest,
                "Invalid request parameters: image digest should satisfy the regex '[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+'"
                    .to_owned(),
            ),
            Self::OtherDigest => {
                (ImageFailureCode::ImageTagDoesNotMatchDigest, "Requested tag is of another image".to_owned())
            }
            Self::InIndex(index) => (
                ImageFailureCode::ImageReferencedByManifestList,
                format!("Requested image referenced by manifest list: [{index}]"),
            ),
            Self::Failed(error) => return Err(place.shelf(error)),
        };
        let (failure_code, failure_reason) = (Some(code), Some(reason));
        Ok(ImageFailure { image_id: Some(id.clone()), failure_code, failure_reason })
    }

    /// The error of a request that is about this one.
    fn into_error(self, place: &Place<'_>, id: &ImageIdentifier) -> EcrError {
        match self {
            Self::Failed(error) => place.shelf(error),
            Self::NotFound | Self::OtherDigest => {
                let reference = id.image_tag.as_ref().or(id.image_digest.as_ref());
                place.image_not_found(reference.map_or("", String::as_str))
            }
            other => match other.into_failure(place, id) {
                Ok(failure) => invalid(failure.failure_reason.unwrap_or_default()),
                Err(error) => error,
            },
        }
    }
}

async fn find(api: &EcrApi, place: &Place<'_>, id: &ImageIdentifier) -> Result<StoredImage, Failure> {
    let digest = id.image_digest.as_ref().map(|digest| digest.parse::<Digest>());
    let digest = digest.transpose().map_err(|_| Failure::BadDigest)?;
    let tag = id.image_tag.clone().map(ImageTag::new).transpose().map_err(|_| Failure::NotFound)?;
    let wanted = match (&tag, digest) {
        (Some(tag), _) => ImageWanted::Tag(tag.clone()),
        (None, Some(digest)) => ImageWanted::Digest(digest),
        (None, None) => return Err(Failure::MissingId),
    };
    let image = api.control().image(place.scope, &place.name, &wanted).await?;
    match digest {
        Some(digest) if digest != image.digest => Err(Failure::OtherDigest),
        _ => Ok(image),
    }
}

/// Whether an image has tags as a filter wants it.
pub(super) fn has_status(image: &StoredImage, wanted: Option<&TagStatus>) -> bool {
    match wanted {
        Some(TagStatus::Tagged) => !image.tags.is_empty(),
        Some(TagStatus::Untagged) => image.tags.is_empty(),
        _ => true,
    }
}

/// Whether a filter wants images that are active, as all are.
fn is_active(wanted: Option<&ImageStatusFilter>) -> bool {
    !matches!(wanted, Some(ImageStatusFilter::Archived | ImageStatusFilter::Activating))
}

/// An image by each of its tags, or by one.
fn identifiers(image: &StoredImage, only: Option<&ImageTag>) -> Vec<ImageIdentifier> {
    let of = |tag: Option<&ImageTag>| ImageIdentifier {
        image_digest: Some(image.digest.to_string()),
        image_tag: tag.map(ToString::to_string),
    };
    match only {
        Some(tag) => vec![of(Some(tag))],
        None if image.tags.is_empty() => vec![of(None)],
        None => image.tags.iter().map(|tag| of(Some(tag))).collect(),
    }
}

fn render(place: &Place<'_>, image: &StoredImage, tag: Option<String>, manifest: String) -> Image {
    let image_id = ImageIdentifier { image_digest: Some(image.digest.to_string()), image_tag: tag };
    Image {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        image_id: Some(image_id),
        image_manifest: Some(manifest),
        image_manifest_media_type: Some(image.media_type.clone()),
    }
}

fn detail(place: &Place<'_>, image: &StoredImage) -> ImageDetail {
    let tags: Vec<String> = image.tags.iter().map(ToString::to_string).collect();
    ImageDetail {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        image_digest: Some(image.digest.to_string()),
        image_tags: Some(tags).filter(|tags| !tags.is_empty()),
        image_size_in_bytes: i64::try_from(image.content_bytes).ok(),
        image_pushed_at: Some(time(image.pushed_at)),
        image_manifest_media_type: Some(image.media_type.clone()),
        artifact_media_type: image.artifact_type.clone(),
        last_recorded_pull_time: image.pulled_at.map(time),
        subject_manifest_digest: image.subject.map(|subject| subject.to_string()),
        image_status: Some(ImageStatus::Active),
        ..ImageDetail::default()
    }
}
