//! Prints the settings that it was given.
//!
//! ```text
//! cd examples && cargo build --release --target wasm32-wasip2
//! neargate run --grant wasi:config --config colour=blue target/wasm32-wasip2/release/settings.wasm
//! colour = blue
//! ```

wit_bindgen::generate!({
    path: "../wit/config.wit",
    world: "configured",
    generate_all,
});

use wasi::config::store;

fn main() -> Result<(), store::Error> {
    let mut settings = store::get_all()?;
    settings.sort();
    for (name, value) in settings {
        println!("{name} = {value}");
    }
    Ok(())
}
