//! What a path means. Names are checked here, once: behind it there are only valid ones.

use neargate_control::ImageWanted;
use neargate_model::image::Digest;
use neargate_model::{ImageTag, RepositoryName};
use percent_encoding::percent_decode_str;

use super::error::RegistryError;

/// The longest path: a repository's name, a digest or a tag, and words between; some of it may be escaped.
const PATH_LEN_MAX: usize = 1024;

/// What is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Catalog,
    Tags(RepositoryName),
    Referrers(RepositoryName, Digest),
    Manifest(RepositoryName, ImageWanted),
    Blob(RepositoryName, Digest),
    Uploads(RepositoryName),
    Upload(RepositoryName, String),
}

impl Route {
    /// Reads a path that begins with `/v2`.
    pub(super) fn parse(path: &str) -> Result<Self, RegistryError> {
        if path.len() > PATH_LEN_MAX {
            return Err(RegistryError::name_invalid("the path is too long"));
        }
        let path = percent_decode_str(path).decode_utf8();
        let path = path.map_err(|_| RegistryError::name_invalid("the path is not text"))?;
        let rest = path.strip_prefix("/v2").unwrap_or_default().trim_start_matches('/');
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [""] => Ok(Self::Ping),
            ["_catalog"] => Ok(Self::Catalog),
            [name @ .., "tags", "list"] => Ok(Self::Tags(repository(name)?)),
            [name @ .., "referrers", digest] => Ok(Self::Referrers(repository(name)?, read_digest(digest)?)),
            [name @ .., "manifests", wanted] => {
                let name = repository(name)?;
                Ok(Self::Manifest(name, read_wanted(wanted)?))
            }
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Ok(Self::Uploads(repository(name)?))
            }
            [name @ .., "blobs", "uploads", id] => Ok(Self::Upload(repository(name)?, (*id).to_owned())),
            [name @ .., "blobs", digest] => Ok(Self::Blob(repository(name)?, read_digest(digest)?)),
            _ => Err(RegistryError::not_served()),
        }
    }

    /// What can be done with it.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Ping => "GET, HEAD",
            Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, PATCH, PUT, DELETE",
        }
    }
}

fn repository(parts: &[&str]) -> Result<RepositoryName, RegistryError> {
    RepositoryName::new(parts.join("/")).map_err(|error| RegistryError::name_invalid(error.to_string()))
}

/// Reads a digest.
pub(super) fn read_digest(text: &str) -> Result<Digest, RegistryError> {
    text.parse().map_err(|error: neargate_model::image::InvalidReference| {
        RegistryError::digest_invalid(error.to_string())
    })
}

fn read_wanted(text: &str) -> Result<ImageWanted, RegistryError> {
    if text.contains(':') {
        return Ok(ImageWanted::Digest(read_digest(text)?));
    }
    let tag = ImageTag::new(text).map_err(|error| RegistryError::manifest_invalid(error.to_string()))?;
    Ok(ImageWanted::Tag(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn paths() {
        let name = |text: &str| RepositoryName::new(text).unwrap();
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        let tag = |text: &str| ImageWanted::Tag(ImageTag::new(text).unwrap());
        let check = |path: &str, expect: Route| assert_eq!(Route::parse(path).unwrap(), expect, "{path}");
        check("/v2", Route::Ping);
        check("/v2/", Route::Ping);
        check("/v2/_catalog", Route::Catalog);
        check("/v2/a/tags/list", Route::Tags(name("a")));
        check("/v2/a/b/c/tags/list", Route::Tags(name("a/b/c")));
        check("/v2/a/manifests/manifests/v1", Route::Manifest(name("a/manifests"), tag("v1")));
        check("/v2/a/manifests/V_1.0-x", Route::Manifest(name("a"), tag("V_1.0-x")));
        let by_digest = Route::Manifest(name("a"), ImageWanted::Digest(digest));
        check(&format!("/v2/a/manifests/sha256:{HEX}"), by_digest);
        check(&format!("/v2/a/blobs/sha256%3A{HEX}"), Route::Blob(name("a"), digest));
        check(&format!("/v2/a/referrers/sha256:{HEX}"), Route::Referrers(name("a"), digest));
        check("/v2/a/blobs/uploads/", Route::Uploads(name("a")));
        check("/v2/a/blobs/uploads", Route::Uploads(name("a")));
        check("/v2/a/blobs/uploads/x", Route::Upload(name("a"), "x".to_owned()));
    }

    #[test]
    fn hostile_paths() {
        let check = |path: &str, code: &str| {
            assert_eq!(Route::parse(path).unwrap_err().code(), code, "{path}");
        };
        for name in [
            "A",
            "..",
            "a/..",
            "../../etc",
            "a//b",
            "%2e%2e",
            "a%2f..%2fb",
            "a%00",
            "-a",
            "a_",
            ".a",
            "",
            "a b",
        ] {
            check(&format!("/v2/{name}/tags/list"), "NAME_INVALID");
        }
        check(&format!("/v2/{}/tags/list", "a/".repeat(127) + "aa"), "NAME_INVALID");
        check(&format!("/v2/{}/tags/list", "a".repeat(2000)), "NAME_INVALID");
        check("/v2/%ff/tags/list", "NAME_INVALID");
        check("/v2/a/manifests/..", "MANIFEST_INVALID");
        check("/v2/a/manifests/%2e%2e%2fx", "UNSUPPORTED");
        check(&format!("/v2/a/manifests/{}", "t".repeat(129)), "MANIFEST_INVALID");
        check("/v2/a/blobs/sha256:..", "DIGEST_INVALID");
        check(&format!("/v2/a/blobs/sha512:{HEX}{HEX}"), "DIGEST_INVALID");
        check(&format!("/v2/a/blobs/sha256:{}", HEX.to_uppercase()), "DIGEST_INVALID");
        check("/v2/a", "UNSUPPORTED");
        check("/v2/a/unknown/x", "UNSUPPORTED");
    }
}
