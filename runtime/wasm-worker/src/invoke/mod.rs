//! What of an image is called, other than its program: `neargate:task/handler`, or any typed export.
//!
//! ```text
//!  handler    `neargate:task/handler`
//!  call       one function by its name, JSON in and out
//!    │ uses
//!  function   which function does a name mean?
//!  value      JSON ⇄ values of the component model
//!  signature  types as text
//! ```

mod call;
pub(crate) mod function;
mod handler;
pub(crate) mod signature;
mod value;

use tokio::io::AsyncWriteExt;
use wasmtime::Store;
use wasmtime::component::InstancePre;

use crate::instance::{RunContext, State};
use crate::stdio::Output;
use call::{Call, CoreCall, Outcome};

/// Exit code of a call that returned an error.
const FAILED_CODE: i32 = 1;
/// Exit code of a call that could not be made with these arguments, as shells have it for wrong usage.
const USAGE_CODE: i32 = 2;

/// Why a function cannot be called as asked. Its text is for the caller, who wrote the arguments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// No function has that name.
    #[error("there is no function `{name}`; there is {known}")]
    NoFunction { name: String, known: String },
    /// Several functions have it.
    #[error("`{name}` means several functions: {candidates}; give one of these names")]
    Ambiguous { name: String, candidates: String },
    /// Its parameters or its result cannot be written as JSON.
    #[error(
        "`{name}` cannot be called with JSON, which has no form for resources, streams and futures: {signature}"
    )]
    NoJsonForm { name: String, signature: String },
    /// Too few or too many arguments.
    #[error("`{name}` takes {wanted} argument(s), {found} given: {signature}")]
    Count { name: String, wanted: usize, found: usize, signature: String },
    /// An argument is no JSON.
    #[error("argument {number} is not JSON: {why}: `{text}` (a string needs its quotes: '\"text\"')")]
    NotJson { number: usize, text: String, why: String },
    /// An argument does not fit its type. The last part says where: `, field `limit`: expected u32, got "x"`.
    #[error("argument {number}{name}{why}")]
    Argument { number: usize, name: String, why: String },
}

/// Calls `neargate:task/handler` with all of standard input and returns the exit code.
pub(crate) async fn handler(
    store: &mut Store<State>,
    pre: &InstancePre<State>,
    run: &RunContext,
) -> wasmtime::Result<i32> {
    handler::handle(store, pre, run).await
}

/// Calls a component's function of this name with the arguments of the plan that follow the program's name, one
/// JSON text each, and returns the exit code.
///
/// The result goes to standard output as one line of JSON. The error of a function that returns a `result` goes
/// to standard error, and the exit code is 1; so does what is wrong with the call, and the exit code is 2.
pub(crate) async fn export(
    store: &mut Store<State>,
    pre: &InstancePre<State>,
    run: &RunContext,
    name: &str,
) -> wasmtime::Result<i32> {
    let call = match Call::new(pre.component(), name, arguments(run)) {
        Ok(call) => call,
        Err(error) => return refuse(run, &error).await,
    };
    let instance = pre.instantiate_async(&mut *store).await?;
    run.instance_is_ready(run.age());
    let outcome = call.run(store, &instance).await?;
    finish(run, &outcome).await
}

/// The same for a core module's function, whose arguments and results are numbers.
pub(crate) async fn core_export(
    store: &mut Store<State>,
    pre: &wasmtime::InstancePre<State>,
    run: &RunContext,
    name: &str,
) -> wasmtime::Result<i32> {
    let call = match CoreCall::new(pre.module(), name, arguments(run)) {
        Ok(call) => call,
        Err(error) => return refuse(run, &error).await,
    };
    let instance = pre.instantiate_async(&mut *store).await?;
    run.instance_is_ready(run.age());
    let outcome = call.run(store, &instance).await?;
    finish(run, &outcome).await
}

/// What follows the program's name.
fn arguments(run: &RunContext) -> &[String] {
    run.plan().argv.get(1..).unwrap_or_default()
}

async fn refuse(run: &RunContext, error: &CallError) -> wasmtime::Result<i32> {
    write(&run.stdio().outputs[1], format!("{error}\n").as_bytes()).await;
    Ok(USAGE_CODE)
}

async fn finish(run: &RunContext, outcome: &Outcome) -> wasmtime::Result<i32> {
    write(&run.stdio().outputs[usize::from(outcome.failed)], &outcome.line).await;
    Ok(if outcome.failed { FAILED_CODE } else { 0 })
}

/// Writes, and waits until the kernel has taken it. A reader that is gone misses it, as it would a program's.
async fn write(output: &Output, bytes: &[u8]) {
    let mut output = output.clone();
    let _ = output.write_all(bytes).await;
}

#[cfg(test)]
mod tests;
