//! What the tests have in common: a driver over fake processes, and tasks for it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use neargate_driver::{
    ContainerNames, ContainerSpec, Driver, Handle, IpVersion, Limits, LookUpError, Mount, MountSource,
    ProcessUser, Rootfs, Sandbox, SandboxError, SocketKind, StartError, Stdio, TaskSockets, WasmModule,
    WasmSpec,
};
use neargate_model::{ContainerId, ContainerName, TaskId, WasmOptions};
use neargate_wasm::{Config, KeyPage, KeyValueError, KeyValues, Parts, WasmDriver};
use sha2::{Digest, Sha256};

use crate::fake::{COMPILER, FakeHost, Host};

/// A driver, its fake processes and its directories.
pub(crate) struct Bench {
    pub(crate) host: Arc<FakeHost>,
    pub(crate) driver: WasmDriver,
    pub(crate) keys: Arc<Keys>,
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    /// Two cores, and deadlines that a test can wait for.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (host, keys) = (Arc::<FakeHost>::default(), Arc::<Keys>::default());
        let mut config = config(dir.path());
        change(&mut config);
        let driver = WasmDriver::new(config, parts(&host, &keys)).unwrap();
        Self { host, driver, keys, dir }
    }

    /// An image whose fake binary is this text.
    pub(crate) fn image(&self, text: &str) -> WasmModule {
        let digest = hex::encode(Sha256::digest(text));
        let path = self.dir.path().join(&digest);
        std::fs::write(&path, text).unwrap();
        WasmModule { path, digest: format!("sha256:{digest}") }
    }

    /// Has an image compiled.
    pub(crate) async fn prepare(&self, text: &str) -> Result<(), StartError> {
        self.driver.prepare(&Rootfs::Wasm(self.image(text))).await
    }

    pub(crate) async fn start(&self, task: Task) -> Result<Arc<dyn Handle>, StartError> {
        let sandbox = Sandbox { task: task.id.clone(), limits: task.task_limits.clone() };
        let spec = task.spec(self);
        self.driver.start(spec, &sandbox).await
    }

    /// Starts a task that is expected to run.
    pub(crate) async fn run(&self, task: Task) -> Arc<dyn Handle> {
        self.start(task).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Why a task does not start, with all causes.
    pub(crate) async fn refuse(&self, task: Task) -> String {
        let error = self.start(task).await.err().expect("the task should not start");
        let mut text = error.to_string();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            text = format!("{text}: {next}");
            cause = next;
        }
        text
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir.join("code"), COMPILER);
    config.workers = 2;
    config.deadlines.kill = Duration::from_millis(200);
    config.deadlines.start = Duration::from_millis(300);
    config
}

pub(crate) fn parts(host: &Arc<FakeHost>, keys: &Arc<Keys>) -> Parts {
    Parts {
        processes: Arc::new(Host(host.clone())),
        sandbox_processes: Some(Arc::new(Host(host.clone()))),
        key_values: keys.clone(),
    }
}

/// One container to be run.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) tenant: String,
    pub(crate) image: String,
    pub(crate) argv: Vec<String>,
    pub(crate) options: WasmOptions,
    pub(crate) limits: Limits,
    pub(crate) task_limits: Limits,
    pub(crate) mounts: Vec<(PathBuf, &'static str, bool)>,
    pub(crate) listeners: usize,
    pub(crate) sockets: Option<Arc<dyn TaskSockets>>,
    pub(crate) artifacts: Option<PathBuf>,
    pub(crate) stdout: Option<Arc<File>>,
}

