//! Which images make room, and which stay.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use neargate_image::{ImageStore, Next, Platform, TidyOptions};
use neargate_model::image::ImageReference;
use sha2::{Digest, Sha256};

use crate::build::{contents, store};

const HOUR: Duration = Duration::from_secs(3600);

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image without layers, as a registry would have it.
fn pull(store: &ImageStore, name: &str) {
    let Platform { architecture, .. } = Platform::host();
    let config = format!(
        r#"{{"os":"linux","architecture":"{architecture}","config":{{"Cmd":["{name}"]}},"rootfs":{{"diff_ids":[]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":{}}},"layers":[]}}"#,
        digest(config.as_bytes()),
        config.len()
    );
    let mut pull = store.begin_pull(name.parse().unwrap(), None).unwrap();
    assert!(matches!(pull.document(manifest.as_bytes(), None, None).unwrap(), Next::Config(_)));
    assert!(pull.config(config.as_bytes()).unwrap().is_empty());
    pull.commit().unwrap();
}

/// Lets all uses be so long ago.
fn age(directory: &Path, by: Duration) {
    for entry in std::fs::read_dir(directory.join("store/refs")).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }
}

fn names(store: &ImageStore) -> Vec<String> {
    store.list().unwrap().iter().map(|image| image.name.familiar()).collect()
}

#[test]
fn images_that_nobody_uses_make_room() {
    let (directory, store) = store();
    ["a", "b", "c", "held"].iter().for_each(|name| pull(&store, name));
    let held = store.resolve(&"held".parse().unwrap()).unwrap();
    let _pin = store.pin(&held).unwrap();
    store.import_reader(b"\0asm\x01\0\0\0".as_slice(), Some("imported".parse().unwrap())).unwrap();
    let options = TidyOptions { unused: HOUR, images_max: 2 };
    assert_eq!(store.tidy(options).unwrap().names, Vec::<ImageReference>::new());
    age(directory.path(), 2 * HOUR);
    // Used, and so younger.
    let again = ImageStore::open(directory.path().join("store")).unwrap();
    again.resolve(&"b".parse().unwrap()).unwrap();
    let tidied = again.tidy(options).unwrap();
    assert_eq!(
        tidied.names.iter().map(ImageReference::familiar).collect::<Vec<_>>(),
        ["a:latest", "c:latest"]
    );
    assert!(tidied.reclaimed.blobs >= 4);
    assert_eq!(names(&store), ["b:latest", "held:latest", "imported:latest"]);
    // With nothing to spare, all that can come again and is not in use.
    let tidied = again.tidy(TidyOptions { unused: Duration::ZERO, images_max: 5 }).unwrap();
    assert_eq!(tidied.names.len(), 1);
    assert_eq!(names(&store), ["held:latest", "imported:latest"]);
}

#[test]
fn a_pull_that_is_dropped_leaves_nothing() {
    let (directory, store) = store();
    let mut pull = store.begin_pull("x".parse().unwrap(), None).unwrap();
    let error = pull.document(b"{}", None, None).unwrap_err();
    assert!(error.to_string().contains("read blob"), "{error}");
    assert!(pull.commit().is_err());
    drop(pull);
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}
