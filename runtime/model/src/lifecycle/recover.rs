//! Going on with a task whose node was started anew.
//!
//! The status tells what was committed; what is found may be ahead of it by what happened just before the node ended,
//! and by all that happened while it was away.

use super::{Action, ContainerExit, Found, PENDING_DEADLINE_MS, SandboxPhase, SlotPhase, Step, Timer};
use crate::{ContainerLast, LastStatus};

/// What a shell would show where a step of ours failed.
const OURS: i32 = 125;

impl Step<'_> {
    /// Takes the task up where its containers are.
    pub(super) fn recovered(&mut self, containers: &[Found]) {
        if self.state.sandbox != SandboxPhase::Unmade {
            return;
        }
        self.state.sandbox = SandboxPhase::Ready;
        let slots = self.state.slots.len();
        for (container, found) in containers.iter().enumerate().take(slots) {
            self.recover_container(container, found);
        }
        if self.state.status.last < LastStatus::Running {
            self.actions.push(Action::Arm(Timer::Pending, PENDING_DEADLINE_MS));
        }
        self.resume_timeout();
    }

    fn recover_container(&mut self, container: usize, found: &Found) {
        let slot = &mut self.state.slots[container];
        let status = &self.state.status.containers[container];
        slot.started_ever = status.started_at.is_some();
        match (status.last, found) {
            (ContainerLast::Stopped, Found::NeverStarted | Found::Ended { .. } | Found::Unknown { .. }) => {
                slot.phase = SlotPhase::Ended;
                self.restart_if_due(container);
            }
            (ContainerLast::Running, Found::Running { .. } | Found::Ended { .. }) => self.resume(container),
            (ContainerLast::Running, Found::NeverStarted) => {
                self.lose(container, "the container was not found again")
            }
            (ContainerLast::Running, Found::Unknown { reason }) => self.lose(container, reason),
            (_, Found::Running { runtime_id } | Found::Ended { runtime_id }) => {
                slot.phase = SlotPhase::Starting;
                self.started(container, runtime_id, &[]);
            }
            (ContainerLast::Pending, Found::NeverStarted) => self.actions.push(Action::FetchImage(container)),
            (ContainerLast::Pending, Found::Unknown { reason }) => {
                slot.phase = SlotPhase::Starting;
                self.start_failed(container, reason, OURS);
            }
        }
    }

    /// A container that had ended to be started again was not yet, or it would have been found.
    fn restart_if_due(&mut self, container: usize) {
        let status = &self.state.status.containers[container];
        let (code, finished_at) = (status.exit_code, status.finished_at);
        let is_due = finished_at.is_some_and(|at| self.may_restart(container, code, at));
        if self.state.status.stop.is_none() && is_due {
            self.start(container);
        }
    }

    /// A container has gone on.
    fn resume(&mut self, container: usize) {
        let slot = &mut self.state.slots[container];
        slot.phase = SlotPhase::Running;
        slot.check_is_early = false;
        if let Some(check) = &self.spec.shape.containers[container].health_check {
            slot.check_pending = true;
            self.actions.push(Action::Arm(Timer::Check(container), u64::from(check.interval_s) * 1000));
        }
    }

    fn lose(&mut self, container: usize, reason: &str) {
        self.state.slots[container].phase = SlotPhase::Running;
        let reason = Some(format!("Host lost: {reason}"));
        self.exited(container, &ContainerExit { reason, ..ContainerExit::default() });
    }

    /// What is left of the time that the task may run, which began with its first container.
    fn resume_timeout(&mut self) {
        let Some(seconds) = self.spec.shape.timeout_s else { return };
        let starts = self.state.status.containers.iter().filter_map(|container| container.started_at);
        if let Some(first) = starts.min() {
            let left_ms = (u64::from(seconds) * 1000).saturating_sub(self.now.millis_since(first));
            self.actions.push(Action::Arm(Timer::Timeout, left_ms));
        }
    }
}
