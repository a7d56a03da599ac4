//! The launcher against the real kernel: every fence is tried from inside.
//!
//! All is run up to three times: as root, as an ordinary user, and as one to whom the kernel refuses namespaces. The
//! latter two are this program again. There is no test harness in between, because the launcher must be
//! forked before there are threads.

// clippy knows tests by their attribute, which these do not have.
#![allow(clippy::unwrap_used)]

mod cases;
mod ends;
mod fixture;
mod keepers;
mod probes;

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

use neargate_container::{Launcher, LauncherClient, Policy, Roles};

use fixture::{Fixture, Mode};

/// One test: its name and what it does.
pub(crate) type Case = (&'static str, fn(&Fixture));

/// Lists functions `fn(&Fixture)` as cases.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$((stringify!($name), $name)),*];
    };
}

/// Whom files of the invoker belong to, for a launcher that has root.
pub(crate) const INVOKER: u32 = 65_533;
/// The user of the second and third run.
const ORDINARY: u32 = 65_534;

fn main() -> ExitCode {
    let mode = match std::env::args().nth(1).as_deref() {
        Some("ordinary-user") => Mode::Ordinary,
        Some("no-namespaces") => {
            fixture::forbid_namespaces();
            Mode::NoNamespaces
        }
        Some(ends::CLIENT_ROLE) => return ends::be_client(),
        _ => Mode::Root,
    };
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let cases: Vec<&Case> = [cases::CASES, keepers::CASES, ends::CASES]
        .into_iter()
        .flatten()
        .filter(|(name, _)| {
            mode != Mode::Root || filters.is_empty() || filters.iter().any(|f| name.contains(f))
        })
        .collect();
    if std::env::args().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if mode == Mode::Root && !is_root() {
        println!("SKIPPED: the launcher was not tested as root and as others, because this is not root");
        println!("test result: ok. 0 passed; 0 failed; {} ignored", cases.len());
        return ExitCode::SUCCESS;
    }
    let (client, second) = (fork(), fork());
    let fixture = Fixture::new(mode, client, second);
    let mut failed = run(&cases, &fixture);
    fixture.shut_down();
    if mode == Mode::Root && filters.is_empty() {
        failed += again("ordinary-user") + again("no-namespaces");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn fork() -> LauncherClient {
    // The first variable is the harness's or the shell's, and longer than 8 bytes.
    let first = std::env::vars_os().next().map(|(key, _)| key);
    assert!(first.is_some(), "the tests need a variable in their environment");
    probes::ENVIRONMENT.store(fixture::first_variable() as usize, Ordering::Relaxed);
    let roles = Roles::new(probes::role, probes::role)
        .with_files(probes::role, probes::role)
        .prepared_by(probes::prepare);
    // Where the fixture's directory is going to be.
    let temporary = std::env::temp_dir().canonicalize().unwrap();
    let policy = Policy { invoker: Some((INVOKER, INVOKER)).filter(|_| is_root()), kept: vec![temporary] };
    Launcher::fork(roles, policy).expect("fork launcher")
}

fn run(cases: &[&Case], fixture: &Fixture) -> usize {
    let mut failed = 0;
    for (name, case) in cases {
        let passed = catch_unwind(AssertUnwindSafe(|| case(fixture))).is_ok();
        println!("test {:?} {name} ... {}", fixture.mode, if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", cases.len() - failed);
    failed
}

/// Runs this program as another user, who may not be able to reach its file by name.
fn again(mode: &str) -> usize {
    let binary = std::fs::File::open("/proc/self/exe").unwrap();
    rustix::io::fcntl_setfd(&binary, rustix::io::FdFlags::empty()).unwrap();
    let status = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))
        .arg(mode)
        .uid(ORDINARY)
        .gid(ORDINARY)
        .current_dir("/")
        .status()
        .unwrap();
    usize::from(!status.success())
}
