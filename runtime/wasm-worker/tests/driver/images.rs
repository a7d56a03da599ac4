//! What is accepted as an image, and compiled code on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use neargate_driver::{Exit, StartError};
use neargate_wasm_worker::{SetupError, WasmDriver};

use crate::guests::{exit, module};
use crate::harness::{Bench, Setup, encode};

fn compiled(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.dir.path().join("cache")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Puts other bytes in a file's place, as the driver would: code that is mapped must not change.
fn replace(file: &Path, bytes: &[u8]) {
    let other = file.with_extension("other");
    fs::write(&other, bytes).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(other, file).unwrap();
}

#[tokio::test]
async fn images_that_are_refused() {
    let bench = Bench::new();
    bench.driver.prepare(&bench.image(&exit(0))).await.unwrap();
    let precompiled = fs::read(&compiled(&bench)[0]).unwrap();
    let cut_off = &exit(0)[..40];
    let missing = encode(
        r#"(module (import "env" "launch" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let http =
        encode(r#"(component (import "wasi:http/outgoing-handler@0.2.0" (instance (export "x" (func)))))"#);
    for (bytes, expect) in [
        (&b""[..], "an empty file"),
        (b"(module)", "WebAssembly text"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "ELF"),
        (&precompiled, "ELF"),
        (cut_off, "compile: "),
        (&missing, "`env::launch`"),
        (&http, "wasi:http/outgoing-handler@0.2.0"),
        (&encode("(component)"), "`wasi:cli/run`"),
        (&encode("(module)"), "no function `_start`"),
        (
            &encode(r#"(module (func (export "_start") (result i32) (i32.const 1)))"#),
            "`_start` is not a function",
        ),
        (&encode(r#"(module (global (export "_start") i32 (i32.const 1)))"#), "`_start` is not a function"),
    ] {
        let error = bench.refused(bytes, Setup::default()).await;
        assert!(error.starts_with("use image: ") && error.contains(expect), "{error:?} lacks {expect:?}");
    }
}

#[tokio::test]
async fn files_that_are_not_what_was_stored() {
    let bench = Bench::new();
    let image = bench.image(&exit(0));
    fs::write(&image.path, exit(1)).unwrap();
    let error = bench.driver.prepare(&image).await.unwrap_err();
    assert!(
        matches!(error, StartError::InvalidImage { .. }) && error.to_string().contains("digest"),
        "{error}"
    );
    fs::remove_file(&image.path).unwrap();
    let error = bench.driver.prepare(&image).await.unwrap_err();
    assert!(matches!(error, StartError::System { .. }), "{error}");
    // What went wrong is not remembered.
    bench.driver.prepare(&bench.image(&exit(0))).await.unwrap();
}

#[tokio::test]
async fn compiled_code_is_kept_and_checked() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(&exit(5), Setup::default()).await.exit, Exit::code(5));
    let [file] = &compiled(&bench)[..] else { panic!("one file: {:?}", compiled(&bench)) };
    let whole = fs::read(file).unwrap();
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = |file: &PathBuf| fs::metadata(file).unwrap().modified().unwrap();
    let first = written(file);

    // Another driver, as after a restart, finds it.
    bench.driver = WasmDriver::new(&Bench::config(bench.dir.path())).unwrap();
    assert_eq!(bench.run(&exit(5), Setup::default()).await.exit, Exit::code(5));
    assert_eq!(written(file), first, "it was not compiled again");

    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[middle] ^= 1;
    let empty = Vec::new();
    for (what, bytes) in [("flipped", &flipped), ("cut", &whole[..middle].to_vec()), ("empty", &empty)] {
        replace(file, bytes);
        bench.driver = WasmDriver::new(&Bench::config(bench.dir.path())).unwrap();
        assert_eq!(bench.run(&exit(5), Setup::default()).await.exit, Exit::code(5), "{what}");
        assert_eq!(fs::read(file).unwrap().len(), whole.len(), "{what}: compiled again");
    }

    // A file that others could have written is not trusted, be it as good as it may.
    fs::set_permissions(file, fs::Permissions::from_mode(0o620)).unwrap();
    bench.driver = WasmDriver::new(&Bench::config(bench.dir.path())).unwrap();
    assert_eq!(bench.run(&exit(5), Setup::default()).await.exit, Exit::code(5));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "it was made anew");

    // One image's code does not pass for another's.
    bench.run(&exit(6), Setup::default()).await;
    let files = compiled(&bench);
    let other = files.iter().find(|path| *path != file).unwrap();
    replace(other, &fs::read(file).unwrap());
    bench.driver = WasmDriver::new(&Bench::config(bench.dir.path())).unwrap();
    assert_eq!(bench.run(&exit(6), Setup::default()).await.exit, Exit::code(6));
}

#[tokio::test]
async fn the_cache_is_bounded_and_private() {
    let mut bench = Bench::new();
    bench.run(&exit(1), Setup::default()).await;
    let size = fs::metadata(&compiled(&bench)[0]).unwrap().len();
    let mut config = Bench::config(bench.dir.path());
    config.cache_bytes_max = size * 5 / 2;
    config.images_max = 1;
    bench.driver = WasmDriver::new(&config).unwrap();
    for code in 2..6 {
        assert_eq!(bench.run(&exit(code), Setup::default()).await.exit, Exit::code(code));
    }
    assert_eq!(compiled(&bench).len(), 2);

    fs::set_permissions(&config.cache_dir, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(WasmDriver::new(&config), Err(SetupError::CacheDir { .. })));
}

/// Many at once compile once, and no more run than were allowed.
#[tokio::test]
async fn starts_at_the_same_time() {
    let bench = Bench::new();
    let wasm = module(
        "(i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))",
    );
    let setup = Setup::default();
    let (a, b, c) =
        tokio::join!(bench.start(&wasm, &setup), bench.start(&wasm, &setup), bench.start(&wasm, &setup));
    let mut started = vec![a.unwrap(), b.unwrap(), c.unwrap()];
    assert_eq!(compiled(&bench).len(), 1);
    while started.len() < 16 {
        started.push(bench.start(&wasm, &setup).await.unwrap());
    }
    assert!(matches!(bench.start(&wasm, &setup).await.map(drop), Err(StartError::System { .. })), "the 17th");
    let first = started.remove(0);
    drop(first.stdin);
    assert_eq!(first.handle.wait().await, Exit::code(0));
    started.push(bench.start(&wasm, &setup).await.unwrap());
    for guest in started {
        drop(guest.stdin);
        assert_eq!(guest.handle.wait().await, Exit::code(0));
    }
}
