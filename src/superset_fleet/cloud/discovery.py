"""Who belongs to the fleet right now: members of its auto-scaling groups and plain instances.

Membership, lifecycle and health are read from AWS every time. An instance's address never changes
while it lives, so the last answer is kept, and only the addresses of newcomers are asked for: a
fleet whose members are known costs one DescribeAutoScalingGroups per 100 groups and one
DescribeInstances for the plain instances.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ..files import replace
from . import client as aws
from .groups import Group, groups, lifecycle_of

VALUES = 200  # the most values that EC2 takes in one filter
DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds; EC2 knows an instance a moment after its group does


class Instance(NamedTuple):
    """One instance of the fleet, as of now."""

    id: str
    role: str
    group: str | None  # name of its auto-scaling group; None for a plain instance
    address: str  # private
    zone: str
    state: str  # LifecycleState of a member, state of a plain instance
    healthy: bool

    @property
    def lifecycle(self) -> str:
        """in_service, pending, terminating or standby."""
        return lifecycle_of(self.state)

    @property
    def able(self) -> bool:
        """Whether it can take work."""
        return self.healthy and self.lifecycle == "in_service"


class Answer(NamedTuple):
    """What one region said."""

    region: str
    instances: list[Instance]
    warnings: list[str]


class Cloud(NamedTuple):
    """Where to read: empty fields leave the choice to the AWS configuration."""

    regions: list[str]
    fleet: str
    roles: list[str]
    endpoint_url: str | None = None
    config_file: Path | None = None
    profile: str | None = None


class LastAnswer:
    """The last answer of one region, in a file: source of known addresses and of last resort."""

    def __init__(self, directory: Path, cloud: Cloud, region: str) -> None:
        where = [cloud.endpoint_url, str(cloud.config_file), cloud.profile]
        key = hashlib.sha256(json.dumps(where).encode()).hexdigest()[:8]
        self.path = directory / f"{cloud.fleet}-{region}-{key}.json"
        self.instances: list[Instance] = []
        self.read_at = 0.0  # seconds since the epoch; 0: never
        try:
            kept = json.loads(self.path.read_text())
            self.instances = [Instance(*row) for row in kept["instances"]]
            self.read_at = kept["read_at"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or of another version: as good as none

    def keep(self, instances: list[Instance]) -> None:
        """Replace the kept answer, at once and for every reader."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(self.path, json.dumps({"read_at": time.time(), "instances": instances}))
        except OSError as error:
            raise aws.AwsError(
                f"cannot keep the answer in {self.path}: {error.strerror}: set option cache_path"
            ) from error


class Region:
    """One region of the fleet. Make it in the main thread, read it in any."""

    def __init__(self, session: Any, cloud: Cloud, name: str, memory: LastAnswer) -> None:
        self.cloud, self.name, self.memory = cloud, name, memory
        self.autoscaling, self.ec2 = (
            aws.client(session, service, name, cloud.endpoint_url)
            for service in ("autoscaling", "ec2")
        )

    def read(self) -> Answer:
        """Return the fleet's instances. Raises AwsError."""
        with aws.explained(self.name, self.autoscaling.meta.endpoint_url):
            found_groups = groups(self.autoscaling, fleet=self.cloud.fleet)
            known = {instance.id: instance.address for instance in self.memory.instances}
            found = [one for group in found_groups for one in instances_of_group(group)]
            leaving = {one.id for one in found if one.lifecycle == "terminating"}
            known |= self.addresses([one.id for one in found if one.id not in known], leaving)
            scaled = {group.role for group in found_groups}
            found = [one._replace(address=known.get(one.id, "")) for one in found]
            found += self.plain([role for role in self.cloud.roles if role not in scaled])
        gone = [one for one in found if not one.address]
        return Answer(
            self.name,
            sorted(one for one in found if one.address),
            [f"{one.id} ({one.state}) has no address any more: left out" for one in gone],
        )

    def addresses(self, ids: list[str], leaving: set[str]) -> dict[str, str]:
        """Return the private addresses of instances; those that leave may have none.

        Raises AwsError when EC2 does not know an instance that its group has, after retries.
        """
        known: dict[str, str] = {}
        for delay in (*DELAYS, None):
            missing = [one for one in ids if one not in known]
            for start in range(0, len(missing), VALUES):
                wanted = {"Name": "instance-id", "Values": missing[start : start + VALUES]}
                known |= {
                    one["InstanceId"]: one["PrivateIpAddress"]
                    for one in self.describe(wanted)
                    if "PrivateIpAddress" in one
                }
            missing = [one for one in ids if one not in known and one not in leaving]
            if not missing:
                return known
            if delay:
                time.sleep(delay)
        raise aws.AwsError(
            f"region {self.name}: EC2 has no address for {', '.join(missing)}, "
            f"{sum(DELAYS):g} s after its auto-scaling group named it: run again"
        )

    def plain(self, roles: list[str]) -> list[Instance]:
        """Return the instances of roles that have no auto-scaling group."""
        if not roles:
            return []
        found = []
        for one in self.describe(
            {"Name": "tag:fleet", "Values": [self.cloud.fleet]},
            {"Name": "tag:role", "Values": roles},
        ):
            state = one["State"]["Name"]
            if state == "terminated":
                continue  # EC2 still lists it for an hour
            role = next(tag["Value"] for tag in one["Tags"] if tag["Key"] == "role")
            zone = one["Placement"]["AvailabilityZone"]
            address = one.get("PrivateIpAddress", "")
            found.append(Instance(one["InstanceId"], role, None, address, zone, state, True))
        return found

    def describe(self, *filters: dict[str, Any]) -> Iterable[Any]:
        """Yield EC2's descriptions of the instances that pass every filter."""
        for page in aws.pages(self.ec2.describe_instances, Filters=list(filters), MaxResults=1000):
            for reservation in page.get("Reservations", ()):
                yield from reservation["Instances"]


def instances_of_group(group: Group) -> Iterable[Instance]:
    """Yield the members of an auto-scaling group, still without address."""
    for one in group.members:
        yield Instance(one.id, group.role, group.name, "", one.zone, one.state, one.healthy)


def discover(cloud: Cloud, directory: Path, last_good: bool = False) -> list[Answer]:
    """Read the whole fleet, every region at the same time, and keep the answers in directory.

    With last_good, a region that cannot be read is answered by what it said last, with a warning.

    Raises AwsError; then nothing was found out about any region.
    """
    with aws.explained(" ".join(cloud.regions) or "of the AWS configuration", cloud.endpoint_url):
        session = aws.session(cloud.config_file, cloud.profile)
        names = cloud.regions or [session.get_config_variable("region") or ""]
        if not all(names):
            raise aws.AwsError("no region: set option regions or AWS_REGION")
        memories = [LastAnswer(directory, cloud, name) for name in names]
        regions = [
            Region(session, cloud, name, memory)
            for name, memory in zip(names, memories, strict=True)
        ]

    def read(region: Region) -> Answer:
        try:
            answer = region.read()
        except aws.AwsError as error:
            memory = region.memory
            if not (last_good and memory.read_at):
                raise
            age = time.time() - memory.read_at
            warning = f"{error}. USING THE LAST GOOD ANSWER, {age:.0f} s old"
            return Answer(region.name, memory.instances, [warning])
        region.memory.keep(answer.instances)
        return answer

    if len(regions) == 1:
        return [read(regions[0])]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(read, regions))
