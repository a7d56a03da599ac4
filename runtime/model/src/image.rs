//! Image references and digests.
//!
//! The grammar is Docker's (`distribution/reference`): `alpine` means `docker.io/library/alpine:latest`. A
//! value is valid by construction, so that a name from a client never reaches a path or a registry unchecked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a reference that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest registry and repository together, in bytes.
const NAME_LENGTH_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_LENGTH_MAX: usize = 128;
/// The longest reference that is looked at: name, tag, digest and their separators.
const REFERENCE_LENGTH_MAX: usize = NAME_LENGTH_MAX + TAG_LENGTH_MAX + 80;

/// Why a text is not an image reference or a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidReference {
    /// What was being read: `image reference` or `digest`.
    pub kind: &'static str,
    /// The offending text, cut to 64 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

fn invalid(kind: &'static str, value: &str, rule: &'static str) -> InvalidReference {
    InvalidReference { kind, value: value.chars().take(64).collect(), rule }
}

/// A SHA-256 digest; its text is `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without `sha256:`; fit for a file name.
    pub fn hex(&self) -> String {
        self.0.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 15)]).collect()
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let rule = "a digest is sha256: and 64 lower-case hexadecimal digits";
        let wrong = || invalid("digest", text, rule);
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?.as_bytes();
        if hex.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = (hex_value(pair[0]).ok_or_else(wrong)?, hex_value(pair[1]).ok_or_else(wrong)?);
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidReference;
    fn try_from(value: String) -> Result<Self, InvalidReference> {
        value.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// The name of an image: registry, repository, and a tag, a digest or both.
///
/// With both, the digest decides and the tag is a comment for people, as with Docker.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Host and optional port, for example `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, for example `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when the text had neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the reference is pinned to.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository pinned to `digest`, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The full form, `docker.io/library/alpine:latest`: equal images have equal canonical forms.
    pub fn canonical(&self) -> String {
        self.join(&format!("{}/{}", self.registry, self.repository))
    }

    /// The short form that people type, `alpine:latest`; it parses to the same reference.
    pub fn familiar(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.canonical();
        }
        match self.repository.strip_prefix("library/") {
            Some(name) if !name.contains('/') => self.join(name),
            // Without the registry, a first component such as `localhost` would be taken for one.
            _ if self.repository.split('/').next().is_some_and(is_registry) => self.canonical(),
            _ => self.join(&self.repository),
        }
    }

    fn join(&self, name: &str) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{name}{tag}{digest}")
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let refuse = |rule| invalid("image reference", text, rule);
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        if text.len() > REFERENCE_LENGTH_MAX {
            return Err(refuse("it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| refuse(e.rule))?)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        check_registry(registry).map_err(refuse)?;
        check_repository(path).map_err(refuse)?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(refuse)?;
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let is_official = registry == DEFAULT_REGISTRY && !path.contains('/');
        if is_official && path.len() == 64 && path.bytes().all(|b| hex_value(b).is_some()) {
            return Err(refuse("64 hexadecimal digits are an image id, not a name; write name@sha256:<id>"));
        }
        let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > NAME_LENGTH_MAX {
            return Err(refuse("registry and repository have more than 255 characters"));
        }
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None }).map(str::to_owned);
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Whether the first component of a name is a registry and not a part of the repository.
fn is_registry(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':'])
        || component.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(v6) => {
            let (address, rest) = v6.split_once(']').ok_or("the registry's IPv6 address has no closing ]")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the registry is not an IPv6 address")?;
            let port = if rest.is_empty() { None } else { rest.strip_prefix(':').or(Some("")) };
            (None, port)
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_some_and(|host| !host.split('.').all(is_label)) {
        return Err("the registry is a host name of letters, digits, hyphens and dots");
    }
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    if port.is_some_and(|port| !is_port(port)) {
        return Err("the registry's port is a number from 1 to 65535");
    }
    Ok(())
}

pub(crate) fn check_repository(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("it has no repository name");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository name is lower-case");
    }
    if path.split('/').all(is_path_component) {
        return Ok(());
    }
    Err("a repository is lower-case letters and digits, joined by one of . _ __ / or by hyphens")
}

/// `[a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*`.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| is_word(**b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let (separator, after) = rest.split_at(rest.iter().take_while(|b| !is_word(**b)).count());
        if !matches!(separator, b"." | b"_" | b"__") && !separator.iter().all(|b| *b == b'-') {
            return false;
        }
        rest = after;
    }
}

