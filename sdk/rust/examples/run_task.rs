//! Runs a task and shows what it writes: `cargo run -p neargate-sdk --example run_task -- hello [CLUSTER]`.
//!
//! Exits with the exit code of the task's first container.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::TryStreamExt;
use neargate_sdk::{Client, TaskRequest};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let definition = args.next().ok_or("usage: run_task TASK-DEFINITION [CLUSTER]")?;
    let mut request = TaskRequest::new(definition);
    if let Some(cluster) = args.next() {
        request = request.cluster(cluster);
    }

    let client = Client::from_env()?;
    let submitted = client.submit(request).await?;
    eprintln!("submitted {}", submitted.arn);
    let mut lines = client.logs(&submitted.arn).follow();
    while let Some(line) = lines.try_next().await? {
        println!("{} | {}", line.container, line.message);
    }

    let finished = client.wait(&submitted.arn, Duration::from_secs(60)).await?;
    eprintln!("stopped: {}", finished.stopped_reason.as_deref().unwrap_or("no reason given"));
    let code = finished.exit_codes.values().next().copied().flatten();
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
