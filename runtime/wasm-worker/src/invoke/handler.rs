//! `neargate:task/handler`: the whole input in, the whole output out.

use serde::Serialize;
use tokio::io::AsyncReadExt;
use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::{FAILED_CODE, write};
use crate::budget::Account;
use crate::instance::{RunContext, State};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        inline: "
            package neargate:host;
            world handler {
                export neargate:task/handler@0.1.0;
            }
        ",
        exports: { default: async },
    });
}

use bindings::HandlerPre;
use bindings::exports::neargate::task::handler::{Ctx, TaskError};

/// The longest input, in bytes. It is in the worker's memory and in the guest's at the same time.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// How much of it is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// What a failed call writes to standard error, as a line: the form that the program of a task made with the
/// SDK has too.
#[derive(Serialize)]
struct Failure<'a> {
    error: FailureParts<'a>,
}

#[derive(Serialize)]
struct FailureParts<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    code: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    retryable: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Calls the handler with all of standard input and returns the exit code.
///
/// The output goes to standard output as it is. An error goes to standard error as a line of JSON,
/// `{"error":{"message":…,"code":…,"retryable":true}}`, without what is empty or false; the exit code is 1.
pub(super) async fn handle(
    store: &mut Store<State>,
    pre: &InstancePre<State>,
    run: &RunContext,
) -> wasmtime::Result<i32> {
    let input = match read_input(run).await {
        Ok(input) => input,
        Err(error) => return fail(run, &error).await,
    };
    let handler = HandlerPre::new(pre.clone())?.instantiate_async(&mut *store).await?;
    run.instance_is_ready(run.age());
    let plan = run.plan();
    let ctx = Ctx { task_id: plan.task.clone(), attempt: plan.attempt, deadline_ms: plan.deadline_ms };
    let handled = handler.neargate_task_handler().call_handle(store, &ctx, &input.bytes).await?;
    drop(input);
    match handled {
        Ok(output) => {
            write(&run.stdio().outputs[0], &output).await;
            Ok(0)
        }
        Err(error) => fail(run, &error).await,
    }
}

async fn fail(run: &RunContext, error: &TaskError) -> wasmtime::Result<i32> {
    write(&run.stdio().outputs[1], &failure_line(error)).await;
    Ok(FAILED_CODE)
}

fn failure_line(error: &TaskError) -> Vec<u8> {
    let TaskError { code, message, retryable } = error;
    let error = FailureParts { message, code, retryable: *retryable };
    // Texts and a bool always have a form in JSON.
    let mut line = serde_json::to_vec(&Failure { error }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Bytes that are counted on the run's memory as long as they are there.
struct Input {
    bytes: Vec<u8>,
    account: Account,
    taken: u64,
}

impl Drop for Input {
    fn drop(&mut self) {
        self.account.give_back(self.taken);
    }
}

/// Reads to the end, unless that is too much.
async fn read_input(run: &RunContext) -> Result<Input, TaskError> {
    let mut source = run.stdio().input.clone();
    let mut input = Input { bytes: Vec::new(), account: run.account().clone(), taken: 0 };
    let error = |code: &str, message: String| TaskError { code: code.to_owned(), message, retryable: false };
    loop {
        if input.bytes.len() as u64 > INPUT_BYTES_MAX {
            let message = format!("the input has more than {INPUT_BYTES_MAX} bytes");
            return Err(error("InputTooLarge", message));
        }
        // Vec doubles, so that much is taken from the limit before it does.
        if input.bytes.capacity() - input.bytes.len() < CHUNK_BYTES {
            let more = input.bytes.capacity().max(CHUNK_BYTES) as u64;
            if !input.account.take(more) {
                let message = "the memory limit leaves no room for the input".to_owned();
                return Err(error("InputTooLarge", message));
            }
            input.taken += more;
            input.bytes.reserve(CHUNK_BYTES);
        }
        match source.read_buf(&mut input.bytes).await {
            Ok(0) => return Ok(input),
            Ok(_) => {}
            Err(why) => return Err(error("InputUnreadable", format!("read the input: {why}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_as_lines() {
        let check = |code: &str, message: &str, retryable: bool, expect: &str| {
            let error = TaskError { code: code.to_owned(), message: message.to_owned(), retryable };
            assert_eq!(std::str::from_utf8(&failure_line(&error)).unwrap(), expect);
        };
        check("", "out of tea", false, "{\"error\":{\"message\":\"out of tea\"}}\n");
        check(
            "Busy",
            "line\nbreak",
            true,
            "{\"error\":{\"message\":\"line\\nbreak\",\"code\":\"Busy\",\"retryable\":true}}\n",
        );
    }
}
