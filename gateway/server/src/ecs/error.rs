//! Domain errors as ECS words them. Every variant is named; nothing unexpected is shown to a client.

use neargate_control::{ClusterError, DefinitionError, RunError, SettingError, TagError, TaskError};
use neargate_model::policy::Forbidden;
use neargate_model::validate::ShapeError;
use neargate_model::vpc::{INTERFACE_GROUPS_MAX, NetworkError};
use neargate_model::{Arn, ClusterName, Scope};
use neargate_store::StoreError;
use neargate_wire::ecs::EcsError;

pub(super) fn invalid_parameter(message: impl Into<String>) -> EcsError {
    EcsError::InvalidParameter { message: message.into() }
}

pub(super) fn client(message: impl Into<String>) -> EcsError {
    EcsError::Client { message: message.into() }
}

pub(super) fn cluster_not_found() -> EcsError {
    EcsError::ClusterNotFound { message: "Cluster not found.".to_owned() }
}

/// A failure of ours: its details are for the log, not for the client.
pub(super) fn store(error: &StoreError) -> EcsError {
    match error {
        StoreError::TooLarge { what, size, limit } => {
            client(format!("The request is too large to be stored: {what} of {size} is over {limit}."))
        }
        StoreError::Full { .. } => {
            tracing::error!(error = neargate_model::chain(error), "store cannot be written");
            EcsError::Server { message: "The server's disk is full; nothing was accepted.".to_owned() }
        }
        _ => {
            tracing::error!(error = neargate_model::chain(error), "store failed");
            EcsError::Server { message: "The server could not reach its store; try again.".to_owned() }
        }
    }
}

pub(super) fn cluster(error: &ClusterError) -> EcsError {
    match error {
        ClusterError::NotFound { .. } => cluster_not_found(),
        ClusterError::HasTasks { .. } => EcsError::ClusterContainsTasks {
            message: "The Cluster cannot be deleted while Tasks are active.".to_owned(),
        },
        ClusterError::Tags(error) => tags(error),
        ClusterError::Store(error) => store(error),
    }
}

pub(super) fn definition(error: &DefinitionError) -> EcsError {
    match error {
        DefinitionError::NotFound { .. } => client("Unable to describe task definition."),
        DefinitionError::Shape(error) => shape(error),
        DefinitionError::StillActive { .. } => client(
            "The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
        ),
        DefinitionError::Tags(error) => tags(error),
        DefinitionError::Store(error) => store(error),
    }
}

/// The rules of task definitions in ECS's words where they are known, else in ours.
pub(super) fn shape(error: &ShapeError) -> EcsError {
    match error {
        ShapeError::NoContainers => client("Container list cannot be empty."),
        ShapeError::NoImage { .. } => client("Container.image should not be null or empty."),
        ShapeError::NoMemory { name } => client(format!(
            "Invalid setting for container '{name}'. At least one of 'memory' or 'memoryReservation' must be specified."
        )),
        ShapeError::FargateNeeds { what } => {
            client(format!("Fargate requires that '{what}' be defined at the task level."))
        }
        ShapeError::FargateCpu { .. } => client("Invalid 'cpu' setting for task."),
        ShapeError::FargatePair { .. } => client("No Fargate configuration exists for given values."),
        ShapeError::FargateNetwork => client("Fargate only supports network mode ‘awsvpc’."),
        ShapeError::TooManyContainers { .. }
        | ShapeError::DuplicateContainer { .. }
        | ShapeError::NoEssential
        | ShapeError::TooLittleMemory { .. }
        | ShapeError::ReservationAboveLimit { .. }
        | ShapeError::AboveTask { .. }
        | ShapeError::UnknownDependency { .. }
        | ShapeError::DependencyCycle { .. }
        | ShapeError::WaitsForEssential { .. }
        | ShapeError::NoHealthCheck { .. }
        | ShapeError::SwapWithoutMemory { .. }
        | ShapeError::UnknownVolume { .. }
        | ShapeError::FargateLacks { .. }
        | ShapeError::FargateNamespaces { .. }
        | ShapeError::FargateStopTimeout { .. } => client(format!("Invalid task definition: {error}.")),
    }
}

