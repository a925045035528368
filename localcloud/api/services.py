"""The services that are answered: moto's, and this package's in place of some of them."""

import contextlib
from typing import Any

from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.request import Request
from moto.core.responses import BaseResponse
from moto.iam.responses import IamResponse
from moto.ssm.responses import SimpleSystemManagerResponse
from moto.sts.responses import TokenResponse

from localcloud.api import ec2
from localcloud.api.autoscaling import response as autoscaling

ACCOUNT = DEFAULT_ACCOUNT_ID
SERVICES: dict[str, type[BaseResponse]] = {  # by their names in signatures
    "autoscaling": autoscaling.Response,
    "ec2": ec2.Response,
    "iam": IamResponse,
    "monitoring": CloudWatchResponse,
    "ssm": SimpleSystemManagerResponse,
    "sts": TokenResponse,
}


class ApiRequest(Request):
    from_wsgi_server = True


def service_of(authorization: str) -> str:
    """Return the service of a signed request, "" without a signature.

    A signature is: … Credential=KEY/DATE/REGION/SERVICE/aws4_request, …
    """
    with contextlib.suppress(IndexError):
        return authorization.split("Credential=")[1].split(",")[0].split("/")[-2]
    return ""


def answer(service: str, request: ApiRequest) -> tuple[int, dict[str, Any], str | bytes]:
    """Return the status, the headers and the body of a service's answer.

    Raises NotImplementedError for what moto does not emulate.
    """
    token = ec2.request_form.set(request.form.to_dict())
    try:
        status, headers, body = SERVICES[service].dispatch(
            request, request.raw_url, request.headers
        )
        return status, headers, body
    finally:
        ec2.request_form.reset(token)
