//! Registries that take their time, break off, and want to be left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use neargate_registry::{Patience, PullRequest, RegistryConfig};

use crate::hostile::{Body, Registry, Reply};
use crate::image::{Image, ranged, tar};
use crate::{Bench, PATIENCE};

/// An image with a layer of so many bytes that do not compress.
fn large(bytes: usize) -> Image {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let content: Vec<u8> = (0..bytes).map(|_| next()).collect();
    let archive = tar(&[("large", &content), ("hello", b"behind it")]);
    Image::new(&[(archive.clone(), archive)])
}

#[tokio::test(flavor = "multi_thread")]
async fn large_layers_come_in_ranges() {
    let image = large(40 << 20);
    let layer = image.layer();
    let registry = Registry::honest(vec![("a", image)]).await;
    let bench = Bench::new();
    bench.pull(registry.reference("a")).await.unwrap();
    assert_eq!(bench.read(&registry.reference("a"), "hello"), "behind it");
    let log = registry.log();
    let mut ranges: Vec<_> = log.iter().filter(|asked| asked.is("GET", &layer)).map(|a| a.range()).collect();
    ranges.sort();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert!(ranges.iter().all(Option::is_some), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_without_ranges_are_fine() {
    let image = large(40 << 20);
    let (layer, blob) = (image.layer(), image.blobs.last().unwrap().clone());
    let registry = Registry::start(move |asked| match asked.is("GET", &layer) {
        true => Reply::new(200, blob.clone()),
        false => image.reply("a", asked).unwrap(),
    })
    .await;
    let bench = Bench::new();
    bench.pull(registry.reference("a")).await.unwrap();
    assert_eq!(bench.read(&registry.reference("a"), "hello"), "behind it");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_28_broken_connections_are_resumed() {
    for size in [3 << 20, 40 << 20] {
        for knows_ranges in [true, false] {
            let image = large(size);
            let (layer, blob) = (image.layer(), image.blobs.last().unwrap().clone());
            let asked_for = Arc::new(AtomicUsize::new(0));
            let registry = Registry::start(move |asked| {
                if !asked.is("GET", &layer) {
                    return image.reply("a", asked).unwrap();
                }
                let reply = if knows_ranges { ranged(&blob, asked) } else { Reply::new(200, blob.clone()) };
                // Each second answer breaks somewhere else.
                let n = asked_for.fetch_add(1, Ordering::Relaxed);
                match &reply.body {
                    Body::Whole(bytes) if n.is_multiple_of(2) && n < 8 => {
                        let cut = bytes.len() * (n + 3) / 13;
                        Reply { body: Body::Cut(bytes[..cut].to_vec(), bytes.len()), ..reply }
                    }
                    _ => reply,
                }
            })
            .await;
            let bench = Bench::new();
            bench.pull(registry.reference("a")).await.unwrap();
            assert_eq!(bench.read(&registry.reference("a"), "hello"), "behind it", "{size} {knows_ranges}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_28_slow_and_silent_registries() {
    let patience =
        Patience { head: Duration::from_millis(300), body: Duration::from_millis(300), ..PATIENCE };
    let image = Image::small("x");
    let (layer, size) = (image.layer(), image.blobs.last().unwrap().len());
    let blob = image.blobs.last().unwrap().clone();
    let bodies = [
        Body::Silent,
        Body::Stalled(blob[..size - 1].to_vec(), size),
        Body::Slow(vec![0; size], Duration::from_millis(50)),
    ];
    for body in bodies {
        let (image, layer, body) = (image.clone(), layer.clone(), body.clone());
        let registry = Registry::start(move |asked| match asked.is("GET", &layer) {
            // It lies about the range, too.
            true if asked.range().is_some() => Reply::body(200, body.clone()),
            true => Reply::body(200, body.clone()),
            false => image.reply("a", asked).unwrap(),
        })
        .await;
        let bench = Bench::with(RegistryConfig::default(), None, patience);
        let begun = Instant::now();
        bench.refuse(registry.reference("a"), "i/o timeout").await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_28_ranges_that_are_others() {
    for told in ["bytes 0-5/10", "bytes 1-5/99999999", "", "items 0-1/2"] {
        let image = large(40 << 20);
        let layer = image.layer();
        let registry = Registry::start(move |asked| match asked.is("GET", &layer) {
            true => Reply::new(206, vec![0; 100]).with("content-range", told),
            false => image.reply("a", asked).unwrap(),
        })
        .await;
        Bench::new().refuse(registry.reference("a"), "no registry does").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_fail_for_a_while() {
    for status in [500, 502, 503, 429] {
        let image = Image::small("x");
        let count = Arc::new(AtomicUsize::new(0));
        let registry = Registry::start(move |asked| match count.fetch_add(1, Ordering::Relaxed) % 3 {
            2 => image.reply("a", asked).unwrap(),
            _ => Reply::new(status, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
                .with("retry-after", "0"),
        })
        .await;
        Bench::new().pull(registry.reference("a")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_obeyed_and_bounded() {
    let registry = Registry::start(|_| {
        Reply::new(
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#,
        )
        .with("retry-after", "86400")
    })
    .await;
    let begun = Instant::now();
    let expect =
        "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit.";
    Bench::new().refuse(registry.reference("a"), expect).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
    assert_eq!(registry.log().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_wants_any_more_is_given_up() {
    let image = Image::small("x");
    let (layer, size) = (image.layer(), image.blobs.last().unwrap().len());
    let registry = Registry::start(move |asked| match asked.is("GET", &layer) {
        true => Reply::body(200, Body::Stalled(Vec::new(), size)),
        false => image.reply("a", asked).unwrap(),
    })
    .await;
    let bench = Bench::with(RegistryConfig::default(), None, Patience::default());
    let flight = bench.puller.start(PullRequest::new(registry.reference("a")));
    while registry.log().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(flight);
    bench.assert_empty().await;
}
