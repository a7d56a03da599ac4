//! Uses the interface of WASI that its first argument names, and prints one line for each thing that came of it.

mod clocks;
mod files;
mod limits;
mod network;
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["args", ..] => println!("{arguments:?}"),
        ["program"] => println!("{}", std::env::args().next().unwrap_or_default()),
        ["env"] => {
            let mut variables: Vec<(String, String)> = std::env::vars().collect();
            variables.sort();
            variables.iter().for_each(|(name, value)| println!("{name}={value:?}"));
        }
        ["exit", code] => return ExitCode::from(code.parse::<u8>().expect("a code")),
        ["exit-at-once", code] => std::process::exit(code.parse().expect("a code")),
        ["files", directory] => files::tour(directory),
        ["file", ..] => println!("{}", files::attempt(&arguments[1..])),
        ["clocks"] => clocks::print(),
        ["sleep", ms] => clocks::sleep(ms.parse().expect("milliseconds")),
        ["random"] => println!("{}", clocks::random()),
        ["timers"] => clocks::timers(),
        ["copy"] => streams::copy(),
        ["flood", bytes] => streams::flood(bytes.parse().expect("a number of bytes")),
        ["ends"] => streams::ends(),
        ["terminals"] => streams::terminals(),
        ["take", mib] => limits::take(mib.parse().expect("a number of MiB")),
        ["burn", ms] => limits::burn(ms.parse().expect("milliseconds")),
        ["panic"] => limits::outer(),
        ["divide", by] => println!("{}", limits::divide(by.parse().expect("a number"))),
        ["address", ..] => limits::address(),
        ["connect", to] => println!("{}", network::connect(to)),
        ["listen", at] => println!("{}", network::listen(at)),
        ["serve", at] => println!("{}", network::serve(at)),
        ["times", at] => println!("{}", network::times(at)),
        ["send", to] => println!("{}", network::send(to)),
        ["hear", at] => println!("{}", network::hear(at)),
        ["resolve", name] => println!("{}", network::resolve(name)),
        ["ask", variable, path] => println!("{}", network::ask(variable, path)),
        ["fetch", authority, path] => println!("{}", network::fetch(authority, path)),
        _ => return ExitCode::from(64),
    }
    ExitCode::SUCCESS
}
