//! Containers of an ordinary user: what holds as with root, and what is refused with the reason.
//!
//! The user is another process, this binary once more, because a user once given up does not come back. It says what it
//! has seen by ending well, or by a panic.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};

use neargate_container::{Supervisor, SupervisorClient, SupervisorConfig};
use neargate_driver::{
    ContainerSpec, Driver, Handle, Limits, Mount, MountSource, Sandbox, SandboxError, SandboxHost,
    SandboxNetwork, SandboxSpec, Sharing, StartError,
};
use neargate_model::policy::HostNamespace;
use neargate_model::{ContainerId, IpcMode, PidMode, Policy, TaskId, Traffic};

use crate::cases;
use crate::fixture::{Fixture, Output, Streams, exec_spec, make_rootfs, plain_spec};
use crate::network::{from_anywhere, reach, rules, vpc, vpcs};

cases![ordinary_user];

/// First argument of the ordinary user's process; its directory follows.
pub(crate) const ROLE: &str = "client-without-root=";

/// A user whom every Linux has.
const NOBODY: u32 = 65534;

/// What the operator allows, so that what is refused is refused for another reason.
fn policy() -> Policy {
    Policy { host_namespaces: HostNamespace::ALL.to_vec(), ..Policy::default() }
}

async fn ordinary_user(fixture: &Fixture) {
    // The directories of the build may be closed to others; a copy is not.
    let directory = std::env::temp_dir().join(format!("neargate-ordinary-{}", fixture.instance));
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    let program = directory.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let role = format!("{ROLE}{}", directory.display());
    let output = Command::new(&program).arg(role).uid(NOBODY).gid(NOBODY).current_dir("/").output();
    fs::remove_dir_all(&directory).unwrap();
    let output = output.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// What the user's process does.
pub(crate) fn be_ordinary(directory: &str) -> ExitCode {
    let directory = Path::new(directory);
    make_rootfs(&directory.join("rootfs"));
    fs::write(directory.join("secret"), "of the server").unwrap();
    let other = directory.join("lax");
    fs::create_dir(&other).unwrap();
    let config = |directory| SupervisorConfig::for_data_dir(directory).with_policy(policy());
    let strict = Supervisor::spawn(&config(directory)).unwrap();
    let lax = Supervisor::spawn(&config(&other).with_unenforced_limits()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let user = User { directory, client: &strict };
        programs_run(&user).await;
        nothing_of_the_server_is_in_reach(&user).await;
        processes_are_bounded(&user).await;
        volumes_are_the_users(&user).await;
        commands_join(&user).await;
        groups_hold(&user).await;
        what_takes_root_is_refused(&user).await;
        limits_are_refused_or_ignored(&user, &User { directory, client: &lax }).await;
        strict.shut_down().await;
        lax.shut_down().await;
    });
    ExitCode::SUCCESS
}

/// A number that no other task or container of this process has.
fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// An ordinary user with a supervisor.
struct User<'a> {
    directory: &'a Path,
    client: &'a SupervisorClient,
}

