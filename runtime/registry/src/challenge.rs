//! What a registry asks for with its 401 (RFC 9110 §11.6.1, distribution's token authentication).

/// A challenge that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// A longer header is not read.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// The best challenge among the values of `WWW-Authenticate`: bearer before basic.
pub(crate) fn parse<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.filter(|h| h.len() <= HEADER_BYTES_MAX).flat_map(challenges).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

/// The challenges of one value, which may hold several.
fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((scheme, after)) = token(rest) {
        let (parameters, after) = parameters(after);
        rest = after.trim_start_matches([' ', '\t', ',']);
        let value = |name: &str| {
            let of_name = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
            parameters.iter().find(of_name).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            found.push(Challenge::Bearer { realm, service: value("service"), scope: value("scope") });
        }
        if rest.is_empty() {
            break;
        }
    }
    found
}

/// `name=value` pairs, up to what is none: the next scheme.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', '\t', ',']);
        let Some((name, after)) = token(start) else { return (found, start) };
        let Some(after) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            return (found, start);
        };
        let Some((value, after)) = value(after.trim_start_matches([' ', '\t'])) else { return (found, "") };
        found.push((name.to_owned(), value));
        text = after;
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn headers() {
        let check = |header: &str, expect: Option<Challenge>| {
            assert_eq!(parse([header].into_iter()), expect, "{header}");
        };
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/alpine:pull"),
            ),
        );
        check(r#"bearer realm = "https://a/t" , service=x"#, bearer("https://a/t", Some("x"), None));
        check(r#"Basic realm="a, b", charset="UTF-8""#, Some(Challenge::Basic));
        check(r#"Basic realm="x", Bearer realm="https://a/t""#, bearer("https://a/t", None, None));
        check(r#"Negotiate, Basic realm="x""#, Some(Challenge::Basic));
        check(r#"Bearer realm="a\"b""#, bearer("a\"b", None, None));
        check("Bearer", None);
        check(r#"Bearer realm="unclosed"#, None);
        check(r#"Bearer realm="""#, None);
        check("", None);
        check("=,=", None);
        check(&format!("Basic realm=\"{}\"", "x".repeat(HEADER_BYTES_MAX)), None);
    }

    #[test]
    fn any_header_is_read_in_no_time() {
        for text in ["Bearer ,,,,,,", "a b c d e", "Bearer realm=\"\\", "\"", "Basic \u{7f}", "Bearer realm"]
        {
            let _ = parse([text.repeat(100).as_str()].into_iter());
        }
    }
}