/// What the operator does not allow. The settings are those that ECS has for its own hosts.
pub(super) fn forbidden(forbidden: &Forbidden) -> EcsError {
    client(format!("Invalid task definition: {forbidden}."))
}

pub(super) fn run(error: &RunError, scope: &Scope, cluster: &ClusterName) -> EcsError {
    match error {
        RunError::ClusterNotFound { .. } => cluster_not_found(),
        RunError::Definition(DefinitionError::NotFound { .. }) => client("TaskDefinition not found."),
        RunError::Definition(error) => definition(error),
        RunError::DefinitionInactive { .. } => client("TaskDefinition is inactive"),
        RunError::Incompatible { .. } => {
            invalid_parameter("Task definition does not support launch_type FARGATE.")
        }
        RunError::UnknownContainer { name } => invalid_parameter(format!(
            "Override for container named {name} is not a container in the TaskDefinition."
        )),
        RunError::Role { arn } => client(format!(
            "ECS was unable to assume the role '{arn}' that was provided for this task. Please verify that the role \
             being passed has the proper trust relationship and permissions and that your IAM user has permissions to \
             pass this role."
        )),
        RunError::NoNetwork => no_network(),
        RunError::TooManyGroups { .. } => too_many_groups(),
        RunError::Network(error) => network(error),
        RunError::TokenReused { tasks } => EcsError::Conflict {
            message: "The clientToken was used before with different parameters.".to_owned(),
            resource_ids: Some(tasks.iter().map(|id| Arn::task(scope, cluster, id).to_string()).collect()),
        },
        RunError::Tags(error) => tags(error),
        RunError::Store(error) => store(error),
    }
}

pub(super) fn no_network() -> EcsError {
    invalid_parameter("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
}

pub(super) fn too_many_groups() -> EcsError {
    invalid_parameter(format!("securityGroups can have at most {INTERFACE_GROUPS_MAX} items."))
}

/// ECS hands on what EC2 says.
pub(super) fn subnet_not_found(id: &str) -> EcsError {
    let id: String = id.chars().take(64).collect();
    invalid_parameter(format!(
        "Error retrieving subnet information for [{id}]: The subnet ID '{id}' does not exist \
         (ErrorCode: InvalidSubnetID.NotFound)"
    ))
}

/// ECS hands on what EC2 says.
pub(super) fn group_not_found(id: &str) -> EcsError {
    let id: String = id.chars().take(64).collect();
    invalid_parameter(format!(
        "Error retrieving security group information for [{id}]: The security group '{id}' does not exist \
         (ErrorCode: InvalidGroup.NotFound)"
    ))
}

/// What RunTask can run into of networks; the rest is about changing them, and cannot come from it.
fn network(error: &NetworkError) -> EcsError {
    match error {
        NetworkError::SubnetNotFound { id } => subnet_not_found(id.as_str()),
        NetworkError::GroupNotFound { id } => group_not_found(id.as_str()),
        NetworkError::SubnetElsewhere { .. } => {
            invalid_parameter("The subnets of a task have to be in the same VPC.")
        }
        NetworkError::GroupElsewhere { id, vpc } => invalid_parameter(format!(
            "Security group {id} does not appear to belong to the same VPC as the input subnets, {vpc}."
        )),
        other => invalid_parameter(format!("Invalid network configuration: {other}.")),
    }
}

pub(super) fn task(error: &TaskError) -> EcsError {
    match error {
        TaskError::ClusterNotFound { .. } => cluster_not_found(),
        TaskError::NotFound { .. } => invalid_parameter("The referenced task was not found."),
        TaskError::Store(error) => store(error),
    }
}

pub(super) fn tags(error: &TagError) -> EcsError {
    match error {
        TagError::NotFound => {
            EcsError::ResourceNotFound { message: "The specified resource could not be found.".to_owned() }
        }
        TagError::TooMany => invalid_parameter(format!(
            "The maximum number of tags per resource is {}.",
            neargate_control::TAGS_MAX
        )),
        TagError::Store(error) => store(error),
    }
}

pub(super) fn setting(error: &SettingError) -> EcsError {
    match error {
        SettingError::Store(error) => store(error),
    }
}
