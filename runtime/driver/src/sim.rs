//! The simulated driver: the whole contract, in virtual time and without a kernel.
//!
//! What a container does is read from its own command line, so that a test says it where the reader
//! looks: `["sleep", "250", "exit", "3"]` lives 250 ms of tokio time and ends with code 3. The words are
//! `sleep MS`, `exit CODE`, `oom`, `fail TEXT` (does not start), `ignore-stop` (only [`Signal::Kill`]
//! ends it) and `unhealthy N` (the first N commands run in it by [`Handle::exec`] fail).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use neargate_model::{Cidr, ContainerId, SecurityGroupRules, TaskId};
use tokio::sync::watch;

use crate::{
    ContainerSpec, Driver, ExecError, ExecSpec, Exit, Handle, LinkLocalError, LinkLocalSockets, NetworkTurn,
    RecoverError, Recovered, ResolverSockets, Sandbox, SandboxError, SandboxHost, SandboxSpec, Signal,
    SignalError, SocketKind, StartError, Stats, StatsError,
};

/// A driver and sandbox host that only pretend; clones share their state.
#[derive(Clone, Default)]
pub struct SimDriver {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Whether a VPC was told.
    is_routed: watch::Sender<bool>,
    /// The ports that stand for those of the link-local addresses, once they are known.
    ports: Mutex<[u16; 2]>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<ContainerId, Arc<SimHandle>>,
    sandboxes: BTreeSet<TaskId>,
    starts: Vec<(TaskId, String)>,
}

impl SimDriver {
    /// A driver that runs nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every start so far, in order, as task and container name: the witness that nothing ran twice.
    pub fn starts(&self) -> Vec<(TaskId, String)> {
        self.with(|state| state.starts.clone())
    }

    /// The sandboxes that exist now.
    pub fn sandboxes(&self) -> Vec<TaskId> {
        self.with(|state| state.sandboxes.iter().cloned().collect())
    }

    /// How many containers have started and not ended.
    pub fn running(&self) -> usize {
        self.with(|state| state.containers.values().filter(|c| c.exit.borrow().is_none()).count())
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What it has for a network of tasks.
const ONLY_NETWORK: NetworkTurn = NetworkTurn(1);

/// Sockets with these ports, or with free ones for 0, and their ports.
fn loopback_sockets([http, dns]: [u16; 2]) -> io::Result<(LinkLocalSockets, [u16; 2])> {
    let metadata = TcpListener::bind((Ipv4Addr::LOCALHOST, http))?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, dns))?;
    let ports = [metadata.local_addr()?.port(), udp.local_addr()?.port()];
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[1]))?;
    metadata.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let resolver = ResolverSockets { udp, tcp };
    Ok((LinkLocalSockets { metadata, resolver }, ports))
}

/// What a simulated command line asks for.
#[derive(Clone, Debug, Default)]
struct Script {
    sleep: Duration,
    code: i32,
    oom: bool,
    fail: Option<String>,
    ignore_stop: bool,
    unhealthy: u32,
}

fn read_script(argv: &[String]) -> Script {
    let mut script = Script::default();
    let mut words = argv.iter();
    let number = |words: &mut std::slice::Iter<'_, String>| -> u64 {
        words.next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "sleep" => script.sleep = Duration::from_millis(number(&mut words)),
            "exit" => script.code = i32::try_from(number(&mut words)).unwrap_or(255),
            "oom" => script.oom = true,
            "fail" => script.fail = Some(words.next().cloned().unwrap_or_default()),
            "ignore-stop" => script.ignore_stop = true,
            "unhealthy" => script.unhealthy = u32::try_from(number(&mut words)).unwrap_or(u32::MAX),
            _ => {}
        }
    }
    script
}

struct SimHandle {
    exit: watch::Sender<Option<Exit>>,
    ignore_stop: bool,
    unhealthy: Mutex<u32>,
}

impl SimHandle {
    fn end(&self, exit: Exit) {
        self.exit.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(exit);
            }
            first
        });
    }
}

