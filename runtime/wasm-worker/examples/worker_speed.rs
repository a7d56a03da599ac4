//! Measures a worker over its control socket: programs from order to exit, alone and beside one that computes, and
//! the memory of instances that wait.
//!
//! ```text
//! cargo run --release -p neargate-wasm-worker --example worker_speed -- PROGRAM.wasm [RUNS]
//! ```
//!
//! The worker is a thread of this process; in production it is a process of its own, which changes nothing in
//! what is measured. The program must end by itself when its input is at its end; one that waits for input
//! shows the memory of an idle instance.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{env, fs};

use neargate_ipc::{channel, wire};
use neargate_wasm::protocol::{EngineKind, FromWorker, RunPlan, Stop, ToWorker, VERSION, WorkerSetup};
use neargate_wasm_worker::{testing, worker_main};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

type Failure = Box<dyn std::error::Error>;

/// Says nothing and computes for ever.
const BUSY: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;
/// Instances that wait at the same time.
const IDLE: u64 = 1000;

struct Server {
    socket: OwnedFd,
    null: File,
}

fn main() -> Result<(), Failure> {
    let path = env::args_os().nth(1).ok_or("name a .wasm file")?;
    let runs: u64 = env::args().nth(2).map_or(Ok(5000), |runs| runs.parse())?;
    let (socket, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let setup = WorkerSetup { version: VERSION, runs_max: 1100, images_max: 8, network: false };
    let worker = std::thread::spawn(move || worker_main(&wire::encode(&setup), vec![other]));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let server = Server { socket, null };
    server.expect(|message| matches!(message, FromWorker::Ready { .. }))?;
    server.load(1, &fs::read(path)?)?;
    server.load(2, &wat::parse_str(BUSY)?)?;

    server.times("alone", 1000, runs)?;
    server.start(1, 2, &server.null)?;
    server.expect(|message| matches!(message, FromWorker::Started { run: 1 }))?;
    server.times("beside one that computes", 1_000_000, runs)?;
    server.send(&ToWorker::Stop { run: 1, stop: Stop::Kill { code: 137 } }, &[])?;
    server.expect(|message| matches!(message, FromWorker::Exited { run: 1, .. }))?;
    server.burst(runs)?;
    server.idle()?;
    drop(server);
    worker.join().map_err(|_| "the worker panicked")?;
    Ok(())
}

impl Server {
    fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        Ok(channel::send(self.socket.as_fd(), 0, &wire::encode(message), fds, true)?)
    }

    fn expect(&self, wanted: impl Fn(&FromWorker) -> bool) -> Result<FromWorker, Failure> {
        let mut buffer = Vec::new();
        loop {
            let frame =
                channel::receive(self.socket.as_fd(), &mut buffer, true)?.ok_or("the worker ended")?;
            let message: FromWorker = wire::decode(&frame.message)?;
            if wanted(&message) {
                return Ok(message);
            }
        }
    }

    fn load(&self, image: u32, wasm: &[u8]) -> Result<(), Failure> {
        let (code, bytes) = testing::compile(wasm, &EngineKind::Sync {})?;
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        let begun = Instant::now();
        self.send(&ToWorker::Load { image, code }, &[file.as_fd()])?;
        self.expect(|message| matches!(message, FromWorker::Loaded { .. }))?;
        println!("load {} KiB of code: {:?}", bytes.len() >> 10, begun.elapsed());
        Ok(())
    }

    fn start(&self, run: u64, image: u32, stdin: &impl AsFd) -> Result<(), Failure> {
        let plan =
            RunPlan { image, task: format!("{run:032x}"), argv: vec!["program".into()], ..testing::plan() };
        let null = self.null.as_fd();
        self.send(&ToWorker::Start { run, plan }, &[stdin.as_fd(), null, null])
    }

    /// One run after the other.
    fn times(&self, what: &str, first: u64, runs: u64) -> Result<(), Failure> {
        let mut times: Vec<Duration> = Vec::new();
        for run in first..first + runs {
            let begun = Instant::now();
            self.start(run, 1, &self.null)?;
            self.expect(|message| matches!(message, FromWorker::Exited { run: ended, .. } if *ended == run))?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        println!("{what}: median {:?}, p99 {:?}", at(0.5), at(0.99));
        Ok(())
    }

    /// Sixteen at a time.
    fn burst(&self, runs: u64) -> Result<(), Failure> {
        let begun = Instant::now();
        let first = 2_000_000;
        for run in first..first + 16 {
            self.start(run, 1, &self.null)?;
        }
        for run in first + 16..first + runs {
            self.expect(|message| matches!(message, FromWorker::Exited { .. }))?;
            self.start(run, 1, &self.null)?;
        }
        for _ in 0..16 {
            self.expect(|message| matches!(message, FromWorker::Exited { .. }))?;
        }
        println!("sixteen at a time: {:.0} a second", runs as f64 / begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn idle(&self) -> Result<(), Failure> {
        let (stdin, feed) = std::io::pipe()?;
        let before = resident_bytes()?;
        for run in 1..=IDLE {
            self.start(3_000_000 + run, 1, &stdin)?;
        }
        // Answered after all of the starts.
        self.send(&ToWorker::Stats { run: 3_000_000 + IDLE }, &[])?;
        self.expect(|message| matches!(message, FromWorker::Usage { .. } | FromWorker::Exited { .. }))?;
        std::thread::sleep(Duration::from_millis(300));
        println!("{IDLE} at a time: {} KiB each", (resident_bytes()?.saturating_sub(before) / IDLE) >> 10);
        drop(feed);
        for _ in 0..IDLE {
            self.expect(|message| matches!(message, FromWorker::Exited { .. }))?;
        }
        Ok(())
    }
}

/// Resident memory and page tables of this process.
fn resident_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default()
    };
    Ok((kib("VmRSS:") + kib("VmPTE:")) << 10)
}
