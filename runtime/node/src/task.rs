//! The owner of one task: the only code that changes its status.
//!
//! Everything that can wake the loop is an [`Outcome`], a stop, or a timer. Work that takes time runs in
//! jobs of the loop's own [`JoinSet`]; a job's result is its answer, so no answer can come from a job that
//! nobody waits for.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{ExecSpec, Exit, Handle, Recovered, Rootfs, Sandbox, SandboxError, Signal};
use neargate_model::lifecycle::{Action, ContainerExit, Found, TaskEvent, TaskState, Timer, next};
use neargate_model::{
    ContainerDefinition, ContainerLast, Stop, StopCode, TaskSpec, TaskStatus, Timestamp, Volume, chain,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::logs::ContainerStdio;
use crate::publish::Publisher;
use crate::scratch::{Removals, Scratch};
use crate::sockets::Sockets;
use crate::start::{Failed, Furnish, Furnishing, Start, Started};
use crate::{ImageProblem, Parts, TaskImage, plan, usage, wasm};

/// How long a driver may take to start a container; compiling a large Wasm module is the slowest case.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// SIGTERM, sent unless the image names another signal.
const SIGTERM: i32 = 15;

/// Pauses between attempts to give a sandbox back, in milliseconds; after the last the task is reported as
/// stopped all the same and the next start of the node cleans up.
const RELEASE_PAUSES_MS: [u64; 5] = [10, 50, 250, 1_000, 5_000];

/// A task as it was handed to this node.
pub(crate) struct Assignment {
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) status: TaskStatus,
    pub(crate) created_at: Timestamp,
    /// Whether no node was ever told of it before.
    pub(crate) is_fresh: bool,
    pub(crate) scratch: Scratch,
    /// Held by the task whose disk usage is measured.
    pub(crate) measuring: Arc<Semaphore>,
    pub(crate) removals: Removals,
}

/// What a job answers.
enum Outcome {
    Event(TaskEvent),
    Image(usize, Result<TaskImage, ImageProblem>),
    Sandbox(Result<Sandbox, String>, Furnishings),
    Started(usize, Started),
    /// The task has written more than it may; the reason is for people.
    StorageUsedUp(String),
    Nothing,
}

/// What was made for containers while the sandbox was, by their index.
type Furnishings = Vec<(usize, Result<Furnishing, Failed>)>;

struct Owner {
    parts: Arc<Parts>,
    spec: Arc<TaskSpec>,
    state: TaskState,
    publisher: Publisher,
    scratch: Scratch,
    jobs: JoinSet<Outcome>,
    timers: BTreeMap<Timer, Instant>,
    images: Vec<Option<Result<TaskImage, ImageProblem>>>,
    handles: Vec<Option<Arc<dyn Handle>>>,
    furnishings: Furnishings,
    sandbox: Option<Sandbox>,
    sandbox_wanted: bool,
    /// Whether the sandbox host may hold something of the task.
    sandbox_is_hosted: bool,
    /// The network of its Wasm containers, where it has an interface.
    sockets: Option<Arc<Sockets>>,
    /// Whether what the task writes is measured.
    storage_is_watched: bool,
    measuring: Arc<Semaphore>,
    removals: Removals,
    /// Removes what the containers wrote.
    removal: Option<JoinHandle<()>>,
    assigned_at: Instant,
    created_at: Timestamp,
}

