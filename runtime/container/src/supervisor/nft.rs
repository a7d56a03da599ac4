//! Runs `nft`, which makes rules of text.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::{Failure, Step};
use crate::launchpad::Launchpad;

/// Where it is looked for.
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin";
/// Most bytes that are read of what it says.
const COMPLAINT_BYTES_MAX: u64 = 4096;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(20);

const STEP: &str = "load the rules of security groups";

/// An `nft` that runs.
pub(super) struct Nft(Child);

/// Runs `nft` in a namespace to its end.
pub(super) fn load(text: &str, namespace: BorrowedFd<'_>, launchpad: &Launchpad) -> Result<(), Failure> {
    Nft::start(text, namespace, launchpad)?.end()
}

impl Nft {
    /// Has it carry out a text in a namespace, all of it or nothing; nothing of the text can name a file or a program.
    pub(super) fn start(
        text: &str,
        namespace: BorrowedFd<'_>,
        launchpad: &Launchpad,
    ) -> Result<Self, Failure> {
        let memfd = rustix::fs::memfd_create(c"neargate-rules", MemfdFlags::CLOEXEC).step(STEP)?;
        let mut script = fs::File::from(memfd);
        script.write_all(text.as_bytes()).step(STEP)?;
        rustix::fs::seek(&script, rustix::fs::SeekFrom::Start(0)).step(STEP)?;
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).env_clear().env("PATH", PATH);
        command.stdin(script).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = launchpad.in_network(namespace, || match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::Unsupported {
                what: "a task with an interface".to_owned(),
                why: "the program nft was not found; install the package nftables".to_owned(),
            }),
            spawned => spawned.step("run nft"),
        })?;
        Ok(Self(child))
    }

    /// The number of its socket: it has but one.
    pub(super) fn port(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    pub(super) fn end(self) -> Result<(), Failure> {
        let Self(mut child) = self;
        if !ends_in_time(&child) {
            let _ = child.kill();
        }
        let status = child.wait().step("run nft")?;
        let mut complaint = String::new();
        if let Some(stderr) = child.stderr.take() {
            let _ = stderr.take(COMPLAINT_BYTES_MAX).read_to_string(&mut complaint);
        }
        match status.success() {
            true => Ok(()),
            false => {
                let first = complaint.lines().next().unwrap_or("nft says nothing");
                Err(Failure::System { step: format!("{STEP}: {first}"), errno: libc::EIO })
            }
        }
    }
}

fn ends_in_time(child: &Child) -> bool {
    let pidfd =
        Pid::from_raw(child.id().cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let (Some(pidfd), Ok(patience)) = (pidfd, Timespec::try_from(PATIENCE)) else { return false };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    retry_on_intr(|| poll(&mut fds, Some(&patience))).is_ok_and(|count| count > 0)
}
