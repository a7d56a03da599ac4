//! Short ways to run a probe in a process.

use std::fs::{self, File};
use std::future::Future;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use neargate_container::LauncherClient;
use neargate_driver::{
    Process, ProcessError, ProcessExit, ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec,
    ProcessUser,
};
use tokio::runtime::Runtime;

/// No probe takes that long on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the kernel lets this process do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Root,
    Ordinary,
    NoNamespaces,
}

/// What all cases share.
pub(crate) struct Fixture {
    pub(crate) mode: Mode,
    pub(crate) client: LauncherClient,
    /// One that a case may end.
    pub(crate) second: LauncherClient,
    pub(crate) runtime: Runtime,
    /// Removed with everything in it after the tests.
    pub(crate) directory: tempfile::TempDir,
}

/// What a probe has found, and how its process ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) text: String,
    pub(crate) exit: ProcessExit,
}

/// A process that waits until this is dropped, if it is not killed before.
pub(crate) struct Waiting {
    pub(crate) process: Arc<dyn Process>,
    _hold: OwnedFd,
}

impl Fixture {
    pub(crate) fn new(mode: Mode, client: LauncherClient, second: LauncherClient) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let directory = tempfile::tempdir().unwrap();
        Self { mode, client, second, runtime: runtime.unwrap(), directory }
    }

    pub(crate) fn has_namespaces(&self) -> bool {
        self.mode != Mode::NoNamespaces
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, future).await.expect("in time") })
    }

    pub(crate) fn shut_down(self) {
        self.block_on(self.client.shut_down());
        self.block_on(self.second.shut_down());
    }

    /// A process without anything.
    pub(crate) fn spec(&self, probe: &str) -> ProcessSpec {
        ProcessSpec {
            role: ProcessRole::WasmWorker,
            name: "probe".to_owned(),
            input: probe.as_bytes().to_vec(),
            fds: Vec::new(),
            mounts: Vec::new(),
            user: ProcessUser::Nobody,
            network: ProcessNetwork::None,
            memory_bytes: None,
            address_space_bytes: None,
            cpu_seconds: None,
            core: None,
        }
    }

    pub(crate) fn spawn(&self, spec: ProcessSpec) -> Result<Arc<dyn Process>, ProcessError> {
        self.block_on(self.client.spawn(spec))
    }

    /// Runs a probe to its end.
    pub(crate) fn try_with(&self, probe: &str, change: impl FnOnce(&mut ProcessSpec)) -> Found {
        let mut spec = self.spec(probe);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        spec.fds.push(write);
        change(&mut spec);
        let process = self.spawn(spec).unwrap();
        let exit = self.block_on(process.wait());
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        Found { text, exit }
    }

    pub(crate) fn check_with(&self, probe: &str, change: impl FnOnce(&mut ProcessSpec), expect: &str) {
        let found = self.try_with(probe, change);
        assert_eq!((found.text.as_str(), found.exit.code), (expect, 0), "{probe}");
    }

    /// Runs a probe in a process without anything and compares what it found.
    pub(crate) fn check(&self, probe: &str, expect: &str) {
        self.check_with(probe, |_| {}, expect);
    }

    /// Runs a probe that must not survive.
    pub(crate) fn check_killed(&self, probe: &str) {
        let found = self.try_with(probe, |_| {});
        assert_eq!((found.text.as_str(), found.exit.code), ("", crate::probes::KILLED), "{probe}");
    }

    /// Starts a process and waits until its role runs.
    pub(crate) fn wait_with(
        &self,
        client: &LauncherClient,
        change: impl FnOnce(&mut ProcessSpec),
    ) -> Waiting {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (end, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut spec = self.spec("wait");
        spec.fds.extend([write, end]);
        change(&mut spec);
        let process = self.block_on(client.spawn(spec)).unwrap();
        let mut here = [0; 4];
        File::from(read).read_exact(&mut here).unwrap();
        Waiting { process, _hold: hold }
    }

    /// A directory with a file and two ways out of it.
    pub(crate) fn mount(&self, name: &str, read_only: bool) -> ProcessMount {
        let source = self.directory.path().join(name);
        if !source.exists() {
            fs::create_dir(&source).unwrap();
            fs::write(source.join("file"), "content").unwrap();
            std::os::unix::fs::symlink("/etc/passwd", source.join("absolute")).unwrap();
            std::os::unix::fs::symlink("../../../../../../etc/passwd", source.join("relative")).unwrap();
            let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(&source, everyone).unwrap();
        }
        ProcessMount { source, name: name.to_owned(), read_only }
    }
}

/// Where the kernel has put the first string of the environment.
pub(crate) fn first_variable() -> *const u8 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // `env_start` of proc_pid_stat(5) is field 50, and the first one here is the third.
    fields.split_ascii_whitespace().nth(50 - 3).unwrap().parse::<usize>().unwrap() as *const u8
}

/// Makes this process one that can make no namespace: without capabilities, in a user namespace that may have none
/// below it.
pub(crate) fn forbid_namespaces() {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: takes no pointers; there is one thread.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, 0);
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).unwrap();
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).unwrap();
}
