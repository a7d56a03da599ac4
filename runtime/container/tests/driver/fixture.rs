//! A root file system, and short ways to run something in it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use neargate_container::{LauncherClient, SupervisorClient, SupervisorConfig};
use neargate_driver::{
    ContainerNames, ContainerSpec, Driver, ExecSpec, Exit, Handle, Limits, Rootfs, Sandbox, SandboxHost,
    SandboxNetwork, SandboxSpec, Sharing, StartError, Stdio,
};
use neargate_model::{ContainerId, ContainerName, TaskId};

use crate::hosts::Machine;

const BUSYBOX: &str = "/bin/busybox";
/// Host name of every sandbox of the tests.
pub(crate) const HOSTNAME: &str = "test-task";

/// What this machine lacks for the tests, if anything.
pub(crate) fn lacking() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root");
    }
    (!Path::new(BUSYBOX).exists()).then_some("/bin/busybox (package busybox-static) is missing")
}

/// What all cases share.
pub(crate) struct Fixture {
    /// Removed with everything in it after the tests.
    pub(crate) directory: PathBuf,
    pub(crate) client: SupervisorClient,
    /// A supervisor that mounts as on kernels before 6.15 and fences devices as on pure cgroup v2, under the same
    /// policy as the next one.
    pub(crate) old_client: SupervisorClient,
    /// A supervisor under a policy that allows all there is, and the devices of [`make_devices`].
    pub(crate) allowing_client: SupervisorClient,
    /// Two other hosts, but in tests of faults.
    pub(crate) machines: Vec<Machine>,
    pub(crate) launcher: LauncherClient,
    /// Name of the first one's cgroups.
    pub(crate) instance: String,
    /// Those of all.
    instances: Vec<String>,
    next: AtomicU64,
}

/// A task's sandbox with its containers.
pub(crate) struct Task<'a> {
    pub(crate) fixture: &'a Fixture,
    pub(crate) client: &'a SupervisorClient,
    pub(crate) sandbox: Sandbox,
    /// Name of its cgroups.
    pub(crate) group: String,
    /// Name of its supervisor's.
    instance: String,
}

/// What a container has done.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) exit: Exit,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without white space around it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard error as text.
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// The exit code.
    pub(crate) fn code(&self) -> Option<i32> {
        self.exit.code
    }
}

/// Both ends of the streams of a container.
pub(crate) struct Streams {
    pub(crate) stdin: File,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

impl Streams {
    /// Three pipes, and the other ends of them.
    pub(crate) fn new() -> (Stdio, Streams) {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((stdin, write), (out, stdout), (err, stderr)) = (pipe(), pipe(), pipe());
        let ours = Streams { stdin: write.into(), stdout: out.into(), stderr: err.into() };
        (Stdio { stdin, stdout, stderr, readers: None }, ours)
    }

    /// Closes standard input and reads the others to their ends, off the runtime.
    pub(crate) async fn read(self) -> (Vec<u8>, Vec<u8>) {
        drop(self.stdin);
        let read = |mut file: File| {
            tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                bytes
            })
        };
        let (stdout, stderr) = (read(self.stdout), read(self.stderr));
        (stdout.await.unwrap(), stderr.await.unwrap())
    }
}

impl Fixture {
    pub(crate) fn new(
        directory: &Path,
        [client, old_client, allowing_client]: [SupervisorClient; 3],
        machines: Vec<Machine>,
        launcher: LauncherClient,
        configs: &[&SupervisorConfig],
    ) -> Self {
        make_rootfs(&directory.join("rootfs"));
        let directory = directory.to_owned();
        Self {
            directory,
            client,
            old_client,
            allowing_client,
            machines,
            launcher,
            instance: configs[0].instance().to_owned(),
            instances: configs.iter().map(|config| config.instance().to_owned()).collect(),
            next: AtomicU64::new(1),
        }
    }

