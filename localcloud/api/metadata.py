"""The instance metadata service (IMDSv2): the client's address tells which instance asks."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from werkzeug.wrappers import Request, Response

TOKEN_PATH = "/latest/api/token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
MAX_TTL_SECONDS = 21600


@dataclass(frozen=True)
class Identity:
    """What the service tells an instance about itself."""

    instance_id: str
    image_id: str
    instance_type: str
    address: str
    hostname: str
    zone: str
    region: str
    account: str
    launched: str
    public_key: str = ""
    role: str = ""  # of its instance profile; "" = none
    lifecycle_state: str = ""  # of its auto-scaling group; "" = in none
    user_data: str = ""  # base64
    tags: Mapping[str, str] = field(default_factory=dict)


def tree(identity: Identity) -> dict[str, Any]:
    """Return the metadata of an instance: path component → text, or another such dict."""
    place = {"availability-zone": identity.zone, "region": identity.region}
    data: dict[str, Any] = {
        "ami-id": identity.image_id,
        "hostname": identity.hostname,
        "instance-id": identity.instance_id,
        "instance-type": identity.instance_type,
        "local-hostname": identity.hostname,
        "local-ipv4": identity.address,
        "placement": place,
        "tags": {"instance": dict(identity.tags)},
    }
    if identity.public_key:
        data["public-keys"] = {"0": {"openssh-key": identity.public_key}}
    if identity.lifecycle_state:
        data["autoscaling"] = {"target-lifecycle-state": identity.lifecycle_state}
    if identity.role:
        data["iam"] = {"security-credentials": {identity.role: credentials()}}
    document = {
        "accountId": identity.account,
        "architecture": "x86_64",
        "availabilityZone": identity.zone,
        "imageId": identity.image_id,
        "instanceId": identity.instance_id,
        "instanceType": identity.instance_type,
        "pendingTime": identity.launched,
        "privateIp": identity.address,
        "region": identity.region,
        "version": "2017-09-30",
    }
    latest: dict[str, Any] = {
        "meta-data": data,
        "dynamic": {"instance-identity": {"document": json.dumps(document, indent=2)}},
    }
    if identity.user_data:
        latest["user-data"] = base64.b64decode(identity.user_data).decode(errors="replace")
    return latest


def credentials() -> str:
    """Credentials as an instance profile gives them; the local cloud takes any."""
    now = datetime.now(UTC)
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    return json.dumps(
        {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": "localcloud",
            "SecretAccessKey": "localcloud",
            "Token": "localcloud",
            "LastUpdated": now.strftime(stamp),
            "Expiration": (now + timedelta(hours=6)).strftime(stamp),
        }
    )


def find(latest: Mapping[str, Any], path: str) -> str | None:
    """Return the text at `path` below /latest, or a listing; None = there is nothing."""
    node: Any = latest
    for part in [part for part in path.split("/") if part]:
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    if isinstance(node, Mapping):
        return "\n".join(
            f"{key}/" if isinstance(value, Mapping) else key for key, value in node.items()
        )
    return str(node)


class Metadata:
    """The WSGI application; `identify` finds an instance by its address."""

    def __init__(self, identify: Callable[[str], Identity | None]) -> None:
        self.identify = identify
        self.tokens: dict[str, tuple[str, float]] = {}  # token → address, expiry (monotonic)

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        request = Request(environ)
        return iter(self.answer(request)(environ, start_response))

    def answer(self, request: Request) -> Response:
        address = request.remote_addr or ""
        identity = self.identify(address)
        if identity is None:
            return Response("no instance has this address\n", 404)
        if request.path == TOKEN_PATH:
            return self._token(request, address)
        now = time.monotonic()
        owner, expiry = self.tokens.get(request.headers.get(TOKEN, ""), ("", 0.0))
        if owner != address or expiry < now:
            return Response("a token is needed: PUT /latest/api/token\n", 401)
        if request.method != "GET":
            return Response(status=405)
        version, _, path = request.path.strip("/").partition("/")
        text = find(tree(identity), path) if version == "latest" else None
        return Response("not found\n", 404) if text is None else Response(text)

    def _token(self, request: Request, address: str) -> Response:
        if request.method != "PUT":
            return Response(status=405)
        ttl = request.headers.get(TTL, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL_SECONDS:
            return Response(f"{TTL}: 1 to {MAX_TTL_SECONDS} is needed\n", 400)
        now = time.monotonic()
        # In place of the dict, not in it: other threads read it.
        self.tokens = {key: value for key, value in self.tokens.items() if value[1] > now}
        token = secrets.token_urlsafe(32)
        self.tokens[token] = (address, now + int(ttl))
        return Response(token, headers={TTL: ttl})
