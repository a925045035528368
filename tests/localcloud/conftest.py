"""Local clouds of the tests' own: they run beside the checkout's, and share only its base image."""

import contextlib
import ipaddress
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from localcloud.cloud import Cloud

ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count(1)  # of groups; a name is never used twice
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

    def forward(self, seconds: int) -> None:
        """Let time pass for the groups, without waiting for it."""
        done = self.command("forward", str(seconds))
        assert done.returncode == 0, done.stderr

    def diskless(self) -> str:
        """An image without a file system: its instances have no machine, and cost nothing."""
        name = "diskless"
        found = self.ec2.describe_images(Filters=[{"Name": "name", "Values": [name]}])["Images"]
        return str(
            found[0]["ImageId"]
            if found
            else self.ec2.copy_image(
                SourceImageId=self.base(), SourceRegion="us-east-1", Name=name
            )["ImageId"]
        )

    def reachable(self, address: str) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=1):
            return True
        return False


class Group:
    """An auto-scaling group over all zones, with short names for what tests ask and do."""

    def __init__(self, cloud: LocalCloud, name: str, **options: Any) -> None:
        self.cloud = cloud
        self.api = cloud.autoscaling
        self.name = name
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "role", "Value": "web"}]}]
        self.data = {
            "ImageId": options.pop("image", "") or cloud.diskless(),
            "InstanceType": "t3.small",
            "KeyName": "key",
            "TagSpecifications": tags,
        }
        self.template = cloud.ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData=self.data
        )["LaunchTemplate"]["LaunchTemplateId"]
        template = {"LaunchTemplateId": self.template, "Version": options.pop("version", "$Latest")}
        settings = {
            "MinSize": 0,
            "MaxSize": 6,
            "DesiredCapacity": 3,
            "VPCZoneIdentifier": ",".join(cloud.subnets),
            "Tags": [{"Key": "fleet", "Value": "superset", "PropagateAtLaunch": True}],
        }
        self.api.create_auto_scaling_group(
            AutoScalingGroupName=name, LaunchTemplate=template, **settings | options
        )

    def describe(self) -> dict[str, Any]:
        groups = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        group: dict[str, Any] = groups["AutoScalingGroups"][0]
        return group

    def members(self, state: str = "") -> list[dict[str, Any]]:
        members: list[dict[str, Any]] = self.describe()["Instances"]
        return [member for member in members if state in ("", member["LifecycleState"])]

    def names(self, state: str = "") -> list[str]:
        return [member["InstanceId"] for member in self.members(state)]

    def states(self) -> dict[str, int]:
        return dict(Counter(member["LifecycleState"] for member in self.members()))

    def versions(self) -> list[str]:
        return sorted(member["LaunchTemplate"]["Version"] for member in self.members())

    def zones(self) -> list[int]:
        return sorted(Counter(member["AvailabilityZone"] for member in self.members()).values())

    def scale(self, count: int) -> None:
        self.api.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=count)

    def new_version(self) -> str:
        made = self.cloud.ec2.create_launch_template_version(
            LaunchTemplateId=self.template, LaunchTemplateData=self.data
        )
        return str(made["LaunchTemplateVersion"]["VersionNumber"])

    def hook(self, name: str, transition: str, **options: Any) -> None:
        self.api.put_lifecycle_hook(
            AutoScalingGroupName=self.name,
            LifecycleHookName=name,
            LifecycleTransition=f"autoscaling:EC2_INSTANCE_{transition}",
            **options,
        )

    def complete(
        self, hook: str, instance_id: str = "", result: str = "CONTINUE", **by: str
    ) -> None:
        self.api.complete_lifecycle_action(
            AutoScalingGroupName=self.name,
            LifecycleHookName=hook,
            LifecycleActionResult=result,
            **({"InstanceId": instance_id} if instance_id else by),
        )

    def beat(self, hook: str, instance_id: str) -> None:
        self.api.record_lifecycle_action_heartbeat(
            AutoScalingGroupName=self.name, LifecycleHookName=hook, InstanceId=instance_id
        )

    def activities(self, **options: Any) -> list[dict[str, Any]]:
        """The newest first."""
        told = self.api.describe_scaling_activities(AutoScalingGroupName=self.name, **options)
        activities: list[dict[str, Any]] = told["Activities"]
        return activities

    def remove(self) -> None:
        with contextlib.suppress(ClientError):  # the test has removed it
            self.api.delete_auto_scaling_group(AutoScalingGroupName=self.name, ForceDelete=True)
        self.cloud.ec2.delete_launch_template(LaunchTemplateId=self.template)


@pytest.fixture
def new_group(cloud: LocalCloud) -> Iterator[Callable[..., Group]]:
    made: list[Group] = []

    def make(**options: Any) -> Group:
        made.append(Group(cloud, f"group-{next(NUMBERS)}", **options))
        return made[-1]

    yield make
    for group in made:
        group.remove()


@pytest.fixture
def group(new_group: Callable[..., Group]) -> Group:
    return new_group()


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make state directories with the checkout's images, linked where that is possible."""

    def make(name: str) -> Path:
        state = tmp_path_factory.mktemp(name)
        images = ROOT / ".localcloud" / "images"
        (state / "images/layers").mkdir(parents=True)
        # What is being made has mounts within, and is nobody's yet.
        layers = [path for path in images.glob("layers/*") if not path.name.startswith("new-")]
        for paths, target in ((layers, "images/layers"), ([*images.glob("ami-*.json")], "images")):
            for how in ("--link", "--reflink=auto"):  # links do not cross file systems
                copy = ["cp", "--archive", how, *map(str, paths), str(state / target)]
                if paths and subprocess.run(copy, capture_output=True, check=False).returncode == 0:
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
