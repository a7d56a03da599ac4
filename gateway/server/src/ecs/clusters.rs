//! Clusters.

use neargate_control::ClusterCounts;
use neargate_model::{Arn, Cluster, ClusterStatus, Scope};
use neargate_wire::ecs::{
    Cluster as WireCluster, ClusterField, ClusterSetting, CreateClusterRequest, CreateClusterResponse,
    DeleteClusterRequest, DeleteClusterResponse, DescribeClustersRequest, DescribeClustersResponse, EcsError,
    Failure, KeyValuePair, ListClustersRequest, ListClustersResponse, UpdateClusterRequest,
    UpdateClusterResponse, UpdateClusterSettingsRequest, UpdateClusterSettingsResponse,
};

use super::error::invalid_parameter;
use super::{EcsApi, error, names, page, tags};
use crate::RequestContext;
use crate::face;

/// DescribeClusters takes at most this many (API reference).
const DESCRIBE_MAX: usize = 100;

/// Capacity providers that need no creation.
const BUILT_IN_PROVIDERS: [&str; 2] = ["FARGATE", "FARGATE_SPOT"];

pub(super) async fn create_cluster(
    api: &EcsApi,
    cx: &RequestContext,
    input: CreateClusterRequest,
) -> Result<CreateClusterResponse, EcsError> {
    let name = names::cluster(&cx.scope, input.cluster_name.as_deref())?;
    let providers = input.capacity_providers.unwrap_or_default();
    if let Some(unknown) = providers.iter().find(|name| !BUILT_IN_PROVIDERS.contains(&name.as_str())) {
        let message = format!("The specified capacity provider was not found: {unknown:.128}");
        return Err(invalid_parameter(message));
    }
    let kept = WireCluster {
        configuration: input.configuration,
        settings: Some(input.settings.unwrap_or_else(default_settings)),
        capacity_providers: Some(providers),
        default_capacity_provider_strategy: Some(
            input.default_capacity_provider_strategy.unwrap_or_default(),
        ),
        ..WireCluster::default()
    };
    let new_tags = tags::to_model(input.tags)?;
    let cluster = api.control.create_cluster(&cx.scope, &name, new_tags, face::write(&kept)).await;
    let cluster = cluster.map_err(|error| error::cluster(&error))?;
    let counts = count(api, &cx.scope, &cluster).await?;
    Ok(CreateClusterResponse { cluster: Some(render(&cx.scope, &cluster, counts, true)) })
}

fn default_settings() -> Vec<ClusterSetting> {
    vec![ClusterSetting { name: Some("containerInsights".into()), value: Some("disabled".to_owned()) }]
}

async fn count(api: &EcsApi, scope: &Scope, cluster: &Cluster) -> Result<ClusterCounts, EcsError> {
    api.control.count_tasks(scope, &cluster.name).await.map_err(|error| error::store(&error))
}

fn render(scope: &Scope, cluster: &Cluster, counts: ClusterCounts, with_tags: bool) -> WireCluster {
    let kept: WireCluster = face::read(&cluster.face);
    let status = match cluster.status {
        ClusterStatus::Active => "ACTIVE",
        ClusterStatus::Inactive => "INACTIVE",
    };
    let as_count = |count: u32| Some(i32::try_from(count).unwrap_or(i32::MAX));
    WireCluster {
        cluster_arn: Some(Arn::cluster(scope, &cluster.name).to_string()),
        cluster_name: Some(cluster.name.to_string()),
        status: Some(status.to_owned()),
        registered_container_instances_count: Some(0),
        running_tasks_count: as_count(counts.running),
        pending_tasks_count: as_count(counts.pending),
        active_services_count: Some(0),
        statistics: Some(Vec::new()),
        tags: Some(if with_tags { tags::to_wire(&cluster.tags) } else { Vec::new() }),
        ..kept
    }
}

