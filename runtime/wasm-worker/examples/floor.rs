//! What the machine and wasmtime give at best, for `cargo xtask bench`: no Neargate is in it.
//!
//! `floor http` answers HTTP with a constant, from one pinned process for each of two cores; `floor call FILE`
//! prints the median microseconds of one instantiation and one request handled in process; `floor instances
//! N FILE` prints how many of these N pinned processes do in a second together.

#![allow(missing_docs)]

use std::convert::Infallible;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::thread::CpuSet;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store, UpdateDeadline,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// How long instances are counted.
const COUNTED: Duration = Duration::from_secs(2);
const CALLS: usize = 20_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["http"] => serve_in_processes(),
        ["http-process", core] => serve(core.parse()?),
        ["call", file] => {
            let mut times = Floor::new(file)?.calls(CALLS)?;
            times.sort();
            println!("{}", times[times.len() / 2].as_secs_f64() * 1e6);
            Ok(())
        }
        ["instances", processes, file] => count_in_processes(processes.parse()?, file),
        ["instances-process", core, file] => {
            pin(core.parse()?);
            println!("{}", Floor::new(file)?.count()?);
            Ok(())
        }
        _ => wasmtime::bail!("usage: floor http | floor call FILE | floor instances N FILE"),
    }
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // Without it the numbers are worse and still true.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}

fn again(arguments: &[&str], stdin: Stdio, stdout: Stdio) -> Result<Child> {
    Ok(Command::new(std::env::current_exe()?).args(arguments).stdin(stdin).stdout(stdout).spawn()?)
}

fn count_in_processes(processes: usize, file: &str) -> Result<()> {
    let children: Vec<Child> = (0..processes)
        .map(|core| again(&["instances-process", &core.to_string(), file], Stdio::null(), Stdio::piped()))
        .collect::<Result<_>>()?;
    let mut sum = 0.0;
    for child in children {
        sum += String::from_utf8(child.wait_with_output()?.stdout)?.trim().parse::<f64>()?;
    }
    println!("{sum}");
    Ok(())
}

fn serve_in_processes() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut children = Vec::new();
    for core in ["0", "1"] {
        let socket = OwnedFd::from(listener.try_clone()?);
        children.push(again(&["http-process", core], socket.into(), Stdio::null())?);
    }
    eprintln!("listening on http://{address}/");
    for child in &mut children {
        child.wait()?;
    }
    Ok(())
}

/// Serves the listener that is standard input, and ends with the parent.
fn serve(core: usize) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    pin(core);
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let answer = |_| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
                };
                let service = hyper::service::service_fn(answer);
                // A client that goes away is none of our business.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

/// A `wasi:http` component, linked and ready.
struct Floor {
    pre: ProxyPre<State>,
    runtime: tokio::runtime::Runtime,
}

impl Floor {
    fn new(file: &str) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.linear_memory_keep_resident(128 << 10).table_keep_resident(16 << 10);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .epoch_interruption(true)
            .concurrency_support(false);
        let engine = Engine::new(&config)?;
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.read_to_end(&mut bytes)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let pre = ProxyPre::new(linker.instantiate_pre(&Component::from_binary(&engine, &bytes)?)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { pre, runtime })
    }

    fn calls(&self, count: usize) -> Result<Vec<Duration>> {
        self.runtime.block_on(async {
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let started = Instant::now();
                self.call().await?;
                times.push(started.elapsed());
            }
            Ok(times)
        })
    }

    /// Calls in a second.
    fn count(&self) -> Result<f64> {
        self.runtime.block_on(async {
            let (started, mut count) = (Instant::now(), 0u32);
            while started.elapsed() < COUNTED {
                self.call().await?;
                count += 1;
            }
            Ok(f64::from(count) / started.elapsed().as_secs_f64())
        })
    }

    async fn call(&self) -> Result<()> {
        let mut store = Store::new(self.pre.engine(), State::default());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
        let request = Request::get("http://localhost/")
            .body(Empty::<Bytes>::new().map_err(|never: Infallible| -> Error { match never {} }))?;
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let out = store.data_mut().http().new_response_outparam(sender)?;
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let handled = async {
            let ended = proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await;
            drop(store);
            ended
        };
        let answered =
            async { receiver.await?.map_err(wasmtime::Error::from)?.collect().await.map_err(Into::into) };
        let (ended, answer) = tokio::join!(handled, answered);
        ended?;
        let _: http_body_util::Collected<Bytes> = answer.map_err(|error: wasmtime::Error| error)?;
        Ok(())
    }
}

#[derive(Default)]
struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
}

#[derive(Default)]
struct Hooks;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>),
                    Error,
                >,
            > + Send,
    > {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}