impl User<'_> {
    async fn sandbox(&self, limits: Limits) -> Result<Sandbox, SandboxError> {
        let (network, sharing) = (SandboxNetwork::Own, Sharing::default());
        self.sandbox_in(limits, network, sharing).await
    }

    async fn sandbox_in(
        &self,
        limits: Limits,
        network: SandboxNetwork,
        sharing: Sharing,
    ) -> Result<Sandbox, SandboxError> {
        let task = TaskId::new(format!("{:032x}", number())).unwrap();
        let hostname = "test-task".to_owned();
        let spec = SandboxSpec { task, hostname, limits, linux: true, network, sharing };
        SandboxHost::prepare(self.client, &spec).await
    }

    fn spec(&self, sandbox: &Sandbox, script: &str) -> (ContainerSpec, Streams) {
        let (stdio, streams) = Streams::new();
        let number = number();
        let scratch = self.directory.join(format!("scratch-{number}"));
        fs::create_dir(&scratch).unwrap();
        let id = ContainerId::new(format!("00000000-0000-0000-0000-{number:012x}")).unwrap();
        let rootfs = self.directory.join("rootfs");
        let spec = plain_spec((id, sandbox), rootfs, &["sh", "-c", script], stdio, scratch);
        (spec, streams)
    }

    /// Runs a shell script in a task of its own.
    async fn sh(&self, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> Result<Output, StartError> {
        let limits = Limits { pids_max: Some(20), ..Limits::default() };
        let sandbox = self.sandbox(limits).await.unwrap();
        self.sh_in(sandbox, script, change).await
    }

    /// Runs a shell script in a task, and ends that.
    async fn sh_in(
        &self,
        sandbox: Sandbox,
        script: &str,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> Result<Output, StartError> {
        let (mut spec, streams) = self.spec(&sandbox, script);
        change(&mut spec);
        let started = self.client.start(spec, &sandbox).await;
        let ended = match started {
            Ok(handle) => {
                let (stdout, stderr) = streams.read().await;
                Ok(Output { exit: handle.wait().await, stdout, stderr })
            }
            Err(error) => Err(error),
        };
        self.client.release(&sandbox.task).await.unwrap();
        ended
    }
}

async fn programs_run(user: &User<'_>) {
    let script = "echo $$ $(id -u) $(cat /proc/self/uid_map); hostname; touch /etc/new /bin/new; rm -r /data; \
                  mkdir /data; ls /data; exit 7";
    let output = user.sh(script, |_| {}).await.unwrap();
    assert_eq!((output.text().as_str(), output.code()), ("1 0 0 0 1\ntest-task", Some(7)), "{output:?}");
    // What was written is in the container's own layer, as the user's.
    let image = user.directory.join("rootfs");
    assert!(image.join("data/plain").exists() && !image.join("bin/new").exists());
    let missing = user.sh("", |spec| spec.argv = vec!["/no/such".to_owned()]).await;
    assert!(matches!(missing, Err(StartError::NotFound { .. })), "{missing:?}");
}

async fn nothing_of_the_server_is_in_reach(user: &User<'_>) {
    let script = format!(
        "cat {0}/secret; ls /proc | grep -c '^[0-9]*$'; kill -0 {1}; cat /proc/{1}/status; ip link | grep -c ': lo'; \
         ip link | wc -l; mknod /tmp/null c 1 3; mount -t tmpfs none /tmp; echo a > /proc/sys/kernel/hostname",
        user.directory.display(),
        std::process::id()
    );
    let output = user.sh(&script, |_| {}).await.unwrap();
    let lines: Vec<&str> =
        output.stdout.split(|byte| *byte == b'\n').map(|l| std::str::from_utf8(l).unwrap()).collect();
    // Its own shell, and the two of the pipe.
    assert!(lines[0].parse::<u32>().unwrap() <= 4, "{output:?}");
    assert_eq!(lines[1], "1", "{output:?}");
    for refused in ["secret': No such file", "No such process", "mknod: ", "mount: ", "Read-only file system"]
    {
        assert!(output.errors().contains(refused), "{refused}: {output:?}");
    }
}

async fn processes_are_bounded(user: &User<'_>) {
    let script = "ulimit -u; n=0; while [ $n -lt 40 ]; do sleep 30 & n=$((n+1)); done";
    let bounded = user.sh(script, |_| {}).await.unwrap();
    assert!(bounded.text().starts_with("20"), "{bounded:?}");
    assert!(bounded.errors().contains("fork"), "{bounded:?}");
    // Another task has its own, and no definition raises it.
    let raised = |spec: &mut ContainerSpec| {
        spec.ulimits = vec![neargate_driver::Ulimit { name: "nproc".to_owned(), soft: 1000, hard: 1000 }];
    };
    assert_eq!(user.sh("ulimit -u", raised).await.unwrap().text(), "20");
}

async fn volumes_are_the_users(user: &User<'_>) {
    let volume = user.directory.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("in"), "from outside").unwrap();
    let mount = |read_only| Mount {
        source: MountSource::Host(volume.clone()),
        target: PathBuf::from("/vol"),
        read_only,
    };
    let writes = "cat /vol/in; echo inside > /vol/out";
    let output = user.sh(writes, |spec| spec.mounts = vec![mount(false)]).await.unwrap();
    assert_eq!((output.text().as_str(), output.code()), ("from outside", Some(0)), "{output:?}");
    assert_eq!(fs::metadata(volume.join("out")).unwrap().uid(), NOBODY);
    let output = user.sh("rm /vol/out", |spec| spec.mounts = vec![mount(true)]).await.unwrap();
    assert!(output.errors().contains("Read-only"), "{output:?}");
}

