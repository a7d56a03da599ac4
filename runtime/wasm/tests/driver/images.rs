//! Compiled code: made once, kept, checked, thrown away.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{Driver, Rootfs, Signal};
use neargate_wasm::{SetupError, WasmDriver};

use crate::bench::{Bench, config, parts, task};
use crate::fake::{Event, FakeHost};

fn code_files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("code"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn an_image_is_compiled_once_however_many_ask() {
    let bench = Arc::new(Bench::new());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let bench = bench.clone();
        asking.spawn(async move { bench.run(task("exit 0")).await.wait().await.code });
    }
    while let Some(code) = asking.join_next().await {
        assert_eq!(code.unwrap(), Some(0));
    }
    assert_eq!(bench.host.compilations(), 1);
    let loads = bench.host.events().iter().filter(|event| matches!(event, Event::Loaded)).count();
    assert_eq!(loads, bench.host.starts().iter().map(|(worker, _)| worker).max().unwrap() + 1);
}

#[tokio::test]
async fn code_outlives_the_driver_but_not_another_compiler() {
    let mut bench = Bench::new();
    bench.prepare("command").await.unwrap();
    let again = config(bench.dir.path());
    bench.driver = WasmDriver::new(again, parts(&bench.host, &bench.keys)).unwrap();
    assert_eq!(bench.run(task("exit 0")).await.wait().await.code, Some(0));
    assert_eq!(bench.host.compilations(), 1);
    let mut newer = config(bench.dir.path());
    newer.compiler_id = "another".to_owned();
    bench.driver = WasmDriver::new(newer, parts(&bench.host, &bench.keys)).unwrap();
    let text = bench.refuse(task("exit 0")).await;
    assert!(text.contains("of another version than this program"), "{text}");
    assert_eq!(bench.host.compilations(), 2);
}

#[tokio::test]
async fn what_is_not_whole_is_compiled_anew() {
    let check = async |what: &str, spoil: &dyn Fn(&Path, &Path)| {
        let mut bench = Bench::new();
        bench.prepare("command").await.unwrap();
        let (code, info) = (
            code_files(bench.dir.path(), ".cwasm").remove(0),
            code_files(bench.dir.path(), ".info").remove(0),
        );
        spoil(&code, &info);
        bench.driver = WasmDriver::new(config(bench.dir.path()), parts(&bench.host, &bench.keys)).unwrap();
        assert_eq!(bench.run(task("exit 0")).await.wait().await.code, Some(0), "{what}");
        assert_eq!(bench.host.compilations(), 2, "{what}");
        assert_eq!(fs::read_to_string(&code).unwrap(), "code of command", "{what}");
    };
    let flip = |path: &Path| {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 5).unwrap();
    };
    check("flipped code", &|code, _| flip(code)).await;
    check("flipped info", &|_, info| flip(info)).await;
    check("cut code", &|code, _| fs::write(code, "code").unwrap()).await;
    check("empty info", &|_, info| fs::write(info, "").unwrap()).await;
    check("no code", &|code, _| fs::remove_file(code).unwrap()).await;
    check("no info", &|_, info| fs::remove_file(info).unwrap()).await;
    check("code that others may read", &|code, _| {
        fs::set_permissions(code, fs::Permissions::from_mode(0o644)).unwrap();
    })
    .await;
    check("a link", &|code, _| {
        let elsewhere = code.with_extension("elsewhere");
        fs::rename(code, &elsewhere).unwrap();
        std::os::unix::fs::symlink(elsewhere, code).unwrap();
    })
    .await;
}

#[tokio::test]
async fn code_of_another_image_does_not_stand_in() {
    let mut bench = Bench::new();
    for image in ["command one", "command two"] {
        bench.prepare(image).await.unwrap();
    }
    for suffix in [".cwasm", ".info"] {
        let files = code_files(bench.dir.path(), suffix);
        fs::copy(&files[0], &files[1]).unwrap();
    }
    bench.driver = WasmDriver::new(config(bench.dir.path()), parts(&bench.host, &bench.keys)).unwrap();
    for image in ["command one", "command two"] {
        bench.prepare(image).await.unwrap();
    }
    assert_eq!(bench.host.compilations(), 3);
}

#[tokio::test]
async fn a_directory_that_others_may_write_to_is_refused() {
    let bench = Bench::new();
    fs::set_permissions(bench.dir.path().join("code"), fs::Permissions::from_mode(0o777)).unwrap();
    let opened = WasmDriver::new(config(bench.dir.path()), parts(&bench.host, &bench.keys));
    assert!(matches!(opened, Err(SetupError::CodeDir { .. })));
}

