//! Counts its runs in a key-value store, which it may use if its task says so.
//!
//! ```text
//! cd examples && cargo build --release --target wasm32-wasip2
//! neargate run --grant wasi:keyvalue target/wasm32-wasip2/release/counter.wasm
//! run 1
//! neargate run --grant wasi:keyvalue target/wasm32-wasip2/release/counter.wasm
//! run 2
//! ```

wit_bindgen::generate!({
    path: "../wit/keyvalue.wit",
    world: "counting",
    generate_all,
});

use wasi::keyvalue::{atomics, store};

fn main() -> Result<(), store::Error> {
    let bucket = store::open("default")?;
    println!("run {}", atomics::increment(&bucket, "runs", 1)?);
    Ok(())
}
