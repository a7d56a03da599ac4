//! Tasks: accepting, stopping, describing, listing and waiting for them.

use std::sync::Arc;
use std::time::Duration;

use neargate_model::iam::RoleArn;
use neargate_model::vpc::{NetworkError, NetworkInterface};
use neargate_model::{
    BridgeNetwork, Cidr, ClusterName, ContainerDefinition, ContainerId, ContainerName, DefinitionStatus,
    Family, LastStatus, LaunchType, NodeCommand, Scope, Stop, StopCode, Tags, Task, TaskDefinition, TaskId,
    TaskKey, TaskNetwork, TaskShape, TaskSpec, TaskStatus, Timestamp,
};
use neargate_store::{Key, StoreError, Txn, Versioned};
use uuid::Uuid;

use crate::network::{Assigned, NotAssigned, WantedNetwork};
use crate::place::{Demand, Refusal};
use crate::tables::{
    INTERFACES, NOW, SPECS, STOPPED, TASKS, TOKENS, TokenRecord, WRITE_ATTEMPTS, cluster_key, commit,
    commit_at, task_key, token_key, too_contended,
};
use crate::{Control, DefinitionError, RevisionWanted, tags};

/// Tasks looked up by one read of the store.
const DESCRIBE_CHUNK: usize = 25;

/// Who waits for a task looks again after this, in case its record was changed by nobody in this process.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Memory that placement counts for a task whose definition names no memory at all, in MiB.
const MEMORY_MIB_UNSTATED: u32 = 64;

/// What changes from a definition to its tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewTask {
    /// CPU units of the task.
    pub cpu_units: Option<u32>,
    /// Memory of the task in MiB.
    pub memory_mib: Option<u32>,
    /// Scratch space of the task in GiB.
    pub ephemeral_storage_gib: Option<u32>,
    /// The role of the task.
    pub task_role: Option<RoleArn>,
    /// Changes to containers.
    pub containers: Vec<ContainerChange>,
}

/// What changes from a container's definition to the container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerChange {
    /// Which container.
    pub name: ContainerName,
    /// The command instead of the definition's.
    pub command: Option<Vec<String>>,
    /// Variables added to or replacing the definition's.
    pub environment: Vec<(String, String)>,
    /// CPU weight.
    pub cpu_units: Option<u32>,
    /// Hard memory limit in MiB.
    pub memory_mib: Option<u32>,
    /// Soft memory limit in MiB.
    pub memory_reservation_mib: Option<u32>,
}

/// A request to run tasks.
#[derive(Clone, Debug)]
pub struct RunTasks {
    /// Account and region.
    pub scope: Scope,
    /// The cluster.
    pub cluster: ClusterName,
    /// The family.
    pub family: Family,
    /// Its revision.
    pub revision: RevisionWanted,
    /// How many, 1 to 10.
    pub count: usize,
    /// Where to run.
    pub launch_type: LaunchType,
    /// The capacity provider that stands for the launch type.
    pub capacity_provider: Option<String>,
    /// The group; `family:NAME` when absent.
    pub group: Option<String>,
    /// Who or what starts them.
    pub started_by: Option<String>,
    /// Tags of the tasks.
    pub tags: Tags,
    /// Whether the definition's tags are added.
    pub propagate_definition_tags: bool,
    /// What differs from the definition.
    pub changes: NewTask,
    /// Subnets and security groups, for definitions of the network mode `awsvpc`.
    pub network: Option<WantedNetwork>,
    /// A token that makes a repetition return the same tasks, and a digest of the request without it.
    pub token: Option<(String, String)>,
    /// When whoever asks will stop them.
    pub deadline: Option<Timestamp>,
    /// What the API wants to show again.
    pub face: String,
}

/// What became of a request to run tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The tasks, durably accepted.
    pub tasks: Vec<DescribedTask>,
    /// One refusal for each task that did not fit.
    pub refused: Vec<Refusal>,
}

/// A task and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct DescribedTask {
    /// How it stands.
    pub task: Arc<Task>,
    /// What it is made of.
    pub spec: Arc<TaskSpec>,
}

/// What all tasks of a request are made of.
struct MadeOf<'a> {
    definition: &'a TaskDefinition,
    shape: &'a TaskShape,
    own_workers: bool,
    network: Option<&'a Assigned>,
    /// The block of tasks under `bridge`.
    bridge: Option<Cidr>,
}

