//! Resources of Amazon ECS.

use neargate_control::Control;
use neargate_model::{Arn, ClusterName, Scope};

use super::{Fields, Target};
use crate::ecs::{names, tags};

pub(super) async fn target(control: &Control, scope: &Scope, operation: &str, fields: &Fields<'_>) -> Target {
    // Only members that the operation itself reads: others are ignored by it.
    let cluster_text = fields.text(if operation == "CreateCluster" { "clusterName" } else { "cluster" });
    // What is no name is refused by the operation itself.
    let cluster = names::cluster(scope, cluster_text).ok();
    let cluster_arn = cluster.as_ref().map(|cluster| Arn::cluster(scope, cluster).to_string());
    let resources = match operation {
        "CreateCluster" | "UpdateCluster" | "UpdateClusterSettings" | "DeleteCluster" => {
            cluster_arn.clone().into_iter().collect()
        }
        "DescribeClusters" => {
            // Without names it is about the cluster `default`.
            let names: Vec<Option<&str>> = fields.list("clusters").into_iter().map(Some).collect();
            let names = if names.is_empty() { vec![None] } else { names };
            let clusters = names.into_iter().filter_map(|name| names::cluster(scope, name).ok());
            clusters.map(|cluster| Arn::cluster(scope, &cluster).to_string()).collect()
        }
        "RegisterTaskDefinition" => {
            fields.text("family").map(|family| any_revision(scope, family)).into_iter().collect()
        }
        "DeleteTaskDefinitions" => definitions(control, scope, &fields.list("taskDefinitions")).await,
        "RunTask" => definitions(control, scope, fields.text("taskDefinition").as_slice()).await,
        "StopTask" => tasks(scope, cluster.as_ref(), fields.text("task").as_slice()),
        "DescribeTasks" | "UpdateTaskProtection" | "GetTaskProtection" => {
            tasks(scope, cluster.as_ref(), &fields.list("tasks"))
        }
        "TagResource" | "UntagResource" | "ListTagsForResource" => {
            // Written anew, since what names a resource here can be written in several ways.
            fields.text("resourceArn").and_then(|text| tags::canonical(scope, text)).into_iter().collect()
        }
        _ => Vec::new(),
    };
    // The operations that have this key (Service Authorization Reference) and act in the cluster that they name.
    let is_in_cluster = matches!(
        operation,
        "RunTask" | "StopTask" | "DescribeTasks" | "ListTasks" | "UpdateTaskProtection" | "GetTaskProtection"
    );
    Target::of(resources).with("ecs:cluster", cluster_arn.filter(|_| is_in_cluster))
}

fn any_revision(scope: &Scope, family: &str) -> String {
    let Scope { account, region } = scope;
    format!("arn:aws:ecs:{region}:{account}:task-definition/{family}:*")
}

/// The revisions that are meant; what does not exist stands for all of its family.
async fn definitions(control: &Control, scope: &Scope, texts: &[&str]) -> Vec<String> {
    let mut arns = Vec::with_capacity(texts.len());
    for text in texts {
        let Ok((family, revision)) = names::definition(scope, text) else { continue };
        let found = control.find_definition(scope, &family, revision).await;
        arns.push(match found {
            Ok(found) => Arn::task_definition(scope, &family, found.revision).to_string(),
            Err(_) => any_revision(scope, family.as_str()),
        });
    }
    arns
}

fn tasks(scope: &Scope, cluster: Option<&ClusterName>, texts: &[&str]) -> Vec<String> {
    let Some(cluster) = cluster else { return Vec::new() };
    let ids = texts.iter().filter_map(|text| names::task(scope, cluster, text).ok());
    ids.map(|id| Arn::task(scope, cluster, &id).to_string()).collect()
}
