//! qemu: starts the machine, reads its console to the end, and ends the machine when it takes too long.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::Images;
use crate::shell::{command, log_path};

/// Emulation is ten to twenty times slower than the processor: the suites take ten minutes, and never this long.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// More than this is no test's output.
const CONSOLE_BYTES_MAX: usize = 16 << 20;
/// Lines of the console that are shown when the machine did not end as it should.
const TAIL_LINES: usize = 60;
/// What is read of the console and not kept yet.
const CHUNKS_MAX: usize = 64;

/// Much of what the suites do waits for one process, so that a third processor would idle.
const CPUS: &str = "2";
/// The largest case fills a GiB that it is not given.
const MEMORY: &str = "2G";
/// Only messages of a dying kernel, which then ends the machine. A v1 hierarchy cannot even be mounted.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=1 panic=-1 cgroup_no_v1=all random.trust_cpu=on";

/// Kills qemu if it is still there when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the machine and returns what it wrote to its console until it switched itself off.
pub(crate) fn run(kernel: &Path, images: &Images) -> Result<String> {
    let log = log_path("virtual machine")?;
    let mut file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut qemu = Running(start(kernel, images)?);
    let mut output = qemu.0.stdout.take().context("stdout is piped")?;
    let (sender, chunks) = sync_channel(CHUNKS_MAX);
    // Ends when qemu does, which holds the other end of its output.
    std::thread::spawn(move || read(&mut output, &sender));
    let deadline = Instant::now() + LIMIT;
    let mut console = Vec::new();
    loop {
        match chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => {
                file.write_all(&chunk).context("write the console's log")?;
                console.extend(chunk);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!("the machine did not end within {} s; {}", LIMIT.as_secs(), shown(&log, &console));
            }
        }
        if console.len() > CONSOLE_BYTES_MAX {
            bail!("the machine wrote more than {CONSOLE_BYTES_MAX} bytes; {}", shown(&log, &console));
        }
    }
    let status = qemu.0.wait().context("wait for qemu")?;
    if !status.success() {
        bail!("qemu ended with {status}; {}", shown(&log, &console));
    }
    Ok(text(&console))
}

/// A serial console ends lines with two characters.
fn text(console: &[u8]) -> String {
    String::from_utf8_lossy(console).replace('\r', "")
}

/// The last lines of a console.
pub(crate) fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn shown(log: &Path, console: &[u8]) -> String {
    format!("its console is in {} and ends so:\n{}", log.display(), tail(&text(console)))
}

fn start(kernel: &Path, images: &Images) -> Result<Child> {
    // Ends with us, however we end.
    let mut qemu = command("setpriv", &["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", CPUS, "-m", MEMORY]);
    qemu.args(["-append", KERNEL_ARGUMENTS, "-kernel"]).arg(kernel);
    qemu.args(["-initrd", Images::INITRAMFS]);
    // Nothing on the disk outlives the run, so that no write has to reach a real one. A path could not be named
    // here, because qemu takes a comma in it for the end.
    let drive = format!("if=virtio,format=raw,cache=unsafe,file={}", Images::DISK);
    qemu.arg("-drive").arg(drive).current_dir(&images.directory);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    qemu.spawn().context("start qemu-system-x86_64")
}

fn read(output: &mut impl Read, sender: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        if sender.send(buffer[..count].to_vec()).is_err() {
            return;
        }
    }
}