/// A task of tenant `a` with its own id; the words are what the fake program does.
pub(crate) fn task(words: &str) -> Task {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let id = TaskId::new(format!("{:032x}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap();
    let argv = std::iter::once("program").chain(words.split_whitespace()).map(str::to_owned).collect();
    Task {
        id,
        tenant: "a".to_owned(),
        image: "command".to_owned(),
        argv,
        options: WasmOptions::default(),
        limits: Limits::default(),
        task_limits: Limits::default(),
        mounts: Vec::new(),
        listeners: 0,
        sockets: None,
        artifacts: None,
        stdout: None,
    }
}

impl Task {
    pub(crate) fn tenant(self, tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), ..self }
    }

    pub(crate) fn image(self, image: &str) -> Self {
        Self { image: image.to_owned(), ..self }
    }

    /// Another container of the same task.
    pub(crate) fn beside(self, other: &Task) -> Self {
        Self { id: other.id.clone(), ..self }
    }

    pub(crate) fn options(mut self, change: impl FnOnce(&mut WasmOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// With a network of its own.
    pub(crate) fn networked(self) -> Self {
        Self { sockets: Some(Arc::new(FakeNetwork)), ..self }
    }

    /// An HTTP handler with one port.
    pub(crate) fn http(self) -> Self {
        Self { listeners: 1, ..self.image("http") }
    }

    fn spec(self, bench: &Bench) -> ContainerSpec {
        let stdout = self.stdout.map(|file| file.try_clone().unwrap().into());
        let mount = |(source, target, read_only): &(PathBuf, &str, bool)| Mount {
            source: MountSource::Host(source.clone()),
            target: target.into(),
            read_only: *read_only,
        };
        let listener = |_| -> OwnedFd { std::net::TcpListener::bind("127.0.0.1:0").unwrap().into() };
        ContainerSpec {
            id: container_id(&self.id),
            task: self.id,
            name: ContainerName::new("c").unwrap(),
            rootfs: Rootfs::Wasm(bench.image(&self.image)),
            argv: self.argv,
            env: vec![("A".into(), "1".into()), ("B".into(), "2".into()), ("A".into(), "3".into())],
            working_dir: PathBuf::new(),
            user: None,
            limits: self.limits,
            ulimits: Vec::new(),
            read_only_root: false,
            mounts: self.mounts.iter().map(mount).collect(),
            shm_bytes: None,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            privileges: Default::default(),
            init: false,
            stdio: Stdio {
                stdin: null(),
                stdout: stdout.unwrap_or_else(null),
                stderr: null(),
                readers: None,
            },
            scratch: PathBuf::new(),
            names: ContainerNames::default(),
            wasm: Some(WasmSpec {
                options: self.options,
                tenant: self.tenant,
                files_of: ProcessUser::Volumes,
                listeners: (0..self.listeners).map(listener).collect(),
                own_ports: true,
                sockets: self.sockets,
                attempt: 1,
                deadline_ms: None,
                artifacts: self.artifacts,
            }),
        }
    }
}

/// A network whose sockets are of this machine, and whose names are one.
#[derive(Debug)]
struct FakeNetwork;

#[async_trait]
impl TaskSockets for FakeNetwork {
    async fn make(&self, kind: SocketKind) -> Result<OwnedFd, SandboxError> {
        assert_eq!(kind, SocketKind::Datagram(IpVersion::V6));
        Ok(null())
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError> {
        match name {
            "one.test" => Ok(vec![Ipv4Addr::new(10, 0, 0, 1).into()]),
            _ => Err(LookUpError::Unknown),
        }
    }
}

/// The digits of a task's id as those of a UUID.
fn container_id(task: &TaskId) -> ContainerId {
    let digits = task.as_str();
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    ContainerId::new(parts.join("-")).unwrap()
}

pub(crate) fn null() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
}

/// Key-value buckets in memory.
#[derive(Default)]
pub(crate) struct Keys {
    values: Mutex<HashMap<(String, String, String), Vec<u8>>>,
}

impl Keys {
    pub(crate) fn tenants(&self) -> Vec<String> {
        self.values.lock().unwrap().keys().map(|(tenant, _, _)| tenant.clone()).collect()
    }
}

fn place(tenant: &str, bucket: &str, key: &str) -> (String, String, String) {
    (tenant.to_owned(), bucket.to_owned(), key.to_owned())
}

#[async_trait]
impl KeyValues for Keys {
    async fn get(&self, tenant: &str, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.values.lock().unwrap().get(&place(tenant, bucket, key)).cloned())
    }

    async fn set(&self, tenant: &str, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.values.lock().unwrap().insert(place(tenant, bucket, key), value);
        Ok(())
    }

    async fn delete(&self, tenant: &str, bucket: &str, key: &str) -> Result<(), KeyValueError> {
        self.values.lock().unwrap().remove(&place(tenant, bucket, key));
        Ok(())
    }

    async fn list(
        &self,
        _tenant: &str,
        _bucket: &str,
        _cursor: Option<&str>,
    ) -> Result<KeyPage, KeyValueError> {
        Ok(KeyPage::default())
    }

    async fn increment(
        &self,
        _tenant: &str,
        _bucket: &str,
        key: &str,
        _delta: i64,
    ) -> Result<i64, KeyValueError> {
        Err(KeyValueError::NotANumber { key: key.to_owned(), why: "it is a fake" })
    }

    async fn swap(
        &self,
        _tenant: &str,
        _bucket: &str,
        _key: &str,
        _old: Option<Vec<u8>>,
        _new: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        Ok(false)
    }
}
