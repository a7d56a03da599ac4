//! A task of the world `neargate:task/task`, without a program.

wit_bindgen::generate!({ path: "../../wit", world: "neargate:task/task", generate_all });

use exports::neargate::task::handler::{Ctx, Guest, TaskError};
use neargate::task::context::{stop_requested, subscribe_stop};

struct Task;

impl Guest for Task {
    fn handle(ctx: Ctx, input: Vec<u8>) -> Result<Vec<u8>, TaskError> {
        match &input[..] {
            b"ctx" => {
                let Ctx { task_id, attempt, deadline_ms } = ctx;
                Ok(format!("{task_id} {attempt} {deadline_ms:?}").into_bytes())
            }
            b"fail" => Err(TaskError { code: "Busy".into(), message: "come\nagain".into(), retryable: true }),
            b"wait" => {
                let before = stop_requested();
                subscribe_stop().block();
                Ok(format!("{before} {}", stop_requested()).into_bytes())
            }
            b"trap" => panic!("as asked"),
            _ => Ok(input),
        }
    }
}

export!(Task);
