"""ECR's API with boto3 and the AWS CLI."""

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from oci import INDEX, MANIFEST, Image, as_json, descriptor, digest
from test_clients import clients
from test_registry import ecr, host, name, password, registry  # noqa: F401 (fixtures)

ACCOUNT = "123456789012"


@pytest.fixture
def repository(ecr, name):  # noqa: F811
    return ecr.create_repository(repositoryName=name)["repository"]


def refused(call, code, **arguments):
    with pytest.raises(Exception) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == code, caught.value
    return caught.value.response["Error"]["Message"]


def test_repositories(ecr, repository, name, host):  # noqa: F811
    assert repository["repositoryArn"] == f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{name}"
    assert repository["repositoryUri"] == f"{host}/{name}"
    assert (repository["registryId"], repository["imageTagMutability"]) == (ACCOUNT, "MUTABLE")
    message = refused(ecr.create_repository, "RepositoryAlreadyExistsException", repositoryName=name)
    assert message == f"The repository with name '{name}' already exists in the registry with id '{ACCOUNT}'"
    assert ecr.describe_repositories(repositoryNames=[name])["repositories"] == [repository]
    pages = ecr.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 1})
    assert name in [found["repositoryName"] for page in pages for found in page["repositories"]]
    refused(ecr.describe_repositories, "RepositoryNotFoundException", repositoryNames=["absent"])
    refused(ecr.describe_repositories, "RepositoryNotFoundException", repositoryNames=[name], registryId="1" * 12)
    assert ecr.delete_repository(repositoryName=name)["repository"]["repositoryName"] == name
    message = refused(ecr.delete_repository, "RepositoryNotFoundException", repositoryName=name)
    assert message == f"The repository with name '{name}' does not exist in the registry with id '{ACCOUNT}'"


def test_names_and_settings(ecr, repository, name):  # noqa: F811
    for bad in ["Ab", "a//b", "a/../b", "-a", "a_"]:
        refused(ecr.create_repository, "InvalidParameterException", repositoryName=bad)
    refused(ecr.create_repository, "InvalidParameterException", repositoryName=f"{name}-2",
            encryptionConfiguration={"encryptionType": "KMS"})
    made = ecr.create_repository(repositoryName=f"{name}-2", imageTagMutability="IMMUTABLE",
                                 imageScanningConfiguration={"scanOnPush": True},
                                 tags=[{"Key": "team", "Value": "a"}])["repository"]
    assert made["imageTagMutability"] == "IMMUTABLE" and made["imageScanningConfiguration"] == {"scanOnPush": True}
    assert made["encryptionConfiguration"] == {"encryptionType": "AES256"}
    arn = made["repositoryArn"]
    ecr.tag_resource(resourceArn=arn, tags=[{"Key": "stage", "Value": "b"}])
    ecr.untag_resource(resourceArn=arn, tagKeys=["team"])
    assert ecr.list_tags_for_resource(resourceArn=arn)["tags"] == [{"Key": "stage", "Value": "b"}]
    ecr.put_image_scanning_configuration(repositoryName=name, imageScanningConfiguration={"scanOnPush": True})
    found = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    assert found["imageScanningConfiguration"] == {"scanOnPush": True}
    registry = ecr.describe_registry()
    assert (registry["registryId"], registry["replicationConfiguration"]) == (ACCOUNT, {"rules": []})
    refused(ecr.start_image_scan, "UnknownOperationException", repositoryName=name,
            imageId={"imageTag": "x"})


def test_images(ecr, repository, registry, name):  # noqa: F811
    image, other = Image(), Image({"f": b"other"})
    registry.push(name, image, "v1")
    registry.put_manifest(name, "v2", image.manifest)
    registry.push(name, other, other.digest)
    ids = ecr.list_images(repositoryName=name)["imageIds"]
    expect = [{"imageDigest": image.digest, "imageTag": "v1"}, {"imageDigest": image.digest, "imageTag": "v2"},
              {"imageDigest": other.digest}]
    assert sorted(ids, key=str) == sorted(expect, key=str)
    untagged = ecr.list_images(repositoryName=name, filter={"tagStatus": "UNTAGGED"})["imageIds"]
    assert untagged == [{"imageDigest": other.digest}]
    pages = ecr.get_paginator("list_images").paginate(repositoryName=name, PaginationConfig={"PageSize": 1})
    assert sorted([found for page in pages for found in page["imageIds"]], key=str) == sorted(expect, key=str)
    detail = ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": "v2"}])["imageDetails"][0]
    assert (detail["imageDigest"], detail["imageTags"]) == (image.digest, ["v1", "v2"])
    assert detail["imageSizeInBytes"] == len(image.config) + len(image.layer)
    assert detail["imageManifestMediaType"] == MANIFEST and "imagePushedAt" in detail
    message = refused(ecr.describe_images, "ImageNotFoundException", repositoryName=name, imageIds=[{"imageTag": "x"}])
    assert message.startswith("The image with imageId {imageDigest:'null', imageTag:'x'} does not exist within the repo")
    got = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "v1"}, {"imageDigest": other.digest},
                                                           {"imageTag": "absent"}, {"imageDigest": "x:y"}])
    assert [found["imageManifest"].encode() for found in got["images"]] == [image.manifest, other.manifest]
    assert [failure["failureCode"] for failure in got["failures"]] == ["ImageNotFound", "InvalidImageDigest"]
    deleted = ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageTag": "v1"}])
    assert deleted["imageIds"] == [{"imageDigest": image.digest, "imageTag": "v1"}] and not deleted["failures"]
    ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageTag": "v2"}])
    assert ecr.list_images(repositoryName=name)["imageIds"] == [{"imageDigest": other.digest}], "with its last tag it goes"
    refused(ecr.delete_repository, "RepositoryNotEmptyException", repositoryName=name)
    ecr.delete_repository(repositoryName=name, force=True)
    assert registry.send("GET", f"/v2/{name}/manifests/{other.digest}").status == 404


