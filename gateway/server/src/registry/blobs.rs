//! Blobs: read whole or in part, and removed.

use std::io::{Seek, SeekFrom};

use http::request::Parts;
use http::{Response, StatusCode, header};
use neargate_image::FileError;
use neargate_model::image::Digest;
use neargate_model::{RepositoryName, Scope};

use super::access::Asker;
use super::range::{Wanted, wanted};
use super::shelf::holder;
use super::{Registry, RegistryError, answer};
use crate::body::Body;

impl Registry {
    pub(super) async fn get_blob(
        &self,
        head: &Parts,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Response<Body>, RegistryError> {
        let holder = holder(scope, name);
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        if text(header::IF_NONE_MATCH).is_some_and(|tag| tag.trim_matches('"') == digest.to_string()) {
            let found = self.shelf.with_images(move |images| images.held_size(&holder, digest)).await??;
            found.ok_or_else(|| RegistryError::blob_unknown(digest))?;
            return Ok(answer::empty(StatusCode::NOT_MODIFIED));
        }
        // Whoever asks may be about to name it in a manifest.
        let found = self.shelf.with_images(move |images| {
            images.renew(&holder, digest)?;
            images.open_held(&holder, digest)
        });
        let (mut file, size) = found.await??.ok_or_else(|| RegistryError::blob_unknown(digest))?;
        let (status, start, length) = match wanted(text(header::RANGE), size) {
            Wanted::All => (StatusCode::OK, 0, size),
            Wanted::Part(start, length) => (StatusCode::PARTIAL_CONTENT, start, length),
            Wanted::Beyond => {
                let error = RegistryError::range_invalid(format!("the blob has {size} bytes"));
                return Err(error.with(header::CONTENT_RANGE, &format!("bytes */{size}")));
            }
        };
        let mut response = if head.method == http::Method::HEAD {
            answer::empty(status)
        } else {
            file.seek(SeekFrom::Start(start)).map_err(|source| FileError {
                action: "read",
                path: digest.hex().into(),
                source,
            })?;
            let mut response = Response::new(Body::part(file, length));
            *response.status_mut() = status;
            response
        };
        answer::set_digest(&mut response, digest);
        answer::set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        answer::set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
        answer::set(&mut response, header::ACCEPT_RANGES, "bytes");
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            answer::set(&mut response, header::CONTENT_RANGE, &range);
        }
        Ok(response)
    }

    /// Removes a blob that no image of the repository needs.
    pub(super) async fn delete_blob(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &["ecr:BatchDeleteImage"]).await?;
        let holder = holder(&asker.scope, name);
        // No image is put in meanwhile that needs it.
        let _alone = self.shelf.sweeping.write().await;
        let held = self.shelf.with_images({
            let holder = holder.clone();
            move |images| images.held_size(&holder, digest)
        });
        held.await??.ok_or_else(|| RegistryError::blob_unknown(digest))?;
        if self.shelf.needed(&asker.scope, name).await?.contains(&digest) {
            return Err(RegistryError::in_use(
                "an image of the repository needs the blob; delete that first",
            ));
        }
        self.shelf.with_images(move |images| images.release(&holder, digest)).await??;
        Ok(answer::empty(StatusCode::ACCEPTED))
    }
}
