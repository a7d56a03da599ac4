//! Pulls that share images and layers, and those that may not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use neargate_registry::PullRequest;
use tokio::task::JoinSet;

use crate::Bench;
use crate::hostile::{Registry, Reply};
use crate::image::{Image, digest, gzip, tar};

/// Two images with the same first layer.
fn siblings() -> (Image, Image, String) {
    let base = tar(&[("base", b"shared")]);
    let (one, two) = (tar(&[("hello", b"one")]), tar(&[("hello", b"two")]));
    let layer = |archive: &Vec<u8>| (gzip(archive), archive.clone());
    let images = (Image::new(&[layer(&base), layer(&one)]), Image::new(&[layer(&base), layer(&two)]));
    (images.0, images.1, digest(&gzip(&base)))
}

#[tokio::test(flavor = "multi_thread")]
async fn row_30_two_hundred_pulls_are_one() {
    let image = Image::small("x");
    let layer = image.layer();
    let registry = Registry::honest(vec![("a", image)]).await;
    let bench = Bench::new();
    let mut pulls = JoinSet::new();
    for _ in 0..200 {
        let (puller, reference) = (bench.puller.clone(), registry.reference("a"));
        let flight = puller.start(PullRequest::new(reference));
        pulls.spawn(async move { flight.wait().await.map(drop).map_err(|error| error.to_string()) });
    }
    while let Some(pulled) = pulls.join_next().await {
        pulled.unwrap().unwrap();
    }
    assert_eq!(registry.count("GET", &layer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_here_are_not_fetched() {
    let (one, two, base) = siblings();
    let registry = Registry::honest(vec![("one", one), ("two", two)]).await;
    let bench = Bench::new();
    bench.pull(registry.reference("one")).await.unwrap();
    bench.pull(registry.reference("two")).await.unwrap();
    assert_eq!(registry.count("GET", &base), 1);
    assert_eq!(registry.count("HEAD", &base), 1, "the registry is asked whether the second may have it");
    assert_eq!(bench.read(&registry.reference("two"), "base"), "shared");
    assert_eq!(bench.read(&registry.reference("two"), "hello"), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_two_pulls_come_once() {
    let (one, two, base) = siblings();
    let registry = Registry::honest(vec![("one", one), ("two", two)]).await;
    let bench = Bench::new();
    let (first, second) =
        tokio::join!(bench.pull(registry.reference("one")), bench.pull(registry.reference("two")));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert_eq!(registry.count("GET", &base), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_32_a_digest_is_no_authorisation() {
    let (secret, theirs, base) = siblings();
    let victim = Registry::honest(vec![("secret", secret)]).await;
    let bench = Bench::new();
    bench.pull(victim.reference("secret")).await.unwrap();
    // Another registry names the layer, says that it has it, and has not.
    let liar = {
        let (theirs, base) = (theirs.clone(), base.clone());
        Registry::start(move |asked| match (asked.method.as_str(), asked.path.contains(&base)) {
            ("HEAD", true) => Reply::new(200, ""),
            ("GET", true) => Reply::not_found(),
            _ => theirs.reply("a", asked).unwrap_or_else(Reply::not_found),
        })
        .await
    };
    let error = bench.pull(liar.reference("a")).await.unwrap_err();
    assert!(error.contains("not found"), "{error}");
    assert_eq!(bench.store.list().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_32_the_registry_is_asked_each_time() {
    let (one, two, base) = siblings();
    let is_open = Arc::new(AtomicBool::new(true));
    let gate = is_open.clone();
    let registry = Registry::start(move |asked| match asked.path.contains(&base) {
        true if !gate.load(Ordering::Relaxed) => Reply::new(403, ""),
        _ => one.reply("one", asked).or_else(|| two.reply("two", asked)).unwrap_or_else(Reply::not_found),
    })
    .await;
    let bench = Bench::new();
    bench.pull(registry.reference("one")).await.unwrap();
    is_open.store(false, Ordering::Relaxed);
    let error = bench.pull(registry.reference("two")).await.unwrap_err();
    assert!(error.contains("access denied"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_were_collected_are_fetched_again() {
    let (one, two, base) = siblings();
    let registry = Registry::honest(vec![("one", one), ("two", two)]).await;
    let bench = Bench::new();
    bench.pull(registry.reference("one")).await.unwrap();
    bench.store.remove(&registry.reference("one")).unwrap();
    bench.assert_empty().await;
    bench.pull(registry.reference("two")).await.unwrap();
    assert_eq!(registry.count("GET", &base), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_moved_leads_elsewhere() {
    let (one, two, _) = siblings();
    let is_moved = Arc::new(AtomicBool::new(false));
    let moved = is_moved.clone();
    let (first, second) = (digest(&one.manifest), digest(&two.manifest));
    let registry = Registry::start(move |asked| {
        let image = if moved.load(Ordering::Relaxed) { &two } else { &one };
        image.reply("a", asked).unwrap_or_else(Reply::not_found)
    })
    .await;
    let (bench, request) = (Bench::new(), PullRequest::new(registry.reference("a")));
    bench.pull(registry.reference("a")).await.unwrap();
    assert_eq!(bench.puller.resolve(&request).await.unwrap().to_string(), first);
    is_moved.store(true, Ordering::Relaxed);
    assert_eq!(bench.puller.resolve(&request).await.unwrap().to_string(), second);
    assert_eq!(bench.read(&registry.reference("a"), "hello"), "one");
    bench.pull(registry.reference("a")).await.unwrap();
    assert_eq!(bench.read(&registry.reference("a"), "hello"), "two");
}