async fn commands_join(user: &User<'_>) {
    let sandbox = user.sandbox(Limits::default()).await.unwrap();
    let (spec, _streams) = user.spec(&sandbox, "touch /tmp/here; sleep 30");
    let handle = user.client.start(spec, &sandbox).await.unwrap();
    let code = run(&*handle, "until [ -e /tmp/here ]; do sleep 0.01; done; exit $(id -u)").await;
    assert_eq!(code, Some(0));
    assert_eq!(run(&*handle, "kill -0 1 && exit 9").await, Some(9));
    user.client.release(&sandbox.task).await.unwrap();
    assert_eq!(handle.wait().await.code, Some(137));
}

async fn groups_hold(user: &User<'_>) {
    let tell =
        |ingress| async { user.client.set_groups(&[rules('a', vec![]), rules('b', ingress)], &vpcs()).await };
    let connected = |last, group| {
        user.sandbox_in(Limits::default(), vpc([10, 77, 4, last], &[group], false), Sharing::default())
    };
    tell(vec![from_anywhere(Traffic::Tcp(80, 80))]).await.unwrap();
    let served = connected(1, 'b').await.unwrap();
    let (spec, _streams) =
        user.spec(&served, "while :; do nc -l -p 80 -e echo hello; done & nc -l -p 81 -e echo hello");
    let server = user.client.start(spec, &served).await.unwrap();
    let ask = |last, port| async move {
        let client = connected(last, 'a').await.unwrap();
        user.sh_in(client, &reach("10.77.4.1", port), |_| {}).await.unwrap().text()
    };
    assert_eq!(ask(2, 80).await, "reached");
    assert_eq!(ask(3, 81).await, "dropped");
    tell(vec![]).await.unwrap();
    assert_eq!(ask(4, 80).await, "dropped");
    let beyond = connected(5, 'a').await.unwrap();
    let loopback =
        "ip -o -4 addr show dev eth0; nc -w 1 127.0.0.1 22 < /dev/null || echo refused; cat /proc/net/route";
    let seen = user.sh_in(beyond, loopback, |_| {}).await.unwrap();
    assert!(seen.text().contains("10.77.4.5/32") && seen.text().contains("refused"), "{seen:?}");
    user.client.release(&served.task).await.unwrap();
    assert_eq!(server.wait().await.code, Some(137));
}

async fn run(handle: &dyn Handle, script: &str) -> Option<i32> {
    handle.exec(exec_spec(&["sh", "-c", script], None)).await.unwrap().code
}

async fn what_takes_root_is_refused(user: &User<'_>) {
    let other = user.sh("id", |spec| spec.user = Some("web".to_owned())).await.unwrap_err().to_string();
    assert!(other.contains("user web") && other.contains("start neargate as root"), "{other}");
    let sharing = |pids, ipc| Sharing { pids, ipc, shm_bytes: None };
    let refused = [
        (SandboxNetwork::Host, Sharing::default(), "networkMode host"),
        (SandboxNetwork::Own, sharing(PidMode::Task, IpcMode::Container), "a pidMode"),
        (SandboxNetwork::Own, sharing(PidMode::Host, IpcMode::Container), "a pidMode"),
        (SandboxNetwork::Own, sharing(PidMode::Container, IpcMode::Host), "ipcMode host"),
    ];
    for (network, sharing, what) in refused {
        let refusal = user.sandbox_in(Limits::default(), network, sharing).await.unwrap_err();
        let text = chain(&refusal);
        assert!(text.contains(what) && text.contains("without root"), "{text}");
    }
}

async fn limits_are_refused_or_ignored(strict: &User<'_>, lax: &User<'_>) {
    let limits = Limits { memory_bytes: Some(64 << 20), cpu_shares: Some(256), ..Limits::default() };
    let refusal = strict.sandbox(limits.clone()).await.unwrap_err();
    let text = chain(&refusal);
    assert!(text.contains("cpu and memory") && text.contains("--without-limits"), "{text}");
    let sandbox = lax.sandbox(limits).await.unwrap();
    let (spec, streams) = lax.spec(&sandbox, "echo runs");
    let handle = lax.client.start(spec, &sandbox).await.unwrap();
    assert_eq!(streams.read().await.0, b"runs\n");
    assert_eq!(handle.wait().await.code, Some(0));
    lax.client.release(&sandbox.task).await.unwrap();
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
