"""The daemon: the API (moto, in this process), the metadata service, and the loop between the
API's instances and the machines. It runs inside the cloud's network namespace."""

import contextlib
import functools
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

# Before moto is imported: its hundreds of images of others are not here.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.models import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.core.request import Request
from moto.core.responses import BaseResponse
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance
from moto.iam.responses import IamResponse
from moto.ssm.models import ssm_backends
from moto.ssm.responses import SimpleSystemManagerResponse
from moto.sts.responses import TokenResponse
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from localcloud.api import ec2
from localcloud.api.autoscaling import backend as groups
from localcloud.api.autoscaling import response
from localcloud.api.autoscaling.activities import Activities
from localcloud.api.autoscaling.ground import Clock, Ground
from localcloud.api.metadata import Identity, Metadata
from localcloud.cloud import API_PORT, REGION, Cloud, CloudError, run, write
from localcloud.host import network
from localcloud.host.images import Image, Images
from localcloud.host.machines import Freeze, Machines, Spec

log = logging.getLogger(__name__)

SERVICES: dict[str, type[BaseResponse]] = {
    "autoscaling": response.Response,
    "ec2": ec2.Response,
    "iam": IamResponse,
    "monitoring": CloudWatchResponse,
    "ssm": SimpleSystemManagerResponse,
    "sts": TokenResponse,
}
NSPAWN = Path("/run/systemd/nspawn")
OWN_PATH = "/localcloud/"  # what no AWS has: the status, and faults
CIDR_PARAMETER = "/localcloud/vpc_cidr"
FORGET_SECONDS = 600  # after its end an instance is described for so long; AWS: about an hour
ROUND_SECONDS = 1.0  # a machine that ended by itself is noticed within this time


class ApiRequest(Request):
    from_wsgi_server = True


