//! What runs in the machine: suites, the binary that they test, and the libraries that all are linked to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use neargate_tests::{binary, fixtures, target_directory};
use serde::Deserialize;

use crate::check::SDK_AS_IT_IS;
use crate::setup;
use crate::shell::{cargo, command, output, run};

/// A suite that runs in the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    package: &'static str,
    name: &'static str,
    /// Whether it starts the binary, or drives the kernel by itself.
    is_black_box: bool,
}

const SUITES: [Suite; 4] = [
    Suite { package: "neargate-container", name: "driver", is_black_box: false },
    Suite { package: "neargate-container", name: "launcher", is_black_box: false },
    Suite { package: "neargate-tests", name: "cli", is_black_box: true },
    Suite { package: "neargate-tests", name: "ecs", is_black_box: true },
];
/// Programs that the suites call and busybox does not have.
const TOOLS: [&str; 5] =
    ["/usr/bin/setpriv", "/usr/bin/nsenter", "/usr/bin/unshare", "/usr/sbin/nft", "/usr/sbin/ip"];

/// All files that the machine needs from this one.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Name and file of each suite.
    pub(crate) suites: Vec<(&'static str, PathBuf)>,
    /// The binary under test, if a suite wants one.
    pub(crate) binary: Option<PathBuf>,
    /// What the suites' tasks run.
    pub(crate) fixtures: PathBuf,
    /// Programs and libraries that have the same path in the machine.
    pub(crate) same: BTreeSet<PathBuf>,
}

/// A line of Cargo's report of what it has built.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The suite of a name, or all.
pub(crate) fn choose(name: Option<&str>) -> Result<Vec<Suite>> {
    let chosen: Vec<Suite> =
        SUITES.into_iter().filter(|suite| name.is_none_or(|name| suite.name == name)).collect();
    let names = SUITES.map(|suite| suite.name).join(", ");
    ensure!(
        !chosen.is_empty(),
        "there is no suite {} for the machine; there are {names}",
        name.unwrap_or("")
    );
    Ok(chosen)
}

/// Builds what the suites need, and them.
pub(crate) fn build(suites: &[Suite]) -> Result<Programs> {
    let is_binary_needed = suites.iter().any(|suite| suite.is_black_box);
    if let (true, Some(mut build)) = (is_binary_needed, setup::build_command()) {
        run(&mut build)?;
    }
    fixtures::busybox_root()?;
    // Cases for Wasm are skipped aloud without these.
    let _ = (fixtures::module(), fixtures::component());
    let suites: Vec<_> =
        suites.iter().map(|suite| Ok((suite.name, build_suite(suite)?))).collect::<Result<_>>()?;
    let binary = is_binary_needed.then(binary);
    let mut same: BTreeSet<PathBuf> = TOOLS.iter().map(PathBuf::from).collect();
    let tools = same.clone();
    for file in suites.iter().map(|(_, file)| file).chain(&binary).chain(&tools) {
        same.extend(libraries(file)?);
    }
    Ok(Programs { suites, binary, fixtures: target_directory().join("fixtures"), same })
}

fn build_suite(suite: &Suite) -> Result<PathBuf> {
    let Suite { package, name, .. } = suite;
    let mut build = cargo(&["test", "--no-run", "--locked", "--quiet", "--message-format", "json"]);
    build.args(SDK_AS_IT_IS).args(["--package", package, "--test", name]);
    let report = output(&mut build)?;
    let messages = report.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let is_suite = |target: &Target| target.name == *name && target.kind.iter().any(|kind| kind == "test");
    let mut files =
        messages.filter(|message| message.target.as_ref().is_some_and(is_suite)).filter_map(|m| m.executable);
    files.next().with_context(|| format!("Cargo built no suite {name} of {package}"))
}

/// The shared libraries of a program, and the loader that maps them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    ensure!(program.exists(), "{} is missing", program.display());
    Ok(parse_ldd(&output(command("ldd", &[]).arg(program))?))
}

/// Paths in the output of ldd(1), of which each line has one at most.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(parse_ldd(text), expect.iter().map(PathBuf::from).collect::<Vec<_>>(), "{text}");
        };
        check(
            "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n",
            &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"],
        );
        check("\tstatically linked\n", &[]);
    }
}
