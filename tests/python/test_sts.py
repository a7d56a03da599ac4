"""STS: who am I."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError


def test_caller_identity(server):
    answer = server.client("sts").get_caller_identity()
    assert answer["Account"] == "123456789012"
    assert answer["Arn"] == "arn:aws:iam::123456789012:root"


@pytest.mark.parametrize("change,codes", [
    ({"aws_secret_access_key": "wrong"}, ["SignatureDoesNotMatch"]),
    ({"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE"}, ["SignatureDoesNotMatch"]),
])
def test_strangers_are_refused(server, change, codes):
    settings = {
        "aws_access_key_id": server.environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": server.environment["AWS_SECRET_ACCESS_KEY"], **change}
    client = boto3.client("sts", endpoint_url=server.endpoint, region_name="us-east-1",
                          config=Config(retries={"max_attempts": 1}), **settings)
    with pytest.raises(ClientError) as caught:
        client.get_caller_identity()
    assert caught.value.response["Error"]["Code"] in codes
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
