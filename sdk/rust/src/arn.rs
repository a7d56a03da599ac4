//! What a task's ARN says: `arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID`.

use crate::error::Error;

/// The parts of a task's ARN that calls need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskArn<'a> {
    /// The region.
    pub region: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The task's id.
    pub id: &'a str,
}

impl<'a> TaskArn<'a> {
    /// Reads an ARN in the long form, with a cluster, the only one that Neargate gives out.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (arn, _partition, service, region, _account, resource) =
            (next(), next(), next(), next(), next(), next());
        let names = resource.strip_prefix("task/").and_then(|names| names.split_once('/'));
        match names {
            Some((cluster, id))
                if arn == "arn" && service == "ecs" && !cluster.is_empty() && !id.is_empty() =>
            {
                Ok(Self { region, cluster, id })
            }
            _ => Err(Error::NotATask { text: text.chars().take(200).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arns_of_tasks_are_read() {
        let text = "arn:aws:ecs:eu-west-1:123456789012:task/c/0f";
        assert_eq!(TaskArn::parse(text).unwrap(), TaskArn { region: "eu-west-1", cluster: "c", id: "0f" });
        for text in
            ["", "0f", "arn:aws:ecs:r:1:task/0f", "arn:aws:ecs:r:1:service/c/s", "arn:aws:logs:r:1:task/c/0f"]
        {
            assert!(matches!(TaskArn::parse(text), Err(Error::NotATask { .. })), "{text}");
        }
    }
}
