//! Greets who is named on its command line; the greeting can be changed by a variable.
//!
//! ```text
//! cd examples && cargo build --release --target wasm32-wasip2
//! neargate run target/wasm32-wasip2/release/hello.wasm -- world
//! hello, world
//! neargate run --env GREETING=good\ morning target/wasm32-wasip2/release/hello.wasm -- Ada Grace
//! good morning, Ada Grace
//! ```

fn main() {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".into());
    let names: Vec<String> = std::env::args().skip(1).collect();
    match names.is_empty() {
        true => println!("{greeting}"),
        false => println!("{greeting}, {}", names.join(" ")),
    }
}