#[async_trait]
impl Driver for SimDriver {
    async fn start(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Arc<dyn Handle>, StartError> {
        let script = read_script(&spec.argv);
        if let Some(why) = script.fail {
            return Err(StartError::InvalidImage { why });
        }
        let handle = Arc::new(SimHandle {
            exit: watch::Sender::new(None),
            ignore_stop: script.ignore_stop,
            unhealthy: Mutex::new(script.unhealthy),
        });
        self.with(|state| {
            state.starts.push((sandbox.task.clone(), spec.name.to_string()));
            state.containers.insert(spec.id.clone(), handle.clone());
        });
        let ends = handle.clone();
        // The timer holds only its handle and ends with it: virtual time reaches it or the runtime stops.
        tokio::spawn(async move {
            tokio::time::sleep(script.sleep).await;
            let code = if script.oom { 137 } else { script.code };
            ends.end(Exit { code: Some(code), oom: script.oom, reason: None });
            drop(spec);
        });
        Ok(handle)
    }

    async fn recover(&self, id: &ContainerId) -> Result<Option<Recovered>, RecoverError> {
        let handle = self.with(|state| state.containers.get(id).cloned());
        Ok(handle.map(|handle| Recovered { handle, readers: None }))
    }
}

#[async_trait]
impl Handle for SimHandle {
    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(|| Exit::code(0)),
            Err(_) => Exit { code: None, oom: false, reason: None },
        }
    }

    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        match signal {
            Signal::Stop(_) if self.ignore_stop => {}
            Signal::Stop(number) => self.end(Exit::code(128 + number)),
            Signal::Kill => self.end(Exit::code(137)),
        }
        Ok(())
    }

    async fn stats(&self) -> Result<Stats, StatsError> {
        Ok(Stats::default())
    }

    async fn exec(&self, _spec: ExecSpec) -> Result<Exit, ExecError> {
        if self.exit.borrow().is_some() {
            return Err(ExecError::NotRunning);
        }
        let mut unhealthy = self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner);
        let code = i32::from(*unhealthy > 0);
        *unhealthy = unhealthy.saturating_sub(1);
        Ok(Exit::code(code))
    }
}

#[async_trait]
impl SandboxHost for SimDriver {
    async fn prepare(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        self.with(|state| state.sandboxes.insert(spec.task.clone()));
        Ok(Sandbox { task: spec.task.clone(), limits: spec.limits.clone() })
    }

    async fn set_groups(&self, _groups: &[SecurityGroupRules], vpcs: &[Cidr]) -> Result<(), SandboxError> {
        if !vpcs.is_empty() {
            self.shared.is_routed.send_replace(true);
        }
        Ok(())
    }

    async fn network_after(&self, turn: NetworkTurn) -> NetworkTurn {
        // There is one network, and its sender lives as long as `self`.
        let _ = self.shared.is_routed.subscribe().wait_for(|is_routed| *is_routed).await;
        if turn >= ONLY_NETWORK { std::future::pending().await } else { ONLY_NETWORK }
    }

    /// Sockets of the loopback address, always of the same ports.
    async fn link_local(&self) -> Result<LinkLocalSockets, LinkLocalError> {
        if !*self.shared.is_routed.borrow() {
            return Err(LinkLocalError::Unavailable { source: io::ErrorKind::NotFound.into() });
        }
        let mut ports = self.shared.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let (sockets, now) = loopback_sockets(*ports).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => LinkLocalError::InUse,
            _ => LinkLocalError::System { step: "listen on loopback".to_owned(), source },
        })?;
        *ports = now;
        Ok(sockets)
    }

    /// Sockets of the loopback address, in the place of every kind.
    async fn socket(&self, task: &TaskId, _kind: SocketKind) -> Result<OwnedFd, SandboxError> {
        let unavailable = |source| SandboxError::Unavailable { source };
        if !self.with(|state| state.sandboxes.contains(task)) {
            return Err(unavailable(io::ErrorKind::NotFound.into()));
        }
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(unavailable)?.into())
    }

    async fn release(&self, task: &TaskId) -> Result<(), SandboxError> {
        self.with(|state| state.sandboxes.remove(task));
        Ok(())
    }
}