pub(crate) fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_word = tag.bytes().next().is_some_and(is_word);
    if first_is_word
        && tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
    {
        return Ok(());
    }
    Err("a tag has 1 to 128 letters, digits, _ . and -, and starts with none of . and -")
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidReference;
    fn try_from(value: String) -> Result<Self, InvalidReference> {
        value.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(text: &str, canonical: &str, familiar: &str) {
        let reference: ImageReference = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reference.canonical(), canonical, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(canonical.parse(), Ok(reference.clone()), "{text}");
        assert_eq!(familiar.parse(), Ok(reference), "{text}");
    }

    fn refuse(text: &str, word: &str) {
        let error = text.parse::<ImageReference>().expect_err(text);
        assert!(error.rule.contains(word), "{text:?}: {error}");
    }

    #[test]
    fn valid_references() {
        check("alpine", "docker.io/library/alpine:latest", "alpine:latest");
        check("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20");
        check("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest");
        check("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest");
        check("user/app", "docker.io/user/app:latest", "user/app:latest");
        check("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("docker.io/localhost/app", "docker.io/localhost/app:latest", "docker.io/localhost/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest");
        check("[::1]:5000/a/b:t", "[::1]:5000/a/b:t", "[::1]:5000/a/b:t");
        check("[::1]/a:t", "[::1]/a:t", "[::1]/a:t");
        check("MyHost/app", "MyHost/app:latest", "MyHost/app:latest");
        check(
            "r.example.com/a/b_c/d__e/f--g/h.i:V_1.0-x",
            "r.example.com/a/b_c/d__e/f--g/h.i:V_1.0-x",
            "r.example.com/a/b_c/d__e/f--g/h.i:V_1.0-x",
        );
        let pinned = format!("docker.io/library/alpine@sha256:{HEX}");
        check(&format!("alpine@sha256:{HEX}"), &pinned, &format!("alpine@sha256:{HEX}"));
        let both = format!("docker.io/library/alpine:3@sha256:{HEX}");
        check(&format!("alpine:3@sha256:{HEX}"), &both, &format!("alpine:3@sha256:{HEX}"));
        check(
            &format!("a:{}", "t".repeat(128)),
            &format!("docker.io/library/a:{}", "t".repeat(128)),
            &format!("a:{}", "t".repeat(128)),
        );
    }

    #[test]
    fn hostile_references() {
        refuse("", "empty");
        refuse("Alpine", "lower-case");
        refuse("a b", "repository");
        refuse("../../etc/passwd", "registry");
        refuse("./a", "registry");
        refuse("a/../b", "repository");
        refuse("/a", "repository");
        refuse("a/", "repository");
        refuse("a//b", "repository");
        refuse("a..b/c/d", "registry");
        refuse("x/a..b", "repository");
        refuse("a___b", "repository");
        refuse("a._b", "repository");
        refuse("-a", "repository");
        refuse("a-", "repository");
        refuse("a\0b", "repository");
        refuse("a\n", "repository");
        refuse("a%2fb", "repository");
        refuse("ａlpine", "repository");
        refuse("a:", "tag");
        refuse("a:.x", "tag");
        refuse("a:b/c", "port");
        refuse("a:b:c", "tag");
        refuse("a:b\u{1b}[31m", "tag");
        refuse(&format!("a:{}", "t".repeat(129)), "tag");
        refuse("host:0/a", "port");
        refuse("host:65536/a", "port");
        refuse("host:+80/a", "port");
        refuse("host:/a", "port");
        refuse("-host.com/a", "registry");
        refuse("[::1/a", "closing");
        refuse("[zz]:1/a", "IPv6");
        refuse("[::1]x/a", "port");
        refuse("user@evil.com/a", "digest");
        refuse("http://evil.com/a", "port");
        refuse("a@sha256:abc", "digest");
        refuse(&format!("a@sha512:{HEX}"), "digest");
        refuse(&format!("a@sha256:{}", HEX.to_uppercase()), "digest");
        refuse(&format!("a@sha256:{HEX}@sha256:{HEX}"), "digest");
        refuse(&format!("sha256:{HEX}x").repeat(9), "long");
        refuse(HEX, "image id");
        refuse(&"a".repeat(256), "255");
    }

    #[test]
    fn digests() {
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        assert_eq!(digest.hex(), HEX);
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"sha256:{HEX}\""));
        for text in ["", "sha256:", HEX, "sha256:é", "sha256:../../../etc/passwd"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
            assert!(serde_json::from_value::<Digest>(text.into()).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "[a-z.:/@_\\[\\]A-Z0-9-]{0,40}|.{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                proptest::prop_assert_eq!(reference.canonical().parse(), Ok(reference.clone()));
                proptest::prop_assert_eq!(reference.familiar().parse(), Ok(reference));
            }
        }
    }
}
