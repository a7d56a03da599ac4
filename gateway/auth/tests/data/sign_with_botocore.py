"""Signs the requests on standard input with botocore; answers with what would go over the wire."""

import json
import sys

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def sign(case):
    scheme = "https" if case["kind"] == "s3-unsigned" else "http"
    query = "?" + case["query"] if case["query"] else ""
    request = AWSRequest(
        method=case["method"],
        url=f"{scheme}://{case['host']}{case['path']}{query}",
        data=bytes.fromhex(case["body"]),
    )
    for name, value in case["headers"]:
        request.headers[name] = value
    credentials = Credentials(sys.argv[1], sys.argv[2], case["token"])
    target = (credentials, case["service"], case["region"])
    if case["kind"] == "service":
        signer = SigV4Auth(*target)
    elif case["kind"] == "s3":
        signer = S3SigV4Auth(*target)
    elif case["kind"] == "s3-unsigned":
        signer = S3SigV4Auth(*target)
        request.headers["Content-MD5"] = "1B2M2Y8AsgTpgAmY7PhCfg=="
        request.context["has_streaming_input"] = True
    elif case["kind"] == "service-presigned":
        signer = SigV4QueryAuth(*target, expires=case["expires"])
    else:
        signer = S3SigV4QueryAuth(*target, expires=case["expires"])
    signer.add_auth(request)
    return {
        "target": "/" + request.url.split("://", 1)[1].split("/", 1)[1],
        "headers": list(request.headers.items()),
        "now": request.context["timestamp"],
    }


json.dump([sign(case) for case in json.load(sys.stdin)], sys.stdout)