    /// The image that most cases use.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// The first group of all servers, in the first hierarchy.
    pub(crate) fn cgroup_top(&self) -> PathBuf {
        cgroup_roots().remove(0).join("neargate")
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A new directory on the host.
    pub(crate) fn new_dir(&self) -> PathBuf {
        let dir = self.directory.join(format!("dir-{}", self.number()));
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// A copy of the image, to be changed.
    pub(crate) fn new_rootfs(&self) -> PathBuf {
        let dir = self.directory.join(format!("rootfs-{}", self.number()));
        make_rootfs(&dir);
        dir
    }

    pub(crate) async fn task(&self) -> Task<'_> {
        self.task_with(Limits::default()).await
    }

    pub(crate) async fn task_with(&self, limits: Limits) -> Task<'_> {
        self.task_on(&self.client, limits).await
    }

    pub(crate) async fn task_on<'a>(&'a self, client: &'a SupervisorClient, limits: Limits) -> Task<'a> {
        self.task_in(client, limits, SandboxNetwork::Own, Sharing::default()).await
    }

    /// What names on the host of each supervisor's network end with.
    pub(crate) fn digits(&self) -> impl Iterator<Item = String> {
        let digits = |instance: &String| instance.chars().filter(char::is_ascii_hexdigit).take(10).collect();
        self.instances.iter().map(digits)
    }

    /// A task whose operator allows it everything.
    pub(crate) async fn allowed_task(&self, network: SandboxNetwork) -> Task<'_> {
        self.task_in(&self.allowing_client, Limits::default(), network, Sharing::default()).await
    }

    /// A task whose containers share more than most.
    pub(crate) async fn sharing_task<'a>(
        &'a self,
        client: &'a SupervisorClient,
        sharing: Sharing,
    ) -> Task<'a> {
        self.task_in(client, Limits::default(), SandboxNetwork::Own, sharing).await
    }

    pub(crate) async fn task_on_network<'a>(
        &'a self,
        client: &'a SupervisorClient,
        network: SandboxNetwork,
    ) -> Task<'a> {
        self.task_in(client, Limits::default(), network, Sharing::default()).await
    }

    async fn task_in<'a>(
        &'a self,
        client: &'a SupervisorClient,
        limits: Limits,
        network: SandboxNetwork,
        sharing: Sharing,
    ) -> Task<'a> {
        let task = TaskId::new(format!("{:032x}", self.number())).unwrap();
        let spec = SandboxSpec { task, hostname: HOSTNAME.to_owned(), limits, linux: true, network, sharing };
        let sandbox = SandboxHost::prepare(client, &spec).await.unwrap();
        let find = |instance: &String| Some((instance.clone(), group_of(&sandbox.task, instance)?));
        let (instance, group) = self.instances.iter().find_map(find).expect("groups of the task");
        Task { fixture: self, client, sandbox, group, instance }
    }

    pub(crate) async fn shut_down(&self) {
        self.client.shut_down().await;
        self.old_client.shut_down().await;
        self.allowing_client.shut_down().await;
        for machine in &self.machines {
            machine.client.shut_down().await;
        }
        self.launcher.shut_down().await;
    }
}

/// A container that asks for nothing but to run `argv`.
pub(crate) fn plain_spec(
    (id, sandbox): (ContainerId, &Sandbox),
    rootfs: PathBuf,
    argv: &[&str],
    stdio: Stdio,
    scratch: PathBuf,
) -> ContainerSpec {
    ContainerSpec {
        id,
        task: sandbox.task.clone(),
        name: ContainerName::new("main").unwrap(),
        rootfs: Rootfs::Layers(vec![rootfs]),
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        working_dir: "/".into(),
        user: None,
        limits: Limits::default(),
        ulimits: vec![],
        read_only_root: false,
        mounts: vec![],
        shm_bytes: None,
        capabilities_add: vec![],
        capabilities_drop: vec![],
        privileges: Default::default(),
        init: false,
        stdio,
        scratch,
        names: ContainerNames::default(),
        wasm: None,
    }
}

