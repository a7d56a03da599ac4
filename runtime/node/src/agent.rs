//! The agent: takes commands, and gives each task to a loop of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use neargate_model::{NodeCommand, Stop, TaskKey};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Parts;
use crate::task::{self, Assignment};

/// Stops that wait for one task's loop; more say nothing new.
const STOPS_MAX: usize = 4;

/// Runs the loops of all tasks of this node.
pub struct Agent {
    parts: Arc<Parts>,
    tasks: BTreeMap<TaskKey, mpsc::Sender<Stop>>,
    loops: JoinSet<TaskKey>,
}

impl Agent {
    /// An agent without tasks.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), tasks: BTreeMap::new(), loops: JoinSet::new() }
    }

    /// Serves commands until the channel closes, then waits for nothing: what still runs is found again at
    /// the next start.
    pub async fn run(mut self, mut commands: mpsc::Receiver<NodeCommand>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                Some(ended) = self.loops.join_next() => match ended {
                    Ok(key) => {
                        self.tasks.remove(&key);
                    }
                    Err(error) => tracing::error!(%error, "the loop of a task ended unexpectedly"),
                },
            }
        }
    }

    fn take(&mut self, command: NodeCommand) {
        match command {
            NodeCommand::Assign { spec, status, created_at } => {
                let key = spec.key();
                if self.tasks.contains_key(&key) {
                    return;
                }
                let (stop, stops) = mpsc::channel(STOPS_MAX);
                self.tasks.insert(key.clone(), stop);
                let assignment = Assignment { spec: Arc::new(*spec), status: *status, created_at };
                let parts = self.parts.clone();
                self.loops.spawn(async move {
                    task::run(parts, assignment, stops).await;
                    key
                });
            }
            NodeCommand::Stop { task, stop } => {
                // A task that is not here has stopped already; a full queue has the same wish in it.
                if let Some(stops) = self.tasks.get(&task) {
                    let _ = stops.try_send(stop);
                }
            }
        }
    }
}
