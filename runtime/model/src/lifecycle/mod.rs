//! The life of a task, as a pure function from state and event to state and actions.
//!
//! ```text
//!  PROVISIONING ──sandbox ready──▶ PENDING ──all containers started──▶ RUNNING
//!       │                             │                                   │
//!       └──────── a stop: asked for, essential container ended, failure ──┤
//!                                                                         ▼
//!                     STOPPED ◀──released── DEPROVISIONING ◀──all ended── STOPPING
//! ```
//!
//! The status only moves to the right and down. The node's loop for the task feeds every event that
//! concerns it into [`next`], publishes the status when its version has grown, and performs the actions.
//! Actions are requests: each is answered by an event, however late, or by a timer.

mod recover;
mod start;
mod stop;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;

use crate::{ContainerLast, Health, LastStatus, Stop, StopCode, TaskSpec, TaskStatus, Timestamp};

/// Seconds between SIGTERM and SIGKILL unless the definition says otherwise (API reference, stopTimeout).
pub const STOP_TIMEOUT_S_DEFAULT: u32 = 30;

/// Milliseconds in which a killed container must be seen to end before it is reported as lost: a process
/// in uninterruptible sleep cannot be killed, and its task must not hang for ever.
pub const KILL_DEADLINE_MS: u64 = 30_000;

/// Milliseconds in which sandbox and images must be there.
pub const PENDING_DEADLINE_MS: u64 = 15 * 60_000;

/// Milliseconds after which an image that is not there is one that is being pulled.
pub const PULL_NOTICE_MS: u64 = 500;

/// Milliseconds after a container's start at which it is first checked; a failure of this early check
/// does not count, it only lets a quick container become HEALTHY before a whole interval has passed.
pub const FIRST_CHECK_MS: u64 = 1_000;

/// What can happen to a task. Containers are named by their index in the definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// The node has taken the task.
    Assigned,
    /// The node took the task after a restart, and what ran of it cannot be found again.
    Lost {
        /// What happened, for people.
        reason: String,
    },
    /// The node took the task after a restart, and its sandbox is still there.
    Recovered {
        /// What became of each container, in the order of the definition.
        containers: Vec<Found>,
    },
    /// The sandbox is there.
    SandboxReady,
    /// The sandbox could not be made.
    SandboxFailed {
        /// Why, in ECS's words.
        reason: String,
    },
    /// An image is there.
    ImageReady {
        /// The container.
        container: usize,
        /// The digest of its manifest.
        digest: String,
    },
    /// An image cannot be had.
    ImageFailed {
        /// The container.
        container: usize,
        /// Why, in ECS's words.
        reason: String,
    },
    /// A container runs.
    Started {
        /// The container.
        container: usize,
        /// The id that the runtime gave it.
        runtime_id: String,
        /// The host's ports of its port mappings, in their order.
        host_ports: Vec<u16>,
    },
    /// A container could not be started; nothing of it is left.
    StartFailed {
        /// The container.
        container: usize,
        /// Why, in ECS's words.
        reason: String,
        /// The exit code that a shell would show for it: 126, 127, or 125 for everything else.
        shell_code: i32,
    },
    /// A container has ended.
    Exited {
        /// The container.
        container: usize,
        /// How.
        exit: ContainerExit,
    },
    /// A health check was run.
    Checked {
        /// The container.
        container: usize,
        /// Whether it passed.
        passed: bool,
    },
    /// A timer that was armed has fired.
    TimerFired(Timer),
    /// Somebody wants the task to stop.
    StopRequested(Stop),
    /// All that the task held was given back.
    Released,
}

/// What a node finds of a container after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was never started.
    NeverStarted,
    /// It runs.
    Running {
        /// The id that the runtime gave it.
        runtime_id: String,
    },
    /// It has run and ended; unless the status tells that already, `Exited` follows.
    Ended {
        /// The id that the runtime gave it.
        runtime_id: String,
    },
    /// Nobody knows whether it ran or how it ended.
    Unknown {
        /// Why, for people.
        reason: String,
    },
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerExit {
    /// The exit code; `None` when it could not be learned.
    pub code: Option<i32>,
    /// Whether it was ended for its memory use.
    pub oom: bool,
    /// More about an abnormal end.
    pub reason: Option<String>,
    /// CPU time used, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Most memory used, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// How long a Wasm container took to be ready, in nanoseconds.
    pub instantiate_ns: Option<u64>,
    /// How long a Wasm container's program ran, in nanoseconds.
    pub run_ns: Option<u64>,
    /// What it left for the debugger.
    pub artifacts: Vec<String>,
}

