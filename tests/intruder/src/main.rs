//! Tries, from inside a task, what a task must not be able to do.
//!
//! `intruder PROBE [ARGUMENTS]` prints a line `NAME: OUTCOME` for each attempt, where the outcome is `success`, the
//! name of an error, or `killed` and the name of a signal. Each attempt that could change or end the process runs in
//! one of its own. Attempts are harmless where they succeed: they are made on machines that people work on.

mod bombs;
mod calls;
mod clocks;
mod connections;
mod escapes;
mod files;
mod identity;
mod ids;
mod ipc;
mod kernel;
mod limits;
mod names;
mod neighbours;
mod processes;
mod sockets;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything opens one: what the task was started with is what counts.
    let descriptors = identity::open_descriptors();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((&probe, rest)) = arguments.split_first() else {
        eprintln!("usage: intruder PROBE [ARGUMENTS]");
        return ExitCode::from(64);
    };
    match probe {
        "identity" => identity::identity(rest),
        "descriptors" => descriptors.iter().for_each(|(number, what)| kernel::say(number, what)),
        "effective-user" => identity::effective_user(),
        "working-directory" => identity::working_directory(),
        "calls" => calls::calls(),
        "foreign" => calls::foreign(),
        "sockets" => sockets::sockets(),
        "write" => files::write(rest),
        "read" => files::read(rest),
        "writable" => files::writable(rest),
        "cgroups" => files::cgroups(),
        "devices" => files::devices(),
        "programs" => files::programs(rest),
        "processes" => processes::processes(rest),
        "initial-process" => processes::initial_process(),
        "escapes" => escapes::escapes(rest),
        "ids" => ids::ids(rest),
        "ipc-hold" => ipc::hold(),
        "ipc-seek" => ipc::seek(),
        "clocks" => clocks::clocks(),
        "connections" => connections::connections(),
        "talk" => connections::talk(),
        "track" => connections::track(rest),
        "names" => names::names(),
        "names-flood" => names::names_flood(),
        "neighbours" => neighbours::neighbours(),
        "hold-peer" => neighbours::hold_peer(rest),
        "deaf-peer" => neighbours::deaf_peer(),
        "fork-bomb" => bombs::fork_bomb(),
        "memory-bomb" => bombs::memory_bomb(),
        "burn" => bombs::burn(rest),
        "priorities" => limits::priorities(),
        "core" => limits::core_dump(),
        "handles" => limits::handles(),
        "a-few" => limits::a_few(),
        _ => {
            eprintln!("there is no probe {probe}");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}
