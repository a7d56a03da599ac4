//! Layers: whether they are there, where they are, and how they are sent.

use neargate_image::UploadError;
use neargate_model::image::Digest;
use neargate_wire::ecr::{
    BatchCheckLayerAvailabilityRequest, BatchCheckLayerAvailabilityResponse, CompleteLayerUploadRequest,
    CompleteLayerUploadResponse, EcrError, GetDownloadUrlForLayerRequest, GetDownloadUrlForLayerResponse,
    InitiateLayerUploadRequest, InitiateLayerUploadResponse, Layer, LayerAvailability, LayerFailure,
    LayerFailureCode, UploadLayerPartRequest, UploadLayerPartResponse,
};
use uuid::Uuid;

use super::error::{invalid, store};
use super::{EcrApi, Place};
use crate::RequestContext;
use crate::registry::shelf::{ShelfError, holder};

/// Bytes of a part: as text in JSON it fits into a request.
const PART_BYTES: i64 = 2 << 20;
/// ECR does not know what a layer is for.
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

pub(super) async fn check(
    api: &EcrApi,
    cx: &RequestContext,
    input: BatchCheckLayerAvailabilityRequest,
) -> Result<BatchCheckLayerAvailabilityResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let (mut layers, mut failures) = (Vec::new(), Vec::new());
    for text in input.layer_digests {
        let Ok(digest) = text.parse::<Digest>() else {
            failures.push(LayerFailure {
                layer_digest: Some(text),
                failure_code: Some(LayerFailureCode::InvalidLayerDigest),
                failure_reason: Some("The layer digest is not valid".to_owned()),
            });
            continue;
        };
        let size = size(api, &place, digest).await?;
        layers.push(Layer {
            layer_digest: Some(text),
            layer_availability: Some(match size {
                Some(_) => LayerAvailability::Available,
                None => LayerAvailability::Unavailable,
            }),
            layer_size: size.and_then(|size| i64::try_from(size).ok()),
            media_type: size.map(|_| LAYER_TYPE.to_owned()),
        });
    }
    Ok(BatchCheckLayerAvailabilityResponse { layers: Some(layers), failures: Some(failures) })
}

pub(super) async fn url(
    api: &EcrApi,
    cx: &RequestContext,
    input: GetDownloadUrlForLayerRequest,
) -> Result<GetDownloadUrlForLayerResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let digest: Digest = input.layer_digest.parse().map_err(|_| invalid("layerDigest is not a digest."))?;
    if size(api, &place, digest).await?.is_none() {
        let message =
            format!("The layer with digest '{digest}' does not exist in the repository '{}'", place.name);
        return Err(EcrError::LayersNotFound { message });
    }
    let host = api.registry.host(cx.host.as_deref());
    Ok(GetDownloadUrlForLayerResponse {
        download_url: Some(api.registry.download_url(place.scope, &place.name, digest, &host)),
        layer_digest: Some(input.layer_digest),
    })
}

pub(super) async fn initiate(
    api: &EcrApi,
    cx: &RequestContext,
    input: InitiateLayerUploadRequest,
) -> Result<InitiateLayerUploadResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    api.control().check_room().map_err(|error| store(&error))?;
    let (holder, id) = (holder(place.scope, &place.name), Uuid::new_v4().to_string());
    let begun = id.clone();
    with_upload(api, &place, &id, move |images| images.begin_upload(&holder, &begun).map(drop)).await?;
    Ok(InitiateLayerUploadResponse { upload_id: Some(id), part_size: Some(PART_BYTES) })
}

pub(super) async fn part(
    api: &EcrApi,
    cx: &RequestContext,
    input: UploadLayerPartRequest,
) -> Result<UploadLayerPartResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    api.control().check_room().map_err(|error| store(&error))?;
    let bytes = input.layer_part_blob.0;
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    let stated = input.part_last_byte.checked_sub(input.part_first_byte).and_then(|one| one.checked_add(1));
    if stated != Some(length) {
        return Err(invalid("partFirstByte and partLastByte are not those of layerPartBlob."));
    }
    let (holder, id) = (holder(place.scope, &place.name), input.upload_id.clone());
    let first = input.part_first_byte;
    let size = with_upload(api, &place, &input.upload_id, move |images| {
        let mut upload = images.open_upload(&holder, &id)?;
        if i64::try_from(upload.size()) != Ok(first) {
            return Ok(Err(upload.size()));
        }
        upload.append(&bytes)?;
        Ok(Ok(upload.size()))
    })
    .await?;
    let last = |size: u64| i64::try_from(size).unwrap_or(i64::MAX) - 1;
    match size {
        Ok(size) => Ok(UploadLayerPartResponse {
            registry_id: Some(place.account()),
            repository_name: Some(place.name.to_string()),
            upload_id: Some(input.upload_id),
            last_byte_received: Some(last(size)),
        }),
        Err(size) => Err(EcrError::InvalidLayerPart {
            registry_id: Some(place.account()),
            repository_name: Some(place.name.to_string()),
            upload_id: Some(input.upload_id),
            last_valid_byte_received: Some(last(size)),
            message: format!("The part does not begin where the last one has ended: {size} bytes have come."),
        }),
    }
}

pub(super) async fn complete(
    api: &EcrApi,
    cx: &RequestContext,
    input: CompleteLayerUploadRequest,
) -> Result<CompleteLayerUploadResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    api.repository(&place).await?;
    let [text] = input.layer_digests.as_slice() else {
        return Err(invalid("layerDigests has the one digest of the layer."));
    };
    let digest: Digest = text.parse().map_err(|_| invalid("layerDigests has no valid digest."))?;
    let was_there = size(api, &place, digest).await?.is_some();
    let _no_sweep = api.shelf().sweeping.read().await;
    let (holder, id) = (holder(place.scope, &place.name), input.upload_id.clone());
    let is_empty = with_upload(api, &place, &input.upload_id, move |images| {
        let upload = images.open_upload(&holder, &id)?;
        if upload.size() == 0 {
            return Ok(true);
        }
        upload.finish(digest).map(|_| false)
    })
    .await?;
    if is_empty {
        return Err(EcrError::EmptyUpload { message: "The upload has no bytes.".to_owned() });
    }
    if was_there {
        let message = format!(
            "The image layer with digest '{digest}' already exists in the repository '{}'",
            place.name
        );
        return Err(EcrError::LayerAlreadyExists { message });
    }
    Ok(CompleteLayerUploadResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        upload_id: Some(input.upload_id),
        layer_digest: Some(digest.to_string()),
    })
}

async fn size(api: &EcrApi, place: &Place<'_>, digest: Digest) -> Result<Option<u64>, EcrError> {
    let holder = holder(place.scope, &place.name);
    let size = api.shelf().with_images(move |images| {
        images.renew(&holder, digest)?;
        images.held_size(&holder, digest)
    });
    let size = size.await.map_err(|error| place.shelf(error))?;
    size.map_err(|error| place.shelf(ShelfError::File(error)))
}

/// Works with an upload.
async fn with_upload<T: Send + 'static>(
    api: &EcrApi,
    place: &Place<'_>,
    id: &str,
    work: impl FnOnce(&neargate_image::ImageStore) -> Result<T, UploadError> + Send + 'static,
) -> Result<T, EcrError> {
    let done = api.shelf().with_images(work).await.map_err(|error| place.shelf(error))?;
    done.map_err(|error| place.upload(error, id))
}
