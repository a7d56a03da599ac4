//! A small task beside busy ones of the same tenant: they share its worker processes.

use anyhow::{Context as _, Result};
use neargate_tests::{Server, fixtures};
use serde_json::json;

use super::http::{component, load, start_task};
use super::{CLUSTER, Worker, prepare, through_api};
use crate::statistics::{Figures, Row};

const SAMPLES: usize = 200;
const SECONDS: u32 = 5;

pub(super) fn neighbour() -> Result<Figures> {
    let server = Server::start()?;
    server.import(&fixtures::probe("wasm32-wasip2").context("build the probe as a component")?, "probe")?;
    server.import(&component()?, "handler")?;
    prepare(&server, "small", "probe", &["echo", "hello"])?;
    let url = start_task(&server, "handler", "handler", &json!({}))?;
    let columns = vec!["p50 ms", "p99 ms", "p99 ratio"];
    let mut figures = Figures { columns, rows: Vec::new() };
    let alone = (small_task(&server)?, load(&url, 1, SECONDS)?);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let spin =
        json!({"name": "main", "image": "probe", "essential": true, "memory": 16, "command": ["spin"]});
    let mut client = server.client();
    client.ecs("RegisterTaskDefinition", &json!({"family": "spin", "containerDefinitions": [spin]}))?;
    client.ecs("RunTask", &json!({"cluster": CLUSTER, "taskDefinition": "spin", "count": cores}))?;
    let beside = (small_task(&server)?, load(&url, 1, SECONDS)?);
    for (name, of) in [("alone", &alone), ("beside one busy loop per core", &beside)] {
        let (task, call) = (&of.0, &of.1);
        let (p50, p99) = (task.quantile(0.5), task.quantile(0.99));
        let ratio = p99 / alone.0.quantile(0.99);
        figures.rows.push((format!("task over the API, submit to exit seen, {name}"), vec![p50, p99, ratio]));
        let ratio = call.p99_us / alone.1.p99_us;
        figures.rows.push((
            format!("HTTP request, fresh instance, {name}"),
            vec![call.p50_us / 1e3, call.p99_us / 1e3, ratio],
        ));
    }
    Ok(figures)
}

fn small_task(server: &Server) -> Result<Row> {
    let mut worker = Worker { client: Some(server.client()), shells: Default::default() };
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        samples.extend(through_api(&mut worker, "small")?.pop());
    }
    Ok(Row::new("", 1, samples))
}