/// The timers of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Sandbox and images must be there by now.
    Pending,
    /// Images that are not there by now are being pulled.
    Pull,
    /// The task has run for as long as its definition allows.
    Timeout,
    /// Those who wait for the container give up.
    Start(usize),
    /// The container's next health check is due.
    Check(usize),
    /// The container was asked to end and must be killed now.
    Stop(usize),
    /// The container was killed and must have ended by now.
    Kill(usize),
}

/// What the owner of a task must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the sandbox; answer `SandboxReady` or `SandboxFailed`.
    PrepareSandbox,
    /// Find a container's image; answer `ImageReady` or `ImageFailed`.
    FetchImage(usize),
    /// Start a container; answer `Started` or `StartFailed`, and `Exited` later.
    /// After a restart it must be known that it may have been started, from the status with `start_intended` or a note.
    Start(usize),
    /// Ask a container to end.
    Signal(usize),
    /// Kill all processes of a container.
    Kill(usize),
    /// Run a container's health check; answer `Checked`.
    Check(usize),
    /// Send `TimerFired` after this many milliseconds, instead of any earlier wish for this timer.
    Arm(Timer, u64),
    /// Give back all that the task holds; answer `Released`.
    Release,
}

/// A task in the hands of its owner: the status that everyone may see, and the owner's own notes.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskState {
    /// What everyone may see.
    pub status: TaskStatus,
    sandbox: SandboxPhase,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SandboxPhase {
    Unmade,
    Preparing,
    Ready,
    Failed,
    Releasing,
}

#[derive(Clone, Debug, PartialEq)]
struct Slot {
    phase: SlotPhase,
    /// Whether it has run at least once.
    started_ever: bool,
    /// Whether its start timeout has passed before it reached what others wait for.
    start_expired: bool,
    /// Whether it was asked to end.
    signalled: bool,
    /// Health checks that failed in a row.
    check_failures: u32,
    /// Whether the next result is that of the early first check.
    check_is_early: bool,
    /// Whether a check timer is armed or a check runs.
    check_pending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotPhase {
    WaitsForImage,
    HasImage,
    Starting,
    Running,
    Ended,
}

impl TaskState {
    /// The state of a task whose status is known and of which nothing has been done here yet.
    pub fn new(status: TaskStatus) -> Self {
        let slot = Slot {
            phase: SlotPhase::WaitsForImage,
            started_ever: false,
            start_expired: false,
            signalled: false,
            check_failures: 0,
            check_is_early: true,
            check_pending: false,
        };
        let slots = vec![slot; status.containers.len()];
        Self { status, sandbox: SandboxPhase::Unmade, slots }
    }

    /// Whether the task is over and holds nothing.
    pub fn is_final(&self) -> bool {
        self.status.last == LastStatus::Stopped
    }

    fn is_alive(&self, container: usize) -> bool {
        matches!(self.slots[container].phase, SlotPhase::Starting | SlotPhase::Running)
    }
}

/// One step of a task's life.
struct Step<'a> {
    spec: &'a TaskSpec,
    state: TaskState,
    now: Timestamp,
    actions: Vec<Action>,
}

/// The next state of a task, and what its owner must do to get on.
///
/// Events that do not fit the state (a late answer, a timer of an earlier life) change nothing.
pub fn next(
    spec: &TaskSpec,
    state: TaskState,
    event: &TaskEvent,
    now: Timestamp,
) -> (TaskState, Vec<Action>) {
    if state.is_final() {
        return (state, Vec::new());
    }
    let before = state.status.clone();
    let mut step = Step { spec, state, now, actions: Vec::new() };
    step.take(event);
    if step.state.status.stop.is_some() {
        step.advance_stop();
    } else {
        step.advance_start();
    }
    step.state.status.health = step.task_health();
    if step.state.status != before {
        step.state.status.version += 1;
    }
    (step.state, step.actions)
}

