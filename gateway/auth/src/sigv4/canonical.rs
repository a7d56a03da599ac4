//! The canonical request: one byte string for all the ways in which the same request can be written.

use std::borrow::Cow;

use super::PathStyle;

const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// The parts of a request that enter its signature.
pub(super) struct Parts<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) path_style: PathStyle,
    pub(super) query: &'a str,
    pub(super) headers: &'a [(&'a str, &'a [u8])],
    /// Lower-case names, sorted, separated by `;`; a name without a header signs an empty value.
    pub(super) signed_headers: &'a str,
    /// The hex SHA-256 of the body, or the word that stands for it.
    pub(super) payload: &'a str,
}

/// The canonical request of `parts`.
pub(super) fn canonical_request(parts: &Parts<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + parts.path.len() + parts.query.len());
    out.extend_from_slice(parts.method.as_bytes());
    out.push(b'\n');
    match parts.path_style {
        PathStyle::Normalized => push_encoded(&mut out, normalize_path(parts.path).as_bytes(), b"/"),
        PathStyle::S3 => push_s3_path(&mut out, parts.path),
    }
    out.push(b'\n');
    push_query(&mut out, parts.query);
    out.push(b'\n');
    for name in parts.signed_headers.split(';') {
        push_header(&mut out, name, parts.headers);
    }
    out.push(b'\n');
    out.extend_from_slice(parts.signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(parts.payload.as_bytes());
    out
}

/// The path without dot segments (RFC 3986 §5.2.4) and repeated slashes; percent-encoded dots stay as they are.
///
/// `/a/../b` and `/b` have the same signature under [`PathStyle::Normalized`]; a server that routes by path should
/// route by this form.
pub fn normalize_path(path: &str) -> Cow<'_, str> {
    let is_normal = path.starts_with('/')
        && path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
        || path == "/";
    if is_normal {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    Cow::Owned(format!("/{}{end}", kept.join("/")))
}

fn push_s3_path(out: &mut Vec<u8>, path: &str) {
    match path {
        "" => out.push(b'/'),
        path => push_encoded(out, &decode(path), b"/"),
    }
}

/// Sorted by encoded key, then by encoded value. `key` is `key=`; empty pairs and `X-Amz-Signature` are left out.
fn push_query(out: &mut Vec<u8>, query: &str) {
    if query.is_empty() {
        return;
    }
    let mut text = Vec::with_capacity(query.len() + 16);
    let mut pairs = Vec::with_capacity(16);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let start = text.len();
        push_encoded(&mut text, &decode(key), b"");
        let middle = text.len();
        if &text[start..] == b"X-Amz-Signature" {
            text.truncate(start);
            continue;
        }
        push_encoded(&mut text, &decode(value), b"");
        pairs.push((start, middle, text.len()));
    }
    let key_value =
        |&(start, middle, end): &(usize, usize, usize)| (&text[start..middle], &text[middle..end]);
    pairs.sort_unstable_by(|a, b| key_value(a).cmp(&key_value(b)));
    for (i, pair) in pairs.iter().enumerate() {
        let (key, value) = key_value(pair);
        if i > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// `name:value,value\n`, the values in the order of arrival, trimmed, with inner runs of space made one.
fn push_header(out: &mut Vec<u8>, name: &str, headers: &[(&str, &[u8])]) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let values = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    for (i, value) in values.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let is_space = |b: &u8| b.is_ascii_whitespace() || *b == 0x0b;
        for (j, word) in value.split(is_space).filter(|word| !word.is_empty()).enumerate() {
            if j > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(word);
        }
    }
    out.push(b'\n');
}

/// Percent-decodes; a `%` without two hex digits stands for itself, and so does `+` (it is not a space in SigV4).
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, hex_pair(tail)) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

fn hex_pair(text: &[u8]) -> Option<u8> {
    let digit = |i: usize| text.get(i).and_then(|b| char::from(*b).to_digit(16));
    Some((digit(0)? << 4 | digit(1)?) as u8)
}

