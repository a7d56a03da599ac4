//! What happens at every start, and every now and then: telling the node again, and forgetting.

use std::collections::BTreeSet;
use std::time::Duration;

use neargate_model::{DefinitionStatus, Family, NodeCommand, Scope, Stop, StopCode, TaskId, Timestamp};
use neargate_store::{Key, StoreError, Txn};

use crate::tables::{DEFINITIONS, NOW, SPECS, STOPPED, TASKS, TOKENS, commit, scan_all, task_key};
use crate::{Control, TaskWait};

/// Records removed by one transaction of the sweep.
const SWEEP_CHUNK: usize = 40;

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// How long a stopped task stays describable.
    pub stopped_tasks: Duration,
    /// How long a client token is remembered.
    pub client_tokens: Duration,
    /// How long it is remembered what an operation of service discovery did.
    pub operations: Duration,
}

impl Default for RetentionConfig {
    /// A day each; ECS promises an hour for stopped tasks, and clients ask for operations at once.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { stopped_tasks: day, client_tokens: day, operations: day }
    }
}

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Tasks that had not stopped; the node was told of each.
    pub tasks: BTreeSet<TaskId>,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Stopped tasks.
    pub tasks: usize,
    /// Client tokens.
    pub tokens: usize,
    /// Operations of service discovery.
    pub operations: usize,
    /// Definitions whose deletion was asked for and that no task uses any more.
    pub definitions: usize,
}

impl Control {
    /// Reads the intent again after a start and tells the node of every task that has not stopped.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        // No task may run before it is known who may talk to it.
        self.tell_network().await;
        self.recover_discovery().await?;
        for (_, found) in scan_all(self.store(), &TASKS, &TASKS.prefix(&[])).await? {
            let task = found.value;
            let key = task.key();
            self.shared.ledger.note(key.clone(), task.memory_reserved_mib);
            let Some(spec) = SPECS.get(self.store(), &task_key(&SPECS, &key), NOW).await? else {
                tracing::error!(task = %task.id, "task has no specification and cannot be run");
                continue;
            };
            if let Some(network) = &spec.value.network {
                self.shared.networks.addresses.note(key.clone(), network);
            }
            self.shared.networks.bridge.note(key.clone(), &spec.value);
            let assign = NodeCommand::Assign {
                spec: Box::new(spec.value),
                status: Box::new(task.status),
                created_at: task.created_at,
                is_fresh: false,
            };
            let stop = task.stop_requested.map(|stop| NodeCommand::Stop { task: key, stop });
            for command in std::iter::once(assign).chain(stop) {
                if let Err(error) = self.shared.node.send(command).await {
                    tracing::warn!(task = %task.id, %error, "task waits for its node");
                }
            }
            recovered.tasks.insert(task.id);
        }
        Ok(recovered)
    }

    /// Ends all tasks but those to be `kept` because their host does, and waits for that. Returns how many have not ended
    /// in time.
    pub async fn drain(
        &self,
        reason: &str,
        kept: &BTreeSet<TaskId>,
        timeout: Duration,
    ) -> Result<usize, StoreError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let all = TASKS.prefix(&[]);
        let is_ending = |task: &TaskId| !kept.contains(task);
        let mut running = scan_all(self.store(), &TASKS, &all).await?;
        running.retain(|(_, found)| is_ending(&found.value.id));
        for (_, found) in &running {
            let stop = Stop { code: StopCode::InfrastructureHealth, reason: reason.to_owned() };
            let command = NodeCommand::Stop { task: found.value.key(), stop };
            if let Err(error) = self.shared.node.send(command).await {
                tracing::warn!(task = %found.value.id, %error, "task cannot be told to end");
            }
        }
        for (_, found) in &running {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            // A task that is gone has ended.
            let _ = self.wait_task(&found.value.key(), TaskWait::Stopped, left).await;
        }
        let left = scan_all(self.store(), &TASKS, &all).await?;
        Ok(left.iter().filter(|(_, found)| is_ending(&found.value.id)).count())
    }

    /// The ids of all tasks that are known, running or stopped.
    pub async fn task_ids(&self) -> Result<BTreeSet<TaskId>, StoreError> {
        let mut ids = BTreeSet::new();
        for table in [&TASKS, &STOPPED] {
            let all = scan_all(self.store(), table, &table.prefix(&[])).await?;
            ids.extend(all.into_iter().map(|(_, found)| found.value.id));
        }
        Ok(ids)
    }

    /// Forgets what has been kept long enough.
    pub async fn sweep(&self, retention: &RetentionConfig) -> Result<Swept, StoreError> {
        let now = self.now();
        let is_over =
            |since: Timestamp, keep: Duration| u128::from(now.millis_since(since)) > keep.as_millis();
        let mut keys = Vec::new();
        let mut swept = Swept::default();
        for (key, found) in scan_all(self.store(), &STOPPED, &STOPPED.prefix(&[])).await? {
            let stopped_at = found.value.status.stopped_at.unwrap_or(found.value.created_at);
            if is_over(stopped_at, retention.stopped_tasks) {
                keys.push(key);
                keys.push(task_key(&SPECS, &found.value.key()));
                swept.tasks += 1;
            }
        }
        for (key, found) in scan_all(self.store(), &TOKENS, &TOKENS.prefix(&[])).await? {
            if is_over(found.value.at, retention.client_tokens) {
                keys.push(key);
                swept.tokens += 1;
            }
        }
        let operations = self.old_operations(|at| is_over(at, retention.operations)).await?;
        swept.operations = operations.len();
        keys.extend(operations);
        let unused = self.unused_definitions().await?;
        swept.definitions = unused.len();
        keys.extend(unused);
        for chunk in keys.chunks(SWEEP_CHUNK) {
            let txn = chunk.iter().fold(Txn::fresh(), |txn, key| txn.delete(key));
            commit(self.store(), txn).await?;
        }
        Ok(swept)
    }

    async fn unused_definitions(&self) -> Result<Vec<Key>, StoreError> {
        let definitions = scan_all(self.store(), &DEFINITIONS, &DEFINITIONS.prefix(&[])).await?;
        let is_going = |status| status == DefinitionStatus::DeleteInProgress;
        let going: Vec<_> = definitions.into_iter().filter(|(_, d)| is_going(d.value.status)).collect();
        if going.is_empty() {
            return Ok(Vec::new());
        }
        let mut used: BTreeSet<(Scope, Family, u32)> = BTreeSet::new();
        for (_, found) in scan_all(self.store(), &TASKS, &TASKS.prefix(&[])).await? {
            used.insert((found.value.scope, found.value.family, found.value.revision));
        }
        let scope_of = |key: &Key| {
            let segments = DEFINITIONS.segments(key)?;
            let account = neargate_model::AccountId::new(segments.first()?.clone()).ok()?;
            let region = neargate_model::Region::new(segments.get(1)?.clone()).ok()?;
            Some(Scope { account, region })
        };
        let is_unused = |(key, found): &(Key, neargate_store::Versioned<neargate_model::TaskDefinition>)| {
            scope_of(key).is_some_and(|scope| {
                !used.contains(&(scope, found.value.family.clone(), found.value.revision))
            })
        };
        Ok(going.into_iter().filter(is_unused).map(|(key, _)| key).collect())
    }
}
