//! Blobs that are pushed: at once, or piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use neargate_image::{Upload, UploadError};
use neargate_model::RepositoryName;
use neargate_model::image::Digest;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::access::Asker;
use super::range;
use super::route::read_digest;
use super::shelf::holder;
use super::{Registry, RegistryError, answer};
use crate::body::Body;

/// What is collected of a body before it is written. Two are held at a time: one is written while the next one comes.
pub(crate) const PIECE_BYTES: usize = 512 << 10;
/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long somebody waits until another body is received.
const TURN_LIMIT: Duration = Duration::from_secs(30);

const INITIATE: &str = "ecr:InitiateLayerUpload";
const SEND: &str = "ecr:UploadLayerPart";
const COMPLETE: &str = "ecr:CompleteLayerUpload";

impl Registry {
    /// POST: begins an upload, takes a whole blob, or gives the repository one that another one has.
    pub(super) async fn begin_upload(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        body: Incoming,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed_or_made(asker, name, &[INITIATE]).await?;
        self.shelf.control.check_room()?;
        if let Some(digest) = query(head, "mount")
            && let Some(response) = self.mount(head, asker, name, read_digest(&digest)?).await?
        {
            return Ok(response);
        }
        let digest = query(head, "digest").filter(|_| query(head, "mount").is_none());
        let digest = digest.as_deref().map(read_digest).transpose()?;
        if digest.is_some() {
            self.allowed(asker, name, &[SEND, COMPLETE]).await?;
        }
        let (id, holder) = (Uuid::new_v4().to_string(), holder(&asker.scope, name));
        let begun = id.clone();
        let upload = self.shelf.with_images(move |images| images.begin_upload(&holder, &begun)).await??;
        match digest {
            Some(digest) => {
                let upload = self.receive(upload, body, None).await?;
                self.complete(name, upload, digest).await
            }
            None => Ok(progress(StatusCode::ACCEPTED, name, &id, upload.size())),
        }
    }

    /// Gives the repository a blob of another one that the caller may read; `None` if that one does not have it, so that it
    /// is to be sent.
    async fn mount(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<Response<Body>>, RegistryError> {
        let Some(from) = query(head, "from") else { return Ok(None) };
        let Ok(from) = RepositoryName::new(from) else { return Ok(None) };
        let needed = ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"];
        // Who may not read it there learns nothing of it, and sends it.
        if self.allowed(asker, &from, &needed).await.is_err() {
            return Ok(None);
        }
        self.allowed(asker, name, &[COMPLETE]).await?;
        let (from, to) = (holder(&asker.scope, &from), holder(&asker.scope, name));
        let _no_sweep = self.shelf.sweeping.read().await;
        let mounted = self.shelf.with_images(move |images| images.hand_over(&from, &to, digest)).await??;
        Ok(mounted.then(|| created(name, digest)))
    }

    /// GET: how much has come.
    pub(super) async fn upload_state(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &[SEND]).await?;
        let (holder, asked) = (holder(&asker.scope, name), id.to_owned());
        let size = self.shelf.with_images(move |images| images.upload_size(&holder, &asked)).await??;
        let size = size.ok_or_else(RegistryError::upload_unknown)?;
        Ok(progress(StatusCode::NO_CONTENT, name, id, size))
    }