impl Task<'_> {
    /// A container that runs `argv`, and the ends of its streams.
    pub(crate) fn spec(&self, argv: &[&str]) -> (ContainerSpec, Streams) {
        let number = self.fixture.number();
        let (stdio, streams) = Streams::new();
        let id = ContainerId::new(format!("00000000-0000-0000-0000-{number:012x}")).unwrap();
        let (rootfs, scratch) = (self.fixture.rootfs(), self.fixture.new_dir());
        let spec = plain_spec((id, &self.sandbox), rootfs, argv, stdio, scratch);
        (spec, streams)
    }

    pub(crate) async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Handle>, StartError> {
        self.client.start(spec, &self.sandbox).await
    }

    /// Runs a container to its end.
    pub(crate) async fn run(&self, spec: ContainerSpec, streams: Streams) -> Result<Output, StartError> {
        let handle = self.start(spec).await?;
        let (stdout, stderr) = streams.read().await;
        Ok(Output { exit: handle.wait().await, stdout, stderr })
    }

    /// Runs a shell script that was changed in some way.
    pub(crate) async fn sh_with(&self, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> Output {
        let (mut spec, streams) = self.spec(&["sh", "-c", script]);
        change(&mut spec);
        self.run(spec, streams).await.unwrap()
    }

    /// Runs a shell script.
    pub(crate) async fn sh(&self, script: &str) -> Output {
        self.sh_with(script, |_| {}).await
    }

    /// Starts a shell script that tells when it is ready by its first line, and waits for that line.
    pub(crate) async fn start_ready(
        &self,
        script: &str,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (Arc<dyn Handle>, Streams) {
        let (mut spec, streams) = self.spec(&["sh", "-c", script]);
        change(&mut spec);
        let handle = self.start(spec).await.unwrap();
        let mut stdout = streams.stdout.try_clone().unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            line
        });
        assert_eq!(line.await.unwrap(), b"ready");
        (handle, streams)
    }

    pub(crate) async fn release(&self) {
        self.client.release(&self.sandbox.task).await.unwrap();
    }

    /// The task's cgroup directories that exist.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        cgroup_roots()
            .into_iter()
            .map(|root| root.join("neargate").join(&self.instance).join(&self.group))
            .filter(|dir| dir.exists())
            .collect()
    }
}

/// A second command.
pub(crate) fn exec_spec(argv: &[&str], stdio: Option<Stdio>) -> ExecSpec {
    ExecSpec {
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        env: vec![],
        timeout: Duration::from_secs(30),
        stdio,
    }
}

/// Waits for something to become true that the kernel or another process does.
pub(crate) async fn eventually(what: &str, is_true: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a controller is in a v1 hierarchy.
pub(crate) fn has_v1(controller: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let has = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields[2] == "cgroup" && fields[3].split(',').any(|option| option == controller)
    };
    mounts.lines().any(has)
}

/// Device nodes that the operator of the allowing supervisor allows, by name: a device that reads as zeroes, and the
/// kernel's log, which no container may open by itself.
pub(crate) fn make_devices(directory: &Path) -> Vec<PathBuf> {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let dir = directory.join("devices");
    fs::create_dir(&dir).unwrap();
    let make = |(name, minor)| {
        let path = dir.join(name);
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, minor)).unwrap();
        path
    };
    [("zero", 5), ("kmsg", 11)].map(make).to_vec()
}

/// The name of a task's cgroups in a supervisor's, by the mark on them.
pub(crate) fn group_of(task: &TaskId, instance: &str) -> Option<String> {
    let list = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let roots = cgroup_roots().into_iter();
    let mut groups = roots.flat_map(|root| list(root.join("neargate").join(instance)));
    let is_its = |dir: &PathBuf| {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(dir, "trusted.neargate.task", &mut value[..]).unwrap_or(0);
        value[..length] == *task.as_str().as_bytes()
    };
    groups.find(|entry| is_its(&entry.path())).map(|entry| entry.file_name().into_string().unwrap())
}

/// All mounted cgroup hierarchies.
pub(crate) fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let is_cgroup = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

pub(crate) fn make_rootfs(dir: &Path) {
    for sub in ["bin", "etc", "proc", "sys", "dev", "tmp", "data"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::set_permissions(dir.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, dir.join("bin/busybox")).unwrap();
    let list = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n").unwrap();
    fs::write(dir.join("etc/group"), "root:x:0:\nweb:x:1001:\nextra:x:44:web\n").unwrap();
    fs::write(dir.join("data/plain"), "not a program\n").unwrap();
    let mut script = File::create(dir.join("bin/orphan")).unwrap();
    script.write_all(b"#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(dir.join("bin/orphan"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(dir.join("bin/garbage"), b"\x01\x02\x03\x04").unwrap();
    fs::set_permissions(dir.join("bin/garbage"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
}
