//! Lists as a whole, page by page.

use neargate_wire::ecs;

use crate::call::{Operation, Repeat};
use crate::client::Client;
use crate::error::{AnswerError, Error};

/// DescribeTasks takes at most this many tasks (API reference).
const DESCRIBE_MAX: usize = 100;

/// ListTasks and ListClusters give at most this many a page (API reference).
const PAGE_MAX: i32 = 100;

impl Client {
    /// The ARNs of all clusters.
    pub async fn list_all_clusters(&self) -> Result<Vec<String>, Error> {
        let mut arns = Vec::new();
        let mut next_token = None;
        loop {
            let input =
                ecs::ListClustersRequest { next_token: next_token.clone(), max_results: Some(PAGE_MAX) };
            let page = self.ecs().list_clusters(input).await?;
            arns.extend(page.cluster_arns.into_iter().flatten());
            next_token = self.next_page("ListClusters", next_token, page.next_token)?;
            if next_token.is_none() {
                return Ok(arns);
            }
        }
    }

    /// The ARNs of all tasks of a cluster (name or ARN) that should be in `status`: running, or stopped.
    pub async fn list_all_tasks(
        &self,
        cluster: &str,
        status: ecs::DesiredStatus,
    ) -> Result<Vec<String>, Error> {
        let mut arns = Vec::new();
        let mut next_token = None;
        loop {
            let input = ecs::ListTasksRequest {
                cluster: Some(cluster.to_owned()),
                desired_status: Some(status.clone()),
                next_token: next_token.clone(),
                max_results: Some(PAGE_MAX),
                ..Default::default()
            };
            let page = self.ecs().list_tasks(input).await?;
            arns.extend(page.task_arns.into_iter().flatten());
            next_token = self.next_page("ListTasks", next_token, page.next_token)?;
            if next_token.is_none() {
                return Ok(arns);
            }
        }
    }

    /// Describes tasks of one cluster (name or ARN), by their ARNs or ids; those the server does not know are left out.
    pub async fn describe_all_tasks(&self, cluster: &str, tasks: &[String]) -> Result<Vec<ecs::Task>, Error> {
        let mut described = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(DESCRIBE_MAX) {
            let input = ecs::DescribeTasksRequest {
                cluster: Some(cluster.to_owned()),
                tasks: tasks.to_vec(),
                include: None,
            };
            described.extend(self.ecs().describe_tasks(input).await?.tasks.into_iter().flatten());
        }
        Ok(described)
    }

    /// The token of the page after; an error when the server gave the same one again, which would never end.
    fn next_page(
        &self,
        name: &'static str,
        last: Option<String>,
        next: Option<String>,
    ) -> Result<Option<String>, Error> {
        let operation = Operation { service: &ecs::SERVICE, name, repeat: Repeat::Safe };
        match next.filter(|token| !token.is_empty()) {
            Some(token) if last.as_ref() == Some(&token) => {
                Err(self.bad_answer(operation.name, 200, AnswerError::Endless))
            }
            next => Ok(next),
        }
    }
}
