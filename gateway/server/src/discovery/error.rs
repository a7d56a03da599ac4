//! Errors of service discovery as Cloud Map words them. Every variant is named; nothing unexpected is shown to a client.

use neargate_control::DiscoveryChangeError;
use neargate_model::discovery::DiscoveryError;
use neargate_store::StoreError;
use neargate_wire::ErrorReply;
use neargate_wire::servicediscovery::ServiceDiscoveryError;

pub(super) fn invalid(message: impl Into<String>) -> ServiceDiscoveryError {
    ServiceDiscoveryError::InvalidInput { message: message.into() }
}

pub(super) fn change(error: &DiscoveryChangeError) -> ServiceDiscoveryError {
    match error {
        DiscoveryChangeError::Discovery(error) => discovery(error),
        DiscoveryChangeError::Store(error) => store(error),
    }
}

/// A failure of ours: its details are for the log, not for the client.
pub(super) fn store(error: &StoreError) -> ServiceDiscoveryError {
    if let StoreError::TooLarge { what, size, limit } = error {
        return invalid(format!("The request is too large to be stored: {what} of {size} is over {limit}."));
    }
    tracing::error!(error = neargate_model::chain(error), "store failed");
    let message = match error {
        StoreError::Full { .. } => "The server's disk is full; nothing was accepted.",
        _ => "The server could not reach its store; try again.",
    };
    ServiceDiscoveryError::Reply(ErrorReply::receiver(500, "InternalFailure", message))
}

pub(super) fn discovery(error: &DiscoveryError) -> ServiceDiscoveryError {
    use DiscoveryError as E;
    use ServiceDiscoveryError as W;
    match error {
        E::NamespaceNotFound { id } => {
            W::NamespaceNotFound { message: format!("Can't find the namespace by id: {id}.") }
        }
        E::NamespaceNameNotFound { name } => {
            W::NamespaceNotFound { message: format!("Can't find the namespace by name: {name}.") }
        }
        E::RegistryNotFound { id } => {
            W::ServiceNotFound { message: format!("Can't find the service by id: {id}.") }
        }
        E::RegistryNameNotFound { name } => {
            W::ServiceNotFound { message: format!("Can't find the service by name: {name}.") }
        }
        E::InstanceNotFound { id } => {
            W::InstanceNotFound { message: format!("Can't find the instance by id: {id}.") }
        }
        E::OperationNotFound { id } => {
            W::OperationNotFound { message: format!("Can't find the operation by id: {id}.") }
        }
        E::ResourceNotFound => W::ResourceNotFound { message: "The resource does not exist.".to_owned() },
        E::NoCustomHealth { .. } => W::CustomHealthNotFound {
            message: "The service has no custom health check configuration.".to_owned(),
        },
        E::NamespaceExists { name, id, creator_request } => W::NamespaceAlreadyExists {
            message: format!("The namespace {name} already exists."),
            creator_request_id: creator_request.clone(),
            namespace_id: Some(id.to_string()),
        },
        E::RegistryExists { name, id, creator_request } => W::ServiceAlreadyExists {
            message: format!("Service already exists: {name}."),
            creator_request_id: creator_request.clone(),
            service_id: Some(id.to_string()),
            service_arn: None,
        },
        E::NamespaceInUse { .. } => W::ResourceInUse {
            message: "The namespace still contains one or more services and can't be deleted.".to_owned(),
        },
        E::RegistryInUse { .. } => W::ResourceInUse {
            message:
                "Service contains registered instances; delete the instances before deleting the service"
                    .to_owned(),
        },
        E::DuplicateRequest { operation } => W::DuplicateRequest {
            message: "Another operation was started with this CreatorRequestId and other parameters."
                .to_owned(),
            duplicate_operation_id: Some(operation.to_string()),
        },
        E::NamespaceLimit | E::RegistryLimit | E::InstanceLimit => {
            W::ResourceLimitExceeded { message: format!("Limit exceeded: {error}.") }
        }
        E::TagLimit => W::TooManyTags { message: format!("Too many tags: {error}."), resource_name: None },
        E::Invalid(rule) => invalid(format!("Invalid request: {rule}.")),
    }
}