    /// PATCH: the next piece.
    pub(super) async fn receive_piece(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        id: &str,
        body: Incoming,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &[SEND]).await?;
        self.shelf.control.check_room()?;
        let upload = self.open_upload(asker, name, id).await?;
        let length = expected_length(head, name, id, upload.size())?;
        let upload = self.receive(upload, body, length).await?;
        Ok(progress(StatusCode::ACCEPTED, name, id, upload.size()))
    }

    /// PUT: the last piece, which may be nothing, and what it all is.
    pub(super) async fn finish_upload(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        id: &str,
        body: Incoming,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &[SEND, COMPLETE]).await?;
        self.shelf.control.check_room()?;
        let digest = query(head, "digest");
        let digest = digest.ok_or_else(|| RegistryError::digest_invalid("say ?digest=sha256:…"))?;
        let digest = read_digest(&digest)?;
        let upload = self.open_upload(asker, name, id).await?;
        let length = expected_length(head, name, id, upload.size())?;
        let upload = self.receive(upload, body, length).await?;
        self.complete(name, upload, digest).await
    }

    /// DELETE: nothing is left of it.
    pub(super) async fn cancel_upload(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &[SEND]).await?;
        let upload = self.open_upload(asker, name, id).await?;
        self.shelf.with_images(move |_| upload.cancel()).await??;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    async fn open_upload(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Upload, RegistryError> {
        let (holder, id) = (holder(&asker.scope, name), id.to_owned());
        Ok(self.shelf.with_images(move |images| images.open_upload(&holder, &id)).await??)
    }

    async fn complete(
        &self,
        name: &RepositoryName,
        upload: Upload,
        digest: Digest,
    ) -> Result<Response<Body>, RegistryError> {
        let _no_sweep = self.shelf.sweeping.read().await;
        self.shelf.with_images(move |_| upload.finish(digest)).await??;
        Ok(created(name, digest))
    }

    /// Writes a body to an upload. What has come stays there when the rest does not.
    async fn receive(
        &self,
        upload: Upload,
        mut body: Incoming,
        length: Option<u64>,
    ) -> Result<Upload, RegistryError> {
        let _turn = match tokio::time::timeout(TURN_LIMIT, self.receiving.acquire()).await {
            Ok(turn) => turn.map_err(|_| RegistryError::ours("the server is ending"))?,
            Err(_) => return Err(RegistryError::too_many("too many blobs are being received; try again")),
        };
        let end = length.map(|length| upload.size() + length);
        let mut received = upload.size();
        let mut writing = write(upload, Vec::new());
        loop {
            // It comes while the last one is written.
            let (piece, end_of_body) = next_piece(&mut body).await;
            received += piece.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            let is_short = |end: u64| matches!(end_of_body, Ok(true)) && received < end;
            if end.is_some_and(|end| received > end || is_short(end)) {
                return Err(RegistryError::size_invalid("the body is not as long as Content-Range says"));
            }
            writing = write(finished(writing).await?, piece);
            match end_of_body {
                Ok(false) => {}
                Ok(true) => return finished(writing).await,
                Err(error) => {
                    finished(writing).await?;
                    return Err(error);
                }
            }
        }
    }
}

/// The next bytes of a body, and whether they are the last; or why no more come.
async fn next_piece(body: &mut Incoming) -> (Vec<Bytes>, Result<bool, RegistryError>) {
    let (mut piece, mut length) = (Vec::new(), 0);
    while length < PIECE_BYTES {
        match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
            Err(_) => return (piece, Err(RegistryError::timed_out("the client was silent for a minute"))),
            Ok(None) => return (piece, Ok(true)),
            Ok(Some(Err(_))) => {
                return (piece, Err(RegistryError::upload_invalid("the body did not arrive whole")));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    length += data.len();
                    piece.push(data);
                }
            }
        }
    }
    (piece, Ok(false))
}

fn write(mut upload: Upload, piece: Vec<Bytes>) -> JoinHandle<Result<Upload, UploadError>> {
    tokio::task::spawn_blocking(move || {
        piece.iter().try_for_each(|bytes| upload.append(bytes))?;
        Ok(upload)
    })
}

async fn finished(writing: JoinHandle<Result<Upload, UploadError>>) -> Result<Upload, RegistryError> {
    let written = writing.await.map_err(|_| RegistryError::ours("the server is ending"))?;
    Ok(written?)
}

/// How many bytes a piece must have; `None` where the client does not say. It must begin where the last one has ended.
fn expected_length(
    head: &Parts,
    name: &RepositoryName,
    id: &str,
    size: u64,
) -> Result<Option<u64>, RegistryError> {
    let Some(value) = head.headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let (first, last) = range::sent(text)
        .ok_or_else(|| RegistryError::upload_invalid("Content-Range is FIRST-LAST, both counted from 0"))?;
    if first != size {
        let error = RegistryError::range_invalid(format!("{size} bytes have come; go on behind them"));
        let error = error.with(header::RANGE, &range_text(size));
        return Err(error.with(header::LOCATION, &location(name, id)));
    }
    let length = last - first + 1;
    let stated = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if stated.is_some_and(|stated: u64| stated != length) {
        return Err(RegistryError::size_invalid("Content-Length and Content-Range disagree"));
    }
    Ok(Some(length))
}

fn location(name: &RepositoryName, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// What has come, as registries say it: of nothing, too, the first byte.
fn range_text(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn progress(status: StatusCode, name: &RepositoryName, id: &str, size: u64) -> Response<Body> {
    let mut response = answer::empty(status);
    answer::set(&mut response, header::LOCATION, &location(name, id));
    answer::set(&mut response, header::RANGE, &range_text(size));
    answer::set(&mut response, answer::UPLOAD_ID, id);
    response
}

fn created(name: &RepositoryName, digest: Digest) -> Response<Body> {
    let mut response = answer::empty(StatusCode::CREATED);
    answer::set(&mut response, header::LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    answer::set(&mut response, answer::DIGEST, &digest.to_string());
    response
}

/// A member of the query.
pub(super) fn query(head: &Parts, key: &str) -> Option<String> {
    let pairs = head.uri.query()?.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key)?.1;
    let value = percent_encoding::percent_decode_str(value).decode_utf8().ok()?;
    Some(value.into_owned())
}
