//! What the attribute expands to.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Safety, Type};

/// Wraps the function in a real `fn main` that hands it to the run time of `neargate-task`, and exports it as
/// the handler of a component where there are components.
pub(crate) fn task(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[task] takes no arguments"));
    }
    let function: ItemFn = syn::parse2(item.clone()).map_err(|_| {
        Error::new_spanned(item, "#[task] goes on a function: `fn main(input: Input) -> Output`")
    })?;
    check(&function)?;
    let [run, handle] = run_time_functions(&function);
    // The user's `main` is an item of the generated one and hides it there, so it keeps its name in
    // messages and backtraces. The handler is an item beside it and sees the same `main`.
    Ok(quote! {
        fn main() -> ::std::process::ExitCode {
            #function
            ::neargate_task::__export_handler!(|input| ::neargate_task::run_time::#handle(main, input));
            ::neargate_task::run_time::#run(main)
        }
    })
}

/// Refuses what could not work, where the user wrote it.
fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    let refuse = |at: &dyn ToTokens, why: &str| Err(Error::new_spanned(at.to_token_stream(), why));
    if signature.ident != "main" {
        return refuse(&signature.ident, "the function of a task is called `main`");
    }
    if let Some(keyword) = &signature.asyncness {
        return refuse(keyword, "#[task] needs a plain function; call an executor inside it");
    }
    if let Some(keyword) = &signature.constness {
        return refuse(keyword, "the function of a task cannot be `const`");
    }
    if let Safety::Safe(_) | Safety::Unsafe(_) = &signature.safety {
        return refuse(&signature.ident, "the function of a task cannot be `unsafe`");
    }
    if let Some(keyword) = &signature.abi {
        return refuse(keyword, "the function of a task cannot be `extern`");
    }
    if !signature.generics.params.is_empty() {
        return refuse(
            &signature.generics,
            "the function of a task cannot be generic: its input is one type",
        );
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return refuse(receiver, "the function of a task has no `self`");
    }
    match signature.inputs.iter().nth(1) {
        Some(second) => refuse(second, "a task has one input: use a struct or a tuple for several values"),
        None => Ok(()),
    }
}

/// Which functions of the run time fit: for the program and for the handler. Whether the return type is a
/// `Result` is told from its name, as `Result` is itself something that serde can write.
fn run_time_functions(function: &ItemFn) -> [Ident; 2] {
    let fails = match &function.sig.output {
        ReturnType::Type(_, ty) => is_result(ty),
        ReturnType::Default => false,
    };
    let names = match (function.sig.inputs.is_empty(), fails) {
        (false, false) => ["run", "handle"],
        (false, true) => ["try_run", "try_handle"],
        (true, false) => ["run_without_input", "handle_without_input"],
        (true, true) => ["try_run_without_input", "try_handle_without_input"],
    };
    names.map(|name| Ident::new(name, Span::call_site()))
}

fn is_result(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == "Result"),
        Type::Paren(inner) => is_result(&inner.elem),
        Type::Group(inner) => is_result(&inner.elem),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(arguments: &str, item: &str) -> Result<String> {
        task(arguments.parse().unwrap(), item.parse().unwrap()).map(|tokens| tokens.to_string())
    }

    fn check_call(item: &str, run: &str) {
        let handle = run.replace("run", "handle");
        let expect: TokenStream = format!(
            "fn main() -> ::std::process::ExitCode {{
                {item}
                ::neargate_task::__export_handler!(|input| ::neargate_task::run_time::{handle}(main, input));
                ::neargate_task::run_time::{run}(main)
            }}"
        )
        .parse()
        .unwrap();
        assert_eq!(expand("", item).unwrap(), expect.to_string());
    }

    fn check_refused(arguments: &str, item: &str, expect: &str) {
        let error = expand(arguments, item).unwrap_err().to_string();
        assert!(error.contains(expect), "{item}: {error}");
    }

    #[test]
    fn accepted() {
        check_call("fn main(input: Order) -> Receipt { todo(input) }", "run");
        check_call("fn main(n: u32) { }", "run");
        check_call("fn main() -> u32 { 1 }", "run_without_input");
        check_call("fn main((a, b): (u32, u32)) -> Result<u32, String> { Ok(a + b) }", "try_run");
        check_call("fn main() -> anyhow::Result<()> { Ok(()) }", "try_run_without_input");
        check_call("fn main() -> (std::io::Result<()>) { Ok(()) }", "try_run_without_input");
        check_call("#[allow(dead_code)] pub fn main(x: ResultLike<u8>) -> Results { x }", "run");
    }

    #[test]
    fn refused() {
        check_refused("retries = 3", "fn main() {}", "takes no arguments");
        check_refused("", "struct Main;", "goes on a function");
        check_refused("", "fn handler(input: u32) {}", "called `main`");
        check_refused("", "async fn main(input: u32) {}", "plain function");
        check_refused("", "const fn main(input: u32) {}", "`const`");
        check_refused("", "unsafe fn main(input: u32) {}", "`unsafe`");
        check_refused("", "extern \"C\" fn main(input: u32) {}", "`extern`");
        check_refused("", "fn main<T>(input: T) {}", "generic");
        check_refused("", "fn main(self) {}", "no `self`");
        check_refused("", "fn main(a: u32, b: u32) {}", "one input");
    }
}
