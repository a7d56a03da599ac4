//! The attribute macro of `neargate-task`; use it as `neargate_task::task`.

#![forbid(unsafe_code)]

mod expand;

use proc_macro::TokenStream;

/// Makes a function the program of a task: its input comes from standard input and its output goes to
/// standard output, both as JSON.
///
/// The function is called `main`, takes one parameter or none, and returns a value or a `Result`. See the
/// documentation of the crate `neargate-task` for an example and for the exact form of input, output and
/// errors.
#[proc_macro_attribute]
pub fn task(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(arguments.into(), item.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}