/// Runs a task to its end. Statuses go to the sink; the last is durable when this returns.
pub(crate) async fn run(parts: Arc<Parts>, assignment: Assignment, mut stops: mpsc::Receiver<Stop>) {
    let Assignment { spec, mut status, created_at, is_fresh, scratch, measuring, removals } = assignment;
    status.start_intended |= !is_fresh && parts.starts.may_have_run(&spec.id, &status);
    let containers = spec.shape.containers.len();
    let mut owner = Owner {
        publisher: Publisher::new(parts.sink.clone(), spec.key(), status.clone()),
        scratch,
        jobs: JoinSet::new(),
        timers: BTreeMap::new(),
        images: (0..containers).map(|_| None).collect(),
        handles: (0..containers).map(|_| None).collect(),
        furnishings: Vec::new(),
        sandbox: None,
        sandbox_wanted: false,
        sandbox_is_hosted: status.start_intended,
        sockets: Sockets::new(&parts, &spec),
        storage_is_watched: false,
        measuring,
        removals,
        removal: None,
        assigned_at: Instant::now(),
        created_at,
        state: TaskState::new(status),
        parts,
        spec,
    };
    let first = owner.first_event().await;
    owner.handle(first).await;
    while !owner.state.is_final() {
        let due = owner.timers.values().min().copied();
        tokio::select! {
            Some(stop) = stops.recv() => owner.handle(TaskEvent::StopRequested(stop)).await,
            Some(outcome) = owner.jobs.join_next() => match outcome {
                Ok(outcome) => owner.take(outcome).await,
                Err(error) => owner.job_failed(&error).await,
            },
            () = sleep_until(due), if due.is_some() => owner.fire_timers().await,
            // Every wait has a job, a timer or a stop behind it; should none be left, the task is stuck by
            // a fault of ours and must still end.
            else => owner.handle(TaskEvent::Lost { reason: "internal error: nothing left to wait for".to_owned() }).await,
        }
    }
    for container in &owner.spec.container_ids {
        owner.parts.sessions.remove(container);
    }
    owner.publisher.settle().await;
    if let Some(removal) = owner.removal.take()
        && let Err(error) = removal.await
    {
        let task = &owner.spec.id;
        tracing::error!(%task, error = chain(&error), "files of the task stay behind until the next start");
    }
    neargate_failpoint::reach("node::release::after");
    owner.parts.starts.forget(&owner.spec.id);
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

impl Owner {
    /// A task that may have run before this process was started must not be run again: what goes on is taken over,
    /// and the rest is lost.
    async fn first_event(&mut self) -> TaskEvent {
        if !self.state.status.start_intended {
            return TaskEvent::Assigned;
        }
        neargate_failpoint::reach("node::recover::before");
        if let Some(containers) = self.find_again().await {
            neargate_failpoint::reach("node::recover::after");
            return TaskEvent::Recovered { containers };
        }
        for id in &self.spec.container_ids {
            for driver in self.parts.containers.iter().chain([&self.parts.wasm]) {
                if let Ok(Some(found)) = driver.recover(id).await {
                    let _ = found.handle.signal(Signal::Kill).await;
                }
            }
        }
        let reason = "Host lost: the server was restarted while the task was running";
        TaskEvent::Lost { reason: reason.to_owned() }
    }

    /// What became of the containers; `None` when the sandbox is gone, and everything with it.
    async fn find_again(&mut self) -> Option<Vec<Found>> {
        let (host, driver) = (self.parts.sandboxes.clone()?, self.parts.containers.clone()?);
        self.sandbox = Some(host.find(&plan::sandbox(&self.spec, true, |_| true)).await?);
        let mut found = Vec::new();
        for (container, id) in self.spec.clone().container_ids.iter().enumerate() {
            let digest = self.state.status.containers[container].image_digest.as_deref();
            let name = &self.spec.shape.containers[container].image;
            let image = self.parts.images.find_again(name, digest).await;
            let is_linux = matches!(&image, Ok(TaskImage { rootfs: Rootfs::Layers(_), .. }));
            self.images[container] = Some(image);
            found.push(match driver.recover(id).await {
                Ok(Some(recovered)) => self.take_over(container, recovered).await,
                // The driver knows all Linux containers that it has ever started in the sandbox.
                Ok(None) if is_linux => Found::NeverStarted,
                Ok(None) => Found::Unknown {
                    reason: "the server was restarted while the task was running".to_owned(),
                },
                Err(error) => Found::Unknown { reason: chain(&error) },
            });
        }
        self.watch_storage();
        Some(found)
    }

    /// Takes a container over that was started before this process was.
    async fn take_over(&mut self, container: usize, recovered: Recovered) -> Found {
        let Recovered { handle, readers } = recovered;
        let has_ended = tokio::select! {
            biased;
            _ = handle.wait() => true,
            () = std::future::ready(()) => false,
        };
        let runtime_id = self.runtime_id(container);
        if has_ended && self.state.status.containers[container].last == ContainerLast::Stopped {
            return Found::Ended { runtime_id };
        }
        let resumed = readers.map(|readers| self.parts.stdio.resume(&self.spec, container, readers));
        let pumps = resumed.transpose().unwrap_or_else(|error| {
            tracing::warn!(task = %self.spec.id, error = chain(&error), "output of a container cannot be taken any more");
            None
        });
        let pumps = pumps.unwrap_or_default();
        self.enter(container, Started { handle, pumps, host_ports: Vec::new(), has_artifacts: false });
        if has_ended { Found::Ended { runtime_id } } else { Found::Running { runtime_id } }
    }

    /// Looks after a container that runs.
    fn enter(&mut self, container: usize, started: Started) {
        self.handles[container] = Some(started.handle.clone());
        self.parts.sessions.put(self.spec.container_ids[container].clone(), started.handle.clone());
        self.jobs.spawn(wait(self.parts.clone(), self.spec.clone(), container, started));
    }

    fn runtime_id(&self, container: usize) -> String {
        format!("{}-{:010}", self.spec.id, runtime_suffix(&self.spec.container_ids[container]))
    }

    async fn handle(&mut self, event: TaskEvent) {
        self.note_phases(&event);
        let state = self.state.clone();
        let (state, actions) = next(&self.spec, state, &event, (self.parts.now)());
        if state.status.last != self.state.status.last {
            tracing::debug!(task = %self.spec.id, status = ?state.status.last, "task moves on");
        }
        let is_intent = state.status.start_intended && !self.state.status.start_intended;
        self.state = state;
        self.publisher.offer(&self.state.status);
        if is_intent && self.publisher.has_told() {
            self.publisher.hurry();
        }
        if actions.iter().any(|action| matches!(action, Action::Start(_))) {
            neargate_failpoint::reach("node::intent::before");
            self.make_intent_last().await;
            neargate_failpoint::reach("node::intent::after");
        }
        for action in actions {
            self.perform(action);
        }
    }

    /// Sees to it that no restart of ours runs the task a second time: the intent to start outlives this process before
    /// anything starts, as a note if nothing else of the task has been committed since its acceptance.
    async fn make_intent_last(&mut self) {
        if self.publisher.has_told() {
            return self.publisher.settle().await;
        }
        if let Err(error) = self.parts.starts.note(&self.spec.id) {
            tracing::debug!(task = %self.spec.id, %error, "start cannot be noted and is committed");
            self.publisher.settle().await;
        }
    }

    fn note_phases(&mut self, event: &TaskEvent) {
        let elapsed_us = || u64::try_from(self.assigned_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let status = &mut self.state.status;
        match event {
            TaskEvent::Assigned => {
                status.phases.queue_us = (self.parts.now)().millis_since(self.created_at) * 1000;
            }
            TaskEvent::ImageReady { .. } => status.phases.image_us = elapsed_us(),
            TaskEvent::SandboxReady => {
                status.phases.network_us = elapsed_us().saturating_sub(status.phases.image_us);
            }
            TaskEvent::Started { .. } if status.started_at.is_none() => {
                let before = status.phases.image_us + status.phases.network_us;
                status.phases.create_us = elapsed_us().saturating_sub(before);
            }
            _ => {}
        }
    }

    async fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Event(event) => {
                if let TaskEvent::Exited { container, .. } = &event {
                    self.handles[*container] = None;
                    self.parts.sessions.remove(&self.spec.container_ids[*container]);
                }
                self.handle(event).await;
            }
            Outcome::Image(container, image) => self.take_images(container, image).await,
            Outcome::Sandbox(Ok(sandbox), furnishings) => {
                (self.sandbox, self.furnishings) = (Some(sandbox), furnishings);
                self.handle(TaskEvent::SandboxReady).await;
            }
            Outcome::StorageUsedUp(reason) => self.storage_used_up(reason).await,
            Outcome::Sandbox(Err(reason), _) => self.handle(TaskEvent::SandboxFailed { reason }).await,
            Outcome::Started(container, started) => {
                let (host_ports, runtime_id) = (started.host_ports.clone(), self.runtime_id(container));
                self.enter(container, started);
                self.handle(TaskEvent::Started { container, runtime_id, host_ports }).await;
            }
        }
    }

    /// The first container that has the image of this one.
    fn first_of_image(&self, container: usize) -> usize {
        let containers = &self.spec.shape.containers;
        let image = &containers[container].image;
        containers.iter().position(|other| other.image == *image).unwrap_or(container)
    }

    async fn take_images(&mut self, first: usize, image: Result<TaskImage, ImageProblem>) {
        for container in first..self.images.len() {
            if self.first_of_image(container) == first {
                self.take_image(container, image.clone()).await;
            }
        }
    }

    async fn take_image(&mut self, container: usize, image: Result<TaskImage, ImageProblem>) {
        let event = match &image {
            Ok(image) => TaskEvent::ImageReady { container, digest: image.digest.clone() },
            Err(problem) => TaskEvent::ImageFailed { container, reason: problem.reason.clone() },
        };
        self.images[container] = Some(image);
        neargate_failpoint::reach("node::image::after");
        self.handle(event).await;
        self.prepare_when_known();
    }

    /// Makes the sandbox once it is known what kinds of image the task has: Wasm in the workers of its
    /// tenant needs no namespaces.
    fn prepare_when_known(&mut self) {
        if !self.sandbox_wanted || self.images.iter().any(Option::is_none) {
            return;
        }
        self.sandbox_wanted = false;
        let images = || self.images.iter().flatten().flatten();
        let all_found = images().count() == self.images.len();
        let wants_linux = |(definition, image): (&ContainerDefinition, &TaskImage)| match &image.rootfs {
            Rootfs::Layers(_) => true,
            Rootfs::Wasm(_) => self.parts.has_groups() && wasm::needs_sandbox(definition),
        };
        let linux = all_found && self.spec.shape.containers.iter().zip(images()).any(wants_linux);
        // A stored definition must not outlive a policy that has become stricter.
        if let Err(forbidden) = self.parts.policy.check(&self.spec.family, &self.spec.shape) {
            let reason = format!("ResourceInitializationError: {forbidden}");
            self.jobs.spawn(async move { Outcome::Sandbox(Err(reason), Vec::new()) });
            return;
        }
        self.sandbox_is_hosted |= linux;
        let has_root =
            |container| self.image(container).is_some_and(|image| matches!(image.rootfs, Rootfs::Layers(_)));
        let (spec, parts) = (plan::sandbox(&self.spec, linux, has_root), self.parts.clone());
        let first = self.first_to_start();
        self.jobs.spawn(async move {
            let mut furnishings = Vec::new();
            let sandbox = match (&parts.sandboxes, linux) {
                (_, false) => Ok(Sandbox { task: spec.task.clone(), limits: spec.limits.clone() }),
                (Some(host), true) => {
                    neargate_failpoint::reach("node::sandbox::before");
                    // The host is asked first, and then has time.
                    let furnish = async {
                        furnishings.extend(first.iter().map(|furnish| (furnish.container, furnish.make())));
                    };
                    let (prepared, ()) = tokio::join!(biased; host.prepare(&spec), furnish);
                    neargate_failpoint::reach("node::sandbox::after");
                    prepared.map_err(|error| sandbox_reason(&error))
                }
                (None, true) => Err(sandbox_reason(&SandboxError::NotPermitted {
                    what: "running containers".to_owned(),
                    hint: "start `neargate` as root, or use a Wasm image; `neargate doctor` tells more"
                        .to_owned(),
                })),
            };
            Outcome::Sandbox(sandbox, furnishings)
        });
    }

    /// The containers with a root of their own that wait for nothing but the sandbox.
    fn first_to_start(&self) -> Vec<Furnish> {
        let definitions = self.spec.shape.containers.iter().enumerate();
        let first = definitions.filter(|(_, definition)| definition.depends_on.is_empty());
        first.map(|(container, _)| self.furnish(container)).filter(|furnish| furnish.has_root).collect()
    }

    fn furnish(&self, container: usize) -> Furnish {
        let rootfs = self.image(container).map(|image| &image.rootfs);
        Furnish {
            parts: self.parts.clone(),
            spec: self.spec.clone(),
            scratch: self.scratch.clone(),
            container,
            has_root: matches!(rootfs, Some(Rootfs::Layers(_))),
        }
    }

    async fn fire_timers(&mut self) {
        let now = Instant::now();
        let due: Vec<Timer> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(timer, _)| *timer).collect();
        for timer in due {
            self.timers.remove(&timer);
            self.handle(TaskEvent::TimerFired(timer)).await;
        }
    }

    async fn job_failed(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(task = %self.spec.id, %error, "a step of the task ended unexpectedly");
        self.handle(TaskEvent::Lost { reason: "internal error; see the server's log".to_owned() }).await;
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::PrepareSandbox => {
                self.sandbox_wanted = true;
                self.prepare_when_known();
            }
            // Containers of one image have the same one, also where its name leads elsewhere meanwhile.
            Action::FetchImage(container) if self.first_of_image(container) != container => {}
            Action::FetchImage(container) => {
                let (parts, spec) = (self.parts.clone(), self.spec.clone());
                self.jobs.spawn(async move {
                    let image = parts.images.resolve(&spec.shape.containers[container].image).await;
                    Outcome::Image(container, image)
                });
            }
            Action::Start(container) => self.start(container),
            Action::Signal(container) => {
                let number = self.image(container).and_then(|image| image.stop_signal).unwrap_or(SIGTERM);
                self.signal(container, Signal::Stop(number));
            }
            Action::Kill(container) => self.signal(container, Signal::Kill),
            Action::Check(container) => self.check(container),
            Action::Arm(timer, ms) => {
                self.timers.insert(timer, Instant::now() + Duration::from_millis(ms));
            }
            Action::Release => self.release(),
        }
    }

    fn image(&self, container: usize) -> Option<&TaskImage> {
        self.images[container].as_ref().and_then(|image| image.as_ref().ok())
    }

    fn start(&mut self, container: usize) {
        let (Some(image), Some(sandbox)) = (self.image(container).cloned(), self.sandbox.clone()) else {
            return self.answer(start_failed(container, "the task has no sandbox or image", 125));
        };
        let made = self.furnishings.iter().position(|(made_for, _)| *made_for == container);
        let start = Start {
            parts: self.parts.clone(),
            spec: self.spec.clone(),
            furnish: self.furnish(container),
            furnishing: made.map(|at| self.furnishings.swap_remove(at).1),
            container,
            image,
            sandbox,
            sockets: self.sockets.clone(),
            earlier: self.state.status.containers[container].clone(),
        };
        self.watch_storage();
        self.jobs.spawn(async move {
            match tokio::time::timeout(START_DEADLINE, start.run()).await {
                Ok(Ok(started)) => Outcome::Started(container, started),
                Ok(Err(failed)) => Outcome::Event(start_failed(container, &failed.reason, failed.shell_code)),
                Err(_) => Outcome::Event(start_failed(container, "it took too long", 125)),
            }
        });
    }

    /// Measures what the task writes from its first start on, if it is limited and has something to write to.
    fn watch_storage(&mut self) {
        let Some(limit) = plan::storage_bytes(&self.spec).filter(|_| !self.storage_is_watched) else {
            return;
        };
        let mut images = self.images.iter().flatten().flatten();
        let has_root = images.any(|image| matches!(image.rootfs, Rootfs::Layers(_)));
        if has_root || self.spec.shape.volumes.iter().any(Volume::is_of_task) {
            self.storage_is_watched = true;
            let (scratch, turn) = (self.scratch.clone(), self.measuring.clone());
            let files = self.parts.files.clone();
            let note = self.parts.storage.note(self.spec.id.clone());
            self.jobs.spawn(async move {
                Outcome::StorageUsedUp(usage::exceeds(scratch, limit, files, turn, note).await)
            });
        }
    }

    /// Ends the task at once: a container that may still clean up may still write.
    async fn storage_used_up(&mut self, reason: String) {
        self.handle(TaskEvent::StopRequested(Stop { code: StopCode::UserInitiated, reason })).await;
        (0..self.handles.len()).for_each(|container| self.signal(container, Signal::Kill));
    }

    fn answer(&mut self, event: TaskEvent) {
        self.jobs.spawn(async move { Outcome::Event(event) });
    }

    fn signal(&mut self, container: usize, signal: Signal) {
        let Some(handle) = self.handles[container].clone() else { return };
        let task = self.spec.id.clone();
        self.jobs.spawn(async move {
            if let Err(error) = handle.signal(signal).await {
                tracing::warn!(%task, container, error = chain(&error), "signal was not delivered");
            }
            Outcome::Nothing
        });
    }

    fn check(&mut self, container: usize) {
        let definition = &self.spec.shape.containers[container];
        let (Some(handle), Some(check)) = (self.handles[container].clone(), definition.health_check.clone())
        else {
            return self.answer(TaskEvent::Checked { container, passed: false });
        };
        self.jobs.spawn(async move {
            let timeout = Duration::from_secs(check.timeout_s.into());
            let exec = ExecSpec { argv: check.argv, env: Vec::new(), timeout, stdio: None };
            // The driver bounds the command; the second bound is for the driver.
            let exit = tokio::time::timeout(timeout * 2, handle.exec(exec)).await;
            let passed = matches!(exit, Ok(Ok(Exit { code: Some(0), .. })));
            Outcome::Event(TaskEvent::Checked { container, passed })
        });
    }

    fn release(&mut self) {
        self.timers.clear();
        let (is_hosted, sockets) = (self.sandbox_is_hosted, self.sockets.clone());
        let (parts, spec, scratch) = (self.parts.clone(), self.spec.clone(), self.scratch.clone());
        // Nothing of the task runs any more, so that the files need not wait for the sandbox, nor anybody for the files.
        let (removing, removal) = (self.removals.begin(), remove(parts.clone(), spec.clone(), scratch));
        self.removal = Some(tokio::spawn(async move {
            removal.await;
            drop(removing);
        }));
        self.jobs.spawn(async move {
            neargate_failpoint::reach("node::release::before");
            let is_hosted = match sockets {
                Some(sockets) => sockets.end().await || is_hosted,
                None => is_hosted,
            };
            if let (Some(host), true) = (&parts.sandboxes, is_hosted) {
                retry(&spec, || async { host.release(&spec.id).await.map_err(|error| chain(&error)) }).await;
            }
            neargate_failpoint::reach("node::release::sandbox");
            Outcome::Event(TaskEvent::Released)
        });
    }
}