#[tokio::test]
async fn what_was_used_longest_ago_makes_room_but_not_what_is_used() {
    // Room for two images and their descriptions, not for three.
    let bench = Bench::with(|config| config.code_bytes_max = 450);
    let held = bench.run(task("hold").image("command held")).await;
    for image in ["command one", "command two", "command three"] {
        bench.prepare(image).await.unwrap();
    }
    let kept: Vec<String> =
        code_files(bench.dir.path(), ".cwasm").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(kept.len(), code_files(bench.dir.path(), ".info").len());
    assert!(kept.contains(&"code of command held".to_owned()), "{kept:?}");
    assert!(kept.contains(&"code of command three".to_owned()), "{kept:?}");
    assert!(!kept.contains(&"code of command one".to_owned()), "{kept:?}");
    // What is gone is compiled again.
    let before = bench.host.compilations();
    bench.prepare("command one").await.unwrap();
    assert_eq!(bench.host.compilations(), before + 1);
    drop(held);
}

#[tokio::test]
async fn compilers_that_fail_say_how() {
    let check = async |image: &str, expect: &str| {
        let bench = Bench::with(|config| {
            config.compile.wall = Duration::from_millis(300);
            config.compile.code_bytes_max = 1000;
        });
        let text = bench.refuse(task("exit 0").image(image)).await;
        assert!(text.contains(expect), "{image}: {text:?} lacks {expect:?}");
        bench.refuse(task("exit 0").image(image)).await;
        assert_eq!(bench.host.compilations(), 1, "{image}: a failure is remembered for a while");
        let left: Vec<_> = code_files(bench.dir.path(), "");
        assert!(left.is_empty(), "{image} left {left:?}");
        // Another image is not held up.
        let other = bench.prepare("command").await;
        assert!(other.is_ok(), "{image}: {other:?}");
    };
    check("sleep", "compile: took longer than 0.3 s").await;
    check("greedy", "compile: needed more than 2048 MiB of memory").await;
    check("hot", "compile: needed more than 240 s of CPU time").await;
    check("grow", "are more than the 1000 that are allowed").await;
    check("text", "the file is text").await;
    check("crash", "compile: the compiler ended unexpectedly (signal 11)").await;
    check("babble", "its answer cannot be read").await;
}

#[tokio::test]
async fn a_missing_file_or_bad_digest_is_named() {
    let bench = Bench::new();
    let mut module = bench.image("command");
    fs::remove_file(&module.path).unwrap();
    let text = format!("{:?}", bench.driver.prepare(&Rootfs::Wasm(module.clone())).await.unwrap_err());
    assert!(text.contains("read wasm binary"), "{text}");
    module.digest = "sha256:../../etc/passwd".to_owned();
    let text = bench.driver.prepare(&Rootfs::Wasm(module.clone())).await.unwrap_err().to_string();
    assert!(text.contains("does not have the digest"), "{text}");
    module = bench.image("command x");
    fs::remove_file(&module.path).unwrap();
    let status = rustix::fs::mknodat(
        rustix::fs::CWD,
        &module.path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    );
    status.unwrap();
    // It is not waited for a writer.
    assert!(bench.driver.prepare(&Rootfs::Wasm(module.clone())).await.is_err());
    assert_eq!(bench.host.compilations(), 0);
}

#[tokio::test]
async fn a_worker_keeps_a_bounded_number_of_images() {
    let bench = Bench::with(|config| {
        config.workers = 1;
        config.images_max = 2;
    });
    let held = bench.run(task("hold").image("command one")).await;
    for image in ["command two", "command one", "command three", "command one", "command two"] {
        assert_eq!(bench.run(task("exit 0").image(image)).await.wait().await.code, Some(0), "{image}");
    }
    let unloaded: Vec<u32> = bench
        .host
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Unloaded { image, .. } => Some(*image),
            _ => None,
        })
        .collect();
    // Two makes room for three, and three for two, because one was used in between.
    assert_eq!(unloaded, [2, 3]);
    held.signal(Signal::Kill).await.unwrap();
}

#[tokio::test]
async fn code_that_a_worker_cannot_load_is_an_error() {
    let bench = Bench::new();
    let text = bench.refuse(task("exit 0").image("command unloadable")).await;
    assert!(text.contains("load: it is not what it seems"), "{text}");
    assert_eq!(bench.run(task("exit 0")).await.wait().await.code, Some(0));
}

#[test]
fn nothing_is_started_before_it_is_needed() {
    let bench = Bench::new();
    let host: &FakeHost = &bench.host;
    assert_eq!((host.workers(), host.compilations()), (0, 0));
}
