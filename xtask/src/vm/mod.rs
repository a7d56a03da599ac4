//! `cargo xtask test-vm`: the suites of containers on a pure cgroup v2 hierarchy and on the kernel of Debian 12.
//!
//! Users have cgroup v2, and machines that build may have the hybrid layout and a newer kernel. A virtual machine
//! has what we give it: the kernel of a package, one disk, one console, no network.
//!
//! ```text
//!  kernel.rs    the kernel and a few modules, out of Debian's package
//!  programs.rs  what runs in the machine, built here, and the libraries that it is linked to
//!  image.rs     an initramfs that loads the modules, and a disk with the programs
//!  machine.rs   qemu: starts it, reads its console, and ends it in time
//! ```
//!
//! All is emulated: it needs no `/dev/kvm`, and is the same machine everywhere.

mod image;
mod kernel;
mod machine;
mod programs;

use anyhow::{Result, ensure};
use neargate_tests::target_directory;

use crate::setup;
use crate::shell::Steps;
use crate::tally::Tally;
use image::Images;
use programs::Suite;

/// Runs all suites in the machine, or one, with filters only its cases whose names contain one of them.
pub(crate) fn test_vm(name: Option<&str>, filters: &[&str]) -> Result<()> {
    let suites = programs::choose(name)?;
    let mut steps = Steps::default();
    let result = run(&mut steps, &suites, filters);
    println!("{}", steps.tally());
    result
}

fn run(steps: &mut Steps, suites: &[Suite], filters: &[&str]) -> Result<()> {
    let directory = target_directory().join("vm");
    steps.call("setup", setup::setup_vm)?;
    let kernel = steps.call("kernel", || kernel::get(&directory))?;
    let programs = steps.call("programs", || programs::build(suites))?;
    let images = steps.call("images", || Images::make(&directory, &kernel, &programs, filters))?;
    steps.counted("virtual machine", || match machine::run(&kernel.image, &images) {
        Err(error) => (Tally::default(), Err(error)),
        Ok(console) => {
            console.lines().filter(|line| is_noted(line)).for_each(|line| println!("     {line}"));
            (Tally::of_output(&console), judge(&console))
        }
    })
}

/// Whether a person wants to see a line of the console although all else is well.
fn is_noted(line: &str) -> bool {
    line.starts_with("SKIPPED:")
        || line.starts_with(image::MARK)
        || (line.starts_with("test ") && line.ends_with("FAILED"))
}

/// The suites are judged by the machine's last line, which it prints when all of them have ended.
fn judge(console: &str) -> Result<()> {
    let last = console.lines().rev().find_map(|line| line.strip_prefix(image::RESULT));
    let Some(last) = last else {
        anyhow::bail!("the machine ended without a result:\n{}", machine::tail(console));
    };
    ensure!(last.ends_with(", 0 failed"), "in the machine: {last}\n{}", machine::tail(console));
    ensure!(Tally::of_output(console).passed > 0, "no case ran in the machine");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_run_is_a_success() {
        let check = |console: &str, expect: Option<&str>| {
            let error = judge(console).err().map(|error| error.to_string());
            match expect {
                None => assert_eq!(error, None),
                Some(part) => assert!(error.clone().is_some_and(|text| text.contains(part)), "{error:?}"),
            }
        };
        let cases = "test result: ok. 3 passed; 0 failed; 0 ignored\n";
        check(&format!("{cases}vm: result: 2 programs, 0 failed\n"), None);
        check(&format!("{cases}vm: result: 2 programs, 1 failed\n"), Some("1 failed"));
        check(&format!("{cases}vm: result: 2 programs, 10 failed\n"), Some("10 failed"));
        check(cases, Some("without a result"));
        check("vm: result: 2 programs, 0 failed\n", Some("no case ran"));
        check("", Some("without a result"));
    }
}
