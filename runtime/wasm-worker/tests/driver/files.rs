//! Mounted directories.

use std::fs;
use std::os::unix::fs::symlink;

use neargate_driver::{Exit, Mount, MountSource};

use crate::guests::{create, show_file};
use crate::harness::{Bench, Setup};

fn mount(bench: &Bench, read_only: bool) -> Setup<'static> {
    let host = bench.dir.path().join("volume");
    let mount = Mount { source: MountSource::Host(host), target: "/data".into(), read_only };
    Setup { mounts: vec![mount], ..Setup::default() }
}

#[tokio::test]
async fn read_write_and_read_only() {
    let bench = Bench::new();
    let volume = bench.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    assert_eq!(bench.run(&create("new"), mount(&bench, false)).await.exit, Exit::code(0));
    assert_eq!(fs::read(volume.join("new")).unwrap(), b"new");

    let refused = bench.run(&create("other"), mount(&bench, true)).await.exit;
    assert_ne!(refused.code, Some(0));
    assert!(!volume.join("other").exists());
    let refused = bench.run(&create("new"), mount(&bench, true)).await.exit;
    assert_ne!(refused.code, Some(0), "an existing file is not opened for writing either");
    assert_eq!(bench.run(&show_file("new"), mount(&bench, true)).await.stdout(), "new");
}

#[tokio::test]
async fn nothing_outside_is_reached() {
    let bench = Bench::new();
    let volume = bench.dir.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(bench.dir.path().join("secret"), "secret").unwrap();
    symlink("../secret", volume.join("relative")).unwrap();
    symlink(bench.dir.path().join("secret"), volume.join("absolute")).unwrap();
    symlink("..", volume.join("up")).unwrap();
    for path in
        ["../secret", "sub/../../secret", "relative", "absolute", "up/secret", "/etc/passwd", "../secret/"]
    {
        let outcome = bench.run(&show_file(path), mount(&bench, false)).await;
        assert!(matches!(outcome.exit.code, Some(1..=76)), "{path}: {outcome:?}");
        assert_eq!(outcome.stdout(), "", "{path}");
    }
    for path in ["../made", "up/made", "sub/../../made"] {
        let outcome = bench.run(&create(path), mount(&bench, false)).await;
        assert!(matches!(outcome.exit.code, Some(1..=76)), "{path}: {outcome:?}");
        assert!(!bench.dir.path().join("made").exists(), "{path}");
    }
    // Without a mount there is no descriptor 3: the error is EBADF, 8.
    assert_eq!(bench.run(&show_file("secret"), Setup::default()).await.exit, Exit::code(8));
}

#[tokio::test]
async fn mounts_that_are_refused() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("file"), "").unwrap();
    let host = |name: &str| MountSource::Host(bench.dir.path().join(name));
    for (source, expect) in [
        (host("file"), "a single file"),
        (host("missing"), "mount "),
        (MountSource::Tmpfs { size_bytes: 1 }, "tmpfs"),
    ] {
        let mounts = vec![Mount { source, target: "/data".into(), read_only: false }];
        let error = bench.refused(&create("x"), Setup { mounts, ..Setup::default() }).await;
        assert!(error.contains(expect), "{error:?} lacks {expect:?}");
    }
}
