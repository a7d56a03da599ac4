//! Measures a Wasm program from `start` to the end of `wait`, one run after the other.
//!
//! ```text
//! cargo run --release -p neargate-wasm --example start_to_exit -- hello.wasm [RUNS]
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use neargate_driver::{ContainerSpec, Driver, Limits, Rootfs, Sandbox, Stdio, WasmModule};
use neargate_model::{ContainerId, ContainerName, TaskId};
use neargate_wasm_worker::{Config, WasmDriver};
use sha2::{Digest, Sha256};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let path = PathBuf::from(env::args_os().nth(1).ok_or("name a .wasm file")?);
    let runs: usize = env::args().nth(2).map_or(Ok(2000), |runs| runs.parse())?;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(fs::read(&path)?)));
    let image = WasmModule { path, digest };
    let dir = tempfile::tempdir()?;
    let config = Config::new(dir.path().join("cache"));

    let begun = Instant::now();
    let driver = WasmDriver::new(&config)?;
    println!("driver set up: {:?}", begun.elapsed());
    let begun = Instant::now();
    driver.prepare(&image).await?;
    println!("compiled: {:?}", begun.elapsed());
    let driver = {
        drop(driver);
        WasmDriver::new(&config)?
    };
    let begun = Instant::now();
    driver.prepare(&image).await?;
    println!("loaded from the cache: {:?}", begun.elapsed());

    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        times.push(run(&driver, &image).await?);
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("start to exit, {runs} runs: median {:?}, p99 {:?}", at(0.5), at(0.99));
    let status = fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default());
    Ok(())
}

async fn run(driver: &WasmDriver, image: &WasmModule) -> Result<Duration, Failure> {
    let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let (output, stdout) = std::io::pipe()?;
    let task = TaskId::new("00000000000000000000000000000001")?;
    let sandbox = Sandbox { task: task.clone(), limits: Limits::default() };
    let spec = ContainerSpec {
        id: ContainerId::new("0a1b2c3d-0000-4000-8000-0123456789ab")?,
        task,
        name: ContainerName::new("program")?,
        rootfs: Rootfs::Wasm(image.clone()),
        argv: vec!["program".into(), "world".into()],
        env: Vec::new(),
        working_dir: PathBuf::from("/"),
        user: None,
        limits: Limits::default(),
        ulimits: Vec::new(),
        read_only_root: false,
        mounts: Vec::new(),
        capabilities_add: Vec::new(),
        capabilities_drop: Vec::new(),
        init: false,
        stdio: Stdio { stdin: null()?.into(), stdout: stdout.into(), stderr: null()?.into() },
        scratch: PathBuf::from("/"),
        wasm: None,
    };
    let begun = Instant::now();
    let exit = driver.start(spec, &sandbox).await?.wait().await;
    let took = begun.elapsed();
    drop(output);
    match exit.code {
        Some(0) => Ok(took),
        _ => Err(format!("the program ended with {exit:?}").into()),
    }
}
