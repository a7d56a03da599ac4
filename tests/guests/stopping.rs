//! A program that knows when it is asked to end (`neargate:task/context`), and does then what its first argument says.

use std::process::ExitCode;
use std::time::Duration;

wit_bindgen::generate!({
    path: "../../runtime/wasm-worker/wit",
    inline: "
        package test:stopping;
        world stopping {
            import neargate:task/context@0.1.0;
        }
    ",
    world: "test:stopping/stopping",
    generate_all,
});

use neargate::task::context::{stop_requested, subscribe_stop};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let asked_before = stop_requested();
    println!("ready");
    let code = match arguments[..] {
        ["look", code] => {
            while !stop_requested() {
                std::thread::sleep(LOOK);
            }
            code
        }
        ["wait", code] => {
            subscribe_stop().block();
            code
        }
        ["ignore"] => loop {
            std::thread::sleep(LOOK);
        },
        _ => return ExitCode::from(64),
    };
    println!("asked {asked_before} {}", stop_requested());
    ExitCode::from(code.parse::<u8>().expect("a code"))
}