def test_images_of_an_index_stay(ecr, repository, registry, name):  # noqa: F811
    image = Image()
    registry.push(name, image, image.digest)
    index = as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(image.manifest, MANIFEST)]})
    ecr.put_image(repositoryName=name, imageManifest=index.decode(), imageTag="all")
    answer = ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": image.digest}])
    assert answer["failures"][0]["failureCode"] == "ImageReferencedByManifestList"
    assert digest(index) in answer["failures"][0]["failureReason"]


def test_layers_by_api(ecr, repository, registry, name):  # noqa: F811
    image = Image({"f": os.urandom(3 << 20)})
    for content in image.blobs:
        upload = ecr.initiate_layer_upload(repositoryName=name)
        size = upload["partSize"]
        for first in range(0, len(content), size):
            part = content[first:first + size]
            answer = ecr.upload_layer_part(repositoryName=name, uploadId=upload["uploadId"], partFirstByte=first,
                                           partLastByte=first + len(part) - 1, layerPartBlob=part)
            assert answer["lastByteReceived"] == first + len(part) - 1
        refused(ecr.upload_layer_part, "InvalidLayerPartException", repositoryName=name, uploadId=upload["uploadId"],
                partFirstByte=0, partLastByte=0, layerPartBlob=b"x")
        done = ecr.complete_layer_upload(repositoryName=name, uploadId=upload["uploadId"],
                                         layerDigests=[digest(content)])
        assert done["layerDigest"] == digest(content)
    checked = ecr.batch_check_layer_availability(repositoryName=name, layerDigests=[digest(image.layer), digest(b"x")])
    assert [layer["layerAvailability"] for layer in checked["layers"]] == ["AVAILABLE", "UNAVAILABLE"]
    put = ecr.put_image(repositoryName=name, imageManifest=image.manifest.decode(), imageTag="v1")["image"]
    assert put["imageId"] == {"imageDigest": image.digest, "imageTag": "v1"}
    refused(ecr.put_image, "ImageAlreadyExistsException", repositoryName=name, imageManifest=image.manifest.decode(),
            imageTag="v1")
    url = ecr.get_download_url_for_layer(repositoryName=name, layerDigest=digest(image.layer))["downloadUrl"]
    assert urllib.request.urlopen(url, timeout=10).read() == image.layer
    for changed in [url[:-1], url.replace("expires=1", "expires=2"), url.replace(name, f"{name}-2")]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(changed, timeout=10)
        assert caught.value.code == 401
    assert registry.send("GET", f"/v2/{name}/manifests/v1").content == image.manifest
    missing = as_json({**json.loads(image.manifest), "layers": [descriptor(b"absent", "a/b")]})
    refused(ecr.put_image, "LayersNotFoundException", repositoryName=name, imageManifest=missing.decode(), imageTag="v2")
    refused(ecr.put_image, "ImageDigestDoesNotMatchException", repositoryName=name,
            imageManifest=image.manifest.decode(), imageDigest=digest(b"x"))
    refused(ecr.get_download_url_for_layer, "LayersNotFoundException", repositoryName=name, layerDigest=digest(b"x"))
    upload = ecr.initiate_layer_upload(repositoryName=name)["uploadId"]
    refused(ecr.complete_layer_upload, "EmptyUploadException", repositoryName=name, uploadId=upload,
            layerDigests=[digest(b"")])
    ecr.upload_layer_part(repositoryName=name, uploadId=upload, partFirstByte=0, partLastByte=0, layerPartBlob=b"x")
    refused(ecr.complete_layer_upload, "InvalidLayerException", repositoryName=name, uploadId=upload,
            layerDigests=[digest(b"y")])
    refused(ecr.complete_layer_upload, "UploadNotFoundException", repositoryName=name, uploadId=upload,
            layerDigests=[digest(b"y")])


