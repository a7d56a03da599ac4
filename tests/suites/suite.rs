//! A suite: named cases with what they need of the machine. What is not there is skipped, said aloud, and counted.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use neargate_tests::{fixtures, is_root};

/// What a case needs beyond the binary.
#[allow(dead_code, reason = "not every suite has cases of all kinds")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// Compilation targets for Wasm.
    Wasm,
    /// Root: container tasks, mounts, the kernel's state.
    Root,
    /// Both.
    RootAndWasm,
}

/// A case of a suite.
pub(crate) type Case = (&'static str, Needs, fn() -> Result<()>);

/// Runs the cases that the command line selects. `threads` limits how many at once; none leaves it to the user.
pub(crate) fn main(cases: &[Case], threads: Option<usize>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = threads.or(arguments.test_threads);
    let has_wasm = fixtures::module().is_some() && fixtures::component().is_some();
    let lacks = |needs: Needs| match needs {
        Needs::Nothing => None,
        Needs::Root | Needs::RootAndWasm if !is_root() => Some("not root"),
        Needs::Wasm | Needs::RootAndWasm if !has_wasm => {
            Some("no compiler for wasm32-wasip1 and wasm32-wasip2")
        }
        _ => None,
    };
    let trials = cases.iter().map(|&(name, needs, case)| {
        let lacks = lacks(needs);
        if let (Some(why), false) = (lacks, arguments.list) {
            println!("SKIPPED: {name}: {why}");
        }
        let run = move || case().map_err(|error| Failed::from(format!("{error:?}")));
        Trial::test(name, run).with_ignored_flag(lacks.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
