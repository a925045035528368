"""The inventory plugin: the fleet in, hosts and groups out; a failure is one error, never less."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from asg import groups_of, safe, variables_of

from superset_fleet.cloud import discovery
from superset_fleet.cloud.client import AwsError
from superset_fleet.cloud.discovery import Answer, Cloud, Instance, discover
from superset_fleet.cloud.groups import Group
from superset_fleet.control.ask import ROOT
from superset_fleet.roles import ROLES
from tests.support.aws_server import Aws, Reply, autoscaling_error, ec2_error, serve


def member(state: str = "InService", healthy: bool = True) -> Instance:
    return Instance("i-1", "superset_web", "fleet-web", "10.0.0.1", "eu-central-1a", state, healthy)


@pytest.mark.parametrize(
    ("state", "lifecycle"),
    [
        ("InService", "in_service"),
        ("Pending", "pending"),
        ("Pending:Wait", "pending"),
        ("Terminating:Wait", "terminating"),
        ("Terminating:Proceed", "terminating"),
        ("Terminated", "terminating"),
        ("Detaching", "terminating"),
        ("EnteringStandby", "standby"),
        ("Standby", "standby"),
        ("Warmed:Stopped", "standby"),
        ("SomethingNew", "standby"),
        ("running", "in_service"),
        ("pending", "pending"),
        ("stopping", "standby"),
        ("stopped", "standby"),
        ("shutting-down", "terminating"),
    ],
)
def test_every_state_has_a_lifecycle_group(state: str, lifecycle: str) -> None:
    assert member(state).lifecycle == lifecycle
    assert ("superset_web" in groups_of(member(state))) == (lifecycle == "in_service")


def test_a_member_is_in_the_groups_of_its_role_state_zone_and_auto_scaling_group() -> None:
    assert sorted(groups_of(member())) == [
        "asg_fleet_web",
        "in_service",
        "superset_web",
        "zone_eu_central_1a",
    ]


def test_an_unhealthy_member_is_not_in_the_group_of_its_role() -> None:
    assert sorted(groups_of(member(healthy=False))) == [
        "asg_fleet_web",
        "in_service",
        "unhealthy",
        "zone_eu_central_1a",
    ]


def test_only_members_have_a_lifecycle_state() -> None:
    variables = {"ansible_host": "10.0.0.1", "private_address": "10.0.0.1", "zone": "eu-central-1a"}
    assert variables_of(member()) == variables | {"lifecycle_state": "InService"}
    assert variables_of(member()._replace(group=None)) == variables


def test_group_names_are_what_ansible_takes() -> None:
    assert safe("fleet-web.blue é") == "fleet_web_blue__"


def test_an_auto_scaling_group_without_role_is_an_error() -> None:
    with pytest.raises(AwsError, match="auto-scaling group web has no tag `role`: add it"):
        Group("web", {}, 0, 0, 0, ()).role  # noqa: B018  (to read it is the test)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with serve() as server:
        yield server


@pytest.fixture
def cloud(aws: Aws, tmp_path: Path) -> Cloud:
    config_file = aws.write_config(tmp_path / "aws.ini")
    return Cloud(["us-east-1"], "superset", list(ROLES), config_file=config_file)


def tags(**values: str) -> list[dict[str, Any]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def add_plain(aws: Aws, role: str, fleet: str = "superset", region: str = "us-east-1") -> str:
    ec2 = aws.client("ec2", region)
    made = ec2.run_instances(
        ImageId=ec2.register_image(Name=f"image of {fleet} {role}")["ImageId"],
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags(fleet=fleet, role=role)}],
    )
    return str(made["Instances"][0]["InstanceId"])


def add_group(aws: Aws, role: str, size: int, name: str = "", region: str = "us-east-1") -> None:
    ec2, name = aws.client("ec2", region), name or f"fleet-{role}"
    if not ec2.describe_launch_templates()["LaunchTemplates"]:
        image = ec2.register_image(Name="image of the groups")["ImageId"]
        data = {"ImageId": image, "InstanceType": "t3.micro"}
        ec2.create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)
    aws.client("autoscaling", region).create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        MaxSize=9,
        DesiredCapacity=size,
        AvailabilityZones=[f"{region}a"],
        LaunchTemplate={"LaunchTemplateName": "template", "Version": "1"},
        Tags=[
            tag
            | {
                "PropagateAtLaunch": True,
                "ResourceId": name,
                "ResourceType": "auto-scaling-group",
            }
            for tag in tags(fleet="superset", role=role)
        ],
    )


def instances(answers: list[Answer]) -> list[Instance]:
    return [instance for answer in answers for instance in answer.instances]


def roles(answers: list[Answer]) -> list[str]:
    return sorted(instance.role for instance in instances(answers))


def test_finds_members_and_plain_instances_of_its_own_fleet(
    aws: Aws, cloud: Cloud, tmp_path: Path
) -> None:
    add_group(aws, "superset_web", 2)
    add_plain(aws, "redis")
    add_plain(aws, "redis", fleet="another")
    found = discover(cloud, tmp_path)
    assert roles(found) == ["redis", "superset_web", "superset_web"]
    assert all(re.fullmatch(r"[\d.]+", one.address) for one in instances(found))


def test_two_calls_when_every_member_is_known(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    add_group(aws, "superset_web", 2)
    add_plain(aws, "redis")
    cold = discover(cloud, tmp_path)
    aws.calls.clear()
    assert discover(cloud, tmp_path) == cold
    assert aws.calls == ["DescribeAutoScalingGroups", "DescribeInstances"]


def test_only_the_addresses_of_newcomers_are_asked_for(
    aws: Aws, cloud: Cloud, tmp_path: Path
) -> None:
    add_group(aws, "superset_web", 2)
    before = {one.id for one in instances(discover(cloud, tmp_path))}
    asked: list[str] = []

    def listen(operation: str, request: dict[str, str], answer: Callable[[], Reply]) -> Reply:
        if request.get("Filter.1.Name") == "instance-id":
            asked.extend(v for k, v in request.items() if k.startswith("Filter.1.Value"))
        return answer()

    aws.reply = listen
    scaling = aws.client("autoscaling")
    scaling.set_desired_capacity(AutoScalingGroupName="fleet-superset_web", DesiredCapacity=3)
    after = {one.id for one in instances(discover(cloud, tmp_path))}
    assert len(after) == 3
    assert set(asked) == after - before


def test_what_is_gone_is_forgotten(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    add_group(aws, "superset_web", 2)
    discover(cloud, tmp_path)
    scaling = aws.client("autoscaling")
    scaling.set_desired_capacity(AutoScalingGroupName="fleet-superset_web", DesiredCapacity=1)
    (left,) = instances(discover(cloud, tmp_path))
    (kept,) = tmp_path.glob("superset-us-east-1-*.json")
    assert [row[0] for row in json.loads(kept.read_text())["instances"]] == [left.id]
    assert list(tmp_path.glob(".superset-*")) == []


def test_an_unreadable_memory_is_no_memory(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    add_group(aws, "superset_web", 1)
    cold = discover(cloud, tmp_path)
    (kept,) = tmp_path.glob("superset-us-east-1-*.json")
    kept.write_text('{"instances": [["i-1"]]}')
    assert discover(cloud, tmp_path) == cold


def test_every_page_is_read(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    add_group(aws, "superset_web", 0, name="first")
    add_group(aws, "celery_worker", 1, name="last")

    def reply(operation: str, request: dict[str, str], answer: Callable[[], Reply]) -> Reply:
        if operation == "DescribeAutoScalingGroups" and "NextToken" not in request:
            _, text = answer()  # as if the page ended after the group `first`
            groups = re.compile("<AutoScalingGroups>.*</AutoScalingGroups>", re.DOTALL)
            return 200, groups.sub("<AutoScalingGroups/><NextToken>first</NextToken>", text)
        return answer()

    aws.reply = reply
    assert roles(discover(cloud, tmp_path)) == ["celery_worker"]


def test_a_role_with_a_group_consists_of_the_members_alone(
    aws: Aws, cloud: Cloud, tmp_path: Path
) -> None:
    add_group(aws, "superset_web", 0)
    add_plain(aws, "superset_web")
    assert roles(discover(cloud, tmp_path)) == []


def test_a_stopped_plain_instance_stands_by(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    identity = add_plain(aws, "redis")
    aws.client("ec2").stop_instances(InstanceIds=[identity])
    (one,) = instances(discover(cloud, tmp_path))
    assert (one.lifecycle, one.able) == ("standby", False)


def test_a_terminated_plain_instance_is_gone(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    identity = add_plain(aws, "redis")
    aws.client("ec2").terminate_instances(InstanceIds=[identity])
    assert discover(cloud, tmp_path) == [Answer("us-east-1", [], [])]


def without_newcomers(times: int) -> Callable[[str, dict[str, str], Callable[[], Reply]], Reply]:
    """Return a reply of an EC2 that does not know newcomers, the first so many times."""
    left = iter(range(times))

    def reply(operation: str, request: dict[str, str], answer: Callable[[], Reply]) -> Reply:
        if request.get("Filter.1.Name") == "instance-id" and next(left, None) is not None:
            return 200, "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
        return answer()

    return reply


def test_a_newcomer_that_ec2_does_not_know_yet_is_asked_for_again(
    aws: Aws, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "DELAYS", (0.01, 0.01))
    add_group(aws, "superset_web", 1)
    aws.reply = without_newcomers(2)
    assert roles(discover(cloud, tmp_path)) == ["superset_web"]


def test_a_newcomer_that_ec2_never_knows_is_an_error(
    aws: Aws, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "DELAYS", (0.01, 0.01))
    add_group(aws, "superset_web", 1)
    aws.reply = without_newcomers(3)
    with pytest.raises(AwsError, match=r"EC2 has no address for i-\w+, .* named it: run again"):
        discover(cloud, tmp_path)


def test_a_member_that_leaves_and_has_no_address_is_named_in_a_warning(
    aws: Aws, cloud: Cloud, tmp_path: Path
) -> None:
    add_group(aws, "superset_web", 1)
    forget = without_newcomers(1)

    def reply(operation: str, request: dict[str, str], answer: Callable[[], Reply]) -> Reply:
        status, text = forget(operation, request, answer)
        return status, text.replace("InService", "Terminating:Proceed")

    aws.reply = reply
    (answer,) = discover(cloud, tmp_path)
    assert answer.instances == []
    assert re.search(r"i-\w+ \(Terminating:Proceed\) has no address", answer.warnings[0])


def test_regions_are_read_together(aws: Aws, cloud: Cloud, tmp_path: Path) -> None:
    add_group(aws, "superset_web", 1)
    add_group(aws, "superset_web", 2, region="eu-west-1")
    found = discover(cloud._replace(regions=["eu-west-1", "us-east-1"]), tmp_path)
    assert [(one.region, len(one.instances)) for one in found] == [
        ("eu-west-1", 2),
        ("us-east-1", 1),
    ]


def test_one_region_that_fails_is_an_error_for_all(
    aws: Aws, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_group(aws, "superset_web", 1)
    regions = cloud._replace(regions=["us-east-1", "eu west 1"])
    with pytest.raises(AwsError, match="correct option regions"):
        discover(regions, tmp_path)


# The command, as its users see it


class Run(NamedTuple):
    """What ansible-inventory did."""

    code: int
    inventory: dict[str, Any]
    errors: str


class Source:
    """An inventory source of its own, and the real command to read it."""

    def __init__(self, aws: Aws, directory: Path) -> None:
        self.path = directory / "fleet.asg.yml"
        self.options: dict[str, Any] = {
            "plugin": "asg",
            "environment": "local",
            "regions": ["us-east-1"],
            "config_file": aws.write_config(directory / "aws.ini").name,
            "cache_path": "cache",
        }

    def read(self, **environment: str) -> Run:
        self.path.write_text(yaml.safe_dump(self.options))
        program = Path(sys.executable).with_name("ansible-inventory")
        command = [str(program), "-i", str(self.path), "--list"]
        mine = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "AWS_MAX_ATTEMPTS": "1"}
        taken = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            command, env=taken | mine | environment, capture_output=True, text=True
        )
        inventory = json.loads(done.stdout) if done.returncode == 0 else {}
        return Run(done.returncode, inventory, done.stderr)

    def error(self, **environment: str) -> str:
        """Return the one line that the command ends with."""
        run = self.read(**environment)
        assert run.code != 0
        (line,) = run.errors.strip().splitlines()
        prefix = f"[ERROR]: {self.path}: "
        assert line.startswith(prefix)
        return line.removeprefix(prefix)


@pytest.fixture
def source(aws: Aws, tmp_path: Path) -> Source:
    return Source(aws, tmp_path)


def test_groups_exist_when_empty(source: Source) -> None:
    run = source.read()
    children = set(run.inventory["all"]["children"])
    assert {"fleet", "in_service", "pending", "terminating", "standby", "unhealthy"} <= children
    assert set(run.inventory["fleet"]["children"]) == set(ROLES)
    assert run.inventory["cloud"] == {"children": ["local"]}


def test_hosts_groups_and_variables(aws: Aws, source: Source, tmp_path: Path) -> None:
    add_group(aws, "superset_web", 2)
    identity = add_plain(aws, "redis")
    run = source.read()
    assert run.code == 0
    assert run.errors == ""
    assert len(run.inventory["superset_web"]["hosts"]) == 2
    assert run.inventory["asg_fleet_superset_web"] == run.inventory["superset_web"]
    assert run.inventory["redis"]["hosts"] == [identity]
    machines = {identity, *run.inventory["superset_web"]["hosts"]}
    assert {*run.inventory["local"]["hosts"]} == {"localhost", *machines}
    assert run.inventory["_meta"]["hostvars"]["localhost"]["ansible_connection"] == "local"
    variables = run.inventory["_meta"]["hostvars"][identity]
    assert variables["ansible_host"] == variables["private_address"]
    assert variables["fleet_environment"] == "local"
    assert variables["fleet_name"] == "superset"
    assert variables["fleet_region"] == "us-east-1"
    assert variables["fleet_aws_config_file"] == str(tmp_path / "aws.ini")


def test_a_terminating_instance_leaves_the_group_of_its_role(aws: Aws, source: Source) -> None:
    add_group(aws, "superset_web", 2)
    before = source.read().inventory["superset_web"]["hosts"]

    def reply(operation: str, request: dict[str, str], answer: Callable[[], Reply]) -> Reply:
        status, text = answer()
        return status, text.replace("InService", "Terminating:Wait", 1)

    aws.reply = reply
    after = source.read().inventory
    assert set(after["superset_web"]["hosts"]) | set(after["terminating"]["hosts"]) == set(before)
    assert len(after["terminating"]["hosts"]) == 1


def throttled_page(operation: str, request: dict[str, str], answer: Callable[[], Reply]) -> Reply:
    """Throttle the second call."""
    if operation == "DescribeInstances":
        return ec2_error("RequestLimitExceeded", "Request limit exceeded.", 503)
    return answer()


def test_a_throttled_call_fails_the_run(aws: Aws, source: Source) -> None:
    add_group(aws, "superset_web", 1)
    aws.reply = throttled_page
    assert source.error() == (
        f"region us-east-1 at {aws.endpoint_url}: DescribeInstances: Request limit exceeded "
        "(RequestLimitExceeded): AWS throttles this account; run again in a minute"
    )


def test_the_last_good_answer_is_taken_where_asked_for(aws: Aws, source: Source) -> None:
    add_group(aws, "superset_web", 2)
    source.options["on_failure"] = "last_good"
    good = source.read()
    aws.reply = throttled_page
    run = source.read()
    assert run.code == 0
    assert run.inventory == good.inventory
    assert "USING THE LAST GOOD ANSWER" in run.errors.replace("\n", " ")


def test_without_a_last_good_answer_it_is_an_error(aws: Aws, source: Source) -> None:
    source.options["on_failure"] = "last_good"
    aws.reply = throttled_page
    assert "AWS throttles this account" in source.error()


def test_wrong_credentials(aws: Aws, source: Source) -> None:
    said = "The security token included in the request is invalid."
    aws.reply = lambda *_: autoscaling_error("InvalidClientTokenId", said, 403)
    assert source.error() == (
        f"region us-east-1 at {aws.endpoint_url}: DescribeAutoScalingGroups: {said[:-1]} "
        "(InvalidClientTokenId): renew the credentials, or name others by option profile"
    )


def test_no_credentials(source: Source, tmp_path: Path) -> None:
    del source.options["config_file"]
    assert source.error(HOME=str(tmp_path), AWS_EC2_METADATA_DISABLED="true") == (
        "region us-east-1: Unable to locate credentials: "
        "set AWS_PROFILE or option profile, or run `aws configure`"
    )


def test_a_missing_permission(aws: Aws, source: Source) -> None:
    aws.reply = lambda *_: autoscaling_error("AccessDenied", "User: x is not authorized", 403)
    assert source.error().endswith("allow the call in the policy of these credentials")


def test_an_unknown_profile(source: Source) -> None:
    source.options["profile"] = "nobody"
    assert "(nobody) could not be found: correct option profile" in source.error()


def test_an_unknown_region(source: Source) -> None:
    del source.options["config_file"]
    source.options["regions"] = ["us-eest-1"]
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert source.error(**keys) == (
        "region us-eest-1: botocore knows no such region: correct option regions"
    )


def test_an_endpoint_that_nobody_answers(source: Source, tmp_path: Path) -> None:
    config = tmp_path / "aws.ini"
    config.write_text(re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", config.read_text()))
    assert source.error().endswith('"http://127.0.0.1:1/": is the local cloud up (./fleet up)?')


def test_an_endpoint_that_is_not_aws(aws: Aws, source: Source) -> None:
    aws.reply = lambda *_: (200, "hello")
    assert source.error().endswith("is endpoint_url right?")


def test_a_missing_config_file(source: Source, tmp_path: Path) -> None:
    (tmp_path / "aws.ini").unlink()
    assert source.error() == (
        f"{tmp_path}/aws.ini is missing: the local cloud is not up: run ./fleet up"
    )


def test_a_mistyped_option(source: Source) -> None:
    source.options["region"] = "us-east-1"
    assert source.error().startswith("no such option: region; the options are cache_path, ")


def test_a_wrong_value(source: Source) -> None:
    source.options["on_failure"] = "ignore"
    assert "on_failure" in source.error()


def test_a_missing_package_is_told_with_its_remedy(source: Source, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "superset_fleet.py").write_text("raise ImportError('No superset_fleet')")
    assert source.error(PYTHONPATH=str(shadow)).endswith("run ./fleet, it makes the environment")


def test_other_names_are_left_to_other_plugins(source: Source) -> None:
    source.path = source.path.with_name("fleet.yml")
    run = source.read()
    assert run.code != 0
    assert "'asg'" not in run.errors


def test_what_the_manual_shows_can_be_read() -> None:
    program = Path(sys.executable).with_name("ansible-doc")
    command = [str(program), "-t", "inventory", "asg", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    manual = json.loads(done.stdout)["asg"]
    options = set(manual["doc"]["options"])
    for example in yaml.safe_load_all(manual["examples"]):
        assert set(example) <= options
    for source in ("local", "aws"):
        assert set(yaml.safe_load((ROOT / f"inventory/{source}.asg.yml").read_text())) <= options


def test_a_static_inventory_has_the_same_roles_and_addresses() -> None:
    program = Path(sys.executable).with_name("ansible-inventory")
    command = [str(program), "-i", "inventory/static.example.yml", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    inventory = json.loads(done.stdout)
    assert set(inventory["fleet"]["children"]) == set(ROLES)
    machines = inventory["_meta"]["hostvars"].values()
    assert len(machines) == 9
    assert all("private_address" in machine for machine in machines)
