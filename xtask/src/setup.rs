//! Everything that the other commands need on a machine, installed once and pinned.
//!
//! Each part looks first and does nothing if what it wants is there, so that a second run takes no time. A part that
//! cannot be had (no root, no rustup, no network) says what to do and the others go on; tests that need it are then
//! skipped and counted, or fail with a message that names it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use neargate_tests::{fixtures, is_root, repository, target_directory};

use crate::languages;
use crate::shell::{command, is_installed, output, run, shown};

/// A program and the Debian package that has it.
const PACKAGES: [(&str, &str); 13] = [
    ("busybox", "busybox-static"),
    ("crun", "crun"),
    ("runc", "runc"),
    ("mold", "mold"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("skopeo", "skopeo"),
    // A registry of somebody else's, with and without passwords and tokens.
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("openssl", "openssl"),
];
/// What the virtual machine needs besides, which is a lot for those who never start it.
const VM_PACKAGES: [(&str, &str); 6] = [
    ("busybox", "busybox-static"),
    ("mkfs.ext4", "e2fsprogs"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
];
/// Debian's AWS CLI is version 2, and is looked for by its path because others may shadow it.
const AWS_CLI_2: (&str, &str) = ("/usr/bin/aws", "awscli");
/// Compilation targets of Wasm tasks.
const WASM_TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];

/// SDKs, and a client of registries.
const BOTO3: &[&str] = &["boto3==1.44.5", "botocore==1.44.5", "oras==0.2.43", "pytest==9.2.0"];
/// Version 1 of the AWS CLI pins a botocore of its own, so that it has an environment of its own.
const AWS_CLI_1: &[&str] = &["awscli==1.46.2"];
/// Compilers to Wasm: Python to components, and C by way of Zig.
const COMPILERS: &[&str] = &["componentize-py==0.25.1", "ziglang==0.17.0"];
/// The SDK for JavaScript, and the compilers of JavaScript and AssemblyScript to Wasm. Of JavaScript there are two:
/// componentize-qjs makes components a tenth the size, and componentize-js those that handle `wasi:http`.
const NPM_PACKAGES: &[&str] = &[
    "@aws-sdk/client-ecs@3.1162.0",
    "@bytecodealliance/componentize-js@0.23.0",
    "assemblyscript@0.28.20",
    "componentize-qjs@0.4.5",
];

/// Python with boto3 and pytest.
pub(crate) fn python() -> PathBuf {
    target_directory().join("venv/bin/python")
}

/// Version 1 of the AWS CLI.
pub(crate) fn aws_cli_1() -> PathBuf {
    target_directory().join("venv-awscli/bin/aws")
}

/// Where the SDK for JavaScript and the compilers of npm are installed.
pub(crate) fn npm_directory() -> PathBuf {
    target_directory().join("npm")
}

/// The PATH on which the compilers of all languages come first.
pub(crate) fn languages_path() -> Result<OsString> {
    let installed =
        [target_directory().join("venv-compilers/bin"), npm_directory().join("node_modules/.bin")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(installed.into_iter().chain(std::env::split_paths(&path)))
        .context("make a PATH with the compilers")
}

/// What a part is for, and the function that does what is missing of it.
type Part = (&'static str, fn() -> Result<()>);

/// Does what is missing, and says what it cannot do.
pub(crate) fn setup() -> Result<()> {
    fs::create_dir_all(target_directory()).context("create the target directory")?;
    let parts: [Part; 5] = [
        ("Debian packages", install_packages),
        ("Wasm targets", add_wasm_targets),
        ("Python environments", make_environments),
        ("npm packages", install_npm_packages),
        ("test programs", build_fixtures),
    ];
    for (name, part) in parts {
        if let Err(error) = part() {
            println!("setup: {name}: {error:#}");
            println!("setup: going on without; what needs it will fail or be skipped");
        }
    }
    Ok(())
}

/// Installs what `cargo xtask test-vm` needs.
pub(crate) fn setup_vm() -> Result<()> {
    install(&missing(&VM_PACKAGES))
}

/// The packages whose programs are absent. Programs of file systems are where only root's PATH leads.
fn missing(packages: &[(&str, &'static str)]) -> Vec<&'static str> {
    let is_there = |program: &str| {
        is_installed(program)
            || ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    packages.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect()
}

fn install_packages() -> Result<()> {
    let mut missing = missing(&PACKAGES);
    if !Path::new(AWS_CLI_2.0).exists() {
        missing.push(AWS_CLI_2.1);
    }
    install(&missing)
}

fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = command("apt-get", &["install", "--yes", "--no-install-recommends"]);
    install.args(missing).env("DEBIAN_FRONTEND", "noninteractive");
    if !is_root() {
        println!("setup: as root, run: {}", shown(&install));
        return Ok(());
    }
    println!("setup: {}", shown(&install));
    // Package lists may be absent or old on a new machine; the first try is free where they are not.
    run(&mut install).or_else(|_| {
        run(&mut command("apt-get", &["update", "--quiet"]))?;
        run(&mut install)
    })
}

fn add_wasm_targets() -> Result<()> {
    let sysroot = output(&mut command("rustc", &["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let missing: Vec<_> =
        WASM_TARGETS.into_iter().filter(|target| !libraries.join(target).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut add = command("rustup", &["target", "add"]);
    add.args(&missing);
    if !is_installed("rustup") {
        println!("setup: rustup is absent: tests that need {} are skipped", missing.join(" and "));
        return Ok(());
    }
    println!("setup: {}", shown(&add));
    run(&mut add)
}

fn make_environments() -> Result<()> {
    make_environment("venv", BOTO3)?;
    make_environment("venv-awscli", AWS_CLI_1)?;
    make_environment("venv-compilers", COMPILERS)
}

/// Makes a virtual environment with exactly these requirements; a stamp in it tells that it is complete.
fn make_environment(name: &str, requirements: &[&str]) -> Result<()> {
    let directory = target_directory().join(name);
    let stamp = directory.join("neargate-requirements");
    let wanted = requirements.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("setup: pip install {} into {}", requirements.join(" "), directory.display());
    let mut venv = command("python3", &["-m", "venv", "--clear"]);
    run(venv.arg(&directory))?;
    let pip = directory.join("bin/pip");
    run(command(pip, &["install", "--quiet", "--disable-pip-version-check"]).args(requirements))?;
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))
}

fn install_npm_packages() -> Result<()> {
    let directory = npm_directory();
    let stamp = directory.join("neargate-requirements");
    let wanted = NPM_PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("setup: npm install {} into {}", NPM_PACKAGES.join(" "), directory.display());
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let arguments = ["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix"];
    run(command("npm", &arguments).arg(&directory).args(NPM_PACKAGES))?;
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))
}

fn build_fixtures() -> Result<()> {
    fixtures::busybox_root()?;
    for target in WASM_TARGETS {
        fixtures::probe(target)?;
    }
    fixtures::intruder().map(drop)
}

/// The command that builds the binary, unless `NEARGATE_BIN` names one that is to be used as it is.
pub(crate) fn build_command() -> Option<Command> {
    let is_given = std::env::var_os("NEARGATE_BIN").is_some();
    (!is_given).then(|| crate::shell::cargo(&["build", "--release", "--locked", "--package", "neargate"]))
}

/// The examples' Wasm files, built, and those of the Wasm suite.
pub(crate) fn build_examples() -> Result<PathBuf> {
    let mut cargo = crate::shell::cargo(&["build", "--release", "--locked", "--target", "wasm32-wasip2"]);
    let target = target_directory().join("examples");
    // The target directory of the examples is kept apart: two workspaces in one would rebuild each other's crates.
    run(cargo.current_dir(repository().join("examples")).env("CARGO_TARGET_DIR", &target))?;
    languages::build()?;
    build_guests()?;
    Ok(target.join("wasm32-wasip2/release"))
}

/// The programs of the Wasm suite, for the versions of WASI.
fn build_guests() -> Result<()> {
    let builds: [&[&str]; 3] = [
        &["--target", "wasm32-wasip2"],
        &["--target", "wasm32-wasip2", "--example", "third"],
        &["--target", "wasm32-wasip1", "--bin", "wasi"],
    ];
    for build in builds {
        let mut cargo = crate::shell::cargo(&["build", "--release", "--locked"]);
        cargo.args(build).current_dir(repository().join("tests/guests"));
        run(cargo.env("CARGO_TARGET_DIR", fixtures::guests_directory()))?;
    }
    Ok(())
}