def test_immutable_tags(ecr, repository, registry, name):  # noqa: F811
    ecr.put_image_tag_mutability(repositoryName=name, imageTagMutability="IMMUTABLE")
    one, other = Image(), Image({"f": b"other"})
    registry.push(name, one, "v1")
    assert registry.put_manifest(name, "v1", one.manifest).status == 201, "the same again moves nothing"
    for content in other.blobs:
        registry.push_blob(name, content)
    answer = registry.put_manifest(name, "v1", other.manifest)
    assert (answer.status, answer.codes) == (400, ["TAG_INVALID"])
    message = refused(ecr.put_image, "ImageTagAlreadyExistsException", repositoryName=name, imageTag="v1",
                      imageManifest=other.manifest.decode())
    assert "because the tag is immutable" in message
    ecr.put_image_tag_mutability(repositoryName=name, imageTagMutability="MUTABLE")
    assert registry.put_manifest(name, "v1", other.manifest).status == 201


def test_policies(ecr, repository, name):  # noqa: F811
    refused(ecr.get_repository_policy, "RepositoryPolicyNotFoundException", repositoryName=name)
    refused(ecr.get_lifecycle_policy, "LifecyclePolicyNotFoundException", repositoryName=name)
    text = json.dumps({"Version": "2012-10-17", "Statement": [
        {"Sid": "s", "Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}]})
    ecr.set_repository_policy(repositoryName=name, policyText=text)
    assert ecr.get_repository_policy(repositoryName=name)["policyText"] == text
    assert ecr.delete_repository_policy(repositoryName=name)["policyText"] == text
    for bad in ["{", "{}", text.replace("Allow", "Maybe"), text.replace('"Principal": "*", ', "")]:
        refused(ecr.set_repository_policy, "InvalidParameterException", repositoryName=name, policyText=bad)
    refused(ecr.put_lifecycle_policy, "InvalidParameterException", repositoryName=name, lifecyclePolicyText='{"rules":[]}' + 100 * " ")


def test_lifecycle_policies(ecr, repository, registry, name):  # noqa: F811
    images = [Image({"f": str(n).encode()}) for n in range(4)]
    for n, image in enumerate(images):
        registry.push(name, image, f"v{n}")
    keep_two = json.dumps({"rules": [{"rulePriority": 1, "description": "two", "selection": {
        "tagStatus": "tagged", "tagPrefixList": ["v"], "countType": "imageCountMoreThan", "countNumber": 2},
        "action": {"type": "expire"}}]})
    refused(ecr.get_lifecycle_policy_preview, "LifecyclePolicyPreviewNotFoundException", repositoryName=name)
    ecr.start_lifecycle_policy_preview(repositoryName=name, lifecyclePolicyText=keep_two)
    ecr.get_waiter("lifecycle_policy_preview_complete").wait(repositoryName=name)
    preview = ecr.get_lifecycle_policy_preview(repositoryName=name)
    assert {found["imageDigest"] for found in preview["previewResults"]} == {image.digest for image in images[:2]}
    assert preview["summary"]["expiringImageTotalCount"] == 2
    assert preview["previewResults"][0]["action"] == {"type": "EXPIRE"}
    ecr.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=keep_two)
    assert ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"] == keep_two
    deadline = time.monotonic() + 20
    while len(left := ecr.list_images(repositoryName=name)["imageIds"]) > 2:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert {found["imageTag"] for found in left} == {"v2", "v3"}
    assert "lastEvaluatedAt" in ecr.get_lifecycle_policy(repositoryName=name)
    assert ecr.delete_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"] == keep_two


def test_authorization_token(ecr, host):  # noqa: F811
    data = ecr.get_authorization_token(registryIds=[ACCOUNT])["authorizationData"][0]
    assert base64.b64decode(data["authorizationToken"]).startswith(b"AWS:")
    assert data["proxyEndpoint"] == f"http://{host}"
    import datetime
    left = data["expiresAt"] - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(hours=11, minutes=59) < left <= datetime.timedelta(hours=12)
    refused(ecr.get_authorization_token, "InvalidParameterException", registryIds=["1" * 12])


@pytest.mark.parametrize("aws", list(clients()))
def test_aws_cli(server, name, aws):  # noqa: F811
    def call(*arguments, succeeds=True):
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **server.environment}
        command = [aws, "--endpoint-url", server.endpoint, "ecr", *arguments, "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return json.loads(done.stdout or "null") if succeeds else done.stderr

    call("create-repository", "--repository-name", name, "--image-tag-mutability", "IMMUTABLE")
    found = call("describe-repositories", "--repository-names", name)["repositories"]
    assert found[0]["imageTagMutability"] == "IMMUTABLE"
    assert call("list-images", "--repository-name", name)["imageIds"] == []
    assert "(RepositoryNotFoundException)" in call("list-images", "--repository-name", "absent", succeeds=False)
    call("delete-repository", "--repository-name", name)
