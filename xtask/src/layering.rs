//! The laws of the code base, so far as a program can check them.
//!
//! Each law has one table with the reason beside each entry. What it checks: the arrows between our crates, which
//! crates may know HTTP or the operating system, where `unsafe` may stand, the size of files, and glob imports.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use neargate_tests::repository;

use crate::graph::{Graph, Kind};
use crate::source::{Source, words};

/// The crates of ours that each crate of ours may use. Dev-dependencies are free, except that nothing below the
/// gateway may use the gateway in them either.
const ARROWS: [(&str, &[&str]); 27] = [
    // What exists. Everybody may know it, so that it may know nobody.
    ("neargate-model", &[]),
    // Damages bytes for tests; knows nothing of what they mean.
    ("neargate-fuzz", &[]),
    // Marks steps for chaos builds, and is empty in others; knows nothing of what the steps are.
    ("neargate-failpoint", &[]),
    // How processes of ours talk; knows no message.
    ("neargate-ipc", &[]),
    // Pure, and also parts of the Rust client: they must stay free of the runtime.
    ("neargate-wire", &[]),
    ("neargate-auth", &[]),
    // Mechanisms over the model; none knows another, so that each is tested alone.
    ("neargate-store", &["neargate-failpoint", "neargate-model"]),
    ("neargate-driver", &["neargate-ipc", "neargate-model"]),
    ("neargate-image", &["neargate-failpoint", "neargate-model"]),
    // Brings images; the store must be ignorant of networks, and of how long they take.
    ("neargate-registry", &["neargate-image", "neargate-model"]),
    ("neargate-telemetry", &["neargate-failpoint", "neargate-model"]),
    // Drivers implement the contract; the node must not be able to name them.
    (
        "neargate-container",
        &["neargate-driver", "neargate-failpoint", "neargate-ipc", "neargate-model", "neargate-network"],
    ),
    ("neargate-wasm", &["neargate-driver", "neargate-ipc", "neargate-model"]),
    // The only crate with wasmtime in it: what runs in processes that hold nothing worth taking.
    ("neargate-wasm-worker", &["neargate-wasm", "neargate-driver", "neargate-ipc", "neargate-model"]),
    // The store behind a guest's wasi:keyvalue, apart from the driver so that the driver holds no database.
    ("neargate-keyvalue", &["neargate-wasm"]),
    // Messages to the kernel and rules as text; whoever has the right to send them decides when.
    ("neargate-network", &["neargate-model"]),
    // Answers tasks' questions for names; what is private is decided above, behind a trait.
    ("neargate-dns", &["neargate-model"]),
    // Decides and commits, runs nothing: it sees the store, never a driver or the node.
    ("neargate-control", &["neargate-failpoint", "neargate-store", "neargate-model"]),
    // Does what was decided. It never writes control state, so that it may run on another machine.
    (
        "neargate-node",
        &[
            "neargate-driver",
            "neargate-failpoint",
            "neargate-image",
            "neargate-telemetry",
            "neargate-store",
            "neargate-model",
        ],
    ),
    // Turns wire types into domain types and back; the only crate that knows both.
    (
        "neargate-server",
        &[
            "neargate-wire",
            "neargate-auth",
            "neargate-control",
            "neargate-image",
            "neargate-telemetry",
            "neargate-store",
            "neargate-model",
        ],
    ),
    // The wiring: the only crate that names concrete drivers and backends.
    (
        "neargate",
        &[
            "neargate-server",
            "neargate-node",
            "neargate-control",
            "neargate-dns",
            "neargate-driver",
            "neargate-container",
            "neargate-wasm",
            "neargate-wasm-worker",
            "neargate-failpoint",
            "neargate-keyvalue",
            "neargate-image",
            "neargate-registry",
            // Between the server and its own processes that keep files.
            "neargate-ipc",
            "neargate-telemetry",
            "neargate-store",
            "neargate-model",
            "neargate-wire",
            "neargate-auth",
            "neargate-sdk",
        ],
    ),
    // A client is built on what goes over the wire and nothing else.
    ("neargate-sdk", &["neargate-wire", "neargate-auth"]),
    // Compiled into users' Wasm tasks.
    ("neargate-task-macros", &[]),
    ("neargate-task", &["neargate-task-macros"]),
    // A user of the binary: signs requests, and knows nothing of its inside.
    ("neargate-tests", &["neargate-auth"]),
    (
        "xtask",
        &["neargate-tests", "neargate-auth", "neargate-failpoint", "neargate-model", "neargate-network"],
    ),
    ("neargate-bench", &["neargate-tests", "neargate-auth"]),
];