class Server:
    """One cloud's API, metadata and machines."""

    def __init__(self, cloud: Cloud, block: IPv4Network) -> None:
        self.cloud = cloud
        self.block = block
        # moto is not made for threads; with this lock a request or a round sees one state.
        self.lock = threading.RLock()
        self.wake = threading.Event()
        self.terminated: dict[str, float] = {}  # instance id → when we saw it (monotonic)
        self.parameters_text = ""  # as on disk
        self.images = Images(cloud)
        self.images.sweep(unfinished=True)
        self.machines = Machines(cloud, self.images, block, self.ended, self.wake.set)
        machines = self.machines
        sweep = functools.partial(machines.pool.submit, machines.sweep)
        ground = ec2.Ground(self.images, block, self.freeze, machines.restart, sweep)
        self.ec2 = ec2.install(ground, ACCOUNT, REGION)
        self.groups = groups.install(Ground(Clock(), Activities(), self.ec2), ACCOUNT, REGION)
        self.ssm = ssm_backends[ACCOUNT][REGION]
        for image in list(self.images.known.values()):
            self.ec2.register(image)
        self.load_parameters()

    # ---- the API

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        request = ApiRequest(environ)
        if request.path.startswith(OWN_PATH):
            response = self.answer_own(request)
        else:
            response = self.answer(request)
        return iter(response(environ, start_response))

    def answer(self, request: ApiRequest) -> Response:
        service = service_of(request.headers.get("Authorization", ""))
        if service not in SERVICES:
            known = ", ".join(sorted(SERVICES))
            return Response(f"no service {service!r} here, but: {known}\n", 501)
        token = ec2.request_form.set(request.form.to_dict())
        try:
            with self.lock:
                status, headers, body = SERVICES[service].dispatch(
                    request, request.raw_url, request.headers
                )
                self.persist()
        except NotImplementedError as error:
            return Response(f"{service}: {error}\n", 501)
        except Exception:
            log.exception("%s failed: %s", service, request.form.get("Action", ""))
            return Response(f"{service} failed, see {self.cloud.log}\n", 500)
        finally:
            ec2.request_form.reset(token)
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
                return Response(f"the groups' clock is {seconds} s further\n")
            case "POST", [verb, instance_id] if verb in self.machines.commands:
                try:
                    return Response(f"{self.machines.commands[verb](instance_id)}\n")
                except CloudError as error:
                    return Response(f"{error}\n", 409)
        return Response(f"{request.method} {request.path} is nothing here\n", 404)

    def persist(self) -> None:
        """Write what outlives the daemon: parameters, and the tags of images."""
        self.ec2.save_tags()
        text = json.dumps(self.dump_parameters(), indent=2) + "\n"
        if text != self.parameters_text:
            write(self.cloud.parameters, text, 0o600)
            self.parameters_text = text

    def dump_parameters(self) -> list[dict[str, Any]]:
        return [
            {
                "name": parameter.name,
                "description": parameter.description or "",
                "value": parameter.decrypt(parameter.value),
                "parameter_type": parameter.parameter_type,
                "allowed_pattern": parameter.allowed_pattern or "",
                "keyid": parameter.keyid or "",
                "data_type": parameter.data_type,
                "tier": parameter.tier,
                "policies": parameter.policies,
                "tags": self.ssm.list_tags_for_resource("Parameter", name),
            }
            for name, versions in sorted(dict.items(self.ssm._parameters))
            if versions and not name.startswith("/aws/") and name != CIDR_PARAMETER
            for parameter in [versions[-1]]
        ]

    def load_parameters(self) -> None:
        if self.cloud.parameters.exists():
            self.parameters_text = self.cloud.parameters.read_text()
        for parameter in json.loads(self.parameters_text or "[]"):
            tags = [{"Key": key, "Value": value} for key, value in parameter.pop("tags").items()]
            self.ssm.put_parameter(**parameter, overwrite=False, tags=tags)
        self.ssm.put_parameter(
            name=CIDR_PARAMETER,
            description="Addresses that machines of the local cloud can have",
            value=str(self.block),
            parameter_type="String",
            allowed_pattern="",
            keyid="",
            overwrite=False,
            tags=[],
            data_type="text",
            tier=None,
            policies=None,
        )

    # ---- images

    def freeze(self, instance_id: str, ami: Ami, reboot: bool) -> None:
        def done(layers: list[str], reason: str) -> None:
            with self.lock:
                if ami.id not in self.ec2.amis:  # deregistered meanwhile
                    return
                if not layers:
                    ami.state = "failed"
                    log.error("image %s failed: %s", ami.id, reason)
                    return
                tags = dict(self.ec2.tags.get(ami.id, {}))
                image = Image(ami.id, ami.name or "", layers, ami.description or "", tags=tags)
                self.images.save(image)
                ami.creation_date = image.created_at
                ami.state = "available"

        self.machines.freeze(instance_id, Freeze(reboot, done))

    # ---- instances

    def ended(self, instance_id: str) -> None:
        """The machine of an instance ended by itself: say so, and let its group replace it."""
        with self.lock:
            instance = self.ec2.get_instance_by_id(instance_id)
            if instance is None or instance.state != "running":
                return
            if self.groups.member(instance_id):
                self.ec2.terminate_instances([instance_id])
                self.groups.notify_terminate_instances([instance_id])
            elif instance.instance_initiated_shutdown_behavior == "terminate":
                self.ec2.terminate_instances([instance_id])
            else:
                self.ec2.stop_instances([instance_id])

    def wanted(self) -> dict[str, Spec]:
        """The machines that the instances call for. Forgets those that ended long ago."""
        now = time.monotonic()
        specs = {}
        with self.lock:
            for reservation_id, reservation in list(self.ec2.reservations.items()):
                for instance in list(reservation.instances):
                    if instance.state != "terminated":
                        specs[instance.id] = self.spec(instance)
                        continue
                    if instance.id not in self.machines.machines:
                        self.release(instance)
                    if now - self.terminated.setdefault(instance.id, now) > FORGET_SECONDS:
                        reservation.instances.remove(instance)
                        self.ec2.tags.pop(instance.id, None)
                        del self.terminated[instance.id]
                if not reservation.instances:
                    del self.ec2.reservations[reservation_id]
        return specs

    def release(self, instance: Instance) -> None:
        """Give back the address; moto would, but only when it forgets the instance."""
        for address in instance._private_ips:
            self.ec2.get_subnet(instance.subnet_id or "").del_subnet_ip(address)
        instance._private_ips = set()

    def spec(self, instance: Instance) -> Spec:
        return Spec(
            instance.id,
            instance.image_id,
            instance.private_ip or "",
            self.public_key(instance),
            running=instance.state == "running",
        )

    def public_key(self, instance: Instance) -> str:
        pair = self.ec2.key_pairs.get(instance.key_name or "")
        return pair.public_key.strip() if pair else ""

    def identify(self, address: str) -> Identity | None:
        """Return what the instance at an address is told about itself."""
        with self.lock:
            for instance in self.ec2.all_running_instances():
                if instance.private_ip == address:
                    return self.identity(instance)
        return None

    def identity(self, instance: Instance) -> Identity:
        member = self.groups.member(instance.id)
        association = self.ec2.iam_instance_profile_associations.get(instance.id)
        roles = association.iam_instance_profile.roles if association else []
        return Identity(
            instance_id=instance.id,
            image_id=instance.image_id,
            instance_type=instance.instance_type,
            address=instance.private_ip or "",
            hostname=instance.private_dns_name,
            zone=instance.availability_zone or "",
            region=REGION,
            account=ACCOUNT,
            launched=instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            public_key=self.public_key(instance),
            role=roles[0].name if roles else "",
            lifecycle_state=member.target if member else "",
            user_data=str(instance.user_data or ""),
            tags=dict(self.ec2.tags.get(instance.id, {})),
        )

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


def main() -> None:
    """Run the daemon: python -m localcloud.server STATE BLOCK."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # In this mount namespace only: systemd-nspawn leaves a directory behind for every machine.
    NSPAWN.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", NSPAWN)
    Server(Cloud(Path(sys.argv[1])), IPv4Network(sys.argv[2])).serve()


class QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep their connections

    def log_request(self, *args: Any) -> None:
        log.debug("%s %s %s", self.address_string(), self.requestline, args)


def serve(address: str, port: int, application: Callable[..., Any]) -> None:
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


def service_of(authorization: str) -> str:
    """The service of a signed request: … Credential=KEY/DATE/REGION/SERVICE/aws4_request, …"""
    with contextlib.suppress(IndexError):
        return authorization.split("Credential=")[1].split(",")[0].split("/")[-2]
    return ""


def endpoint(block: IPv4Network) -> str:
    return f"http://{network.bridge_address(block)}:{API_PORT}"


if __name__ == "__main__":
    main()
