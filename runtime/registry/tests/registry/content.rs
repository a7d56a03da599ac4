//! What registries hand out that is not what was asked for.

use std::time::Instant;

use crate::Bench;
use crate::hostile::{Body, Registry, Reply};
use crate::image::{INDEX_TYPE, Image, MANIFEST_TYPE, digest, gzip, tar};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_unpacked() {
    let archive = tar(&[("hello", b"one"), ("etc/os-release", b"ID=test")]);
    let second = tar(&[("hello", b"two")]);
    let zstd = zstd::encode_all(second.as_slice(), 3).unwrap();
    let third = tar(&[("plain", b"three")]);
    let image = Image::new(&[(gzip(&archive), archive), (zstd, second), (third.clone(), third)]);
    let registry = Registry::honest(vec![("a/b", image)]).await;
    let (bench, reference) = (Bench::new(), registry.reference("a/b"));
    bench.pull(reference.clone()).await.unwrap();
    assert_eq!(bench.read(&reference, "hello"), "two");
    assert_eq!(bench.read(&reference, "plain"), "three");
    assert_eq!(bench.read(&reference, "etc/os-release"), "ID=test");
    assert!(bench.store.resolve(&reference).unwrap().pulled);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_15_blobs_that_are_not_what_they_are_called() {
    let image = Image::small("content");
    let layer = image.layer();
    let good = image.blobs.last().unwrap().clone();
    let (mut other, mut long) = (good.clone(), good.clone());
    other[20] ^= 1;
    long.push(0);
    let size = good.len();
    let bodies = [
        (Body::Whole(other), ""),
        (Body::Whole(good[..size - 1].to_vec()), "bytes, and the manifest says"),
        (Body::Whole(long.clone()), "bytes, and the manifest says"),
        (Body::Cut(good[..10].to_vec(), size), "has been retried 3 time(s)"),
        (Body::Endless, "more than"),
    ];
    for (body, expect) in bodies {
        let (served, wrong, layer) = (image.clone(), body.clone(), layer.clone());
        let registry = Registry::start(move |asked| match asked.is("GET", &layer) {
            true => Reply::body(200, wrong.clone()),
            false => served.reply("a", asked).unwrap(),
        })
        .await;
        let bench = Bench::new();
        bench.refuse(registry.reference("a"), expect).await;
        // The same store takes the image from a registry that is in order.
        let honest = Registry::honest(vec![("a", image.clone())]).await;
        bench.pull(honest.reference("a")).await.unwrap();
        assert_eq!(bench.read(&honest.reference("a"), "hello"), "content");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_14_manifests_without_end() {
    let large = vec![b' '; (4 << 20) + 1];
    for body in [Body::Whole(large), Body::Endless] {
        let registry = Registry::start(move |_| Reply::body(200, body.clone())).await;
        let (bench, begun) = (Bench::new(), Instant::now());
        bench.refuse(registry.reference("a"), "larger than 4194304 bytes").await;
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_14_manifest_bombs() {
    let descriptor = format!(r#"{{"mediaType":"x","digest":"{}","size":1}}"#, digest(b"x"));
    let layers = vec![descriptor.clone(); 10_000].join(",");
    let many = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{layers}]}}"#);
    let deep = format!(r#"{{"schemaVersion":2,"config":{}"#, "[".repeat(1 << 20));
    let huge = format!(
        r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{}]}}"#,
        descriptor.replace("\"size\":1", "\"size\":18446744073709551615")
    );
    for (text, expect) in
        [(many, "more than 127 layers"), (deep, "valid document"), (huge, "bytes in a layer")]
    {
        let registry = Registry::start(move |_| Reply::new(200, text.clone())).await;
        Bench::new().refuse(registry.reference("a"), expect).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_14_indexes_that_lead_to_indexes() {
    let inner = Image::small("x").manifest;
    let mut documents = vec![inner];
    for depth in 0..6 {
        let last = documents.last().unwrap();
        let media_type = if depth == 0 { MANIFEST_TYPE } else { INDEX_TYPE };
        let entry = serde_json::json!({"mediaType": media_type, "digest": digest(last), "size": last.len()});
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]});
        documents.push(serde_json::to_vec(&index).unwrap());
    }
    let registry = Registry::start(move |asked| {
        let name = asked.path.rsplit('/').next().unwrap();
        let found = documents.iter().find(|document| digest(document) == name);
        Reply::new(200, found.or(documents.last()).unwrap().clone())
    })
    .await;
    Bench::new().refuse(registry.reference("a"), "nested indexes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_16_documents_that_are_two_things() {
    let image = Image::small("x");
    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    both["manifests"] = serde_json::json!([]);
    let both = Image { manifest: serde_json::to_vec(&both).unwrap(), ..image.clone() };
    let called_index = Image { media_type: INDEX_TYPE, ..image.clone() };
    for (image, expect) in [(both, "manifest or an index"), (called_index, "media type")] {
        let registry = Registry::honest(vec![("a", image)]).await;
        Bench::new().refuse(registry.reference("a"), expect).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_16_a_configuration_that_is_a_layer() {
    let image = Image::small("x");
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"] = manifest["layers"][0].clone();
    let confused = Image { manifest: serde_json::to_vec(&manifest).unwrap(), ..image };
    let registry = Registry::honest(vec![("a", confused)]).await;
    Bench::new().refuse(registry.reference("a"), "configuration").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_25_urls_of_layers_are_never_fetched() {
    let image = Image::small("x");
    let layer = image.layer();
    assert!(String::from_utf8_lossy(&image.manifest).contains("169.254.169.254"));
    let served = image.clone();
    let registry = Registry::start(move |asked| match asked.path.contains(&layer) {
        true => Reply::not_found(),
        false => served.reply("a", asked).unwrap(),
    })
    .await;
    Bench::new().refuse(registry.reference("a"), "not found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_29_a_pinned_image_is_that_image() {
    let (wanted, other) = (Image::small("wanted"), Image::small("other"));
    let pinned = digest(&wanted.manifest);
    let registry = Registry::start(move |_| Reply::new(200, other.manifest.clone())).await;
    Bench::new().refuse(registry.reference(&format!("a@{pinned}")), "instead of").await;
    // And what the registry says of itself holds, too.
    let served = wanted.clone();
    let registry = Registry::start(move |_| {
        Reply::new(200, served.manifest.clone()).with("docker-content-digest", digest(b"something else"))
    })
    .await;
    Bench::new().refuse(registry.reference("a"), "instead of").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_not_paths() {
    for bad in ["sha256:../../../etc/passwd", "sha512:00", "../x", ""] {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{bad}","size":1}},"layers":[]}}"#
        );
        let registry = Registry::start(move |_| Reply::new(200, text.clone())).await;
        Bench::new().refuse(registry.reference("a"), "valid document").await;
        assert_eq!(registry.log().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_a_bomb_is_given_up() {
    let zeros = vec![0; 300 << 20];
    let archive = tar(&[("bomb", zeros.as_slice())]);
    let bomb = gzip(&archive);
    assert!(bomb.len() < 1 << 20);
    let registry = Registry::honest(vec![("a", Image::new(&[(bomb, archive)]))]).await;
    Bench::new().refuse(registry.reference("a"), "times its compressed size").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_the_configuration_says() {
    let (archive, other) = (tar(&[("a", b"1")]), tar(&[("a", b"2")]));
    let registry = Registry::honest(vec![("a", Image::new(&[(gzip(&archive), other)]))]).await;
    Bench::new().refuse(registry.reference("a"), "the image's configuration says").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_1_paths_out_of_a_layer() {
    let mut archive = tar(&[("aaaaaaaaaa", b"x")]);
    // The library refuses to write such a name; the checksum is made anew.
    archive[..10].copy_from_slice(b"../../evil");
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let registry = Registry::honest(vec![("a", Image::new(&[(gzip(&archive), archive)]))]).await;
    let bench = Bench::new();
    bench.refuse(registry.reference("a"), "..").await;
    assert!(!bench.directory.path().join("evil").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_24_images_for_other_machines() {
    let archive = tar(&[("hello", b"x")]);
    let foreign = Image::of_platform(&[(gzip(&archive), archive.clone())], "s390x");
    let layer = foreign.layer();
    let registry = Registry::honest(vec![("a", foreign.clone())]).await;
    Bench::new().refuse(registry.reference("a"), "linux/s390x").await;
    assert_eq!(registry.count("GET", &layer), 0);
    // But it can be had by name.
    let request = neargate_registry::PullRequest {
        platform: Some("linux/s390x".parse().unwrap()),
        ..neargate_registry::PullRequest::new(registry.reference("a"))
    };
    let bench = Bench::new();
    bench.puller.pull(request).await.unwrap();
    assert_eq!(bench.store.list().unwrap().len(), 1);
}
