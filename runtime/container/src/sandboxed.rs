//! Processes and threads of this program inside a task's sandbox: classes `process` and `thread` of Wasm.
//!
//! The supervisor lends a cgroup and the task's network namespace; the launcher, which unlike the supervisor holds
//! nothing of other tasks in its memory, starts the process in them.

use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{
    Limits, Process, ProcessError, ProcessExit, ProcessSpec, Sandbox, SandboxProcessHost, ThreadSlot,
};
use tokio::sync::OnceCell;

use crate::client::SupervisorClient;
use crate::launcher::{LauncherClient, Place};
use crate::protocol::LendPlan;

/// Starts processes in the sandboxes of a supervisor. Both must be root's.
#[derive(Clone, Debug)]
pub struct SandboxProcesses {
    supervisor: SupervisorClient,
    launcher: LauncherClient,
}

impl SandboxProcesses {
    /// Processes of `launcher` in the sandboxes of `supervisor`.
    pub fn new(supervisor: SupervisorClient, launcher: LauncherClient) -> Self {
        Self { supervisor, launcher }
    }
}

#[async_trait]
impl SandboxProcessHost for SandboxProcesses {
    async fn spawn_in(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        spec: ProcessSpec,
    ) -> Result<Arc<dyn Process>, ProcessError> {
        let plan = LendPlan {
            task: sandbox.task.to_string(),
            name: spec.name.clone(),
            limits: limits.clone(),
            thread: false,
        };
        let (lending, unified, fds) = self.supervisor.lend(plan).await?;
        let group = LentGroup { supervisor: self.supervisor.clone(), lending, oom: OnceCell::new() };
        let process = self.launcher.spawn_at(spec, Some(Place { unified, fds })).await?;
        Ok(Arc::new(Sandboxed { process, group }))
    }

    async fn thread_slot(&self, sandbox: &Sandbox, limits: &Limits) -> Result<ThreadSlot, ProcessError> {
        let plan = LendPlan {
            task: sandbox.task.to_string(),
            name: "thread".to_owned(),
            limits: limits.clone(),
            thread: true,
        };
        let (lending, _, tasks) = self.supervisor.lend(plan).await?;
        let supervisor = self.supervisor.clone();
        Ok(ThreadSlot::new(tasks, move || supervisor.give_back(lending)))
    }
}

/// A lent group, given back at the end.
struct LentGroup {
    supervisor: SupervisorClient,
    lending: u64,
    /// Set when it was given back: whether its process was killed for going over the memory limit.
    oom: OnceCell<bool>,
}

impl LentGroup {
    /// Looks at what has happened in it and gives it back; may be cancelled and tried again.
    async fn end(&self) -> bool {
        let oom = self.supervisor.lent_oom(self.lending).await;
        self.supervisor.give_back(self.lending);
        oom
    }
}

impl Drop for LentGroup {
    fn drop(&mut self) {
        if !self.oom.initialized() {
            self.supervisor.give_back(self.lending);
        }
    }
}

/// A process in a sandbox.
struct Sandboxed {
    process: Arc<dyn Process>,
    group: LentGroup,
}

#[async_trait]
impl Process for Sandboxed {
    async fn wait(&self) -> ProcessExit {
        let exit = self.process.wait().await;
        let oom = *self.group.oom.get_or_init(|| self.group.end()).await;
        ProcessExit { code: exit.code, oom: exit.oom || oom }
    }

    fn kill(&self) {
        self.process.kill();
    }

    fn id(&self) -> u32 {
        self.process.id()
    }
}
