//! Answers HTTP requests.
//!
//! ```text
//! cd examples && cargo build --release --target wasm32-wasip2
//! neargate run --http 127.0.0.1:8080 target/wasm32-wasip2/release/web.wasm &
//! curl http://127.0.0.1:8080/world
//! hello, world
//! curl --data 'anything' http://127.0.0.1:8080/echo
//! anything
//! ```

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    match path.as_str() {
        "echo" => Ok(Response::new(request.into_body())),
        name => Ok(Response::new(format!("hello, {name}\n").into())),
    }
}
