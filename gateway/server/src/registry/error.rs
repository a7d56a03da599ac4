//! Errors of the registry as the distribution specification words them ("Error Codes").

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use neargate_auth::AuthError;
use neargate_control::RepositoryChangeError;
use neargate_image::{FileError, ImportError, UploadError};
use neargate_model::image::Digest;
use neargate_model::repository::RepositoryError;
use neargate_store::StoreError;
use serde_json::{Value, json};

use crate::body::Body;
use crate::rights::AccessDenied;

use super::manifest::InvalidManifest;
use super::shelf::ShelfError;

/// A request that was not answered as it asked.
#[derive(Debug)]
pub(crate) struct RegistryError {
    status: StatusCode,
    code: &'static str,
    message: String,
    detail: Option<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $status:ident $code:literal;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(message: impl Into<String>) -> Self {
            Self::new(StatusCode::$status, $code, message)
        }
    )*};
}

impl RegistryError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: None, headers: Vec::new() }
    }

    refusals! {
        name_invalid: BAD_REQUEST "NAME_INVALID";
        name_unknown: NOT_FOUND "NAME_UNKNOWN";
        digest_invalid: BAD_REQUEST "DIGEST_INVALID";
        manifest_invalid: BAD_REQUEST "MANIFEST_INVALID";
        manifest_unknown: NOT_FOUND "MANIFEST_UNKNOWN";
        upload_invalid: BAD_REQUEST "BLOB_UPLOAD_INVALID";
        size_invalid: BAD_REQUEST "SIZE_INVALID";
        denied: FORBIDDEN "DENIED";
        page_invalid: BAD_REQUEST "PAGINATION_NUMBER_INVALID";
        too_many: TOO_MANY_REQUESTS "TOOMANYREQUESTS";
        timed_out: REQUEST_TIMEOUT "BLOB_UPLOAD_INVALID";
        too_large: PAYLOAD_TOO_LARGE "SIZE_INVALID";
        ours: INTERNAL_SERVER_ERROR "UNKNOWN";
        full: INSUFFICIENT_STORAGE "UNKNOWN";
        in_use: CONFLICT "DENIED";
    }

    pub(super) fn not_served() -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "the registry has nothing at this path")
    }

    pub(super) fn method_not_allowed(methods: &'static str) -> Self {
        let message = format!("the operation is unsupported; here there are {methods}");
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message);
        error.with(header::ALLOW, methods)
    }

    pub(super) fn blob_unknown(digest: Digest) -> Self {
        let error =
            Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "the repository does not have this blob");
        Self { detail: Some(json!({ "digest": digest.to_string() })), ..error }
    }

    pub(super) fn upload_unknown() -> Self {
        let message =
            "there is no such upload in this repository; it may have been finished, cancelled or expired";
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
    }

    pub(super) fn range_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).map(|value| (name, value)));
        self
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The answer; one to HEAD has no body, which is hyper's business.
    pub(super) fn response(self, head: &Parts) -> Response<Body> {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(detail) = self.detail {
            error["detail"] = detail;
        }
        let body = json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::from(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, challenge(head));
        }
        response
    }
}

/// Says how to authenticate, as ECR does.
fn challenge(head: &Parts) -> HeaderValue {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("neargate");
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '[' | ']');
    let host: String = host.chars().filter(is_plain).take(255).collect();
    let text = format!("Basic realm=\"http://{host}/\",service=\"ecr.amazonaws.com\"");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"neargate\""))
}

impl From<AuthError> for RegistryError {
    fn from(error: AuthError) -> Self {
        let message = match error {
            AuthError::MissingAuthenticationToken => {
                "authentication required: log in with `aws ecr get-login-password`".to_owned()
            }
            AuthError::ExpiredToken => "the password has expired; get another one".to_owned(),
            _ => "the password is not one of this registry".to_owned(),
        };
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }
}

impl From<AccessDenied> for RegistryError {
    fn from(denied: AccessDenied) -> Self {
        Self::denied(denied.to_string())
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        if let StoreError::TooLarge { what, size, limit } = error {
            return Self::size_invalid(format!("{what} of {size} is over {limit}"));
        }
        if let StoreError::Full { .. } = error {
            return Self::full("the server's disk is full; nothing was accepted");
        }
        tracing::error!(error = neargate_model::chain(&error), "store failed");
        Self::ours("the server could not reach its store; try again")
    }
}

impl From<RepositoryChangeError> for RegistryError {
    fn from(error: RepositoryChangeError) -> Self {
        use RepositoryError as E;
        let error = match error {
            RepositoryChangeError::Store(error) => return error.into(),
            RepositoryChangeError::Repository(error) => error,
        };
        let message = error.to_string();
        match error {
            E::RepositoryNotFound { .. } => Self::name_unknown(message),
            E::ImageNotFound { .. } => Self::manifest_unknown(message),
            E::TagImmutable { .. } | E::ImageExists { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "TAG_INVALID", message)
            }
            E::InIndex { .. } => Self::in_use(message),
            E::RepositoryExists { .. } | E::RepositoryNotEmpty { .. } | E::NoPolicy { .. } => {
                Self::new(StatusCode::CONFLICT, "DENIED", message)
            }
            E::Limit { .. } => Self::too_many(message),
        }
    }
}

impl From<FileError> for RegistryError {
    fn from(error: FileError) -> Self {
        tracing::error!(error = neargate_model::chain(&error), "image store failed");
        Self::ours("the server could not use its image store; see its log")
    }
}

impl From<ImportError> for RegistryError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::NoSpace { .. } => Self::full("the server's disk is full; nothing was accepted"),
            ImportError::File(error) => error.into(),
            other => Self::manifest_invalid(neargate_model::chain(&other)),
        }
    }
}

impl From<UploadError> for RegistryError {
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::NotFound => Self::upload_unknown(),
            UploadError::Busy => Self::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", message),
            UploadError::TooMany => Self::too_many(message),
            UploadError::TooLarge => Self::too_large(message),
            UploadError::WrongDigest { .. } => Self::digest_invalid(message),
            UploadError::NoSpace { .. } => Self::full("the server's disk is full; nothing was accepted"),
            UploadError::Install(error) => error.into(),
            UploadError::File(error) => error.into(),
        }
    }
}

impl From<InvalidManifest> for RegistryError {
    fn from(error: InvalidManifest) -> Self {
        Self::manifest_invalid(error.to_string())
    }
}

impl From<ShelfError> for RegistryError {
    fn from(error: ShelfError) -> Self {
        match error {
            ShelfError::Change(error) => error.into(),
            ShelfError::Store(error) => error.into(),
            ShelfError::Import(error) => error.into(),
            ShelfError::Resolve(error) => Self::manifest_invalid(neargate_model::chain(&error)),
            ShelfError::File(error) => error.into(),
            ShelfError::Manifest(error) => error.into(),
            ShelfError::WrongDigest { .. } => Self::digest_invalid(error.to_string()),
            ShelfError::BlobUnknown { digest } => {
                let message = "the manifest names a blob or a manifest that the repository does not have";
                let error = Self::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message);
                Self { detail: Some(json!({ "digest": digest.to_string() })), ..error }
            }
            ShelfError::Stopped => Self::ours("the server is ending"),
        }
    }
}
