"""What a machine of a cloud learns about itself: from its instance metadata service (IMDSv2)."""

from __future__ import annotations

import http.client
import os
from typing import NamedTuple
from urllib.parse import urlsplit

SERVICE = "http://169.254.169.254"
TIMEOUT_SECONDS = 2.0  # the service is on the machine's own host
TOKEN_SECONDS = 21600  # the longest that AWS gives
LIFECYCLE = "meta-data/autoscaling/target-lifecycle-state"


class MetadataError(Exception):
    """The machine could not learn something; the message names it and the remedy, in one line."""


class Identity(NamedTuple):
    """Which machine of which fleet this is."""

    instance_id: str
    region: str
    fleet: str
    role: str
    group: str  # its auto-scaling group; "" = in none
    queues: list[str]  # that its group's workers take tasks from; empty = all


class Metadata:
    """The service, at its address or at that of botocore's variable for it."""

    def __init__(self) -> None:
        self._url = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", SERVICE)
        self._token = ""

    def get(self, path: str) -> str | None:
        """Return the text at a path below /latest, None where there is nothing.

        Raises MetadataError.
        """
        for _ in range(2):
            if not self._token:
                ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self._token = self._ask("PUT", "api/token", ttl) or ""
            status, text = self._answer("GET", path, {"X-aws-ec2-metadata-token": self._token})
            if status != 401:
                return self._text(path, status, text)
            self._token = ""  # its time is over
        raise MetadataError(f"{self._url}/latest/{path}: the service takes none of its own tokens")

    def need(self, path: str, remedy: str) -> str:
        """Return the text at a path below /latest. Raises MetadataError, also where it is empty."""
        if text := self.get(path):
            return text
        raise MetadataError(f"{self._url}/latest/{path} is missing: {remedy}")

    def identity(self) -> Identity:
        """Return which machine this is. Raises MetadataError."""
        service = "this is no instance of a cloud, or its metadata service is not EC2's"
        tags = "the instance needs this tag, and the option instance_metadata_tags"
        return Identity(
            self.need("meta-data/instance-id", service),
            self.need("meta-data/placement/region", service),
            self.need("meta-data/tags/instance/fleet", tags),
            self.need("meta-data/tags/instance/role", tags),
            self.get("meta-data/tags/instance/aws:autoscaling:groupName") or "",
            (self.get("meta-data/tags/instance/queues") or "").split(),
        )

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str | None:
        return self._text(path, *self._answer(method, path, headers))

    def _text(self, path: str, status: int, text: str) -> str | None:
        if status == 404:
            return None
        if status != 200:
            raise MetadataError(
                f"{self._url}/latest/{path}: status {status}: is the metadata service enabled?"
            )
        return text

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, f"/latest/{path}", headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise MetadataError(
                f"{self._url} does not answer ({error}): is there a network, and is this an "
                "instance whose metadata service is enabled?"
            ) from error
        finally:
            connection.close()
