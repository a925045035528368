"""An AWS on a free port of 127.0.0.1, played by moto, that can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto import mock_aws
from moto.core.models import botocore_stubber

REGION = "us-east-1"
Reply = tuple[int, str]


def ec2_error(code: str, message: str, status: int = 400) -> Reply:
    """Return an error as EC2 says it."""
    inner = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, f"<Response><Errors>{inner}</Errors><RequestID>1</RequestID></Response>"


def autoscaling_error(code: str, message: str, status: int = 400) -> Reply:
    """Return an error as the auto-scaling API says it."""
    inner = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, f"<ErrorResponse>{inner}<RequestId>1</RequestId></ErrorResponse>"


def ssm_error(code: str, message: str, status: int = 400) -> Reply:
    """Return an error as the parameter store says it."""
    return status, json.dumps({"__type": code, "message": message})


def ordinary(operation: str, parameters: dict[str, str], answer: Callable[[], Reply]) -> Reply:
    """Answer as moto does."""
    return answer()


@dataclass
class Aws:
    """The server's address, what it was asked, and how it makes an answer of moto's."""

    endpoint_url: str
    calls: list[str] = field(default_factory=list)
    reply: Callable[[str, dict[str, str], Callable[[], Reply]], Reply] = ordinary

    def client(self, service: str, region: str = REGION) -> Any:
        """Return boto3's client."""
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        return boto3.client(service, region_name=region, endpoint_url=self.endpoint_url, **keys)

    def write_config(self, path: Path) -> Path:
        """Write an AWS configuration file that leads to this server."""
        path.write_text(
            f"[default]\nendpoint_url = {self.endpoint_url}\nregion = {REGION}\n"
            "aws_access_key_id = key\naws_secret_access_key = secret\n"
        )
        return path


class Handler(BaseHTTPRequestHandler):
    """Hands a request to moto as if it had been sent to AWS."""

    aws: Aws
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if target := self.headers.get("X-Amz-Target"):
            operation, parameters = target.rpartition(".")[2], {}
        else:
            parameters = {name: value[0] for name, value in parse_qs(body.decode()).items()}
            operation = parameters["Action"]
        self.aws.calls.append(operation)
        status, text = self.aws.reply(operation, parameters, lambda: self.moto(body))
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def moto(self, body: bytes) -> Reply:
        # Credential=<key>/<date>/<region>/<service>/aws4_request
        region, service = self.headers["Authorization"].split("/")[2:4]
        headers = HTTPHeaders()
        for name, value in self.headers.items():
            headers[name] = value
        del headers["Host"]
        url = f"https://{service}.{region}.amazonaws.com/"
        request = AWSPreparedRequest("POST", url, headers, body, stream_output=False)
        response = botocore_stubber.process_request(request)
        assert response is not None
        status, _, content = response
        return int(status), content if isinstance(content, str) else content.decode()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Takes many connections at once: else the kernel lets clients wait for a second."""

    request_queue_size = 256


@contextmanager
def serve() -> Iterator[Aws]:
    """Run the server; its state starts empty."""
    with mock_aws():
        botocore_stubber.enabled = False  # this process's own clients use the network
        server = Server(("127.0.0.1", 0), Handler)
        aws = Handler.aws = Aws(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield aws
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def make_subnet(aws: Aws) -> str:
    """Make a network, and what groups' machines are made from; return the network's id."""
    ec2 = aws.client("ec2")
    data = {"ImageId": ec2.register_image(Name="image")["ImageId"], "InstanceType": "t3.micro"}
    ec2.create_launch_template(LaunchTemplateName="worker", LaunchTemplateData=data)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    return str(ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/20")["Subnet"]["SubnetId"])


def make_worker_group(
    aws: Aws, subnet: str, name: str, desired: int, high: int, tags: Mapping[str, str]
) -> None:
    """Make a worker group of the fleet `superset`, with these tags besides."""
    tag = {"ResourceId": name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
    known = {"fleet": "superset", "role": "celery_worker", "queues": "sql_lab charts", **tags}
    aws.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        MaxSize=high,
        DesiredCapacity=desired,
        LaunchTemplate={"LaunchTemplateName": "worker", "Version": "1"},
        VPCZoneIdentifier=subnet,
        Tags=[tag | {"Key": key, "Value": value} for key, value in known.items()],
    )
