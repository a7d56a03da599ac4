//! The driver against the real kernel. Needs root and Debian's busybox-static.
//!
//! The supervisor is this binary, executed again, so there is no test harness in between: `main` looks for
//! a role first, then starts a supervisor before there are threads, then runs the cases whose name contains
//! an argument, or all.

// clippy knows tests by their attribute, which these do not have.
#![allow(clippy::unwrap_used)]

mod attended;
mod bandwidth;
mod bridge;
mod cases;
mod dual;
mod faults;
mod fixture;
mod hosts;
mod isolation;
mod limits;
mod network;
mod ordinary;
mod privileges;
mod sandboxed;
mod sharing;
mod sockets;
mod survival;

use std::process::ExitCode;
use std::time::Duration;

use futures::FutureExt;
use neargate_container::{Launcher, Roles, Supervisor, SupervisorConfig};

use neargate_model::Policy;
use neargate_model::policy::{HostNamespace, Privileged};

use fixture::Fixture;
use hosts::Machine;

/// No case takes a second on an idle machine; a stuck one must not block the others.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// One test: its name and what it does.
pub(crate) type Case = (&'static str, fn(&Fixture) -> futures::Boxed<'_>);

/// Lists functions `async fn(&Fixture)` as cases.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$((stringify!($name), |fixture| Box::pin($name(fixture)))),*];
    };
}

/// The two things that are needed of a futures library.
mod futures {
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::task::Poll;

    /// A case that runs.
    pub(crate) type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

    /// Turns a panic into an error.
    pub(crate) trait FutureExt {
        /// False when the future panicked; the message is on standard error by then.
        async fn survives(self) -> bool;
    }

    impl FutureExt for Boxed<'_> {
        async fn survives(mut self) -> bool {
            std::future::poll_fn(|context| {
                match catch_unwind(AssertUnwindSafe(|| self.as_mut().poll(context))) {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(())) => Poll::Ready(true),
                    Err(_) => Poll::Ready(false),
                }
            })
            .await
        }
    }
}

fn main() -> ExitCode {
    if let Some(role) = neargate_container::role_from_args() {
        role.run();
    }
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(directory) = arguments.first().and_then(|first| first.strip_prefix(faults::CLIENT_ROLE)) {
        return faults::be_client(directory);
    }
    if let Some(directory) = arguments.first().and_then(|first| first.strip_prefix(survival::SERVER_ROLE)) {
        return survival::be_server(directory);
    }
    if let Some(group) = arguments.first().and_then(|first| first.strip_prefix(faults::CONTAINED_ROLE)) {
        return faults::be_contained(group);
    }
    if let Some(directory) = arguments.first().and_then(|first| first.strip_prefix(ordinary::ROLE)) {
        return ordinary::be_ordinary(directory);
    }
    let cases: Vec<&Case> = [
        cases::CASES,
        attended::CASES,
        bridge::CASES,
        isolation::CASES,
        limits::CASES,
        ordinary::CASES,
        privileges::CASES,
        sandboxed::CASES,
        sharing::CASES,
        survival::CASES,
        faults::CASES,
        // Last: their networks are kept for a while, which those who count what is left do not expect.
        network::CASES,
        bandwidth::CASES,
        dual::CASES,
        hosts::CASES,
        sockets::CASES,
    ]
    .into_iter()
    .flatten()
    .filter(|(name, _)| arguments.is_empty() || arguments.iter().any(|part| name.contains(part.as_str())))
    .collect();
    if std::env::args().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(lacking) = fixture::lacking() {
        println!("SKIPPED: the container driver was not tested, because {lacking}");
        println!("test result: ok. 0 passed; 0 failed; {} ignored", cases.len());
        return ExitCode::SUCCESS;
    }
    run(&cases)
}

fn run(cases: &[&Case]) -> ExitCode {
    let directory = tempfile::tempdir().expect("make directory for the tests");
    let config = SupervisorConfig::for_data_dir(directory.path()).with_resolv_conf("nameserver 192.0.2.53\n");
    let other = directory.path().join("old");
    std::fs::create_dir(&other).expect("make directory for the tests");
    let allowing = directory.path().join("allowing");
    std::fs::create_dir(&allowing).expect("make directory for the tests");
    let policy = Policy {
        every_capability: true,
        privileged: Privileged::Everyone,
        host_namespaces: HostNamespace::ALL.to_vec(),
        devices: fixture::make_devices(directory.path()),
        ..Policy::default()
    };
    let old_config = SupervisorConfig::for_data_dir(&other)
        .with_layers_by_path()
        .with_devices_by_programs()
        .with_policy(policy.clone());
    let allowing_config = SupervisorConfig::for_data_dir(&allowing).with_policy(policy);
    let roles = Roles::new(sandboxed::role, sandboxed::role);
    let launcher = Launcher::fork(roles, neargate_container::Policy::default()).expect("fork launcher");
    let client = Supervisor::spawn(&config).expect("start supervisor");
    let old_client = Supervisor::spawn(&old_config).expect("start supervisor for old kernels");
    let allowing_client = Supervisor::spawn(&allowing_config).expect("start supervisor with a policy");
    let other_hosts = ["one", "two"].map(|name| directory.path().join(name));
    other_hosts.iter().for_each(|path| std::fs::create_dir(path).expect("make directory for the tests"));
    let machine_configs = other_hosts.each_ref().map(|path| SupervisorConfig::for_data_dir(path));
    let machines = machine_configs.iter().map(Machine::new).collect();
    // Made only now, after the supervisors.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("make runtime");
    let own = [&config, &old_config, &allowing_config];
    let configs: Vec<&SupervisorConfig> = own.into_iter().chain(&machine_configs).collect();
    let clients = [client, old_client, allowing_client];
    let fixture = Fixture::new(directory.path(), clients, machines, launcher, &configs);
    let mut failed = Vec::new();
    for (name, case) in cases {
        let passed = runtime.block_on(async {
            tokio::time::timeout(CASE_TIMEOUT, case(&fixture).survives()).await.unwrap_or(false)
        });
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    runtime.block_on(fixture.shut_down());
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "test result: {verdict}. {} passed; {} failed; 0 ignored",
        cases.len() - failed.len(),
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
