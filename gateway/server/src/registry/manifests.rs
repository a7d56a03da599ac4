//! Manifests: read, put and removed.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use neargate_control::ImageWanted;
use neargate_model::RepositoryName;

use super::access::Asker;
use super::manifest::MANIFEST_BYTES_MAX;
use super::{Registry, RegistryError, answer};
use crate::body::Body;

/// How long a manifest may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

impl Registry {
    pub(super) async fn get_manifest(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        wanted: &ImageWanted,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &["ecr:BatchGetImage"]).await?;
        let (image, bytes) = self.shelf.get(&asker.scope, name, wanted).await?;
        let length = bytes.len();
        let mut response = if head.method == http::Method::HEAD {
            answer::empty(StatusCode::OK)
        } else {
            self.shelf.note_pull(&asker.scope, name, &image).await;
            Response::new(Body::from(bytes))
        };
        answer::set(&mut response, header::CONTENT_TYPE, &image.media_type);
        answer::set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        answer::set_digest(&mut response, image.digest);
        Ok(response)
    }

    pub(super) async fn put_manifest(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        wanted: &ImageWanted,
        body: Incoming,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed_or_made(asker, name, &["ecr:PutImage"]).await?;
        let bytes = read(body).await?;
        let sent_as = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let shelved = self.shelf.put(&asker.scope, name, (bytes, sent_as), Some(wanted)).await?;
        let mut response = answer::empty(StatusCode::CREATED);
        let location = format!("/v2/{name}/manifests/{}", shelved.digest);
        answer::set(&mut response, header::LOCATION, &location);
        answer::set(&mut response, answer::DIGEST, &shelved.digest.to_string());
        if let Some(subject) = shelved.subject {
            answer::set(&mut response, answer::SUBJECT, &subject.to_string());
        }
        Ok(response)
    }

    /// Removes an image by its digest, or a tag alone.
    pub(super) async fn delete_manifest(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        wanted: &ImageWanted,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &["ecr:BatchDeleteImage"]).await?;
        match wanted {
            ImageWanted::Digest(digest) => self.shelf.delete(&asker.scope, name, *digest).await.map(drop)?,
            ImageWanted::Tag(tag) => {
                self.shelf.control.remove_tag(&asker.scope, name, tag).await.map(drop)?;
            }
        }
        Ok(answer::empty(StatusCode::ACCEPTED))
    }
}

async fn read(body: Incoming) -> Result<Bytes, RegistryError> {
    let body = Limited::new(body, MANIFEST_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(RegistryError::too_large(format!("a manifest has at most {MANIFEST_BYTES_MAX} bytes")))
        }
        Ok(Err(_)) | Err(_) => Err(RegistryError::manifest_invalid("the manifest did not arrive")),
    }
}