/// HTTP status and AWS error codes belong to the gateway: the runtime has no way to name them.
const HTTP: [&str; 7] = ["http", "http-body-util", "hyper", "hyper-util", "axum", "tower", "reqwest"];
/// Folders whose crates may not depend on [`HTTP`].
const RUNTIME: &str = "runtime/";
/// The crates there that speak HTTP, of others and not Neargate's API: guests that are HTTP handlers (`wasi:http`), and
/// registries.
const SPEAKS_HTTP: [&str; 2] = ["neargate-wasm-worker", "neargate-registry"];

/// Crates that do no I/O, start nothing and read no clock, so that they can be tested by value alone.
const PURE: [&str; 3] = ["neargate-model", "neargate-wire", "neargate-auth"];
/// What pure crates may not depend on.
const IMPURE_CRATES: [&str; 6] = ["tokio", "rustix", "nix", "libc", "rusqlite", "getrandom"];
/// What pure crates may not say. Addresses are values, so that `std::net` itself is allowed.
const IMPURE_WORDS: [&str; 9] = [
    "std::fs",
    "std::thread",
    "std::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "SystemTime::now",
    "Instant::now",
];

/// How often `unsafe` may stand in the code of a crate; the others forbid it altogether.
const UNSAFE: [(&str, usize); 3] = [
    // Namespaces, clone3, mounts and pidfds have no safe interface.
    ("neargate-container", usize::MAX),
    // None is written in it; what wit-bindgen generates for guests has to cross into WebAssembly.
    ("neargate-task", 0),
    // Mapping compiled code, in `engine::code`: wasmtime's contract is that nobody else wrote the file. And the handler of
    // a signal, in `net::handed`.
    ("neargate-wasm-worker", 8),
];

/// A longer file wants to be several; tests and generated code are not counted.
const FILE_LINES_MAX: usize = 800;
const GENERATED: &str = "// @generated";

/// Fails with all violations.
pub(crate) fn check() -> Result<()> {
    let graph = Graph::load()?;
    let mut found = check_arrows(&graph);
    for name in graph.members().map(str::to_owned).collect::<Vec<_>>() {
        let directory = &graph.packages[&name].directory;
        found.extend(check_crate(&name, directory)?);
    }
    ensure!(found.is_empty(), "{} violations of the laws:\n{}", found.len(), found.join("\n"));
    Ok(())
}

/// Violations of the tables above by what the manifests say.
fn check_arrows(graph: &Graph) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut found = Vec::new();
    for name in graph.members() {
        let package = &graph.packages[name];
        let Some(targets) = allowed.get(name) else {
            found.push(format!("{name}: not in the table of arrows; add it with its reason"));
            continue;
        };
        let in_runtime = package.directory.to_string_lossy().contains(&format!("/{RUNTIME}"));
        for (target, kind) in &package.dependencies {
            let is_ours = graph.packages.get(target).is_some_and(|package| package.is_member);
            if is_ours && *kind != Kind::Dev && !targets.contains(&target.as_str()) {
                found.push(format!("{name} → {target}: no such arrow"));
            }
            if is_ours
                && in_runtime
                && graph.packages[target].directory.to_string_lossy().contains("/gateway/")
            {
                found.push(format!("{name} → {target}: the runtime may not know the gateway"));
            }
            if in_runtime
                && !SPEAKS_HTTP.contains(&name)
                && *kind == Kind::Normal
                && HTTP.contains(&target.as_str())
            {
                found.push(format!("{name} → {target}: HTTP belongs to the gateway"));
            }
            if PURE.contains(&name) && *kind == Kind::Normal && IMPURE_CRATES.contains(&target.as_str()) {
                found.push(format!("{name} → {target}: {name} is pure"));
            }
        }
    }
    found
}

/// Violations in the source files of one crate.
fn check_crate(name: &str, directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut unsafe_count = 0;
    for path in rust_files(&directory.join("src"))? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if text.starts_with(GENERATED) {
            continue;
        }
        let shown = path.strip_prefix(repository()).unwrap_or(&path).display().to_string();
        let source = Source::new(&text, is_test_file(&path));
        unsafe_count += words(&source.code, "unsafe");
        found
            .extend(check_source(name, &source).into_iter().map(|violation| format!("{shown}: {violation}")));
        let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|root| path == directory.join(root));
        let may = UNSAFE.iter().any(|(allowed, _)| *allowed == name);
        if is_root && !may && !text.contains("#![forbid(unsafe_code)]") {
            found.push(format!("{shown}: begins without #![forbid(unsafe_code)]"));
        }
    }
    let most = UNSAFE.iter().find(|(allowed, _)| *allowed == name).map_or(0, |(_, most)| *most);
    if unsafe_count > most {
        found.push(format!("{name}: {unsafe_count} times unsafe, allowed are {most}"));
    }
    Ok(found)
}

