//! From a stop's first cause to STOPPED.

use super::{Action, KILL_DEADLINE_MS, STOP_TIMEOUT_S_DEFAULT, SandboxPhase, SlotPhase, Step, Timer};
use crate::{ContainerLast, LastStatus, StopCode};

impl Step<'_> {
    /// What ran is gone and nothing can be learned of it: all that is left is to clean up.
    pub(super) fn lost(&mut self, reason: &str) {
        self.begin_stop(StopCode::InfrastructureHealth, reason);
        for container in 0..self.state.slots.len() {
            if self.state.status.containers[container].last == ContainerLast::Running {
                self.state.status.containers[container].finished_at = Some(self.now);
            }
            self.end_container(container);
        }
    }

    pub(super) fn timed_out(&mut self) {
        let Some(seconds) = self.spec.shape.timeout_s else { return };
        let reason = format!("Task timed out: it ran for longer than its limit of {seconds} s");
        self.begin_stop(StopCode::UserInitiated, &reason);
    }

    pub(super) fn stop_due(&mut self, container: usize) {
        let slot = &self.state.slots[container];
        if slot.phase == SlotPhase::Running && slot.signalled {
            self.actions.push(Action::Kill(container));
            self.actions.push(Action::Arm(Timer::Kill(container), KILL_DEADLINE_MS));
        }
    }

    pub(super) fn kill_due(&mut self, container: usize) {
        let slot = &self.state.slots[container];
        if slot.phase == SlotPhase::Running && slot.signalled {
            self.end_container(container);
            self.state.status.containers[container].reason =
                Some("not seen to end after SIGKILL; a process may be in uninterruptible sleep".to_owned());
            self.state.status.containers[container].finished_at = Some(self.now);
        }
    }

    /// Ends containers in reverse order of their dependencies, then gives everything back.
    pub(super) fn advance_stop(&mut self) {
        for container in 0..self.state.slots.len() {
            if matches!(self.state.slots[container].phase, SlotPhase::WaitsForImage | SlotPhase::HasImage) {
                self.end_container(container);
            }
        }
        for container in 0..self.state.slots.len() {
            let slot = &self.state.slots[container];
            if slot.phase == SlotPhase::Running && !slot.signalled && !self.is_needed(container) {
                self.signal(container);
            }
        }
        if self.state.slots.iter().all(|slot| slot.phase == SlotPhase::Ended) {
            self.release();
        }
    }

    fn is_needed(&self, container: usize) -> bool {
        let name = &self.spec.shape.containers[container].name;
        self.spec.shape.containers.iter().enumerate().any(|(other, definition)| {
            self.state.is_alive(other) && definition.depends_on.iter().any(|d| &d.container == name)
        })
    }

    fn signal(&mut self, container: usize) {
        self.state.slots[container].signalled = true;
        let timeout_s = self.spec.shape.containers[container].stop_timeout_s;
        let timeout_ms = u64::from(timeout_s.unwrap_or(STOP_TIMEOUT_S_DEFAULT)) * 1000;
        self.actions.push(Action::Signal(container));
        self.actions.push(Action::Arm(Timer::Stop(container), timeout_ms));
    }

    fn release(&mut self) {
        let status = &mut self.state.status;
        if status.last < LastStatus::Deprovisioning {
            status.last = LastStatus::Deprovisioning;
            // Without a sandbox nothing was started, whatever was intended.
            let has_tried = status.start_intended && status.connectivity_at.is_some();
            status.execution_stopped_at = has_tried.then_some(self.now);
        }
        // A sandbox that is just being made cannot be released yet; its answer comes here again.
        if !matches!(self.state.sandbox, SandboxPhase::Preparing | SandboxPhase::Releasing) {
            self.state.sandbox = SandboxPhase::Releasing;
            self.actions.push(Action::Release);
        }
    }
}
