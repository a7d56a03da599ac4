"""Clusters, tags of clusters, and account settings."""

import pytest

from errors import refused


def test_life(ecs):
    created = ecs.create_cluster(clusterName="life", tags=[{"key": "a", "value": "b"}])["cluster"]
    assert created["status"] == "ACTIVE"
    assert created["clusterArn"] == "arn:aws:ecs:us-east-1:123456789012:cluster/life"
    for count in ["runningTasksCount", "pendingTasksCount", "activeServicesCount", "registeredContainerInstancesCount"]:
        assert created[count] == 0
    assert created["clusterArn"] in ecs.list_clusters()["clusterArns"]
    again = ecs.create_cluster(clusterName="life")["cluster"]
    assert again["clusterArn"] == created["clusterArn"]
    described = ecs.describe_clusters(clusters=["life"], include=["TAGS"])
    assert described["clusters"][0]["tags"] == [{"key": "a", "value": "b"}]
    by_arn = ecs.describe_clusters(clusters=[created["clusterArn"]])
    assert by_arn["clusters"][0]["clusterName"] == "life"
    assert ecs.delete_cluster(cluster="life")["cluster"]["status"] == "INACTIVE"
    assert created["clusterArn"] not in ecs.list_clusters()["clusterArns"]


def test_missing_is_a_failure(ecs):
    answer = ecs.describe_clusters(clusters=["absent"])
    assert answer["clusters"] == []
    assert answer["failures"] == [
        {"arn": "arn:aws:ecs:us-east-1:123456789012:cluster/absent", "reason": "MISSING"}]


def test_no_default_until_it_is_made(server):
    ecs = server.client("ecs")
    if "cluster/default" in str(ecs.list_clusters()["clusterArns"]):
        pytest.fail("a default cluster exists before CreateCluster")
    with refused("ClusterNotFoundException", "Cluster not found."):
        ecs.list_tasks()
    assert ecs.create_cluster()["cluster"]["clusterName"] == "default"
    assert ecs.list_tasks()["taskArns"] == []
    ecs.delete_cluster(cluster="default")


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "x" * 256, "é", "a\n", "\x1b[31m"])
def test_refuses_names(ecs, name):
    with refused("InvalidParameterException"):
        ecs.create_cluster(clusterName=name)


def test_pages(ecs):
    names = {f"page-{i}" for i in range(5)}
    for name in names:
        ecs.create_cluster(clusterName=name)
    seen, pages = [], 0
    for page in ecs.get_paginator("list_clusters").paginate(PaginationConfig={"PageSize": 2}):
        assert len(page["clusterArns"]) <= 2
        seen += page["clusterArns"]
        pages += 1
    assert pages >= 3 and len(seen) == len(set(seen))
    assert names <= {arn.split("/")[1] for arn in seen}
    with refused("InvalidParameterException"):
        ecs.list_clusters(nextToken="not-a-token")
    for name in names:
        ecs.delete_cluster(cluster=name)


def test_tags(ecs):
    arn = ecs.create_cluster(clusterName="tagged")["cluster"]["clusterArn"]
    ecs.tag_resource(resourceArn=arn, tags=[{"key": "k1", "value": "v1"}, {"key": "k2", "value": "v2"}])
    ecs.tag_resource(resourceArn=arn, tags=[{"key": "k1", "value": "new"}])
    ecs.untag_resource(resourceArn=arn, tagKeys=["k2", "absent"])
    assert ecs.list_tags_for_resource(resourceArn=arn)["tags"] == [{"key": "k1", "value": "new"}]
    with refused("InvalidParameterException"):
        ecs.tag_resource(resourceArn=arn, tags=[{"key": f"k{i}", "value": ""} for i in range(51)])
    ecs.delete_cluster(cluster="tagged")


def test_account_settings(ecs):
    effective = ecs.list_account_settings(name="taskLongArnFormat", effectiveSettings=True)["settings"]
    assert [(s["name"], s["value"]) for s in effective] == [("taskLongArnFormat", "enabled")]
    assert ecs.list_account_settings()["settings"] == []
    ecs.put_account_setting(name="containerInsights", value="enabled")
    assert ecs.list_account_settings(name="containerInsights")["settings"][0]["value"] == "enabled"
    ecs.delete_account_setting(name="containerInsights")
    assert ecs.list_account_settings()["settings"] == []
