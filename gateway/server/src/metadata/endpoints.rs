//! Where a task finds what is its own: ids that nobody else can guess, and the variables that tell them.

use neargate_auth::{Seal, Secret};
use neargate_model::{ContainerId, LaunchType, TaskId, TaskSpec};
use uuid::{Builder, Uuid};

/// Where tasks ask.
pub(super) const ADDRESS: &str = "169.254.170.2";

/// Ids of tasks and containers in paths. They are worked out, not kept, so that a task that outlives a server is known
/// to the next one.
#[derive(Clone, Debug)]
pub struct TaskEndpoints {
    seal: Seal,
}

impl TaskEndpoints {
    /// Ids under a seal.
    pub fn new(seal: Seal) -> Self {
        Self { seal }
    }

    /// The variables of a container of a task that has an interface.
    pub fn variables(&self, spec: &TaskSpec, container: usize) -> Vec<(String, String)> {
        let id = spec.container_ids.get(container).map(|id| self.container(id)).unwrap_or_default();
        let region = spec.scope.region.as_str();
        let platform = match spec.launch_type {
            LaunchType::Fargate => "AWS_ECS_FARGATE",
            LaunchType::Ec2 => "AWS_ECS_EC2",
        };
        let mut variables = vec![
            ("ECS_CONTAINER_METADATA_URI", format!("http://{ADDRESS}/v3/{id}")),
            ("ECS_CONTAINER_METADATA_URI_V4", format!("http://{ADDRESS}/v4/{id}")),
            ("ECS_AGENT_URI", format!("http://{ADDRESS}/api/{id}")),
            ("AWS_EXECUTION_ENV", platform.to_owned()),
            ("AWS_REGION", region.to_owned()),
            ("AWS_DEFAULT_REGION", region.to_owned()),
        ];
        if spec.shape.task_role.is_some() {
            let credentials = format!("/v2/credentials/{}", self.credentials(&spec.id));
            variables.push(("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", credentials));
            // Requests to AWS services come here as well: that is the one way to this server that every task has.
            variables.push(("AWS_ENDPOINT_URL", format!("http://{ADDRESS}")));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Whether an id is a container's, in a time that tells nothing of it.
    pub(super) fn is_container(&self, container: &ContainerId, id: &str) -> bool {
        Secret::new(self.container(container)).matches(id.as_bytes())
    }

    /// Whether an id is that of a task's credentials, as that.
    pub(super) fn is_credentials(&self, task: &TaskId, id: &str) -> bool {
        Secret::new(self.credentials(task).to_string()).matches(id.as_bytes())
    }

    /// The seal.
    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }

    fn container(&self, container: &ContainerId) -> String {
        hex::encode(self.seal.name("metadata", container.as_str()))
    }

    fn credentials(&self, task: &TaskId) -> Uuid {
        Builder::from_random_bytes(self.seal.name("credentials", task.as_str())).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use neargate_auth::SEAL_LEN;
    use neargate_model::iam::RoleArn;
    use neargate_model::lifecycle::testing::{container, spec};

    use super::*;

    #[test]
    fn every_container_has_ids_of_its_own() {
        let endpoints = TaskEndpoints::new(Seal::new([1; SEAL_LEN]));
        let mut task = spec(vec![container("a"), container("b")]);
        let value = |task: &TaskSpec, container, name: &str| {
            let variables = endpoints.variables(task, container).into_iter();
            variables.filter(|(known, _)| known == name).map(|(_, value)| value).next()
        };
        let uri = value(&task, 0, "ECS_CONTAINER_METADATA_URI_V4").unwrap();
        assert_ne!(Some(&uri), value(&task, 1, "ECS_CONTAINER_METADATA_URI_V4").as_ref());
        let id = uri.strip_prefix("http://169.254.170.2/v4/").unwrap();
        assert!(endpoints.is_container(&task.container_ids[0], id));
        assert!(!endpoints.is_container(&task.container_ids[1], id));
        let other = TaskEndpoints::new(Seal::new([2; SEAL_LEN]));
        assert!(!other.is_container(&task.container_ids[0], id));
        assert_eq!(value(&task, 0, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), None);
        task.shape.task_role = Some(RoleArn::parse("arn:aws:iam::123456789012:role/r").unwrap());
        let path = value(&task, 0, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").unwrap();
        let id = path.strip_prefix("/v2/credentials/").unwrap();
        assert!(Uuid::parse_str(id).is_ok() && endpoints.is_credentials(&task.id, id));
    }
}
