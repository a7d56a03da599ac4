//! Mounted directories.

use std::fs;
use std::os::unix::fs::symlink;

use neargate_wasm::protocol::StartFailure;

use crate::guests::{create, show_file};
use crate::harness::{Setup, Worker, exited, mounted, told};

#[test]
fn read_write_and_read_only() {
    let worker = Worker::new();
    let volume = worker.volume();
    assert_eq!(told(&worker.run(&create("new"), mounted(false)).exit), exited(0));
    assert_eq!(fs::read(volume.join("new")).unwrap(), b"new");

    assert_ne!(worker.run(&create("other"), mounted(true)).exit.code, 0);
    assert!(!volume.join("other").exists());
    let refused = worker.run(&create("new"), mounted(true)).exit;
    assert_ne!(refused.code, 0, "an existing file is not opened for writing either");
    assert_eq!(worker.run(&show_file("new"), mounted(true)).stdout(), "new");
}

#[test]
fn nothing_outside_is_reached() {
    let worker = Worker::new();
    let (outside, volume) = (worker.dir.path(), worker.volume());
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink("../secret", volume.join("relative")).unwrap();
    symlink(outside.join("secret"), volume.join("absolute")).unwrap();
    symlink("..", volume.join("up")).unwrap();
    for path in [
        "../secret",
        "sub/../../secret",
        "relative",
        "absolute",
        "up/secret",
        "up/secret/",
        "relative/",
        "/etc/passwd",
        "../secret/",
        "..//secret",
    ] {
        let outcome = worker.run(&show_file(path), mounted(false));
        assert!(matches!(outcome.exit.code, 1..=76), "{path}: {outcome:?}");
        assert_eq!(outcome.stdout(), "", "{path}");
    }
    for path in ["../made", "up/made", "sub/../../made", "up/made/"] {
        let outcome = worker.run(&create(path), mounted(false));
        assert!(matches!(outcome.exit.code, 1..=76), "{path}: {outcome:?}");
        assert!(!outside.join("made").exists(), "{path}");
    }
    // Without a mount there is no descriptor 3: the error is EBADF, 8.
    assert_eq!(told(&worker.run(&show_file("secret"), Setup::default()).exit), exited(8));
}

#[test]
fn a_directory_that_is_missing() {
    let worker = Worker::new();
    let mut setup = mounted(false);
    setup.plan.preopens[0].name = "neargate-no-such-directory".into();
    let failure = worker.start(&create("x"), &setup).map(|started| started.run).unwrap_err();
    let StartFailure::Preopen { name, errno } = failure else { panic!("{failure:?}") };
    assert_eq!((name.as_str(), errno), ("/data", 2), "the guest's name of it, and ENOENT");
}
