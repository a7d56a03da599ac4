//! The `neargate` binary: configuration, wiring and signals.

#![forbid(unsafe_code)]

mod adopt;
mod assembly;
mod client;
mod containers;
mod data_dir;
mod disk;
mod doctor;
mod firewall;
mod image;
mod keeper;
mod link;
mod link_local;
mod metadata;
mod notify;
mod own_images;
mod policy;
mod ports;
mod progress;
mod pull;
mod report;
mod resolver;
mod run;
mod serve;
mod sessions;
mod tidy;
mod user;
mod vpc_blocks;
mod wasm;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use neargate_container::{LauncherClient, Policy};

/// Self-hosted serverless task runtime that speaks the ECS API.
#[derive(Parser, Debug)]
#[command(name = "neargate", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one task here, without a server: its output is this command's, and so is its exit code.
    Run(Box<run::RunArgs>),
    /// Serve the AWS APIs and run tasks.
    Serve(serve::ServeArgs),
    /// Print or write what AWS tools need to talk to the server.
    Env(client::EnvArgs),
    /// List tasks.
    Ps(client::PsArgs),
    /// Show what a task has written.
    Logs(client::LogsArgs),
    /// Run a command in a container of a running task.
    Exec(client::ExecArgs),
    /// Stop a task.
    Stop(client::StopArgs),
    /// Show all that is known of a task.
    Describe(client::DescribeArgs),
    /// Show why a task ended, and get its core dump or profile.
    Debug(client::DebugArgs),
    /// Pull, import, pack, list and remove images.
    Image(image::ImageArgs),
    /// Put an image into the server's registry.
    Push(client::PushArgs),
    /// Say what this machine can run, what is missing, and how to get it.
    Doctor(doctor::DoctorArgs),
    /// Print the completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print what each AWS operation really does here: real, stored only or refused.
    Fidelity,
}

fn main() -> ExitCode {
    // The supervisor is this same program, executed anew before any thread exists.
    if let Some(role) = neargate_container::role_from_args() {
        role.run();
    }
    // First of all, so that it gets ready while the command line and the image are read; and it copies least.
    let launcher = match std::env::args_os().nth(1).is_some_and(|command| command == "run") {
        true => wasm::launch(Policy::of_a_root_program()).map(Some),
        false => Ok(None),
    };
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let failure_code = cli.command.failure_code();
    match launcher.and_then(|launcher| dispatch(cli, launcher)) {
        Ok(code) => code,
        Err(error) if report::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::print(&error);
            ExitCode::from(failure_code.unwrap_or_else(|| client::exit_code(&error)))
        }
    }
}

impl Command {
    /// `run` and `exec` keep the low exit codes for what they run (125 is Docker's for "did not run"); for the others the
    /// error decides.
    fn failure_code(&self) -> Option<u8> {
        match self {
            Self::Run(_) | Self::Exec(_) => Some(run::EXIT_DID_NOT_RUN),
            _ => None,
        }
    }
}

fn dispatch(cli: Cli, launcher: Option<LauncherClient>) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(&args, launcher),
        Command::Serve(args) => {
            report::log_to_stderr();
            serve::run(&args)
        }
        Command::Env(args) => in_runtime(client::env(args)),
        Command::Ps(args) => in_runtime(client::ps(args)),
        Command::Logs(args) => in_runtime(client::logs(args)),
        Command::Exec(args) => in_runtime(client::exec(args)),
        Command::Stop(args) => in_runtime(client::stop(args)),
        Command::Describe(args) => in_runtime(client::describe(args)),
        Command::Debug(args) => in_runtime(client::debug(args)),
        Command::Image(args) => image::run(&args),
        Command::Push(args) => in_runtime(client::push(args)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "neargate", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Fidelity => fidelity(),
    }
}

fn in_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn fidelity() -> anyhow::Result<ExitCode> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for row in neargate_wire::fidelity() {
        writeln!(out, "{:<6} {:<40} {:<12} {}", row.service, row.operation, row.mark, row.note)?;
    }
    Ok(ExitCode::SUCCESS)
}