/// Removes what the containers wrote.
async fn remove(parts: Arc<Parts>, spec: Arc<TaskSpec>, scratch: Scratch) {
    // Most Wasm tasks have none, and a thread to remove nothing costs more than a look.
    if !scratch.exists() {
        return;
    }
    retry(&spec, || async {
        let (scratch, files) = (scratch.clone(), parts.files.clone());
        let removed = tokio::task::spawn_blocking(move || scratch.remove(&*files)).await;
        removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    })
    .await;
}

/// Tries to give something back, and says what stays when that cannot be done.
async fn retry<F: Future<Output = Result<(), String>>>(spec: &TaskSpec, give_back: impl Fn() -> F) {
    for pause_ms in RELEASE_PAUSES_MS {
        match give_back().await {
            Ok(()) => return,
            Err(error) => tracing::debug!(task = %spec.id, error, "could not be given back yet"),
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    if let Err(error) = give_back().await {
        tracing::error!(task = %spec.id, error, "something of the task stays behind until the next start");
    }
}

fn sandbox_reason(error: &SandboxError) -> String {
    format!("ResourceInitializationError: {}", chain(error))
}

fn start_failed(container: usize, reason: &str, shell_code: i32) -> TaskEvent {
    let reason = format!("CannotStartContainerError: {reason}");
    TaskEvent::StartFailed { container, reason, shell_code }
}

async fn wait(parts: Arc<Parts>, spec: Arc<TaskSpec>, container: usize, started: Started) -> Outcome {
    let Started { handle, mut pumps, has_artifacts, .. } = started;
    let exit = handle.wait().await;
    neargate_failpoint::reach("node::exit::before");
    ContainerStdio::drain(&mut pumps).await;
    parts.stdio.flush().await;
    let stats = handle.stats().await.ok();
    let wasm = stats.as_ref().and_then(|stats| stats.wasm);
    let name = &spec.shape.containers[container].name;
    let exit = ContainerExit {
        code: exit.code,
        oom: exit.oom,
        reason: exit.reason,
        cpu_ns: stats.as_ref().map(|stats| stats.cpu_ns),
        memory_peak_bytes: stats.as_ref().map(|stats| stats.memory_peak_bytes),
        instantiate_ns: wasm.map(|times| times.instantiate_ns),
        run_ns: wasm.map(|times| times.run_ns),
        artifacts: if has_artifacts { parts.artifacts.left(&spec.id, name) } else { Vec::new() },
    };
    Outcome::Event(TaskEvent::Exited { container, exit })
}

/// The ten digits that ECS puts behind a task's id to name a container of it.
fn runtime_suffix(id: &neargate_model::ContainerId) -> u32 {
    id.as_str().bytes().fold(0xffff_ffff, |hash: u32, byte| hash.rotate_left(5) ^ u32::from(byte))
}