pub(super) async fn describe_clusters(
    api: &EcsApi,
    cx: &RequestContext,
    input: DescribeClustersRequest,
) -> Result<DescribeClustersResponse, EcsError> {
    let wanted =
        input.clusters.filter(|names| !names.is_empty()).unwrap_or_else(|| vec!["default".to_owned()]);
    if wanted.len() > DESCRIBE_MAX {
        return Err(invalid_parameter("Clusters cannot have more than 100 elements."));
    }
    let include = input.include.unwrap_or_default();
    let (mut clusters, mut failures) = (Vec::new(), Vec::new());
    for text in &wanted {
        let name = names::cluster(&cx.scope, Some(text))?;
        let found =
            api.control.find_cluster(&cx.scope, &name).await.map_err(|error| error::cluster(&error))?;
        let Some(cluster) = found else {
            let arn = Arn::cluster(&cx.scope, &name).to_string();
            failures.push(Failure { arn: Some(arn), reason: Some("MISSING".to_owned()), detail: None });
            continue;
        };
        let counts = count(api, &cx.scope, &cluster).await?;
        let with_tags = include.contains(&ClusterField::Tags);
        let mut rendered = render(&cx.scope, &cluster, counts, with_tags);
        if !include.contains(&ClusterField::Settings) {
            rendered.settings = Some(Vec::new());
        }
        if !include.contains(&ClusterField::Configurations) {
            rendered.configuration = None;
        }
        if include.contains(&ClusterField::Statistics) {
            rendered.statistics = Some(statistics(counts));
        }
        clusters.push(rendered);
    }
    Ok(DescribeClustersResponse { clusters: Some(clusters), failures: Some(failures) })
}

fn statistics(counts: ClusterCounts) -> Vec<KeyValuePair> {
    let pair =
        |name: &str, value: u32| KeyValuePair { name: Some(name.to_owned()), value: Some(value.to_string()) };
    vec![pair("runningTasksCount", counts.running), pair("pendingTasksCount", counts.pending)]
}

pub(super) async fn list_clusters(
    api: &EcsApi,
    cx: &RequestContext,
    input: ListClustersRequest,
) -> Result<ListClustersResponse, EcsError> {
    let all = api.control.list_clusters(&cx.scope).await.map_err(|error| error::cluster(&error))?;
    let (page, next_token) =
        page::cut(all, ToString::to_string, input.next_token.as_deref(), input.max_results)?;
    let arns = page.iter().map(|name| Arn::cluster(&cx.scope, name).to_string()).collect();
    Ok(ListClustersResponse { cluster_arns: Some(arns), next_token })
}

pub(super) async fn update_cluster(
    api: &EcsApi,
    cx: &RequestContext,
    input: UpdateClusterRequest,
) -> Result<UpdateClusterResponse, EcsError> {
    let change = |mut kept: WireCluster| {
        kept.settings = input.settings.clone().or(kept.settings);
        kept.configuration = input.configuration.clone().or(kept.configuration);
        kept
    };
    Ok(UpdateClusterResponse { cluster: Some(update(api, cx, &input.cluster, change).await?) })
}

pub(super) async fn update_cluster_settings(
    api: &EcsApi,
    cx: &RequestContext,
    input: UpdateClusterSettingsRequest,
) -> Result<UpdateClusterSettingsResponse, EcsError> {
    let change = |kept| WireCluster { settings: Some(input.settings.clone()), ..kept };
    Ok(UpdateClusterSettingsResponse { cluster: Some(update(api, cx, &input.cluster, change).await?) })
}

async fn update(
    api: &EcsApi,
    cx: &RequestContext,
    cluster: &str,
    change: impl Fn(WireCluster) -> WireCluster,
) -> Result<WireCluster, EcsError> {
    let name = names::cluster(&cx.scope, Some(cluster))?;
    let rewrite = |kept: &str| face::write(&change(face::read(kept)));
    let cluster = api.control.update_cluster(&cx.scope, &name, rewrite).await;
    let cluster = cluster.map_err(|error| error::cluster(&error))?;
    let counts = count(api, &cx.scope, &cluster).await?;
    Ok(render(&cx.scope, &cluster, counts, true))
}

pub(super) async fn delete_cluster(
    api: &EcsApi,
    cx: &RequestContext,
    input: DeleteClusterRequest,
) -> Result<DeleteClusterResponse, EcsError> {
    let name = names::cluster(&cx.scope, Some(&input.cluster))?;
    let cluster = api.control.delete_cluster(&cx.scope, &name).await;
    let cluster = cluster.map_err(|error| error::cluster(&error))?;
    let rendered = render(&cx.scope, &cluster, ClusterCounts::default(), true);
    Ok(DeleteClusterResponse { cluster: Some(rendered) })
}
