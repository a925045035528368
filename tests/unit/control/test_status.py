"""`fleet status`: what the cloud, HAProxy and the workers say, in one form and on one screen."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from superset_fleet.control import status
from superset_fleet.control.status import Host, Inventory, NotAnswered
from tests.support.aws_server import REGION, Aws, Reply, ec2_error, serve

# What HAProxy 2.6 says, less the columns that nobody reads.
STATISTICS = """\
# pxname,svname,scur,stot,status,check_status,check_code,last_chk,addr,
users,FRONTEND,3,45,OPEN,,,,,
superset_web,i-1,2,17,UP,L7OK,200,,,
superset_web,i-2,0,4,DOWN,L7STS,503,Service Unavailable,,
superset_web,i-3,1,9,DRAIN,L7OK,200,,,
superset_web,BACKEND,3,30,UP,,,,,
stats,BACKEND,1,1,UP,,,,,
"""


@pytest.fixture
def haproxy() -> Iterator[Host]:
    """The statistics page of a HAProxy, for user admin with password secret."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "Basic YWRtaW46c2VjcmV0"
            self.send_response(200 if known and self.path == "/;csv" else 401)
            self.end_headers()
            self.wfile.write(STATISTICS.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Host("haproxy-1", "127.0.0.1", ["haproxy"], [server.server_port, "admin", "secret"])
    server.shutdown()
    server.server_close()


@pytest.fixture
def aws() -> Iterator[Aws]:
    with serve() as server:
        yield server


def strict(operation: str, parameters: dict[str, str], answer: Callable[[], Reply]) -> Reply:
    """Refuse to describe removed images by name, as EC2 does and moto does not."""
    if operation == "DescribeImages" and "ImageId.1" in parameters:
        return ec2_error("InvalidAMIID.Unavailable", "The image is not available")
    return answer()


def instance(name: str, role: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "role": role,
        "group": f"superset-{role}",
        "state": "InService",
        "healthy": True,
        "address": "10.0.0.7",
        "zone": "us-east-1a",
        "image": "superset-2",
        "version": "6.1.0",
        "since": "2026-11-22T22:49:26Z",
    } | changes


def worker(**changes: Any) -> dict[str, Any]:
    return {
        "name": "worker@ip-10-0-0-7#1a2b3c4d",
        "queues": ["sql_lab"],
        "slots": 2,
        "tasks": 1,
        "draining": False,
        "stuck_seconds": 0.0,
        "silent": False,
        "silent_seconds": 0.4,
    } | changes


def state(**changes: Any) -> dict[str, Any]:
    return {
        "fleet": "superset",
        "environment": "aws",
        "at": "2026-11-22T23:15:23Z",
        "groups": [],
        "instances": [],
        "events": [],
        "haproxy": {},
        "workers": [],
        "queues": [],
        "scaling": None,
        "gaps": [],
    } | changes


def marked(shown: str) -> list[str]:
    """Return the first words of the lines that need a look."""
    return [line.split()[1] for line in shown.splitlines() if line.startswith("!")]


def test_haproxy_tells_how_its_servers_are(haproxy: Host) -> None:
    assert status.ask_haproxy(haproxy) == {
        "i-1": {"state": "up", "check": "L7OK 200", "requests": 2, "served": 17},
        "i-2": {
            "state": "down",
            "check": "L7STS 503 Service Unavailable",
            "requests": 0,
            "served": 4,
        },
        "i-3": {"state": "drain", "check": "L7OK 200", "requests": 1, "served": 9},
    }


def test_a_haproxy_that_does_not_answer_is_named_with_what_to_do(haproxy: Host) -> None:
    wrong = haproxy._replace(statistics=[haproxy.statistics[0], "admin", "other"])
    with pytest.raises(NotAnswered, match=r"HAProxy on haproxy-1 .*fleet_control"):
        status.ask_haproxy(wrong)
    with pytest.raises(NotAnswered, match="refused"):
        status.ask_haproxy(haproxy._replace(statistics=[1, "admin", "secret"]))


def test_the_cloud_tells_groups_instances_and_images_also_of_removed_ones(
    aws: Aws, tmp_path: Path
) -> None:
    ec2, scaling = aws.client("ec2"), aws.client("autoscaling")
    run = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)
    builder = run["Instances"][0]["InstanceId"]
    image = ec2.create_image(InstanceId=builder, Name="superset-20261122-213203")["ImageId"]
    ec2.create_tags(Resources=[image], Tags=[{"Key": "superset_version", "Value": "6.1.0"}])
    ec2.terminate_instances(InstanceIds=[builder])
    ours = {"Key": "fleet", "Value": "superset"}
    ec2.create_tags(Resources=[builder], Tags=[ours])
    scaling.create_launch_configuration(
        LaunchConfigurationName="web", ImageId=image, InstanceType="t3.small"
    )
    scaling.create_auto_scaling_group(
        AutoScalingGroupName="superset-superset_web",
        LaunchConfigurationName="web",
        AvailabilityZones=[f"{REGION}a"],
        MinSize=1,
        DesiredCapacity=2,
        MaxSize=4,
        Tags=[
            tag | {"PropagateAtLaunch": True}
            for tag in (ours, {"Key": "role", "Value": "superset_web"})
        ],
    )
    config = aws.write_config(tmp_path / "aws.ini")
    said = status.ask_cloud(Inventory([], "superset", REGION, str(config), "aws"))
    assert said["groups"] == [
        {
            "name": "superset-superset_web",
            "role": "superset_web",
            "min": 1,
            "desired": 2,
            "max": 4,
            "in_service": 2,
        }
    ]
    assert len(said["instances"]) == 2
    for one in said["instances"]:
        assert one["role"] == "superset_web"
        assert (one["state"], one["healthy"]) == ("InService", True)
        assert (one["image"], one["version"]) == ("superset-20261122-213203", "6.1.0")
    ec2.deregister_image(ImageId=image)
    aws.reply = strict
    said = status.ask_cloud(Inventory([], "superset", REGION, str(config), "aws"))
    assert {one["image"] for one in said["instances"]} == {image}, "a removed image has its id"


