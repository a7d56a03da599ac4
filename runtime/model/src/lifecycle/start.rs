//! From acceptance to RUNNING, and what happens to a container while its task runs.

use super::{
    Action, ContainerExit, FIRST_CHECK_MS, PENDING_DEADLINE_MS, PULL_NOTICE_MS, SandboxPhase, SlotPhase,
    Step, Timer,
};
use crate::{Condition, ContainerLast, Dependency, Health, LastStatus, StopCode, Timestamp};

/// The reason that ECS gives for a container killed by the memory limit.
const OOM_REASON: &str = "OutOfMemoryError: Container killed due to memory usage";

/// Where one entry of `dependsOn` stands.
enum Wait {
    Over,
    Goes,
    Hopeless(String),
}

impl Step<'_> {
    pub(super) fn assigned(&mut self) {
        if self.state.sandbox != SandboxPhase::Unmade {
            return;
        }
        self.state.sandbox = SandboxPhase::Preparing;
        self.state.status.pull_started_at = Some(self.now);
        self.actions.push(Action::Arm(Timer::Pending, PENDING_DEADLINE_MS));
        self.actions.push(Action::Arm(Timer::Pull, PULL_NOTICE_MS));
        self.actions.push(Action::PrepareSandbox);
        self.actions.extend((0..self.state.slots.len()).map(Action::FetchImage));
    }

    /// A task that waits for an image is PENDING, although its sandbox is made only when all are there.
    pub(super) fn pulling(&mut self) {
        let waits = self.state.slots.iter().any(|slot| slot.phase == SlotPhase::WaitsForImage);
        if waits && self.state.status.last == LastStatus::Provisioning {
            self.state.status.last = LastStatus::Pending;
        }
    }

    pub(super) fn image_ready(&mut self, container: usize, digest: &str) {
        if self.state.slots[container].phase == SlotPhase::WaitsForImage {
            self.state.slots[container].phase = SlotPhase::HasImage;
            self.state.status.containers[container].image_digest = Some(digest.to_owned());
        }
    }

    pub(super) fn image_failed(&mut self, container: usize, reason: &str) {
        if self.state.slots[container].phase == SlotPhase::WaitsForImage {
            self.state.status.pull_started_at = None;
            self.begin_stop(StopCode::TaskFailedToStart, reason);
        }
    }

    pub(super) fn started(&mut self, container: usize, runtime_id: &str, host_ports: &[u16]) {
        if self.state.slots[container].phase != SlotPhase::Starting {
            return;
        }
        if let Some(seconds) = self.spec.shape.timeout_s
            && !self.has_started_any()
        {
            self.actions.push(Action::Arm(Timer::Timeout, u64::from(seconds) * 1000));
        }
        let definition = &self.spec.shape.containers[container];
        let slot = &mut self.state.slots[container];
        slot.phase = SlotPhase::Running;
        let first_start = !slot.started_ever;
        slot.started_ever = true;
        slot.check_failures = 0;
        slot.check_is_early = true;
        if let Some(check) = &definition.health_check
            && !slot.check_pending
        {
            slot.check_pending = true;
            let first_ms = FIRST_CHECK_MS.min(u64::from(check.interval_s) * 1000);
            self.actions.push(Action::Arm(Timer::Check(container), first_ms));
        }
        if let Some(seconds) = definition.start_timeout_s
            && first_start
        {
            self.actions.push(Action::Arm(Timer::Start(container), u64::from(seconds) * 1000));
        }
        let status = &mut self.state.status.containers[container];
        status.last = ContainerLast::Running;
        status.runtime_id = Some(runtime_id.to_owned());
        status.host_ports = host_ports.to_vec();
        status.started_at = Some(self.now);
        status.finished_at = None;
        status.exit_code = None;
        status.reason = None;
        status.health = Health::Unknown;
    }

    pub(super) fn start_failed(&mut self, container: usize, reason: &str, shell_code: i32) {
        if self.state.slots[container].phase != SlotPhase::Starting {
            return;
        }
        self.end_container(container);
        let status = &mut self.state.status.containers[container];
        status.reason = Some(reason.to_owned());
        status.shell_code = Some(shell_code);
        if self.spec.shape.containers[container].essential {
            let code = match self.state.status.last {
                LastStatus::Running => StopCode::EssentialContainerExited,
                _ => StopCode::TaskFailedToStart,
            };
            self.begin_stop(code, reason);
        }
    }

    pub(super) fn exited(&mut self, container: usize, exit: &ContainerExit) {
        if self.state.slots[container].phase != SlotPhase::Running {
            return;
        }
        self.end_container(container);
        let status = &mut self.state.status.containers[container];
        status.exit_code = exit.code;
        status.reason = if exit.oom { Some(OOM_REASON.to_owned()) } else { exit.reason.clone() };
        status.finished_at = Some(self.now);
        status.cpu_ns = exit.cpu_ns;
        status.memory_peak_bytes = exit.memory_peak_bytes;
        status.instantiate_ns = exit.instantiate_ns;
        status.run_ns = exit.run_ns;
        status.artifacts.clone_from(&exit.artifacts);
        if self.state.status.stop.is_some() {
            return;
        }
        if self.may_restart(container, exit.code, self.now) {
            self.state.status.containers[container].restart_count += 1;
            self.start(container);
        } else if self.spec.shape.containers[container].essential {
            self.begin_stop(StopCode::EssentialContainerExited, "Essential container in task exited");
        }
    }

    /// A container is started again when it has run for its attempt period (API reference,
    /// ContainerRestartPolicy) and its exit code is not ignored.
    pub(super) fn may_restart(&self, container: usize, code: Option<i32>, ended_at: Timestamp) -> bool {
        let Some(policy) = &self.spec.shape.containers[container].restart_policy else { return false };
        let started_at = self.state.status.containers[container].started_at;
        let ran_ms = started_at.map_or(0, |at| ended_at.millis_since(at));
        let is_ignored = code.is_some_and(|code| policy.ignored_exit_codes.contains(&code));
        !is_ignored && ran_ms >= u64::from(policy.attempt_period_s) * 1000
    }

    pub(super) fn check_due(&mut self, container: usize) {
        if self.state.slots[container].phase == SlotPhase::Running && self.state.status.stop.is_none() {
            self.actions.push(Action::Check(container));
        } else {
            self.state.slots[container].check_pending = false;
        }
    }

    pub(super) fn checked(&mut self, container: usize, passed: bool) {
        let Some(check) = &self.spec.shape.containers[container].health_check else { return };
        let slot = &mut self.state.slots[container];
        if slot.phase != SlotPhase::Running {
            slot.check_pending = false;
            return;
        }
        let was_early = std::mem::replace(&mut slot.check_is_early, false);
        let status = &mut self.state.status.containers[container];
        let age_ms = status.started_at.map_or(0, |at| self.now.millis_since(at));
        if passed {
            slot.check_failures = 0;
            status.health = Health::Healthy;
        } else if !was_early && age_ms >= u64::from(check.start_period_s) * 1000 {
            slot.check_failures += 1;
            if slot.check_failures >= check.retries {
                status.health = Health::Unhealthy;
            }
        }
        self.actions.push(Action::Arm(Timer::Check(container), u64::from(check.interval_s) * 1000));
    }

    /// Starts what may start, and becomes RUNNING once everything has.
    pub(super) fn advance_start(&mut self) {
        let is_early = self.state.status.last <= LastStatus::Pending;
        if self.state.sandbox == SandboxPhase::Ready
            && is_early
            && self.state.status.connectivity_at.is_none()
        {
            self.state.status.last = LastStatus::Pending;
            self.state.status.connectivity_at = Some(self.now);
        }
        let have_images = self.state.slots.iter().all(|slot| slot.phase != SlotPhase::WaitsForImage);
        if have_images && self.state.status.pull_stopped_at.is_none() && !self.state.slots.is_empty() {
            self.state.status.pull_stopped_at = Some(self.now);
            // What follows is the sandbox and the start. The intent is told now, so that where it has to be durable, it
            // becomes so while the sandbox is made.
            self.state.status.start_intended |= self.state.status.stop.is_none();
        }
        if have_images && self.state.sandbox == SandboxPhase::Ready {
            self.start_ready();
        }
        if self.state.status.stop.is_some() {
            self.advance_stop();
        } else if self.state.status.last == LastStatus::Pending && self.all_started() {
            self.state.status.last = LastStatus::Running;
            self.state.status.started_at = Some(self.now);
        }
    }

    /// Every container has run, or is an optional one that could not be started.
    fn all_started(&self) -> bool {
        self.state.slots.iter().all(|slot| slot.started_ever || slot.phase == SlotPhase::Ended)
    }

    fn start_ready(&mut self) {
        for container in 0..self.state.slots.len() {
            if self.state.slots[container].phase != SlotPhase::HasImage {
                continue;
            }
            let dependencies = &self.spec.shape.containers[container].depends_on;
            let waits: Vec<Wait> = dependencies.iter().map(|dependency| self.wait_for(dependency)).collect();
            let hopeless = waits.iter().find_map(|wait| match wait {
                Wait::Hopeless(why) => Some(why.clone()),
                Wait::Over | Wait::Goes => None,
            });
            if let Some(why) = hopeless {
                self.give_up(container, &why);
            } else if waits.iter().all(|wait| matches!(wait, Wait::Over)) {
                self.start(container);
            }
        }
    }

    pub(super) fn start(&mut self, container: usize) {
        self.state.slots[container].phase = SlotPhase::Starting;
        self.state.status.start_intended = true;
        self.actions.push(Action::Start(container));
    }

    fn give_up(&mut self, container: usize, why: &str) {
        let definition = &self.spec.shape.containers[container];
        let reason =
            format!("CannotStartContainerError: dependency of container {} not met: {why}", definition.name);
        self.end_container(container);
        self.state.status.containers[container].reason = Some(reason.clone());
        if definition.essential {
            self.begin_stop(StopCode::TaskFailedToStart, &reason);
        }
    }

    fn wait_for(&self, dependency: &Dependency) -> Wait {
        let position = self.spec.shape.containers.iter().position(|c| c.name == dependency.container);
        let Some(target) = position else {
            return Wait::Hopeless(format!("container {} does not exist", dependency.container));
        };
        let slot = &self.state.slots[target];
        let status = &self.state.status.containers[target];
        let name = &dependency.container;
        let has_ended = slot.phase == SlotPhase::Ended;
        let is_over = match dependency.condition {
            Condition::Start => slot.started_ever,
            Condition::Complete => slot.started_ever && has_ended,
            Condition::Success => slot.started_ever && has_ended && status.exit_code == Some(0),
            Condition::Healthy => slot.phase == SlotPhase::Running && status.health == Health::Healthy,
        };
        if is_over {
            return Wait::Over;
        }
        if has_ended {
            return Wait::Hopeless(match status.exit_code {
                Some(code) => format!("container {name} ended with exit code {code}"),
                None => format!("container {name} did not start"),
            });
        }
        if dependency.condition == Condition::Healthy && status.health == Health::Unhealthy {
            return Wait::Hopeless(format!("container {name} is unhealthy"));
        }
        if slot.start_expired {
            return Wait::Hopeless(format!("container {name} was not ready within its startTimeout"));
        }
        Wait::Goes
    }
}
