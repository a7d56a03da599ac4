//! The agent: takes commands, and gives each task to a loop of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::Rootfs;
use neargate_model::{Cidr, NodeCommand, SecurityGroupRules, Stop, TaskKey, chain};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Parts;
use crate::scratch::{Removals, Scratch, Scratches};
use crate::task::{self, Assignment};

/// Stops that wait for one task's loop; more say nothing new.
const STOPS_MAX: usize = 4;

/// How long it may take to tell the supervisor the security groups.
const GROUPS_TIMEOUT: Duration = Duration::from_secs(10);

/// Images that wait to be made ready; of more, the first start takes longer, and nothing else.
const PREPARING_MAX: usize = 64;

/// Images that are fetched ahead of need at a time, so that those that tasks wait for have the most of the line.
const FETCHING_MAX: usize = 2;

/// How long one may take to be fetched ahead of need.
const FETCHING_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs the loops of all tasks of this node.
pub struct Agent {
    parts: Arc<Parts>,
    tasks: BTreeMap<TaskKey, mpsc::Sender<Stop>>,
    loops: JoinSet<TaskKey>,
    /// Images that are made ready, one after the other, so that tasks have the machine for themselves.
    preparing: JoinSet<()>,
    turn: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    /// What tasks have written is measured for one after the other, so that it takes one thread at most.
    measuring: Arc<Semaphore>,
    scratches: Arc<Scratches>,
    removals: Removals,
}

impl Agent {
    /// An agent without tasks.
    pub fn new(parts: Parts) -> Self {
        Self {
            scratches: Arc::new(Scratches::new(&parts.scratch)),
            parts: Arc::new(parts),
            tasks: BTreeMap::new(),
            loops: JoinSet::new(),
            preparing: JoinSet::new(),
            turn: Arc::new(Semaphore::new(1)),
            fetching: Arc::new(Semaphore::new(FETCHING_MAX)),
            measuring: Arc::new(Semaphore::new(1)),
            removals: Removals::default(),
        }
    }

    /// The removals of files of its tasks.
    pub fn removals(&self) -> Removals {
        self.removals.clone()
    }

    /// Serves commands until the channel closes, then waits for nothing: what still runs is found again at
    /// the next start.
    pub async fn run(mut self, mut commands: mpsc::Receiver<NodeCommand>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(NodeCommand::Network { groups, vpcs }) => self.set_groups(&groups, &vpcs).await,
                    Some(command) => self.take(command),
                    None => return,
                },
                Some(ended) = self.loops.join_next() => match ended {
                    Ok(key) => {
                        self.tasks.remove(&key);
                    }
                    Err(error) => tracing::error!(%error, "the loop of a task ended unexpectedly"),
                },
                Some(_) = self.preparing.join_next() => {}
            }
        }
    }

    fn take(&mut self, command: NodeCommand) {
        match command {
            NodeCommand::Assign { spec, status, created_at, is_fresh } => {
                let key = spec.key();
                if self.tasks.contains_key(&key) {
                    return;
                }
                let (stop, stops) = mpsc::channel(STOPS_MAX);
                self.tasks.insert(key.clone(), stop);
                let scratch = Scratch::new(&self.scratches, &spec.id);
                let (measuring, removals) = (self.measuring.clone(), self.removals.clone());
                let (spec, status) = (Arc::new(*spec), *status);
                let assignment =
                    Assignment { spec, status, created_at, is_fresh, scratch, measuring, removals };
                let parts = self.parts.clone();
                self.loops.spawn(async move {
                    task::run(parts, assignment, stops).await;
                    key
                });
            }
            NodeCommand::Prepare { images } => {
                for image in images {
                    self.prepare(image);
                }
            }
            // Waited for by the loop, so that no task that comes after it starts without its rules.
            NodeCommand::Network { .. } => {}
            NodeCommand::Stop { task, stop } => {
                // A task that is not here has stopped already; a full queue has the same wish in it.
                if let Some(stops) = self.tasks.get(&task) {
                    let _ = stops.try_send(stop);
                }
            }
        }
    }

    async fn set_groups(&self, groups: &[SecurityGroupRules], vpcs: &[Cidr]) {
        let Some(sandboxes) = &self.parts.sandboxes else { return };
        let told = timeout(GROUPS_TIMEOUT, sandboxes.set_groups(groups, vpcs)).await;
        let error = match told {
            Ok(Ok(())) => return,
            Ok(Err(error)) => chain(&error),
            Err(error) => error.to_string(),
        };
        tracing::error!(
            error,
            "enforce security groups; what they newly allow is dropped until they are told again"
        );
    }

    /// Makes ready what containers of an image will need. Whether that works is seen at the first start.
    fn prepare(&mut self, image: String) {
        if self.preparing.len() >= PREPARING_MAX {
            return;
        }
        let (parts, turn, fetching) = (self.parts.clone(), self.turn.clone(), self.fetching.clone());
        self.preparing.spawn(async move {
            let Ok(fetch) = fetching.acquire().await else { return };
            let found = timeout(FETCHING_LIMIT, parts.images.resolve(&image)).await;
            drop(fetch);
            let found = match found {
                Ok(Ok(found)) => found,
                Ok(Err(problem)) => {
                    return tracing::debug!(image, reason = problem.reason, "image is not there yet");
                }
                Err(_) => return tracing::debug!(image, "image took too long to be fetched ahead of need"),
            };
            let Ok(_turn) = turn.acquire().await else { return };
            let driver = match &found.rootfs {
                Rootfs::Wasm(_) => &parts.wasm,
                Rootfs::Layers(_) => return,
            };
            match driver.prepare(&found.rootfs).await {
                Ok(()) => tracing::debug!(image, "image is ready to be started"),
                Err(error) => {
                    tracing::debug!(image, error = chain(&error), "image could not be made ready");
                }
            }
        });
    }
}