impl Step<'_> {
    fn take(&mut self, event: &TaskEvent) {
        match event {
            TaskEvent::Assigned => self.assigned(),
            TaskEvent::Lost { reason } => self.lost(reason),
            TaskEvent::Recovered { containers } => self.recovered(containers),
            TaskEvent::SandboxReady if self.state.sandbox == SandboxPhase::Preparing => {
                self.state.sandbox = SandboxPhase::Ready;
            }
            TaskEvent::SandboxFailed { reason } if self.state.sandbox == SandboxPhase::Preparing => {
                self.state.sandbox = SandboxPhase::Failed;
                self.begin_stop(StopCode::TaskFailedToStart, reason);
            }
            TaskEvent::ImageReady { container, digest } => self.image_ready(*container, digest),
            TaskEvent::ImageFailed { container, reason } => self.image_failed(*container, reason),
            TaskEvent::Started { container, runtime_id, host_ports } => {
                self.started(*container, runtime_id, host_ports);
            }
            TaskEvent::StartFailed { container, reason, shell_code } => {
                self.start_failed(*container, reason, *shell_code);
            }
            TaskEvent::Exited { container, exit } => self.exited(*container, exit),
            TaskEvent::Checked { container, passed } => self.checked(*container, *passed),
            TaskEvent::TimerFired(timer) => self.timer_fired(*timer),
            TaskEvent::StopRequested(stop) => self.begin_stop(stop.code, &stop.reason),
            TaskEvent::Released if self.state.sandbox == SandboxPhase::Releasing => {
                self.state.status.last = LastStatus::Stopped;
                self.state.status.stopped_at = Some(self.now);
            }
            TaskEvent::SandboxReady | TaskEvent::SandboxFailed { .. } | TaskEvent::Released => {}
        }
    }

    fn timer_fired(&mut self, timer: Timer) {
        match timer {
            Timer::Pending if self.state.status.last < LastStatus::Running && !self.has_started_any() => {
                self.begin_stop(
                    StopCode::TaskFailedToStart,
                    "ResourceInitializationError: timeout waiting for the sandbox and images of the task",
                );
            }
            Timer::Pending => {}
            Timer::Pull => self.pulling(),
            Timer::Timeout => self.timed_out(),
            Timer::Start(container) => self.state.slots[container].start_expired = true,
            Timer::Check(container) => self.check_due(container),
            Timer::Stop(container) => self.stop_due(container),
            Timer::Kill(container) => self.kill_due(container),
        }
    }

    fn has_started_any(&self) -> bool {
        self.state.slots.iter().any(|slot| slot.started_ever)
    }

    fn begin_stop(&mut self, code: StopCode, reason: &str) {
        let status = &mut self.state.status;
        if status.stop.is_some() {
            return;
        }
        status.stop = Some(Stop { code, reason: reason.to_owned() });
        status.stopping_at = Some(self.now);
        status.last = status.last.max(LastStatus::Stopping);
    }

    /// Health of the essential containers that have a check: one bad makes the task bad, all good make it
    /// good (API reference, Task.healthStatus).
    fn task_health(&self) -> Health {
        let definitions = self.spec.shape.containers.iter();
        let mut healths = definitions
            .zip(&self.state.status.containers)
            .filter(|(definition, _)| definition.essential && definition.health_check.is_some())
            .map(|(_, status)| status.health)
            .peekable();
        if healths.peek().is_none() {
            return Health::Unknown;
        }
        healths.fold(Health::Healthy, |all, one| match (all, one) {
            (Health::Unhealthy, _) | (_, Health::Unhealthy) => Health::Unhealthy,
            (Health::Unknown, _) | (_, Health::Unknown) => Health::Unknown,
            (Health::Healthy, Health::Healthy) => Health::Healthy,
        })
    }

    fn end_container(&mut self, container: usize) {
        self.state.slots[container].phase = SlotPhase::Ended;
        self.state.status.containers[container].last = ContainerLast::Stopped;
    }
}
