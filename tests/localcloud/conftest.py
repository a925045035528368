"""Local clouds of the tests' own: they run beside the checkout's, and share only its base image."""

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from localcloud.cloud import Cloud

ROOT = Path(__file__).parents[2]
ZONES = ["us-east-1a", "us-east-1b", "us-east-1c"]


def wait(what: str, condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Return the first true value of `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


class LocalCloud:
    """A cloud under test, its API, and a network in it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.cloud = Cloud(state)
        self.key = state / "key"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "localcloud", "--state", str(self.state), *arguments]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    def up(self) -> None:
        done = self.command("up")
        assert done.returncode == 0, done.stdout + done.stderr
        os.environ["AWS_CONFIG_FILE"] = str(self.cloud.aws_config)
        session = boto3.Session()
        self.ec2 = session.client("ec2")
        self.autoscaling = session.client("autoscaling")
        self.ssm = session.client("ssm")
        self.iam = session.client("iam")
        parameter = self.ssm.get_parameter(Name="/localcloud/vpc_cidr")
        self.block = ipaddress.ip_network(parameter["Parameter"]["Value"])
        vpc = self.ec2.create_vpc(CidrBlock=str(self.block))["Vpc"]["VpcId"]
        parts = self.block.subnets(new_prefix=22)
        self.subnets = [
            self.ec2.create_subnet(VpcId=vpc, CidrBlock=str(part), AvailabilityZone=zone)["Subnet"][
                "SubnetId"
            ]
            for zone, part in zip(ZONES, parts, strict=False)
        ]
        pair = self.ec2.create_key_pair(KeyName="key", KeyType="ed25519")
        self.key.unlink(missing_ok=True)
        self.key.touch(mode=0o600)
        self.key.write_text(pair["KeyMaterial"])

    def down(self, *arguments: str) -> None:
        done = self.command("down", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def base(self) -> str:
        images = self.ec2.describe_images(
            Owners=["self"], Filters=[{"Name": "tag:name", "Values": ["debian-12"]}]
        )["Images"]
        assert len(images) == 1
        return str(images[0]["ImageId"])

    def start(self, **options: Any) -> dict[str, Any]:
        """Start an instance and return its description."""
        wanted = {
            "ImageId": self.base(),
            "SubnetId": self.subnets[0],
            "KeyName": "key",
            "InstanceType": "t3.small",
            **options,
        }
        instance: dict[str, Any] = self.ec2.run_instances(MinCount=1, MaxCount=1, **wanted)[
            "Instances"
        ][0]
        return instance

    def instance(self, instance_id: str) -> dict[str, Any]:
        reservations = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        instance: dict[str, Any] = reservations[0]["Instances"][0]
        return instance

    def machine(self, instance_id: str) -> dict[str, str] | None:
        report = json.loads(self.command("status", "--json").stdout)
        machines = {machine["instance"]: machine for machine in report["machines"]}
        return machines.get(instance_id)

    def ssh(self, address: str, command: str) -> str:
        """Run a command in a machine, waiting for its sshd; return its output."""
        words = ["ssh", "-q", "-i", str(self.key), "-o", "ConnectTimeout=2", "-o", "BatchMode=yes"]
        words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]

        def attempt() -> subprocess.CompletedProcess[str] | None:
            done = subprocess.run(
                [*words, f"admin@{address}", command], capture_output=True, text=True, check=False
            )
            return None if done.returncode == 255 else done  # 255: ssh itself

        done: subprocess.CompletedProcess[str] = wait(f"ssh to {address}", attempt)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def reachable(self, address: str) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=1):
            return True
        return False


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make state directories with the checkout's images, linked where that is possible."""

    def make(name: str) -> Path:
        state = tmp_path_factory.mktemp(name)
        images = ROOT / ".localcloud" / "images"
        if images.is_dir():
            for how in ("--link", "--reflink=auto"):  # links do not cross file systems
                copy = ["cp", "--archive", how, str(images), str(state)]
                if subprocess.run(copy, capture_output=True, check=False).returncode == 0:
                    break
        return state

    return make


@pytest.fixture(scope="session")
def cloud(new_state: Callable[[str], Path]) -> Iterator[LocalCloud]:
    with running(new_state("cloud")) as local_cloud:
        yield local_cloud


@contextlib.contextmanager
def running(state: Path) -> Iterator[LocalCloud]:
    local_cloud = LocalCloud(state)
    try:
        local_cloud.up()
        yield local_cloud
    finally:
        print(local_cloud.cloud.log.read_text())
        local_cloud.down("--purge")
