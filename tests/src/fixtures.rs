//! What the tasks of the suites run: a Wasm probe of both formats, a root file system with busybox, and an intruder.
//!
//! They are built once below Cargo's target directory, by `cargo xtask setup` or by the first test that needs them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{process, repository, target_directory};

/// Names that busybox answers to in the root file system.
const APPLETS: [&str; 31] = [
    "sh", "cat", "echo", "true", "false", "sleep", "ls", "id", "env", "pwd", "kill", "ps", "head", "tail",
    "dd", "wc", "grep", "sed", "seq", "mkdir", "rm", "touch", "test", "hostname", "uname", "ulimit", "yes",
    "expr", "date", "printf", "mount",
];
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
const BUILD_LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// The examples in other languages than Rust, below `examples/`. Each builds into a file of its name with `.wasm`.
pub const LANGUAGE_EXAMPLES: [&str; 7] = [
    "assemblyscript/hello.ts",
    "c/hello.c",
    "javascript/greet.js",
    "javascript/hello.js",
    "javascript/web.js",
    "python/greet.py",
    "python/hello.py",
];

/// Where the examples in other languages are built.
pub fn languages_directory() -> PathBuf {
    target_directory().join("examples/languages")
}

/// An example in Rust, built by `cargo xtask` beforehand.
pub fn example(name: &str) -> Result<PathBuf> {
    built(target_directory().join(format!("examples/wasm32-wasip2/release/{name}.wasm")))
}

/// An example in another language, such as `python/hello`, built by `cargo xtask` beforehand.
pub fn language_example(name: &str) -> Result<PathBuf> {
    built(languages_directory().join(format!("{name}.wasm")))
}

/// A program of `tests/guests` for a target, built by `cargo xtask` beforehand.
pub fn guest(name: &str, target: &str) -> Result<PathBuf> {
    built(guests_directory().join(format!("{target}/release/{name}.wasm")))
}

/// The target directory of `tests/guests`.
pub fn guests_directory() -> PathBuf {
    target_directory().join("guests")
}

fn built(file: PathBuf) -> Result<PathBuf> {
    ensure!(file.exists(), "{} is not built; `cargo xtask suite wasm` does that first", file.display());
    Ok(file)
}

/// The probe as a core module of WASI preview 1. `None` if the compiler lacks the target.
pub fn module() -> Option<PathBuf> {
    probe("wasm32-wasip1").ok()
}

/// The probe as a component of WASI 0.2. `None` if the compiler lacks the target.
pub fn component() -> Option<PathBuf> {
    probe("wasm32-wasip2").ok()
}

/// Builds the probe for a target, unless it is there and newer than its source.
pub fn probe(target: &str) -> Result<PathBuf> {
    let source = repository().join("tests/guests/probe.rs");
    let directory = directory()?;
    let built = directory.join(format!("probe-{target}.wasm"));
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if modified(&built).is_some_and(|built| Some(built) > modified(&source)) {
        return Ok(built);
    }
    let unfinished = directory.join(format!("{}-probe-{target}.wasm", std::process::id()));
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-C", "opt-level=s", "-C", "strip=debuginfo", "--target", target, "-o"]);
    rustc.arg(&unfinished).arg(&source);
    let finished = process::run(&mut rustc, b"", BUILD_LIMIT)?;
    ensure!(finished.code == 0, "compile the probe for {target}: {}", finished.stderr);
    fs::rename(&unfinished, &built).with_context(|| format!("rename {}", unfinished.display()))?;
    Ok(built)
}

/// The static program of `tests/intruder`, built unless it is there and newer than its sources.
pub fn intruder() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = target_directory().join("intruder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", &target]);
    cargo.current_dir(repository().join("tests/intruder"));
    cargo.env("CARGO_TARGET_DIR", &directory).env("RUSTFLAGS", "-C target-feature=+crt-static");
    let finished = process::run(&mut cargo, b"", BUILD_LIMIT)?;
    ensure!(finished.code == 0, "compile the intruder: {}", finished.stderr);
    Ok(directory.join(target).join("release/intruder"))
}

/// A root file system with a static busybox and nothing else.
pub fn busybox_root() -> Result<PathBuf> {
    let directory = directory()?;
    let root = directory.join("busybox");
    if root.join("etc/passwd").exists() {
        return Ok(root);
    }
    let busybox = BUSYBOX.iter().map(Path::new).find(|path| path.exists());
    let busybox = busybox.context("find busybox; install the package busybox-static")?;
    let unfinished = directory.join(format!("{}-busybox", std::process::id()));
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "home"] {
        let path = unfinished.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    let program = unfinished.join("bin/busybox");
    fs::copy(busybox, &program).with_context(|| format!("copy {}", busybox.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("make busybox executable")?;
    for applet in APPLETS {
        symlink("busybox", unfinished.join("bin").join(applet)).with_context(|| format!("link {applet}"))?;
    }
    fs::set_permissions(unfinished.join("tmp"), fs::Permissions::from_mode(0o1777))
        .context("open /tmp to all")?;
    let passwd = "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n";
    fs::write(unfinished.join("etc/group"), "root:x:0:\nuser:x:1000:\n").context("write etc/group")?;
    fs::write(unfinished.join("etc/passwd"), passwd).context("write etc/passwd")?;
    if fs::rename(&unfinished, &root).is_err() {
        // Another process was faster; both built the same.
        fs::remove_dir_all(&unfinished).with_context(|| format!("remove {}", unfinished.display()))?;
    }
    Ok(root)
}

fn directory() -> Result<PathBuf> {
    let directory = target_directory().join("fixtures");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}
