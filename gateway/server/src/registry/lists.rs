//! Lists: repositories, tags, and images that are about another one.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, header};
use neargate_model::image::Digest;
use neargate_model::repository::StoredImage;
use neargate_model::{ImageTag, RepositoryName};
use serde_json::{Value, json};

use super::access::Asker;
use super::manifest::{Manifest, OCI_INDEX};
use super::uploads::query;
use super::{Registry, RegistryError, answer};
use crate::body::Body;

/// The most entries of a page, and what a page has for whoever does not say.
const PAGE_MAX: usize = 1000;
/// The most images of a page of referrers: of each the manifest is read.
const REFERRERS_MAX: usize = 100;

impl Registry {
    pub(super) async fn catalog(&self, head: &Parts, asker: &Asker) -> Result<Response<Body>, RegistryError> {
        self.check_all(asker, "ecr:DescribeRepositories")?;
        let (limit, last) = page(head)?;
        let repositories = self.shelf.control.repositories(&asker.scope).await?;
        let names = repositories.into_iter().map(|repository| repository.name.to_string());
        let rest = names.filter(|name| last.as_ref().is_none_or(|last| name > last));
        let mut names: Vec<String> = rest.take(limit + 1).collect();
        let has_more = names.len() > limit;
        names.truncate(limit);
        let next = names
            .last()
            .filter(|_| has_more)
            .map(|last| format!("/v2/_catalog?last={}&n={limit}", escape(last)));
        Ok(list(&json!({ "repositories": names }), next))
    }

    pub(super) async fn tags(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &["ecr:ListImages"]).await?;
        let (limit, last) = page(head)?;
        // What is no tag has its place among tags all the same, which a list cannot tell of.
        let invalid = |_| RegistryError::page_invalid("last is a tag");
        let after = last.map(ImageTag::new).transpose().map_err(invalid)?;
        let (tags, has_more) = match limit {
            0 => (Vec::new(), false),
            limit => self.shelf.control.image_tags(&asker.scope, name, after.as_ref(), limit).await?,
        };
        let next = tags.last().filter(|_| has_more);
        let next = next.map(|last| format!("/v2/{name}/tags/list?last={last}&n={limit}"));
        let tags: Vec<&str> = tags.iter().map(ImageTag::as_str).collect();
        Ok(list(&json!({ "name": name.as_str(), "tags": tags }), next))
    }

    pub(super) async fn referrers(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
        subject: Digest,
    ) -> Result<Response<Body>, RegistryError> {
        self.allowed(asker, name, &["ecr:BatchGetImage"]).await?;
        let after = query(head, "last").as_deref().map(super::route::read_digest).transpose()?;
        let found = self.shelf.control.referrers(&asker.scope, name, subject, after, REFERRERS_MAX).await?;
        let (images, has_more) = found;
        let filter = query(head, "artifactType").filter(|filter| !filter.is_empty());
        let next = images.last().filter(|_| has_more).map(|last| {
            let more = filter.as_ref().map(|filter| format!("&artifactType={}", escape(filter)));
            format!("/v2/{name}/referrers/{subject}?last={}{}", last.digest, more.unwrap_or_default())
        });
        let mut manifests = Vec::new();
        for image in images {
            if filter.is_none() || filter == image.artifact_type {
                manifests.extend(self.descriptor(asker, name, &image).await?);
            }
        }
        let body = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let mut response = list(&body, next);
        answer::set(&mut response, header::CONTENT_TYPE, OCI_INDEX);
        if filter.is_some() {
            answer::set(&mut response, answer::FILTERS, "artifactType");
        }
        Ok(response)
    }

    /// What an index says of an image; `None` of one that was removed since.
    async fn descriptor(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        image: &StoredImage,
    ) -> Result<Option<Value>, RegistryError> {
        let bytes = self.shelf.manifest(&asker.scope, name, image.digest).await?;
        let manifest = bytes.and_then(|bytes| Manifest::parse(&bytes, Some(&image.media_type)).ok());
        let Some(manifest) = manifest else { return Ok(None) };
        let mut descriptor = json!({
            "mediaType": image.media_type,
            "digest": image.digest.to_string(),
            "size": image.manifest_bytes,
        });
        if let Some(artifact_type) = &image.artifact_type {
            descriptor["artifactType"] = json!(artifact_type);
        }
        if !manifest.annotations.is_empty() {
            descriptor["annotations"] = json!(manifest.annotations);
        }
        Ok(Some(descriptor))
    }
}

/// How many entries are wanted, and behind which.
fn page(head: &Parts) -> Result<(usize, Option<String>), RegistryError> {
    let invalid = || RegistryError::page_invalid("n is a number that is not negative");
    let limit = query(head, "n").map(|n| n.parse::<usize>().map_err(|_| invalid())).transpose()?;
    Ok((limit.unwrap_or(PAGE_MAX).min(PAGE_MAX), query(head, "last").filter(|last| !last.is_empty())))
}

fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn list(body: &Value, next: Option<String>) -> Response<Body> {
    let mut response = answer::json(Bytes::from(body.to_string()), "application/json");
    if let Some(next) = next {
        answer::set(&mut response, header::LINK, &format!("<{next}>; rel=\"next\""));
    }
    response
}