def test_events_are_the_newest_of_all_groups_with_their_reason() -> None:
    cause = (
        "At 2026-11-22T22:49:28Z a user request changed the desired capacity from 0 to 2.  "
        "At 2026-11-22T22:49:28Z an instance was started."
    )
    newest, *_ = status.events_of(
        {
            "StartTime": datetime(2026, 11, 22, 22, minute, tzinfo=UTC),
            "AutoScalingGroupName": "superset-scheduler",
            "Description": "Launching a new EC2 instance: i-1",
            "StatusCode": "Successful",
            "Cause": cause,
        }
        for minute in range(20)
    )
    assert newest["at"] == "2026-11-22T22:19:00Z"
    assert newest["why"] == "a user request changed the desired capacity from 0 to 2"


def test_a_fleet_that_is_well_has_no_marks() -> None:
    up = {"state": "up", "check": "L7OK 200", "requests": 3}
    web, other = instance("i-1", "superset_web"), instance("i-2", "celery_worker")
    shown = status.screen(
        state(
            instances=[other, web, instance("i-3", "redis", group=None, state="running")],
            haproxy={"haproxy-1": {"i-1": up}, "haproxy-2": {"i-1": up}},
            workers=[worker()],
            queues=[{"name": "sql_lab", "waiting": 0, "taken": 1, "workers": 1, "slots": 2}],
        )
    )
    assert not marked(shown)
    assert shown.index("up, 3 requests") < shown.index("1 of 2 slots busy")
    assert shown.startswith("fleet superset (aws) 2026-11-22T23:15:23Z")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instances": [instance("i-1", "superset_web")]}, "?"),
        (
            {"instances": [instance("i-1", "superset_web")], "haproxy": {"haproxy-1": {}}},
            "not in HAProxy",
        ),
        (
            {
                "instances": [instance("i-1", "superset_web")],
                "haproxy": {
                    "haproxy-1": {"i-1": {"state": "down", "check": "L7STS 503", "requests": 0}}
                },
            },
            "down (L7STS 503)",
        ),
        ({"instances": [instance("i-1", "celery_worker")]}, "no worker heard"),
        (
            {
                "instances": [instance("i-1", "celery_worker")],
                "workers": [worker(silent=True, silent_seconds=8.8)],
            },
            "silent for 9 s",
        ),
        (
            {
                "instances": [instance("i-1", "celery_worker")],
                "workers": [worker(draining=True)],
            },
            "draining, 1 of 2 slots busy",
        ),
        (
            {
                "instances": [instance("i-1", "celery_worker")],
                "workers": [worker(stuck_seconds=8.8)],
            },
            "stuck for 9 s",
        ),
        ({"instances": [instance("i-1", "scheduler", healthy=False)]}, "InService, unhealthy"),
        (
            {"instances": [instance("i-1", "scheduler", state="Terminating:Wait")]},
            "Terminating:Wait",
        ),
        (
            {
                "instances": [
                    instance("i-1", "scheduler", image="superset-1"),
                    instance("i-2", "scheduler"),
                ]
            },
            "superset-1 (older)",
        ),
    ],
)
def test_an_instance_that_needs_a_look_is_marked_and_says_why(
    changes: dict[str, Any], words: str
) -> None:
    shown = status.screen(state(**changes))
    assert marked(shown) == ["i-1"]
    assert words in shown


