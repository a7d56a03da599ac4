//! Who is given what: challenges, tokens, redirects, and where credentials go.

use std::sync::{Arc, Mutex};

use neargate_registry::{Credential, PullRequest, RegistryConfig};

use crate::hostile::{Asked, Registry, Reply};
use crate::image::Image;
use crate::{Bench, PATIENCE};

/// `user:secret`.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn auth_for(address: &str) -> String {
    format!(r#"{{"auths":{{"{address}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#)
}

fn bench(address: &str) -> Bench {
    Bench::with(RegistryConfig::default(), Some(&auth_for(address)), PATIENCE)
}

fn challenge(header: impl Into<String>) -> Reply {
    Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
        .with("www-authenticate", header)
}

/// An image behind basic authentication.
async fn private(image: Image) -> Registry {
    Registry::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => image.reply("a", asked).unwrap_or_else(Reply::not_found),
        _ => challenge("Basic realm=\"x\""),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_authentication() {
    let registry = private(Image::small("x")).await;
    bench(&registry.address).pull(registry.reference("a")).await.unwrap();
    let denied =
        "pull access denied, repository does not exist or may require authorization: server message: ";
    Bench::new().refuse(registry.reference("a"), denied).await;
    // The first request of each is anonymous: who is not asked shows nothing.
    assert!(registry.log()[0].header("authorization").is_none());
}

/// A registry and its token server, on two ports of one host. The token server notes what it is asked.
async fn with_tokens(image: Image) -> (Registry, Registry) {
    let tokens = Registry::start(|asked| {
        let is_known = asked.header("authorization") == Some(BASIC)
            || (asked.method == "POST" && asked.body.contains("refresh_token=id%2Ftoken"));
        match is_known {
            true => Reply::new(200, r#"{"token":"good","expires_in":300}"#),
            false => Reply::new(200, r#"{"access_token":"anonymous"}"#),
        }
    })
    .await;
    let realm = format!("http://{}/token", tokens.address);
    let registry = Registry::start(move |asked| match asked.header("authorization") {
        Some("Bearer good") => image.reply("a", asked).unwrap_or_else(Reply::not_found),
        Some("Bearer anonymous") => {
            challenge(format!("Bearer realm=\"{realm}\",service=\"r\",error=\"insufficient_scope\""))
        }
        _ => challenge(format!("Bearer realm=\"{realm}\",service=\"r\",scope=\"repository:a:pull\"")),
    })
    .await;
    (registry, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_passwords() {
    let (registry, tokens) = with_tokens(Image::small("x")).await;
    let bench = bench(&registry.address);
    bench.pull(registry.reference("a")).await.unwrap();
    let log = tokens.log();
    assert_eq!(log.len(), 1, "one token serves a whole pull: {log:?}");
    assert_eq!(log[0].path, "/token?service=r&scope=repository%3Aa%3Apull");
    assert!(registry.log().iter().all(|asked| asked.header("authorization") != Some(BASIC)));
    // And the next one, too.
    bench.pull(registry.reference("a")).await.unwrap();
    assert_eq!(tokens.log().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_identity_tokens() {
    let (registry, tokens) = with_tokens(Image::small("x")).await;
    let auth = format!(r#"{{"auths":{{"{}":{{"identitytoken":"id/token"}}}}}}"#, registry.address);
    let bench = Bench::with(RegistryConfig::default(), Some(&auth), PATIENCE);
    bench.pull(registry.reference("a")).await.unwrap();
    let [asked] = tokens.log().try_into().unwrap();
    let Asked { method, body, .. } = asked;
    assert_eq!(method, "POST");
    let body = body.replace("%5F", "_");
    for part in ["grant_type=refresh_token", "service=r", "refresh_token=id%2Ftoken", "client_id=neargate"] {
        assert!(body.contains(part), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ecs_words_for_what_nobody_may_have() {
    let (registry, _tokens) = with_tokens(Image::small("x")).await;
    let expect = "pull image manifest has been retried 1 time(s): failed to resolve ref 127.0.0.1:PORT/a:latest: pull access \
                  denied, repository does not exist or may require authorization: server message: insufficient_scope: \
                  authorization failed";
    let port = registry.address.rsplit(':').next().unwrap().to_owned();
    Bench::new().refuse(registry.reference("a"), &expect.replace("PORT", &port)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_26_what_is_one_credentials_is_not_anothers() {
    let (registry, tokens) = with_tokens(Image::small("x")).await;
    let bench = bench(&registry.address);
    bench.pull(registry.reference("a")).await.unwrap();
    let stranger = PullRequest {
        credential: Some(Credential::password("other", "wrong")),
        ..PullRequest::new(registry.reference("a"))
    };
    // Neither the token of the first nor the blobs that are here by now are the second's.
    bench.puller.pull(stranger).await.unwrap_err();
    assert_eq!(tokens.log().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_26_token_servers_elsewhere_get_no_credentials() {
    let thief = Registry::start(|_| Reply::new(200, r#"{"token":"good"}"#)).await;
    let elsewhere = thief.address.replace("127.0.0.1", "localhost");
    let realms = [
        format!("http://{elsewhere}/token"),
        "http://169.254.170.2/v2/credentials".to_owned(),
        "http://[fd00:ec2::254]/latest".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("http://user:pass@{}/", thief.address),
    ];
    for realm in realms {
        let header = format!("Bearer realm=\"{realm}\"");
        let registry = Registry::start(move |_| challenge(header.clone())).await;
        let error = bench(&registry.address).pull(registry.reference("a")).await.unwrap_err();
        assert!(error.contains("not given to a host elsewhere") || error.contains("is no URL"), "{error}");
    }
    assert_eq!(thief.log().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_26_token_servers_further_inside_are_not_asked() {
    let registry = Registry::start(|_| challenge("Bearer realm=\"http://169.254.170.2/token\"")).await;
    let error = Bench::new().pull(registry.reference("a")).await.unwrap_err();
    assert!(error.contains("169.254.170.2, which a registry may not lead to"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_26_redirects_take_no_credentials_along() {
    let image = Image::small("x");
    let (layer, blob) = (image.layer(), image.blobs.last().unwrap().clone());
    let store = Registry::start(move |_| Reply::new(200, blob.clone())).await;
    let location = format!("http://{}/signed?key=1", store.address);
    let registry = Registry::start(move |asked| match asked.header("authorization") {
        Some(BASIC) if asked.is("GET", &layer) => Reply::new(307, "").with("location", location.as_str()),
        Some(BASIC) => image.reply("a", asked).unwrap(),
        _ => challenge("Basic realm=\"x\""),
    })
    .await;
    bench(&registry.address).pull(registry.reference("a")).await.unwrap();
    let log = store.log();
    assert_eq!(log.len(), 1);
    assert!(log[0].header("authorization").is_none() && log[0].header("cookie").is_none(), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_to_where_no_registry_leads() {
    let check = async |location: &'static str, expect: &str| {
        let registry = Registry::start(move |_| Reply::new(302, "").with("location", location)).await;
        Bench::new().refuse(registry.reference("a"), expect).await;
    };
    check("http://169.254.169.254/latest/meta-data/", "may not lead to").await;
    check("http://0.0.0.0:1/", "may not lead to").await;
    check("file:///etc/shadow", "leads to no URL").await;
    check("gopher://x/", "leads to no URL").await;
    check("/v2/a/manifests/latest", "more than 5 times").await;
    check("", "more than 5 times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_without_end() {
    let count = Arc::new(Mutex::new(0));
    let seen = count.clone();
    let registry = Registry::start(move |asked| {
        *seen.lock().unwrap() += 1;
        match asked.path.starts_with("/token") {
            true => Reply::new(200, r#"{"token":"useless"}"#),
            false => {
                let host = asked.header("host").unwrap();
                challenge(format!("Bearer realm=\"http://{host}/token\""))
            }
        }
    })
    .await;
    Bench::new().refuse(registry.reference("a"), "access denied").await;
    assert_eq!(*count.lock().unwrap(), 3, "a request, a token, and a second request");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_none() {
    for token in [r#"{}"#, r#"{"token":""}"#, r#"{"token":"a\r\nX-Injected: 1"}"#, "[", &"[".repeat(1 << 20)]
    {
        let token = token.to_owned();
        let registry = Registry::start(move |asked| match asked.path.starts_with("/token") {
            true => Reply::new(200, token.clone()),
            false => {
                let host = asked.header("host").unwrap();
                challenge(format!("Bearer realm=\"http://{host}/token\""))
            }
        })
        .await;
        Bench::new().refuse(registry.reference("a"), "no registry does").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_get_no_credentials() {
    let image = Image::small("x");
    let origin = private(image.clone()).await;
    let (absent, mirror) = (Registry::honest(Vec::new()).await, Registry::honest(vec![("a", image)]).await);
    let config = |mirror: &Registry| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("registries.json");
        let text = format!(
            r#"{{"registries":{{"{}":{{"mirrors":["http://{}"]}}}}}}"#,
            origin.address, mirror.address
        );
        std::fs::write(&file, text).unwrap();
        RegistryConfig::read(&file).unwrap()
    };
    let bench = Bench::with(config(&mirror), Some(&auth_for(&origin.address)), PATIENCE);
    bench.pull(origin.reference("a")).await.unwrap();
    assert_eq!(origin.log().len(), 0);
    assert!(mirror.log().iter().all(|asked| asked.header("authorization").is_none()));
    // One that does not have it is passed by.
    let bench = Bench::with(config(&absent), Some(&auth_for(&origin.address)), PATIENCE);
    bench.pull(origin.reference("a")).await.unwrap();
    assert!(absent.log().len() == 1 && !origin.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_is_printable() {
    let registry = Registry::start(|_| {
        Reply::new(400, "{\"errors\":[{\"code\":\"BAD\",\"message\":\"\\u001b[31mred\\nERROR forged\"}]}")
    })
    .await;
    let error = Bench::new().pull(registry.reference("a")).await.unwrap_err();
    assert!(error.contains("red") && !error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
}
