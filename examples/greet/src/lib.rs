//! A function with typed parameters and a typed result; its arguments and its result are JSON.
//!
//! ```text
//! cd examples && cargo build --release --target wasm32-wasip2
//! neargate run --invoke greet target/wasm32-wasip2/release/greet.wasm -- '"Ada"' 2
//! ["hello, Ada!","hello, Ada!"]
//! ```

wit_bindgen::generate!({ path: "../wit/greet.wit" });

struct Greeter;

export!(Greeter);

impl Guest for Greeter {
    fn greet(name: String, times: u32) -> Result<Vec<String>, String> {
        if name.is_empty() {
            return Err("nobody to greet".into());
        }
        Ok(vec![format!("hello, {name}!"); times as usize])
    }
}
