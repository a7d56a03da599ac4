//! Where a request goes: origins, and the targets that registries lead to.

use std::fmt;

use http::uri::{Authority, Scheme, Uri};

/// The longest URL that is followed; signed URLs of object stores have about 2 KiB.
const URL_BYTES_MAX: usize = 8 << 10;

/// Scheme, host and port: what credentials belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) is_https: bool,
    /// Lower-case; an IPv6 address is in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// The origin of an authority, for example `localhost:5000`; `None` if it is not one.
    pub(crate) fn new(is_https: bool, authority: &str) -> Option<Self> {
        let authority: Authority = authority.parse().ok()?;
        // A user in a URL is a way to show another host than the one that is asked.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = match authority.as_str().get(authority.host().len()..)? {
            "" if is_https => 443,
            "" => 80,
            port => port.strip_prefix(':')?.parse().ok().filter(|port| *port > 0)?,
        };
        Some(Self { is_https, host: authority.host().to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.is_https { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A URL of the schemes `http` and `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) origin: Origin,
    /// Begins with `/`.
    pub(crate) path: String,
}

impl Target {
    /// Reads an absolute URL.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        if url.len() > URL_BYTES_MAX {
            return None;
        }
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let uri: Uri = url.parse().ok()?;
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let origin = Origin::new(is_https, uri.authority()?.as_str())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { origin, path })
    }

    /// Reads a URL as this one's answer may give it: absolute or relative (RFC 3986 §5.2, without `..`).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let scheme = if self.origin.is_https { "https" } else { "http" };
        if location.contains("://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = self.path.split('?').next().unwrap_or("/");
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let path = match location.strip_prefix('/') {
            Some(_) => location.to_owned(),
            None if location.starts_with('?') => format!("{path}{location}"),
            None => format!("{directory}/{location}"),
        };
        Self::parse(&format!("{}{path}", self.origin))
    }

    /// The same with parameters added.
    pub(crate) fn with_query(&self, parameters: &[(&str, &str)]) -> Self {
        let mut path = self.path.clone();
        for (name, value) in parameters {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(name);
            path.push('=');
            path.extend(percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC));
        }
        Self { origin: self.origin.clone(), path }
    }
}

/// Without the query, which may hold a signature that nobody should find in a log.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path.split('?').next().unwrap_or("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |url: &str, expect: Option<&str>| {
            assert_eq!(Target::parse(url).map(|t| t.to_string()).as_deref(), expect, "{url}");
        };
        check("https://Example.com/a/b?c=d#e", Some("https://example.com/a/b"));
        check("http://localhost:5000", Some("http://localhost:5000/"));
        check("https://[::1]:443/v2/", Some("https://[::1]/v2/"));
        for bad in [
            "",
            "/v2/",
            "example.com",
            "ftp://a/",
            "file:///etc/passwd",
            "https://u:p@a/",
            "https://@a/",
            "https://a:0/",
            "https://a:99999/",
            "https://a:/",
            "https:///x",
            "https://a b/",
        ] {
            check(bad, None);
        }
        check(&format!("https://a/{}", "x".repeat(URL_BYTES_MAX)), None);
    }

    #[test]
    fn locations() {
        let base = Target::parse("https://r.example/v2/a/blobs/x?y=1").unwrap();
        let check = |location: &str, expect: Option<(&str, &str)>| {
            let found = base.join(location).map(|t| (t.origin.to_string(), t.path));
            let expect = expect.map(|(origin, path)| (origin.to_owned(), path.to_owned()));
            assert_eq!(found, expect, "{location}");
        };
        check("/c?d=e", Some(("https://r.example", "/c?d=e")));
        check("c", Some(("https://r.example", "/v2/a/blobs/c")));
        check("?z=2", Some(("https://r.example", "/v2/a/blobs/x?z=2")));
        check("//o.example/c", Some(("https://o.example", "/c")));
        check("http://o.example:81/c", Some(("http://o.example:81", "/c")));
        check("file:///etc/passwd", None);
        check("https://r.example@evil/", None);
    }

    #[test]
    fn queries() {
        let target = Target::parse("https://a/token?x=1").unwrap();
        let found = target.with_query(&[("scope", "repository:a/b:pull"), ("n", "a&b=c")]);
        assert_eq!(found.path, "/token?x=1&scope=repository%3Aa%2Fb%3Apull&n=a%26b%3Dc");
    }
}