/// Violations that one file shows by itself.
fn check_source(name: &str, source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.production.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{lines} lines, at most {FILE_LINES_MAX}"));
    }
    for line in source.production.lines().map(str::trim) {
        let is_use =
            line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(crate) use ");
        if is_use && line.contains("::*") {
            found.push(format!("glob import: {line}"));
        }
    }
    if PURE.contains(&name) {
        for word in IMPURE_WORDS {
            if words(&source.production, word) > 0 {
                found.push(format!("{word} in a pure crate"));
            }
        }
    }
    found
}

/// Whether all of a file is test code: by its name, or by the folder it lies in.
fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let is_tests =
        |part: std::path::Component<'_>| part.as_os_str() == "tests" || part.as_os_str() == "testing";
    matches!(&*stem, "tests" | "testing") || path.components().any(is_tests)
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Package;

    /// A graph of members at `folder/name` with arrows of one kind.
    fn graph(arrows: &[(&str, &str, &str, Kind)]) -> Graph {
        let mut graph = Graph::default();
        for (folder, from, to, kind) in arrows {
            for (folder, name) in [(*folder, *from), ("gateway", *to)] {
                let is_ours = name.starts_with("neargate");
                let package = graph.packages.entry(name.to_owned()).or_insert_with(|| Package {
                    directory: PathBuf::from(format!("/repository/{folder}/{name}")),
                    is_member: is_ours,
                    ..Package::default()
                });
                package.is_member = is_ours;
            }
            let package = graph.packages.get_mut(*from).unwrap();
            package.dependencies.insert(((*to).to_owned(), *kind));
        }
        graph
    }

    #[test]
    fn refuses_arrows_that_the_table_lacks() {
        let check = |folder: &str, from: &str, to: &str, kind: Kind, expect: &[&str]| {
            let found = check_arrows(&graph(&[(folder, from, to, kind)]));
            let about_from: Vec<_> =
                found.iter().filter(|line| line.starts_with(from)).map(String::as_str).collect();
            assert_eq!(about_from, expect, "{from} to {to}");
        };
        check("gateway", "neargate-server", "neargate-wire", Kind::Normal, &[]);
        check(
            "gateway",
            "neargate-wire",
            "neargate-auth",
            Kind::Normal,
            &["neargate-wire → neargate-auth: no such arrow"],
        );
        check("gateway", "neargate-wire", "neargate-auth", Kind::Dev, &[]);
        check(
            "runtime",
            "neargate-control",
            "neargate-wire",
            Kind::Dev,
            &["neargate-control → neargate-wire: the runtime may not know the gateway"],
        );
        check(
            "runtime",
            "neargate-node",
            "hyper",
            Kind::Normal,
            &["neargate-node → hyper: HTTP belongs to the gateway"],
        );
        check("gateway", "neargate-server", "hyper", Kind::Normal, &[]);
        check(
            "gateway",
            "neargate-auth",
            "tokio",
            Kind::Normal,
            &["neargate-auth → tokio: neargate-auth is pure"],
        );
        check(
            "runtime",
            "neargate-surprise",
            "serde",
            Kind::Normal,
            &["neargate-surprise: not in the table of arrows; add it with its reason"],
        );
    }

    #[test]
    fn every_arrow_leads_to_a_crate_of_the_table() {
        let names: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
        for (from, targets) in ARROWS {
            for target in targets {
                assert!(names.contains(target), "{from} → {target}");
            }
        }
    }

    #[test]
    fn reads_one_file() {
        let check = |name: &str, text: &str, expect: &[&str]| {
            assert_eq!(check_source(name, &Source::new(text, false)), expect, "{text}");
        };
        check("neargate-node", "use a::*;\n", &["glob import: use a::*;"]);
        check("neargate-node", "// use a::*;\nuse b::c;\n", &[]);
        check("neargate-node", "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n", &[]);
        check("neargate-model", "fn f() { Instant::now(); }\n", &["Instant::now in a pure crate"]);
        check("neargate-node", "fn f() { Instant::now(); }\n", &[]);
        check("neargate-node", &"x\n".repeat(801), &["801 lines, at most 800"]);
        check("neargate-node", &format!("#[cfg(test)]\n{}", "x\n".repeat(801)), &[]);
    }

    #[test]
    fn knows_test_files() {
        let check = |path: &str, expect: bool| assert_eq!(is_test_file(Path::new(path)), expect, "{path}");
        check("/r/runtime/model/src/lifecycle/tests.rs", true);
        check("/r/runtime/store/src/testing.rs", true);
        check("/r/runtime/store/src/store.rs", false);
    }
}
