//! Blobs of holders, and how they are sent.

use std::io::Read;
use std::time::Duration;

use neargate_image::{Holder, ImageKind, ImageStore, ImportError, UPLOADS_MAX, UploadError};
use neargate_model::image::{Digest, ImageReference};
use serde_json::json;

use crate::build::{self, Files, MODULE, add_image, blob, config, contents, file, gzip, store, tar};

const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn holder(name: &str) -> Holder {
    Holder::named(&["test", name])
}

fn digest(bytes: &[u8]) -> Digest {
    build::digest(bytes).parse().unwrap()
}

fn read(store: &ImageStore, holder: &Holder, digest: Digest) -> Option<Vec<u8>> {
    let (mut file, size) = store.open_held(holder, digest).unwrap()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, size);
    Some(bytes)
}

/// Gives a holder the blobs of a layout; answers the digest of an image in it.
fn hold_all(store: &ImageStore, holder: &Holder, files: &Files, image: &serde_json::Value) -> Digest {
    for bytes in files.values() {
        store.put_held(holder, bytes).unwrap();
    }
    image["digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn pieces_become_a_blob() {
    let (directory, store) = store();
    let (a, content) = (holder("a"), vec![7; 100_000]);
    let mut upload = store.begin_upload(&a, ID).unwrap();
    upload.append(&content[..10]).unwrap();
    assert!(matches!(store.open_upload(&a, ID), Err(UploadError::Busy)));
    drop(upload);
    assert_eq!(store.upload_size(&a, ID).unwrap(), Some(10));
    // Another process, or this one after it was killed, knows the digest so far from the file alone.
    let later = ImageStore::open(directory.path().join("store")).unwrap();
    let mut upload = later.open_upload(&a, ID).unwrap();
    upload.append(&content[10..50_000]).unwrap();
    drop(upload);
    let mut upload = later.open_upload(&a, ID).unwrap();
    upload.append(&content[50_000..]).unwrap();
    assert_eq!(upload.finish(digest(&content)).unwrap(), 100_000);
    assert_eq!(read(&store, &a, digest(&content)), Some(content));
    assert!(matches!(store.open_upload(&a, ID), Err(UploadError::NotFound)));
    assert_eq!(store.upload_size(&a, ID).unwrap(), None);
}

#[test]
fn nothing_is_left_of_what_is_something_else() {
    let (directory, store) = store();
    let mut upload = store.begin_upload(&holder("a"), ID).unwrap();
    upload.append(b"content").unwrap();
    let wrong = digest(b"other content");
    assert!(
        matches!(upload.finish(wrong), Err(UploadError::WrongDigest { expected, .. }) if expected == wrong)
    );
    let upload = store.begin_upload(&holder("a"), ID).unwrap();
    upload.cancel().unwrap();
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

#[test]
fn uploads_are_their_holders() {
    let (_directory, store) = store();
    let (a, b) = (holder("a"), holder("b"));
    drop(store.begin_upload(&a, ID).unwrap());
    assert!(matches!(store.open_upload(&b, ID), Err(UploadError::NotFound)));
    assert_eq!(store.upload_size(&b, ID).unwrap(), None);
    let hex = "0".repeat(36);
    for id in [
        "",
        "..",
        "../../refs/x",
        "a/b",
        &hex[1..],
        &"../".repeat(12),
        "0f8fad5b-d9cb-469f-a165-70867728950\0",
    ] {
        assert!(matches!(store.open_upload(&a, id), Err(UploadError::NotFound)), "{id}");
        assert!(matches!(store.begin_upload(&a, id), Err(UploadError::NotFound)), "{id}");
    }
    assert_ne!(Holder::named(&["a", "bc"]), Holder::named(&["ab", "c"]));
}

#[test]
fn uploads_that_nobody_finishes_end() {
    let (directory, store) = store();
    let a = holder("a");
    for n in 0..UPLOADS_MAX {
        drop(store.begin_upload(&a, &format!("{n:036}")).unwrap());
    }
    assert!(matches!(store.begin_upload(&a, ID), Err(UploadError::TooMany)));
    assert_eq!(store.expire_uploads(Duration::from_secs(3600)).unwrap(), 0);
    let busy = store.open_upload(&a, &format!("{:036}", 0)).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(store.expire_uploads(Duration::ZERO).unwrap(), UPLOADS_MAX - 1);
    drop(busy);
    assert_eq!(store.expire_uploads(Duration::ZERO).unwrap(), 1);
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

#[test]
fn row_32_a_digest_is_no_right() {
    let (directory, store) = store();
    let (a, b) = (holder("a"), holder("b"));
    let secret = store.put_held(&a, b"secret").unwrap();
    assert_eq!(read(&store, &b, secret), None);
    assert!(!store.hand_over(&b, &b, secret).unwrap());
    assert!(store.hand_over(&a, &b, secret).unwrap());
    assert_eq!(read(&store, &b, secret).as_deref(), Some(&b"secret"[..]));
    // Whoever sends it has it, and what is there is not written twice.
    let mut upload = store.begin_upload(&holder("c"), ID).unwrap();
    upload.append(b"secret").unwrap();
    upload.finish(secret).unwrap();
    assert!(store.release(&a, secret).unwrap() && !store.release(&a, secret).unwrap());
    assert_eq!((read(&store, &a, secret), store.held(&a).unwrap()), (None, vec![]));
    store.prune().unwrap();
    assert!(read(&store, &b, secret).is_some());
    store.dismiss(&b).unwrap();
    store.dismiss(&holder("c")).unwrap();
    assert_eq!(store.holders().unwrap().len(), 1);
    store.dismiss(&a).unwrap();
    let reclaimed = store.try_prune().unwrap().unwrap();
    assert_eq!((reclaimed.blobs, reclaimed.bytes), (1, 6));
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

#[test]
fn held_images_run() {
    let (_directory, store) = store();
    let (a, tars) = (holder("a"), [tar(&[file("f", b"x")])]);
    let mut files = Files::new();
    let image = add_image(&mut files, &config(json!({ "Cmd": ["/f"] }), &tars), &tars);
    let found = hold_all(&store, &a, &files, &image);
    let name: ImageReference = format!("registry.example/app@{found}").parse().unwrap();
    assert!(!store.is_named(&name).unwrap());
    assert!(matches!(store.adopt(&holder("b"), found, name.clone()), Err(ImportError::Missing { .. })));
    store.adopt(&a, found, name.clone()).unwrap();
    assert!(store.is_named(&name).unwrap());
    let resolved = store.resolve(&name).unwrap();
    let ImageKind::Oci { layers } = &resolved.kind else { panic!("{resolved:?}") };
    assert_eq!(std::fs::read(layers[0].join("f")).unwrap(), b"x");
    // What is unpacked stays as long as the holder has the image.
    assert!(store.forget(&name).unwrap() && !store.forget(&name).unwrap());
    store.prune().unwrap();
    assert!(layers[0].exists());
    store.dismiss(&a).unwrap();
    store.prune().unwrap();
    assert!(!layers[0].exists());
}

#[test]
fn images_with_names_are_given() {
    let (_directory, store) = store();
    let tars = [tar(&[file("f", b"x")])];
    let files = build::layout(json!({ "Cmd": ["/f"] }), &tars);
    let local: ImageReference = "local".parse().unwrap();
    store.import_reader(build::archive(&files).as_slice(), Some(local.clone())).unwrap();
    let a = holder("a");
    let manifest = store.give(&local, &a).unwrap();
    assert_eq!(store.held(&a).unwrap().len(), 3);
    store.remove(&local).unwrap();
    let name: ImageReference = format!("registry.example/app@{}", digest(&manifest)).parse().unwrap();
    store.adopt(&a, digest(&manifest), name.clone()).unwrap();
    store.resolve(&name).unwrap();
    assert!(store.give(&local, &a).is_err());
}

#[test]
fn held_artifacts_and_indexes_run() {
    let (_directory, store) = store();
    let (a, mut files) = (holder("a"), Files::new());
    let layer = blob(&mut files, MODULE, "application/wasm");
    let settings = blob(&mut files, b"{}", "application/vnd.wasm.config.v0+json");
    let manifest = json!({ "schemaVersion": 2, "config": settings, "layers": [layer] });
    let mut manifest =
        blob(&mut files, manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    manifest["platform"] = json!({ "os": "wasi", "architecture": "wasm" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    let index = blob(&mut files, index.to_string().as_bytes(), "application/vnd.oci.image.index.v1+json");
    let found = hold_all(&store, &a, &files, &index);
    let name: ImageReference = format!("registry.example/app@{found}").parse().unwrap();
    store.adopt(&a, found, name.clone()).unwrap();
    let resolved = store.resolve(&name).unwrap();
    assert!(matches!(resolved.kind, ImageKind::Wasm { .. }));
    assert_eq!(resolved.digest, found);
    assert_eq!(resolved.manifest.to_string(), manifest["digest"].as_str().unwrap());
}

#[test]
fn held_blobs_that_are_no_images_keep_nothing_else() {
    let (_directory, store) = store();
    let a = holder("a");
    for bytes in [&b"{"[..], b"{}", b"[]", b"", &gzip(b"x")] {
        store.put_held(&a, bytes).unwrap();
    }
    let missing = json!({ "mediaType": "a/b", "digest": build::digest(b"missing"), "size": 1 });
    let broken = json!({ "schemaVersion": 2, "config": missing, "layers": [] }).to_string();
    let broken = store.put_held(&a, broken.as_bytes()).unwrap();
    assert_eq!(store.prune().unwrap().blobs, 0);
    let name: ImageReference = format!("registry.example/app@{broken}").parse().unwrap();
    assert!(matches!(store.adopt(&a, broken, name), Err(ImportError::Missing { .. })));
}
