//! The examples in languages that Cargo does not build, each built by the one command that its own text gives.
//!
//! The command stands in the example's first comment, after `$`, as a person would type it. It is run with the
//! set-up's tools first on the PATH, in a copy of the examples, so that what is documented is what is tested and
//! the repository stays clean.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use neargate_tests::{fixtures, repository};

use crate::setup;
use crate::shell::{command, run};

/// Builds every example whose text, or the interfaces it may use, changed since it was built last.
pub(crate) fn build() -> Result<()> {
    let from = repository().join("examples");
    let to = fixtures::languages_directory();
    let interfaces = copy_interfaces(&from.join("wit"), &to.join("wit"))?;
    for example in fixtures::LANGUAGE_EXAMPLES {
        build_example(&from.join(example), &to.join(example), &interfaces)
            .with_context(|| format!("build examples/{example}"))?;
    }
    Ok(())
}

/// Copies the WIT files and returns all of their text.
fn copy_interfaces(from: &Path, to: &Path) -> Result<String> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("list {}", from.display()))?;
    let mut files: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>().context("list interfaces")?;
    files.sort();
    let mut all = String::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let copy = to.join(file.file_name().context("a file has a name")?);
        fs::write(&copy, &text).with_context(|| format!("write {}", copy.display()))?;
        all += &text;
    }
    Ok(all)
}

fn build_example(source: &Path, copy: &Path, interfaces: &str) -> Result<()> {
    let text = fs::read_to_string(source).context("read it")?;
    let line = build_command(&text).context("it has no comment with `$` and the command that builds it")?;
    let wasm = copy.with_extension("wasm");
    let stamp = copy.with_extension("built-from");
    let inputs = format!("{text}{interfaces}");
    if wasm.exists() && fs::read_to_string(&stamp).is_ok_and(|built_from| built_from == inputs) {
        return Ok(());
    }
    let directory = copy.parent().context("an example lies in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    fs::write(copy, &text).with_context(|| format!("write {}", copy.display()))?;
    let mut shell = command("sh", &["-c", line]);
    shell.current_dir(directory).env("PATH", setup::languages_path()?);
    run(&mut shell)?;
    anyhow::ensure!(wasm.exists(), "its command did not make {}", wasm.display());
    fs::write(&stamp, inputs).with_context(|| format!("write {}", stamp.display()))
}

/// The command in the first comment of an example.
fn build_command(text: &str) -> Option<&str> {
    let comment = |line: &'_ str| line.starts_with("//") || line.starts_with('#');
    let mut lines = text.lines().take_while(|line| comment(line));
    lines.find_map(|line| line.trim_start_matches(['/', '#', ' ']).strip_prefix("$ "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_the_first_comment() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(build_command(text), expect, "{text}");
        check("// C\n//\n//     $ cc -c a.c\n//     run it\n", Some("cc -c a.c"));
        check("# Python\n#     $ python -m b\nimport a\n", Some("python -m b"));
        check("// nothing\n\n// $ too late\n", None);
        check("let a = 1; // $ a\n", None);
    }

    #[test]
    fn every_example_says_how_it_is_built() {
        for example in fixtures::LANGUAGE_EXAMPLES {
            let text = fs::read_to_string(repository().join("examples").join(example)).unwrap();
            let command = build_command(&text).unwrap_or_else(|| panic!("{example} has no command"));
            let output = Path::new(example).with_extension("wasm");
            let output = output.file_name().unwrap().to_str().unwrap();
            assert!(command.ends_with(output), "{example} is built into something else: {command}");
        }
    }
}
