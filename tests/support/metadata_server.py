"""An instance metadata service (IMDSv2) on a free port of 127.0.0.1: the local cloud's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from localcloud.api.metadata import Identity, Metadata


@dataclass
class Imds:
    """The service's address, and what it says of the one instance that asks."""

    url: str
    identity: Identity
    service: Metadata

    def say(self, **changes: Any) -> None:
        """Let it say something else from now on."""
        self.identity = replace(self.identity, **changes)


class Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serve() -> Iterator[Imds]:
    """Run the service for a web machine of the fleet `superset`."""
    identity = Identity(
        instance_id="i-1",
        image_id="ami-1",
        instance_type="t3.medium",
        address="127.0.0.1",
        hostname="ip-127-0-0-1",
        zone="us-east-1a",
        region="us-east-1",
        account="123456789012",
        launched="2026-01-01T00:00:00Z",
        role="web",
        lifecycle_state="InService",
        tags={
            "fleet": "superset",
            "role": "superset_web",
            "aws:autoscaling:groupName": "superset-superset_web",
        },
    )
    service = Metadata(lambda _: imds.identity)
    server = make_server("127.0.0.1", 0, service, threaded=True, request_handler=Quiet)
    imds = Imds(f"http://127.0.0.1:{server.server_port}", identity, service)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield imds
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