def test_groups_that_lack_machines_and_queues_without_workers_are_marked() -> None:
    group = {"name": "superset-web", "in_service": 1, "desired": 2, "min": 1, "max": 4}
    assert marked(status.screen(state(groups=[group], queues=[EMPTY]))) == [
        "superset-web",
        "sql_lab",
    ]


EMPTY = {"name": "sql_lab", "waiting": 3, "taken": 0, "workers": 0, "slots": 0}


def scaled(**changes: Any) -> dict[str, Any]:
    """What a scaler says that has just asked for a first machine."""
    group = {
        "name": "superset-celery_worker",
        "queues": ["sql_lab"],
        "desired": 1,
        "wanted": 1,
        "why": "0 → 1: 3 wait",
        "obstacle": "",
        "refused": "",
        "changed": None,
    }
    said = {"scaler": "vm-1", "silent_seconds": 1.0, "trouble": "", "hold": None}
    return {**said, "groups": [group | changes]}


def test_a_queue_whose_first_worker_would_be_started_is_not_marked() -> None:
    shown = status.screen(state(queues=[EMPTY], scaling=scaled()))
    assert not marked(shown)
    assert "superset-celery_worker: 0 → 1: 3 wait" in shown
    assert ["sql_lab", "3", "0", "0", "0", "superset-celery_worker", "1"] in [
        line.split() for line in shown.splitlines()
    ]


def test_a_queue_whose_first_worker_is_not_started_is_marked_with_the_reason() -> None:
    shown = status.screen(state(queues=[EMPTY], scaling=scaled(desired=0, obstacle="held: night")))
    assert marked(shown) == ["sql_lab", "superset-celery_worker:"]
    assert "not done: held: night" in shown


def test_who_did_not_answer_is_said_above_the_rest() -> None:
    shown = status.screen(state(gaps=["HAProxy on haproxy-1: refused"]))
    assert "! not known: HAProxy on haproxy-1: refused" in shown


def test_machines_that_no_cloud_has_are_shown_as_the_inventory_has_them() -> None:
    hosts = [Host("vm-1", "192.0.2.1", ["celery_worker", "superset_web"], [])]
    up = {"vm-1": {"state": "up", "check": "L7OK 200", "requests": 0}}
    shown = status.screen(
        state(environment="", fleet="", instances=status.plain_machines(hosts), haproxy={"lb": up})
    )
    assert not marked(shown)
    assert "superset_web 1, celery_worker 1" in shown


def test_machines_have_the_numbers_that_ssh_knows_them_by_and_who_takes_no_work_has_none() -> None:
    instances = [
        instance("i-3", "superset_web"),
        instance("i-1", "superset_web", state="Terminating:Wait"),
        instance("i-4", "superset_web", healthy=False),
        instance("i-2", "superset_web"),
        instance("i-0", "redis", group=None, state="running"),
    ]
    assert status.name_instances(instances) == {
        "i-2": "superset_web 1",
        "i-3": "superset_web 2",
        "i-1": "superset_web",
        "i-4": "superset_web",
        "i-0": "redis 1",
    }
    assert re.findall(r"superset_web( \d)?  ", status.screen(state(instances=instances))) == [
        " 1",
        " 2",
        "",
        "",
    ]
