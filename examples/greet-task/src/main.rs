//! A task with typed input and output.
//!
//! ```text
//! cd examples && cargo build --release --target wasm32-wasip2
//! echo '{"name": "Ada", "times": 2}' | neargate run target/wasm32-wasip2/release/greet-task.wasm
//! {"greeting":"hello, Ada! hello, Ada!"}
//! echo '{"name": ""}' | neargate run target/wasm32-wasip2/release/greet-task.wasm
//! {"error":{"message":"nobody to greet","code":"NoName"}}
//! ```

use neargate_task::Error;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    name: String,
    #[serde(default = "once")]
    times: u8,
}

fn once() -> u8 {
    1
}

#[derive(Serialize)]
struct Response {
    greeting: String,
}

#[neargate_task::task]
fn main(request: Request) -> Result<Response, Error> {
    if request.name.is_empty() {
        return Err(Error::new("nobody to greet").code("NoName"));
    }
    let greetings = vec![format!("hello, {}!", request.name); request.times.into()];
    Ok(Response { greeting: greetings.join(" ") })
}
