"""The daemon: it answers for the API and the metadata, and lets machines follow instances.

moto runs in this process, which runs inside the cloud's network namespace.
"""

import functools
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from localcloud.api import ec2, services
from localcloud.api.autoscaling import backend as autoscaling
from localcloud.api.autoscaling.activities import Activities
from localcloud.api.autoscaling.ground import Clock, Ground
from localcloud.api.instances import Instances
from localcloud.api.metadata import Identity, Metadata
from localcloud.api.parameters import Parameters
from localcloud.api.services import ACCOUNT, SERVICES, ApiRequest
from localcloud.cloud import API_PORT, REGION, Cloud, CloudError
from localcloud.host import network
from localcloud.host.images import Images
from localcloud.host.machines import Freeze, Machines, Spec
from localcloud.host.system import run

log = logging.getLogger(__name__)

NSPAWN = Path("/run/systemd/nspawn")
OWN_PATH = "/localcloud/"  # what AWS does not have: the status, and faults
ROUND_SECONDS = 1.0  # a machine that stopped by itself is noticed within this time


class Server:
    """One cloud's API, metadata and machines."""

    def __init__(self, cloud: Cloud, block: IPv4Network) -> None:
        self.cloud = cloud
        self.block = block
        # moto is not made for threads; with this lock a request or a round sees one state.
        self.lock = threading.RLock()
        self.wake = threading.Event()
        self.images = Images(cloud)
        self.images.sweep(unfinished=True)
        self.machines = Machines(cloud, self.images, block, self.machine_stopped, self.wake.set)
        machines = self.machines
        sweep = functools.partial(machines.pool.submit, machines.sweep)
        ground = ec2.Ground(self.images, block, self.freeze, machines.restart, sweep)
        self.ec2 = ec2.install(ground, ACCOUNT, REGION)
        self.groups = autoscaling.install(Ground(Clock(), Activities(), self.ec2), ACCOUNT, REGION)
        self.instances = Instances(self.ec2, self.groups, ACCOUNT)
        for image in list(self.images.known.values()):
            self.ec2.register(image)
        self.parameters = Parameters(ACCOUNT, REGION, cloud.parameters, block)

    # ---- requests

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        request = ApiRequest(environ)
        if request.path.startswith(OWN_PATH):
            response = self.answer_own(request)
        else:
            response = self.answer(request)
        return iter(response(environ, start_response))

    def answer(self, request: ApiRequest) -> Response:
        service = services.service_of(request.headers.get("Authorization", ""))
        if service not in SERVICES:
            known = ", ".join(sorted(SERVICES))
            return Response(f"the local cloud has no service {service!r}; it has: {known}\n", 501)
        try:
            with self.lock:
                status, headers, body = services.answer(service, request)
                self.persist()
        except NotImplementedError as error:
            return Response(f"{service}: {error}\n", 501)
        except Exception:
            log.exception("%s failed: %s", service, request.form.get("Action", ""))
            return Response(f"{service} failed, see {self.cloud.log}\n", 500)
        self.wake.set()
        return Response(body, status, headers)

    def answer_own(self, request: ApiRequest) -> Response:
        """GET status; POST forward/SECONDS, or a verb of `Machines.commands`/INSTANCE."""
        match request.method, request.path.removeprefix(OWN_PATH).split("/"):
            case "GET", ["status"]:
                return Response(json.dumps(self.report()), mimetype="application/json")
            case "POST", ["forward", seconds] if seconds.isdigit():
                with self.lock:
                    self.groups.ground.clock.forward(int(seconds))
                    self.groups.reconcile()
                self.wake.set()
                return Response(f"the groups' clock was moved on by {seconds} s\n")
            case "POST", [verb, instance_id] if verb in self.machines.commands:
                try:
                    return Response(f"{self.machines.commands[verb](instance_id)}\n")
                except CloudError as error:
                    return Response(f"{error}\n", 409)
        return Response(f"nothing here answers {request.method} {request.path}\n", 404)

    def persist(self) -> None:
        """Write what outlives the daemon: parameters, and the tags of images."""
        self.ec2.save_tags()
        self.parameters.save()

    def report(self) -> dict[str, Any]:
        with self.lock:
            images = [
                {"id": ami.id, "name": ami.name, "state": ami.state}
                for ami in self.ec2.amis.values()
            ]
            waiting = self.groups.waiting()
        return {
            "state": "up",
            "pid": os.getpid(),
            "endpoint_url": endpoint(self.block),
            "region": REGION,
            "vpc_cidr": str(self.block),
            "images": images,
            "machines": self.machines.report(),
            "waiting": waiting,
        }

    # ---- instances and machines, under the lock

    def freeze(
        self, instance_id: str, reboot: bool, done: Callable[[list[str], str], None]
    ) -> None:
        """Order an image of an instance's machine; see `Freeze`."""

        def locked(layers: list[str], reason: str) -> None:
            with self.lock:
                done(layers, reason)

        self.machines.freeze(instance_id, Freeze(reboot, locked))

    def machine_stopped(self, instance_id: str) -> None:
        with self.lock:
            self.instances.machine_stopped(instance_id)

    def identify(self, address: str) -> Identity | None:
        with self.lock:
            return self.instances.identify(address)

    def wanted(self) -> dict[str, Spec]:
        with self.lock:
            return self.instances.wanted(self.machines.machines)

    # ---- the daemon

    def serve(self) -> None:
        """Answer and reconcile until the process is killed."""
        serve(str(network.bridge_address(self.block)), API_PORT, self)
        serve(network.METADATA, 80, Metadata(self.identify))
        log.info("up: %s", endpoint(self.block))
        while True:
            self.wake.wait(ROUND_SECONDS)
            self.wake.clear()
            try:
                with self.lock:
                    self.groups.reconcile()
                self.machines.reconcile(self.wanted())
            except Exception:  # one bad round must not be the last
                log.exception("the round failed")


def endpoint(block: IPv4Network) -> str:
    return f"http://{network.bridge_address(block)}:{API_PORT}"


class QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep their connections

    def log_request(self, *args: Any) -> None:
        log.debug("%s %s %s", self.address_string(), self.requestline, args)


def serve(address: str, port: int, application: Callable[..., Any]) -> None:
    """Serve a WSGI application in threads, until the process is killed."""
    # Bound here: when the server binds by itself, it first asks the DNS for the address's name.
    listener = socket.create_server((address, port), backlog=128)
    server = make_server(
        address,
        port,
        application,
        threaded=True,
        request_handler=QuietHandler,
        fd=listener.detach(),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    """Run the daemon: python -m localcloud.server STATE BLOCK."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # In this mount namespace only: systemd-nspawn leaves a directory behind for every machine.
    NSPAWN.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", NSPAWN)
    Server(Cloud(Path(sys.argv[1])), IPv4Network(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