/// Why no task was accepted.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such active cluster.
    #[error("cluster {name} does not exist")]
    ClusterNotFound {
        /// The name.
        name: ClusterName,
    },
    /// There is no such definition.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The definition was deregistered.
    #[error("task definition {family}:{revision} is inactive")]
    DefinitionInactive {
        /// The family.
        family: Family,
        /// The revision.
        revision: u32,
    },
    /// The definition is not fit for the launch type.
    #[error("task definition {family}:{revision} does not support the launch type")]
    Incompatible {
        /// The family.
        family: Family,
        /// The revision.
        revision: u32,
    },
    /// An override names a container that the definition does not have.
    #[error("container {name} is not in the task definition")]
    UnknownContainer {
        /// The name.
        name: ContainerName,
    },
    /// The definition's network mode is `awsvpc`, and no subnet is named.
    #[error("a task with an interface of its own needs a subnet")]
    NoNetwork,
    /// More security groups than an interface can have.
    #[error("{groups} security groups are more than an interface can have")]
    TooManyGroups {
        /// How many.
        groups: usize,
    },
    /// The role does not exist, or does not trust ECS.
    #[error("role {arn} cannot be taken on for the task")]
    Role {
        /// The role.
        arn: RoleArn,
    },
    /// A subnet or security group does not exist, or not in this VPC.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The token came before with another request.
    #[error("client token was used before with another request")]
    TokenReused {
        /// What it started then.
        tasks: Vec<TaskId>,
    },
    /// Too many tags.
    #[error(transparent)]
    Tags(#[from] tags::TagError),
    /// The store failed; nothing was accepted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a task was not found or changed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// There is no such active cluster.
    #[error("cluster {name} does not exist")]
    ClusterNotFound {
        /// The name.
        name: ClusterName,
    },
    /// There is no such task, or it was forgotten after its time.
    #[error("task {id} does not exist")]
    NotFound {
        /// The id.
        id: TaskId,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Those of a family.
    pub family: Option<String>,
    /// Those started by someone.
    pub started_by: Option<String>,
    /// Those of a group, for example `service:NAME`.
    pub group: Option<String>,
    /// Those of a launch type.
    pub launch_type: Option<LaunchType>,
    /// Those that are to stop or have stopped, instead of those that should run.
    pub stopped: bool,
}

/// A page of a list of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The last id of this page when there may be more.
    pub next: Option<TaskId>,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskWait {
    /// It runs, or has got further.
    Running,
    /// It has stopped.
    Stopped,
}

impl Control {
    /// Accepts tasks: one transaction for all of them, durable before the answer.
    pub async fn run_tasks(&self, request: &RunTasks) -> Result<Accepted, RunError> {
        tags::check(&request.tags)?;
        for _ in 0..WRITE_ATTEMPTS {
            if let Some(earlier) = self.earlier_run(request).await? {
                return Ok(earlier);
            }
            let cluster = self.active_cluster(&request.scope, &request.cluster).await?;
            let Some(cluster) = cluster else {
                return Err(RunError::ClusterNotFound { name: request.cluster.clone() });
            };
            let definition = self.runnable(request).await?;
            let shape = apply_changes(&definition.shape, &request.changes)?;
            self.check_role(&request.scope, &shape).await?;
            let own_workers = cluster.value.has_own_workers();
            let network = self.find_network(&request.scope, &shape, request.network.as_ref()).await?;
            let bridge = self.bridge_block(&shape).await?;
            let network = network.as_ref();
            let made_of = MadeOf { definition: &definition, shape: &shape, own_workers, network, bridge };
            let (tasks, refused) = self.place_tasks(request, &made_of)?;
            if tasks.is_empty() {
                return Ok(Accepted { tasks, refused });
            }
            let cluster_at = cluster_key(&request.scope, &request.cluster);
            let txn = Txn::fresh().at_rev(&cluster_at, cluster.rev);
            match self.commit_tasks(request, txn, &tasks).await {
                Ok(true) => {
                    neargate_failpoint::reach("control::assign::before");
                    self.assign(&tasks).await;
                    neargate_failpoint::reach("control::assign::after");
                    return Ok(Accepted { tasks, refused });
                }
                Ok(false) => self.forget_placed(&tasks),
                // They may have been accepted all the same, and hold their addresses until the next start tells.
                Err(error @ StoreError::Unresolved { .. }) => {
                    self.forget_room(&tasks);
                    return Err(error.into());
                }
                Err(error) => {
                    self.forget_placed(&tasks);
                    return Err(error.into());
                }
            }
        }
        Err(too_contended().into())
    }

    async fn earlier_run(&self, request: &RunTasks) -> Result<Option<Accepted>, RunError> {
        let Some((token, digest)) = &request.token else { return Ok(None) };
        let key = token_key(&request.scope, &request.cluster, token);
        let Some(found) = TOKENS.get(self.store(), &key, NOW).await? else { return Ok(None) };
        if found.value.request != *digest {
            return Err(RunError::TokenReused { tasks: found.value.tasks });
        }
        let described = self.describe_ids(&request.scope, &request.cluster, &found.value.tasks).await?;
        Ok(Some(Accepted { tasks: described.into_iter().flatten().collect(), refused: Vec::new() }))
    }

    async fn runnable(&self, request: &RunTasks) -> Result<Arc<TaskDefinition>, RunError> {
        let definition = self.find_definition(&request.scope, &request.family, request.revision).await?;
        let (family, revision) = (definition.family.clone(), definition.revision);
        if definition.status != DefinitionStatus::Active {
            return Err(RunError::DefinitionInactive { family, revision });
        }
        if !definition.compatibilities.contains(&request.launch_type) {
            return Err(RunError::Incompatible { family, revision });
        }
        Ok(definition)
    }

    /// Refuses a role that is not there, or that does not let ECS take it on for tasks.
    async fn check_role(&self, scope: &Scope, shape: &TaskShape) -> Result<(), RunError> {
        let Some(arn) = &shape.task_role else { return Ok(()) };
        let role = self.task_role(scope, arn).await?;
        role.map(drop).ok_or_else(|| RunError::Role { arn: arn.clone() })
    }

    fn place_tasks(
        &self,
        request: &RunTasks,
        made_of: &MadeOf<'_>,
    ) -> Result<(Vec<DescribedTask>, Vec<Refusal>), RunError> {
        let (mut tasks, mut refused) = (Vec::new(), Vec::new());
        for _ in 0..request.count {
            match self.place_task(request, made_of) {
                Ok(described) => tasks.push(described),
                Err(NotAssigned::Refused(refusal)) => refused.push(refusal),
                Err(NotAssigned::Gone(error)) => {
                    self.forget_placed(&tasks);
                    return Err(error.into());
                }
            }
        }
        Ok((tasks, refused))
    }

    /// Takes room and an address for one task.
    fn place_task(&self, request: &RunTasks, made_of: &MadeOf<'_>) -> Result<DescribedTask, NotAssigned> {
        let MadeOf { shape, network, .. } = made_of;
        let demand = Demand { memory_mib: memory_demand_mib(shape), cpu_units: shape.cpu_units.unwrap_or(0) };
        let id = TaskId::new(Uuid::new_v4().simple().to_string()).expect("a simple UUID is 32 hex digits");
        let key = TaskKey { scope: request.scope.clone(), cluster: request.cluster.clone(), id: id.clone() };
        let room = self.shared.ledger.take(key.clone(), demand, self.shared.host.disk.room());
        room.map_err(NotAssigned::Refused)?;
        let network = network.map(|network| self.assign_network(&key, network)).transpose();
        let network = network.inspect_err(|_| self.shared.ledger.give_back(&key))?;
        let bridge = self.assign_bridge(&key, shape, made_of.bridge).map_err(|refusal| {
            self.shared.ledger.give_back(&key);
            self.shared.networks.addresses.forget(&key);
            NotAssigned::Refused(refusal)
        })?;
        Ok(self.new_task(request, made_of, id, demand.memory_mib, (network, bridge)))
    }

    fn new_task(
        &self,
        request: &RunTasks,
        made_of: &MadeOf<'_>,
        id: TaskId,
        memory_reserved_mib: u32,
        (network, bridge): (Option<TaskNetwork>, Option<BridgeNetwork>),
    ) -> DescribedTask {
        let MadeOf { definition, shape, own_workers, .. } = *made_of;
        let names: Vec<_> = shape.containers.iter().map(|container| container.name.clone()).collect();
        let mut tags = if request.propagate_definition_tags { definition.tags.clone() } else { Tags::new() };
        tags.extend(request.tags.clone());
        let task = Task {
            id: id.clone(),
            scope: request.scope.clone(),
            cluster: request.cluster.clone(),
            family: definition.family.clone(),
            revision: definition.revision,
            launch_type: request.launch_type,
            capacity_provider: request.capacity_provider.clone(),
            group: request.group.clone().unwrap_or_else(|| format!("family:{}", definition.family)),
            started_by: request.started_by.clone(),
            cpu_units: shape.cpu_units,
            memory_mib: shape.memory_mib,
            memory_reserved_mib,
            tags,
            created_at: self.now(),
            stop_requested: None,
            status: TaskStatus::accepted(&names),
        };
        let spec = TaskSpec {
            id,
            scope: request.scope.clone(),
            cluster: request.cluster.clone(),
            family: definition.family.clone(),
            revision: definition.revision,
            shape: shape.clone(),
            container_ids: names.iter().map(|_| new_container_id()).collect(),
            launch_type: request.launch_type,
            own_workers,
            deadline: request.deadline,
            network,
            bridge,
            face: request.face.clone(),
        };
        DescribedTask { task: Arc::new(task), spec: Arc::new(spec) }
    }

    async fn commit_tasks(
        &self,
        request: &RunTasks,
        mut txn: Txn,
        tasks: &[DescribedTask],
    ) -> Result<bool, StoreError> {
        let keys_of = |key: &TaskKey| (task_key(&TASKS, key), task_key(&SPECS, key));
        let keys: Vec<(Key, Key)> = tasks.iter().map(|described| keys_of(&described.task.key())).collect();
        for (DescribedTask { task, spec }, (task_at, spec_at)) in tasks.iter().zip(&keys) {
            txn = TASKS.put(txn, task_at, task)?;
            txn = SPECS.put(txn, spec_at, spec)?;
            if let Some(network) = &spec.network {
                let (task, created_at) = (task.key(), task.created_at);
                let at = task_key(&INTERFACES, &task);
                let interface =
                    NetworkInterface { task, network: network.clone(), created_at, tags: Tags::new() };
                txn = INTERFACES.put(txn, &at, &interface)?;
            }
        }
        if let Some((token, digest)) = &request.token {
            let key = token_key(&request.scope, &request.cluster, token);
            let record = TokenRecord {
                request: digest.clone(),
                tasks: tasks.iter().map(|described| described.task.id.clone()).collect(),
                at: self.now(),
            };
            txn = TOKENS.put(txn.absent(&key), &key, &record)?;
        }
        let Some(rev) = commit_at(self.store(), txn).await? else { return Ok(false) };
        for (DescribedTask { task, spec }, (task_at, spec_at)) in tasks.iter().zip(&keys) {
            self.memos().tasks.enter(task_at, Versioned { value: task.clone(), rev });
            self.memos().specs.enter(spec_at, Versioned { value: spec.clone(), rev });
        }
        Ok(true)
    }

    fn forget_placed(&self, tasks: &[DescribedTask]) {
        self.forget_room(tasks);
        for described in tasks {
            self.shared.networks.addresses.forget(&described.task.key());
            self.shared.networks.bridge.forget(&described.task.key());
        }
    }

    fn forget_room(&self, tasks: &[DescribedTask]) {
        for described in tasks {
            self.shared.ledger.give_back(&described.task.key());
        }
    }

    /// Tells the node. When it cannot be told, the tasks are accepted all the same: it is told again when it
    /// is back.
    async fn assign(&self, tasks: &[DescribedTask]) {
        for DescribedTask { task, spec } in tasks {
            let command = NodeCommand::Assign {
                spec: Box::new(TaskSpec::clone(spec)),
                status: Box::new(task.status.clone()),
                created_at: task.created_at,
                is_fresh: true,
            };
            if let Err(error) = self.shared.node.send(command).await {
                tracing::warn!(task = %task.id, %error, "task waits for its node");
            }
        }
    }

    /// Asks for a task to stop. A task that has stopped is returned as it is.
    pub async fn stop_task(&self, key: &TaskKey, reason: &str) -> Result<DescribedTask, TaskError> {
        self.check_cluster(key).await?;
        let stop = Stop { code: StopCode::UserInitiated, reason: reason.to_owned() };
        let at = task_key(&TASKS, key);
        for _ in 0..WRITE_ATTEMPTS {
            let Some(found) = TASKS.get(self.store(), &at, NOW).await? else {
                return self.describe_task(key).await;
            };
            let mut task = found.value;
            if task.stop_requested.is_none() {
                task.stop_requested = Some(stop.clone());
                let txn = TASKS.put(Txn::fresh().at_rev(&at, found.rev), &at, &task)?;
                if !commit(self.store(), txn).await? {
                    continue;
                }
            }
            neargate_failpoint::reach("control::stop::before");
            let command = NodeCommand::Stop { task: key.clone(), stop };
            if let Err(error) = self.shared.node.send(command).await {
                tracing::warn!(task = %key.id, %error, "stop waits for the task's node");
            }
            neargate_failpoint::reach("control::stop::after");
            return self.describe_task(key).await;
        }
        Err(too_contended().into())
    }

    async fn check_cluster(&self, key: &TaskKey) -> Result<(), TaskError> {
        match self.active_cluster(&key.scope, &key.cluster).await? {
            Some(_) => Ok(()),
            None => Err(TaskError::ClusterNotFound { name: key.cluster.clone() }),
        }
    }

    /// A task, running or stopped.
    pub async fn describe_task(&self, key: &TaskKey) -> Result<DescribedTask, TaskError> {
        let ids = std::slice::from_ref(&key.id);
        let found = self.describe_ids(&key.scope, &key.cluster, ids).await?.pop().flatten();
        found.ok_or_else(|| TaskError::NotFound { id: key.id.clone() })
    }

    /// Tasks in the order asked, `None` for those that do not exist.
    pub async fn describe_tasks(
        &self,
        scope: &Scope,
        cluster: &ClusterName,
        ids: &[TaskId],
    ) -> Result<Vec<Option<DescribedTask>>, TaskError> {
        if self.active_cluster(scope, cluster).await?.is_none() {
            return Err(TaskError::ClusterNotFound { name: cluster.clone() });
        }
        Ok(self.describe_ids(scope, cluster, ids).await?)
    }

    async fn describe_ids(
        &self,
        scope: &Scope,
        cluster: &ClusterName,
        ids: &[TaskId],
    ) -> Result<Vec<Option<DescribedTask>>, StoreError> {
        let mut described = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(DESCRIBE_CHUNK) {
            let key =
                |id: &TaskId| TaskKey { scope: scope.clone(), cluster: cluster.clone(), id: id.clone() };
            let keys: Vec<TaskKey> = chunk.iter().map(key).collect();
            let tasks = self.task_records(&keys).await?;
            let specs: Vec<Key> = keys.iter().map(|key| task_key(&SPECS, key)).collect();
            let specs = self.memos().specs.get_many(self.store(), &specs).await?;
            described.extend(tasks.into_iter().zip(specs).map(|(task, spec)| {
                let (task, spec) = (task?, spec?.value);
                Some(DescribedTask { task, spec })
            }));
        }
        Ok(described)
    }

    /// The records of tasks, running or stopped, in the order asked.
    async fn task_records(&self, keys: &[TaskKey]) -> Result<Vec<Option<Arc<Task>>>, StoreError> {
        let memo = &self.memos().tasks;
        let live: Vec<Key> = keys.iter().map(|key| task_key(&TASKS, key)).collect();
        let mut found = memo.get_many(self.store(), &live).await?;
        // A task moves from one table to the other and never back, so that it is missed by no look at the second after
        // the first.
        let missing: Vec<usize> = (0..keys.len()).filter(|index| found[*index].is_none()).collect();
        if !missing.is_empty() {
            let stopped: Vec<Key> = missing.iter().map(|index| task_key(&STOPPED, &keys[*index])).collect();
            let stopped = memo.get_many(self.store(), &stopped).await?;
            missing.iter().zip(stopped).for_each(|(index, task)| found[*index] = task);
        }
        Ok(found.into_iter().map(|task| task.map(|task| task.value)).collect())
    }

    pub(crate) async fn task_record(&self, key: &TaskKey) -> Result<Option<Arc<Task>>, StoreError> {
        Ok(self.task_records(std::slice::from_ref(key)).await?.pop().flatten())
    }

    /// A page of at most `limit` tasks after an id, in the order of ids.
    pub async fn list_tasks(
        &self,
        scope: &Scope,
        cluster: &ClusterName,
        filter: &TaskFilter,
        after: Option<&TaskId>,
        limit: usize,
    ) -> Result<TaskPage, TaskError> {
        if self.active_cluster(scope, cluster).await?.is_none() {
            return Err(TaskError::ClusterNotFound { name: cluster.clone() });
        }
        let mut tasks = self.page_of(&TASKS, scope, cluster, filter, after, limit).await?;
        if filter.stopped {
            tasks.extend(self.page_of(&STOPPED, scope, cluster, filter, after, limit).await?);
            tasks.sort_by(|a, b| a.id.cmp(&b.id));
            tasks.dedup_by(|a, b| a.id == b.id);
        }
        let has_more = tasks.len() > limit;
        tasks.truncate(limit);
        let next = if has_more { tasks.last().map(|task| task.id.clone()) } else { None };
        Ok(TaskPage { tasks, next })
    }

    /// Up to `limit + 1` tasks of one table.
    async fn page_of(
        &self,
        table: &neargate_store::Table<Task>,
        scope: &Scope,
        cluster: &ClusterName,
        filter: &TaskFilter,
        after: Option<&TaskId>,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let segments = [scope.account.as_str(), scope.region.as_str(), cluster.as_str()];
        let prefix = table.prefix(&segments);
        let mut after = after.map(|id| table.key(&[segments[0], segments[1], segments[2], id.as_str()]));
        let mut tasks = Vec::new();
        loop {
            let page = table.scan(self.store(), &prefix, after.as_ref(), crate::tables::PAGE, NOW).await?;
            tasks.extend(page.items.into_iter().map(|(_, found)| found.value).filter(|t| matches(filter, t)));
            match page.next {
                Some(next) if tasks.len() <= limit => after = Some(next),
                _ => break,
            }
        }
        tasks.truncate(limit + 1);
        Ok(tasks)
    }

    /// Waits until a task has got as far, at most `timeout`; returns it as it stands then.
    pub async fn wait_task(
        &self,
        key: &TaskKey,
        wait: TaskWait,
        timeout: Duration,
    ) -> Result<DescribedTask, TaskError> {
        let deadline = tokio::time::Instant::now() + timeout;
        // Before the first look, so that no change is missed between a look and the wait for the next.
        let mut changes = self.shared.waiters.listen(key);
        loop {
            let described = self.describe_task(key).await?;
            let is_over = tokio::time::Instant::now() >= deadline;
            if is_over || wait.is_reached(described.task.status.last) {
                return Ok(described);
            }
            let look = deadline.min(tokio::time::Instant::now() + LOOK_AGAIN);
            let _ = tokio::time::timeout_at(look, changes.next()).await;
        }
    }
}

impl TaskWait {
    fn is_reached(self, status: LastStatus) -> bool {
        match self {
            Self::Running => status >= LastStatus::Running,
            Self::Stopped => status == LastStatus::Stopped,
        }
    }
}

fn new_container_id() -> ContainerId {
    ContainerId::new(Uuid::new_v4().hyphenated().to_string()).expect("a hyphenated UUID is lower case")
}

fn matches(filter: &TaskFilter, task: &Task) -> bool {
    task.is_wanted() != filter.stopped
        && filter.family.as_ref().is_none_or(|family| task.family.as_str() == family)
        && filter.started_by.as_ref().is_none_or(|by| task.started_by.as_ref() == Some(by))
        && filter.group.as_ref().is_none_or(|group| task.group == *group)
        && filter.launch_type.is_none_or(|launch_type| task.launch_type == launch_type)
}

/// The memory that a task is counted with: its own limit, or what its containers ask for.
fn memory_demand_mib(shape: &TaskShape) -> u32 {
    let of = |container: &ContainerDefinition| {
        container.memory_mib.or(container.memory_reservation_mib).unwrap_or(MEMORY_MIB_UNSTATED)
    };
    let sum = || shape.containers.iter().map(of).fold(0, u32::saturating_add);
    shape.memory_mib.unwrap_or_else(sum)
}

fn apply_changes(shape: &TaskShape, changes: &NewTask) -> Result<TaskShape, RunError> {
    let mut shape = shape.clone();
    shape.cpu_units = changes.cpu_units.or(shape.cpu_units);
    shape.memory_mib = changes.memory_mib.or(shape.memory_mib);
    shape.ephemeral_storage_gib = changes.ephemeral_storage_gib.or(shape.ephemeral_storage_gib);
    shape.task_role = changes.task_role.clone().or(shape.task_role);
    for change in &changes.containers {
        let container = shape.containers.iter_mut().find(|container| container.name == change.name);
        let Some(container) = container else {
            return Err(RunError::UnknownContainer { name: change.name.clone() });
        };
        if change.command.is_some() {
            container.command.clone_from(&change.command);
        }
        container.environment.retain(|(name, _)| !change.environment.iter().any(|(new, _)| new == name));
        container.environment.extend(change.environment.iter().cloned());
        container.cpu_units = change.cpu_units.unwrap_or(container.cpu_units);
        container.memory_mib = change.memory_mib.or(container.memory_mib);
        container.memory_reservation_mib = change.memory_reservation_mib.or(container.memory_reservation_mib);
    }
    Ok(shape)
}
