use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use neargate_image::{
    Compression, ImageKind, ImageStore, ImportError, PackError, PackOptions, PinError, RemoveError,
    ResolveError,
};
use neargate_model::chain;
use neargate_model::image::ImageReference;
use serde_json::json;

use crate::build::{archive, contents, file, layout, store, tar};

fn name(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn import(store: &ImageStore, reference: &str, contents: &[&str]) {
    let tars: Vec<_> = contents.iter().map(|c| tar(&[file("f", c.as_bytes())])).collect();
    let files = layout(json!({ "Cmd": contents }), &tars);
    store
        .import_reader(archive(&files).as_slice(), Some(name(reference)))
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
}

fn layers(store: &ImageStore, reference: &str) -> Vec<std::path::PathBuf> {
    match &store.resolve(&name(reference)).unwrap().kind {
        ImageKind::Oci { layers } => layers.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_store_is_private() {
    let (directory, _store) = store();
    let mode = fs::metadata(directory.path().join("store")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn removal_keeps_what_others_need() {
    let (directory, store) = store();
    import(&store, "one", &["shared", "only one"]);
    import(&store, "two", &["shared"]);
    let (one, two) = (layers(&store, "one"), layers(&store, "two"));
    assert_eq!(one[0], two[0]);
    let removed = store.remove(&name("one")).unwrap();
    let reclaimed = removed.reclaimed.unwrap();
    assert_eq!((reclaimed.layers, reclaimed.blobs), (1, 3));
    assert!(one[0].exists() && !one[1].exists());
    assert!(matches!(store.resolve(&name("one")), Err(ResolveError::NotFound { .. })));
    assert!(matches!(store.remove(&name("one")), Err(RemoveError::NotFound { .. })));
    assert_eq!(layers(&store, "two"), two);
    store.remove(&name("two")).unwrap();
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

#[test]
fn a_name_that_moves_is_seen_at_once() {
    let (_directory, store) = store();
    import(&store, "app", &["1"]);
    let first = store.resolve(&name("app")).unwrap();
    assert!(Arc::ptr_eq(&first, &store.resolve(&name("app")).unwrap()));
    import(&store, "app", &["2"]);
    assert_eq!(store.resolve(&name("app")).unwrap().config.cmd, ["2"]);
    // The first image has lost its only name.
    assert_eq!(store.prune().unwrap().layers, 1);
    assert!(matches!(store.pin(&first), Err(PinError::NotFound { .. })));
}

#[test]
fn a_pin_keeps_an_image_until_it_is_dropped() {
    let (directory, store) = store();
    import(&store, "app", &["1", "2"]);
    let image = store.resolve(&name("app")).unwrap();
    let pin = store.pin(&image).unwrap();
    let second = store.pin(&image).unwrap();
    // Another opening of the store stands for another process.
    let other = ImageStore::open(directory.path().join("store")).unwrap();
    assert_eq!(other.remove(&name("app")).unwrap().reclaimed, Some(Default::default()));
    assert!(
        image.kind == ImageKind::Oci { layers: vec_of(&image.kind) }
            && vec_of(&image.kind).iter().all(|l| l.exists())
    );
    drop(pin);
    assert_eq!(other.prune().unwrap().layers, 0);
    drop(second);
    assert_eq!(other.prune().unwrap().layers, 2);
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

fn vec_of(kind: &ImageKind) -> Vec<std::path::PathBuf> {
    match kind {
        ImageKind::Oci { layers } => layers.clone(),
        ImageKind::Wasm { .. } => Vec::new(),
    }
}

#[test]
fn a_layer_that_is_gone_is_unpacked_again_once_for_all() {
    let (directory, first) = store();
    import(&first, "app", &["1", "2", "1"]);
    let expect = layers(&first, "app");
    assert_eq!(expect.len(), 2);
    for layer in &expect {
        fs::remove_dir_all(layer).unwrap();
    }
    let root = directory.path().join("store");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(layers(&ImageStore::open(&root).unwrap(), "app"), expect));
        }
    });
    assert_eq!(fs::read(expect[0].join("f")).unwrap(), b"2");
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

#[test]
fn damage_is_told_from_absence() {
    let (directory, store) = store();
    import(&store, "app", &["1"]);
    let record = directory.path().join("store/refs/docker.io%2Flibrary%2Fapp%3Alatest");
    fs::write(&record, "{").unwrap();
    assert!(matches!(store.resolve(&name("app")), Err(ResolveError::Damaged { .. })));
    // As long as that name is damaged nobody knows what it needs, so nothing is collected.
    assert!(matches!(store.prune(), Err(RemoveError::Damaged(_))));
}

#[test]
fn many_processes_import_and_remove_at_once() {
    let (directory, _store) = store();
    let root = directory.path().join("store");
    std::thread::scope(|scope| {
        for i in 0..4 {
            let root = &root;
            scope.spawn(move || {
                for round in 0..6 {
                    let store = ImageStore::open(root).unwrap();
                    let reference = format!("app{i}");
                    import(&store, &reference, &["shared", &format!("{i}.{round}")]);
                    let found = layers(&store, &reference);
                    assert_eq!(fs::read_to_string(found[1].join("f")).unwrap(), format!("{i}.{round}"));
                    assert_eq!(fs::read(found[0].join("f")).unwrap(), b"shared");
                    store.remove(&name(&reference)).unwrap();
                }
            });
        }
    });
    ImageStore::open(&root).unwrap().prune().unwrap();
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

#[test]
fn lists_and_details() {
    let (_directory, store) = store();
    import(&store, "b", &["1"]);
    import(&store, "a", &["1"]);
    let list = store.list().unwrap();
    assert_eq!(list.iter().map(|i| i.name.familiar()).collect::<Vec<_>>(), ["a:latest", "b:latest"]);
    assert_eq!(list[0].digest, list[1].digest);
    let detail = store.inspect(&name("a")).unwrap();
    assert_eq!((&detail.summary, detail.layers.len()), (&list[0], 1));
    assert!(detail.summary.size_bytes > detail.layers[0].size_bytes);
    assert!(matches!(store.inspect(&name("c")), Err(ResolveError::NotFound { .. })));
}

#[test]
fn packing_is_reproducible() {
    let make = |order: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        for path in order {
            fs::create_dir_all(directory.path().join("d")).unwrap();
            fs::write(directory.path().join(path), path).unwrap();
        }
        std::os::unix::fs::symlink("..//x/", directory.path().join("link")).unwrap();
        fs::hard_link(directory.path().join("run"), directory.path().join("run2")).unwrap();
        fs::set_permissions(directory.path().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        directory
    };
    let long = format!("d/{}", "n".repeat(200));
    let (first, second) = (make(&["run", "d/z", "d/a", &long]), make(&[&long, "d/a", "run", "d/z"]));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (_directory, store) = store();
        let mut options = PackOptions { compression, mtime: 7, ..PackOptions::new(name("packed")) };
        options.entrypoint = vec!["/run".to_owned()];
        let imported = store.pack_directory(first.path(), &options).unwrap();
        assert_eq!(store.pack_directory(second.path(), &options).unwrap().digest, imported.digest);
        let image = store.resolve(&name("packed")).unwrap();
        assert_eq!(image.config.entrypoint, ["/run"]);
        let root = &vec_of(&image.kind)[0];
        assert_eq!(fs::read_to_string(root.join(&long)).unwrap(), long);
        assert_eq!(fs::read_link(root.join("link")).unwrap().as_os_str(), "..//x/");
        let run = fs::metadata(root.join("run2")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((run.mode() & 0o777, run.nlink(), run.mtime()), (0o755, 2, 7));
    }
}

#[test]
fn packing_refuses_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
    let (other, store) = store();
    let error = store.pack_directory(directory.path(), &PackOptions::new(name("p"))).unwrap_err();
    assert!(matches!(error, PackError::FileType { .. }), "{error}");
    assert_eq!(contents(other.path()), Vec::<String>::new());
}

/// A small file system of its own, unmounted when dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(&self.0).status().unwrap();
    }
}

#[test]
fn row_30_a_full_disk_is_told_apart_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=600k", "tmpfs"]).arg(directory.path());
    if !mount.status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: a full disk, because a tmpfs cannot be mounted (needs root)");
        return;
    }
    let mounted = Mounted(directory.path().to_owned());
    let store = ImageStore::open(directory.path().join("store")).unwrap();
    // The compressed image fits; unpacked it does not.
    let zeros = tar(&[file("f", &vec![0; 700 << 10])]);
    let bytes = archive(&layout(json!({}), &[zeros]));
    let error = store.import_reader(bytes.as_slice(), None).unwrap_err();
    assert!(matches!(error, ImportError::NoSpace { .. }), "{}", chain(&error));
    assert_eq!(contents(directory.path()), Vec::<String>::new());
    import(&store, "small", &["1"]);
    assert_eq!(layers(&store, "small").len(), 1);
    drop(mounted);
}
