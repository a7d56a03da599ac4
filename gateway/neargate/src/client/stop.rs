//! `neargate stop`: asks a task to stop.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::connect::ClientOptions;
use super::show::last_part;
use super::task_ref;

/// Options of `neargate stop`.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// The task's ARN, its id, or at least six digits that its id begins with.
    #[arg(value_name = "TASK")]
    task: String,
    /// Why; shown as the task's stopped reason.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    options: ClientOptions,
}

/// Asks a task to stop, and prints its id. Its containers get their stop signal, and are killed after their stop timeout.
pub(crate) async fn run(args: StopArgs) -> Result<ExitCode> {
    let client = args.options.connect()?;
    let arn = task_ref::find(&client, &args.task).await?;
    client.stop(&arn, &args.reason).await.context("stop the task")?;
    writeln!(io::stdout(), "{}", last_part(&arn))?;
    Ok(ExitCode::SUCCESS)
}
