//! Kills an import with SIGKILL at many points. The child is this test binary, told by an environment variable
//! to import what comes on its standard input.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use neargate_image::{ImageKind, ImageStore};
use serde_json::json;

use crate::build::{Entry, archive, contents, file, layout, store, tar};

const STORE: &str = "NEARGATE_TEST_STORE";
const FILES: usize = 400;

#[test]
fn kill_child() {
    let Some(directory) = std::env::var_os(STORE) else { return };
    let store = ImageStore::open(directory).unwrap();
    store.import_reader(std::io::stdin(), Some("killed".parse().unwrap())).unwrap();
}

fn spawn(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::kill_child", "--exact", "--nocapture"])
        .env(STORE, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn image() -> Vec<u8> {
    let mut state = 1u32;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    let mut layer = |l: usize| {
        let entry = |i: usize, data: Vec<u8>| file(&format!("d{}/f{l}.{i}", i % 7), &data);
        let entries: Vec<Entry> =
            (0..FILES).map(|i| entry(i, (0..512).flat_map(|_| noise()).collect())).collect();
        tar(&entries)
    };
    let layers = [layer(0), layer(1)];
    archive(&layout(json!({}), &layers))
}

/// The store opens, holds nothing half done, and takes the image.
fn check(directory: &Path, image: &[u8], point: &str) {
    let root = directory.join("store");
    let store = ImageStore::open(&root).unwrap();
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{point}");
    let name = "killed".parse().unwrap();
    store.prune().unwrap();
    if store.resolve(&name).is_err() {
        assert_eq!(contents(directory), Vec::<String>::new(), "{point}");
    }
    store.import_reader(image, Some(name.clone())).unwrap();
    let ImageKind::Oci { layers } = &store.resolve(&name).unwrap().kind else { panic!("not OCI") };
    for layer in layers {
        let files = |d: fs::DirEntry| fs::read_dir(d.path()).unwrap().count();
        assert_eq!(fs::read_dir(layer).unwrap().map(|d| files(d.unwrap())).sum::<usize>(), FILES, "{point}");
    }
}

#[test]
fn row_30_import_killed_while_it_reads() {
    let image = image();
    assert!(image.len() > 512 << 10);
    for percent in [5, 40, 75, 100] {
        let (directory, _store) = store();
        let mut child = spawn(&directory.path().join("store"));
        // The pipe holds 64 KiB, so the child has read nearly all of this; its input does not end.
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&image[..image.len() * percent / 100 - 1]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdin);
        check(directory.path(), &image, &format!("{percent} %"));
    }
}

#[test]
fn row_30_import_killed_while_it_unpacks_and_commits() {
    let image = image();
    for wanted in [1, 150, 350, 700] {
        let (directory, _store) = store();
        let root = directory.path().join("store");
        let mut child = spawn(&root);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&image).unwrap();
        drop(stdin);
        // Kills it as soon as that many files are unpacked; should it be faster, the check is still right.
        while unpacked(&root.join("tmp")) < wanted && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check(directory.path(), &image, &format!("{wanted} files"));
    }
}

/// Files three levels below `tmp`: staging directory, layer, directory.
fn unpacked(tmp: &Path) -> usize {
    let mut level = vec![tmp.to_owned()];
    for _ in 0..4 {
        level = level
            .iter()
            .filter_map(|d| fs::read_dir(d).ok())
            .flatten()
            .filter_map(|e| Some(e.ok()?.path()))
            .collect();
    }
    level.len()
}

#[test]
fn the_temporary_files_of_a_live_import_stay() {
    let (directory, _store) = store();
    let root = directory.path().join("store");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let image = image();
    std::thread::scope(|scope| {
        let importing = scope.spawn(|| {
            let store = ImageStore::open(&root).unwrap();
            store.import_reader(Read::by_ref(&mut reader), Some("live".parse().unwrap()))
        });
        let mut writer = writer;
        let (head, tail) = image.split_at(image.len() / 2);
        writer.write_all(head).unwrap();
        let opened = ImageStore::open(&root).unwrap();
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 1);
        writer.write_all(tail).unwrap();
        drop(writer);
        importing.join().unwrap().unwrap();
        opened.resolve(&"live".parse().unwrap()).unwrap();
    });
}