/// Percent-encodes every byte but RFC 3986's unreserved characters and those in `keep`, in upper-case hex.
pub(super) fn push_encoded(out: &mut Vec<u8>, bytes: &[u8], keep: &[u8]) {
    for &b in bytes {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') || keep.contains(&b) {
            out.push(b);
        } else {
            out.extend_from_slice(&[b'%', HEX_UPPER[usize::from(b >> 4)], HEX_UPPER[usize::from(b & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn normalizes_paths() {
        let check = |path, expect| assert_eq!(normalize_path(path), expect, "{path:?}");
        check("", "/");
        check("/", "/");
        check("//", "/");
        check("/./", "/");
        check("/..", "/");
        check("/../../a", "/a");
        check("/a/b", "/a/b");
        check("/a/b/", "/a/b/");
        check("//a///b//", "/a/b/");
        check("/a/./b/../c", "/a/c");
        check("/a/..", "/");
        check("/a/../", "/");
        check("/a/.", "/a");
        check("/%2e%2e/a", "/%2e%2e/a");
        check("/...", "/...");
        check("a", "/a");
    }

    #[test]
    fn encodes_paths() {
        let service = |path| text_of(|out| push_encoded(out, normalize_path(path).as_bytes(), b"/"));
        assert_eq!(service("/a%20b/$c"), "/a%2520b/%24c");
        assert_eq!(service("/é"), "/%C3%A9");
        let s3 = |path| text_of(|out| push_s3_path(out, path));
        assert_eq!(s3(""), "/");
        assert_eq!(s3("//a/../b/./"), "//a/../b/./");
        assert_eq!(s3("/a%20b/$c+d%e9%"), "/a%20b/%24c%2Bd%E9%25");
    }

    #[test]
    fn sorts_and_encodes_queries() {
        let check =
            |query, expect: &str| assert_eq!(text_of(|out| push_query(out, query)), expect, "{query:?}");
        check("", "");
        check("b=2&a=1", "a=1&b=2");
        check("a", "a=");
        check("a=", "a=");
        check("=a", "=a");
        check("a=b=c", "a=b%3Dc");
        check("&&a=1&", "a=1");
        check("a=2&a=1&a", "a=&a=1&a=2");
        check("Param-3=3&Param=2&%E1%88%B4=1", "%E1%88%B4=1&Param=2&Param-3=3");
        check("c+d", "c%2Bd=");
        check("a=%7e%2f%zz%4", "a=~%2F%25zz%254");
        check("B=1&a=1&A=1", "A=1&B=1&a=1");
        check("a=1&X-Amz-Signature=ff&X%2DAmz-Signature=ee&x-amz-signature=f", "a=1&x-amz-signature=f");
    }

    #[test]
    fn joins_and_folds_headers() {
        let check = |headers: &[(&str, &[u8])], expect: &str| {
            assert_eq!(text_of(|out| push_header(out, "h", headers)), expect);
        };
        check(&[("H", b" a ")], "h:a\n");
        check(&[("h", b"b"), ("x", b"no"), ("H", b"a")], "h:b,a\n");
        check(&[("h", b"a \t  b\r\n   c")], "h:a b c\n");
        check(&[("h", b"\"a   b\"")], "h:\"a b\"\n");
        check(&[("h", b"   "), ("h", b"")], "h:,\n");
        check(&[], "h:\n");
    }

    proptest! {
        /// Writing the same pairs in another order or with other escapes does not change the canonical query.
        #[test]
        fn canonical_query_is_one_for_all_spellings(
            pairs in prop::collection::vec(("[a-c=& %+é~-]{0,3}", "[a-c=& %+é~-]{0,3}"), 0..6),
            rotation in 0_usize..6,
        ) {
            let spell = |pairs: &[(String, String)], encode: &dyn Fn(&str) -> String| {
                pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect::<Vec<_>>().join("&")
            };
            let strict = |text: &str| text_of(|out| push_encoded(out, text.as_bytes(), b""));
            let loud = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect();
            let mut turned = pairs.clone();
            turned.rotate_left(if pairs.is_empty() { 0 } else { rotation % pairs.len() });
            let once = text_of(|out| push_query(out, &spell(&pairs, &strict)));
            prop_assert_eq!(&once, &text_of(|out| push_query(out, &spell(&turned, &loud))));
            // It is a fixed point, and says the same pairs.
            prop_assert_eq!(&once, &text_of(|out| push_query(out, &once)));
            let mut said: Vec<_> = once.split('&').filter(|p| !p.is_empty()).map(|p| {
                let (k, v) = p.split_once('=').unwrap();
                (decode(k).into_owned(), decode(v).into_owned())
            }).collect();
            let mut meant: Vec<_> = pairs.into_iter().map(|(k, v)| (k.into_bytes(), v.into_bytes())).collect();
            said.sort();
            meant.sort();
            prop_assert_eq!(said, meant);
        }

        /// Any text at all has a canonical query made of unreserved characters, `%XX`, `=` and `&`.
        #[test]
        fn canonical_query_of_anything_is_clean(query in "\\PC{0,40}") {
            let canonical = text_of(|out| push_query(out, &query));
            prop_assert!(canonical.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%=&".contains(&b)));
            prop_assert_eq!(&canonical, &text_of(|out| push_query(out, &canonical)));
        }

        /// Normalising twice changes nothing, and no dot segment or double slash survives.
        #[test]
        fn normal_paths_are_fixed_points(path in "[/.a%2eé]{0,12}") {
            let once = normalize_path(&path).into_owned();
            prop_assert_eq!(normalize_path(&once), once.as_str());
            prop_assert!(once.starts_with('/') && !once.contains("//"));
            prop_assert!(!once.split('/').any(|s| s == "." || s == ".."));
        }
    }
}
