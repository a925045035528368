"""fleet-membership between an AWS played by moto and a real HAProxy; instances are web servers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from superset_fleet.cloud.client import AwsError
from superset_fleet.membership.daemon import (
    Figures,
    Instances,
    Membership,
    Settings,
    Sight,
    pause_after,
)
from superset_fleet.membership.haproxy import HAProxy, Server
from tests.support.aws_server import REGION, Aws, Reply, autoscaling_error, serve
from tests.support.haproxy_server import BACKEND, OPTIONS, Balancer, Load, Web, balancer
from tests.support.servers import free_port
from tests.support.waiting import until

GROUP = "superset-superset_web"


class Group:
    """An auto-scaling group whose instances have addresses of this machine's loopback."""

    def __init__(self, aws: Aws) -> None:
        self.aws, self.autoscaling, self.port = aws, aws.client("autoscaling"), free_port()
        self.webs: dict[str, Web] = {}
        ec2 = aws.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="127.80.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="127.80.0.0/20")["Subnet"]["SubnetId"]
        image = ec2.register_image(Name="image")["ImageId"]
        ec2.create_launch_template(
            LaunchTemplateName="web",
            LaunchTemplateData={"ImageId": image, "InstanceType": "t3.micro"},
        )
        tag = {"ResourceId": GROUP, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
        self.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=GROUP,
            MinSize=0,
            MaxSize=9,
            DesiredCapacity=0,
            LaunchTemplate={"LaunchTemplateName": "web", "Version": "1"},
            VPCZoneIdentifier=subnet,
            Tags=[
                tag | {"Key": "fleet", "Value": "superset"},
                tag | {"Key": "role", "Value": "superset_web"},
            ],
        )

    def scale(self, size: int) -> None:
        """Have so many instances, for each of which a web server runs."""
        self.autoscaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=size)
        for name, address in self.instances().items():
            if name not in self.webs:
                self.webs[name] = Web(address.partition(":")[0], self.port)

    def instances(self) -> dict[str, str]:
        """Return the group's instances, with their endpoints."""
        (group,) = self.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        ids = [one["InstanceId"] for one in group["Instances"]]
        if not ids:
            return {}
        found = self.aws.client("ec2").describe_instances(InstanceIds=ids)["Reservations"]
        return {
            one["InstanceId"]: f"{one['PrivateIpAddress']}:{self.port}"
            for reservation in found
            for one in reservation["Instances"]
        }


@pytest.fixture
def aws() -> Iterator[Aws]:
    with serve() as server:
        yield server


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path) as running:
        yield running


@pytest.fixture
def group(aws: Aws) -> Iterator[Group]:
    made = Group(aws)
    yield made
    for web in made.webs.values():
        web.hold.set()
        web.stop()


@pytest.fixture
def settings(aws: Aws, haproxy: Balancer, group: Group, tmp_path: Path) -> Settings:
    return Settings(
        region=REGION,
        backend=BACKEND,
        port=group.port,
        server_options=OPTIONS,
        probe_path="/ready",
        poll_seconds=0,
        socket=haproxy.socket,
        directory=str(tmp_path),
        aws_config_file=str(aws.write_config(tmp_path / "aws.ini")),
        metrics_port=haproxy.metrics_port,
    )


@pytest.fixture
def daemon(settings: Settings, haproxy: Balancer) -> Membership:
    return begin(settings, haproxy)


def begin(settings: Settings, haproxy: Balancer) -> Membership:
    instances = Instances(settings, Path(settings.aws_config_file))
    return Membership(settings, haproxy.api, instances.read)


def work_until(daemon: Membership, condition: Callable[[], object], what: str) -> None:
    def holds() -> object:
        daemon.step()
        return condition()

    until(holds, what)


def polled(daemon: Membership, result: str = "ok", times: int = 3) -> None:
    """Let the daemon ask AWS some more times."""
    enough = daemon.figures.polls[result] + times
    work_until(daemon, lambda: daemon.figures.polls[result] >= enough, f"AWS said {result}")


def settled(daemon: Membership, haproxy: Balancer, servers: dict[str, str]) -> None:
    work_until(daemon, lambda: haproxy.api.servers().keys() == servers.keys(), "as in the group")
    assert haproxy.in_use() == servers


# -- Members come and go --------------------------------------------------------------------------
def test_haproxy_follows_the_group(daemon: Membership, haproxy: Balancer, group: Group) -> None:
    for size in (2, 4, 3, 1):
        group.scale(size)
        settled(daemon, haproxy, group.instances())
        lines = [f"    server {name} {at}\n" for name, at in sorted(group.instances().items())]
        assert haproxy.servers_file.read_text() == "".join(lines)


def test_a_newcomer_gets_no_request_before_it_is_ready(
    daemon: Membership, haproxy: Balancer, group: Group
) -> None:
    group.scale(1)
    settled(daemon, haproxy, group.instances())
    first = set(group.webs)
    group.scale(2)
    (newcomer,) = (web for name, web in group.webs.items() if name not in first)
    newcomer.healthy = False
    with Load(haproxy.port) as load:
        work_until(daemon, lambda: newcomer.paths["/ready"] > 3, "the newcomer is probed")
        load.more()
        assert newcomer.paths["/page"] == 0
        newcomer.healthy = True
        settled(daemon, haproxy, group.instances())
        until(lambda: newcomer.paths["/page"], "the newcomer serves")
    assert load.failed == {}


def test_a_leaver_finishes_its_requests(
    daemon: Membership, haproxy: Balancer, group: Group, aws: Aws
) -> None:
    group.scale(2)
    settled(daemon, haproxy, group.instances())
    leaver, stays = sorted(group.instances())
    web = group.webs[leaver]
    with Load(haproxy.port) as load:
        web.holding = ("GET", "POST")
        until(lambda: web.paths["/page"] > load.served[f"served by {web.endpoint}"], "it serves")
        aws.reply = told_to_leave(leaver)
        work_until(daemon, lambda: haproxy.api.servers()[leaver].state == "drain", "it drains")
        polled(daemon)
        assert haproxy.api.servers()[leaver].sessions
        web.hold.set()
        settled(daemon, haproxy, {stays: group.instances()[stays]})
    assert load.failed == {}


def told_to_leave(name: str) -> Callable[[str, dict[str, str], Callable[[], Reply]], Reply]:
    """Let AWS say that an instance is leaving its group."""

    def reply(operation: str, _: dict[str, str], answer: Callable[[], Reply]) -> Reply:
        status, text = answer()
        if operation == "DescribeAutoScalingGroups":
            before, found, after = text.partition(f"<InstanceId>{name}</InstanceId>")
            after = after.replace(">InService<", ">Terminating:Wait<", 1)
            text = before + found + after
        return status, text

    return reply


def test_no_request_is_lost_while_the_group_changes(
    daemon: Membership, haproxy: Balancer, group: Group
) -> None:
    group.scale(2)
    settled(daemon, haproxy, group.instances())
    with Load(haproxy.port) as load:
        for size in (5, 2, 6, 3, 1, 4):
            group.scale(size)
            settled(daemon, haproxy, group.instances())
            load.more()
            if size == 6:
                haproxy.reload()
                settled(daemon, haproxy, group.instances())
    assert load.failed == {}


# -- AWS fails ------------------------------------------------------------------------------------
def failing(code: str) -> Callable[[str, dict[str, str], Callable[[], Reply]], Reply]:
    return lambda *_: autoscaling_error(code, "not now")


@pytest.mark.parametrize(
    ("code", "result"), [("Throttling", "throttled"), ("InternalFailure", "error")]
)
def test_an_error_of_aws_changes_nothing(
    daemon: Membership, haproxy: Balancer, group: Group, aws: Aws, code: str, result: str
) -> None:
    group.scale(2)
    settled(daemon, haproxy, group.instances())
    before, text = haproxy.in_use(), haproxy.servers_file.read_text()
    aws.reply = failing(code)
    aws.calls.clear()
    polled(daemon, result)
    assert len(aws.calls) == daemon.figures.polls[result]  # no attempts besides
    assert haproxy.in_use() == before
    assert haproxy.servers_file.read_text() == text


def test_a_newcomer_known_before_an_error_comes_in_all_the_same(
    daemon: Membership, haproxy: Balancer, group: Group, aws: Aws
) -> None:
    group.scale(1)
    (web,), known = group.webs.values(), group.instances()
    web.healthy = False
    polled(daemon)
    aws.reply = failing("InternalFailure")
    polled(daemon, "error")
    web.healthy = True
    settled(daemon, haproxy, known)


def without_instances(operation: str, _: dict[str, str], answer: Callable[[], Reply]) -> Reply:
    """Let AWS say, with success, that groups are empty."""
    status, text = answer()
    if operation == "DescribeAutoScalingGroups":
        text = re.sub(r"<Instances>.*</Instances>", "<Instances/>", text, flags=re.DOTALL)
    return status, text


def test_an_empty_answer_is_believed_when_ec2_says_the_same(
    daemon: Membership, haproxy: Balancer, group: Group, aws: Aws
) -> None:
    group.scale(3)
    settled(daemon, haproxy, group.instances())
    before = haproxy.in_use()
    aws.reply = without_instances
    polled(daemon)
    assert haproxy.in_use() == before
    assert daemon.figures.steps["keep"] == 3
    assert haproxy.servers_file.read_text().count("server") == 3
    group.scale(0)  # moto terminates at once
    settled(daemon, haproxy, {})


@pytest.mark.parametrize(
    ("poll", "failures", "least", "most"),
    [(10, 0, 10, 10), (10, 1, 15, 20), (10, 3, 60, 80), (10, 99, 90, 120), (300, 9, 225, 300)],
)
def test_the_more_aws_throttles_the_less_it_is_asked(
    poll: float, failures: int, least: float, most: float
) -> None:
    assert least <= pause_after(poll, failures) <= most


def test_one_call_for_each_poll(
    daemon: Membership, haproxy: Balancer, group: Group, aws: Aws
) -> None:
    group.scale(3)
    settled(daemon, haproxy, group.instances())
    aws.calls.clear()
    before = daemon.figures.polls["ok"]
    polled(daemon, times=5)
    assert aws.calls == ["DescribeAutoScalingGroups"] * (daemon.figures.polls["ok"] - before)


# -- Daemon or HAProxy begin anew ------------------------------------------------------------------
def test_a_new_daemon_finds_everything_done(
    daemon: Membership, haproxy: Balancer, group: Group, aws: Aws, settings: Settings
) -> None:
    group.scale(3)
    settled(daemon, haproxy, group.instances())
    aws.calls.clear()
    another = begin(settings, haproxy)
    polled(another)
    assert another.figures.done == {}
    assert set(aws.calls) == {"DescribeAutoScalingGroups"}  # the addresses were kept


def test_a_haproxy_that_lost_its_servers_gets_them_again(
    daemon: Membership, haproxy: Balancer, group: Group
) -> None:
    group.scale(2)
    settled(daemon, haproxy, group.instances())
    haproxy.stop()
    daemon.step()
    assert daemon.figures.errors
    haproxy.servers_file.unlink()
    haproxy.start()
    settled(daemon, haproxy, group.instances())


# -- The process ----------------------------------------------------------------------------------
def write_settings(settings: Settings, path: Path) -> Path:
    path.write_text(json.dumps(vars(settings) | {"poll_seconds": 0.2}))
    return path


def command(config: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "superset_fleet.membership", "--config", str(config), *options]


def test_the_service_says_when_it_is_up_and_stops_when_told(
    settings: Settings, haproxy: Balancer, group: Group, tmp_path: Path
) -> None:
    group.scale(2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "membership.notify"))
        systemd.settimeout(30)
        service = subprocess.Popen(
            command(write_settings(settings, tmp_path / "membership.json")),
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "membership.notify")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert systemd.recv(1000).startswith(b"READY=1\nWATCHDOG=1\n")
        until(lambda: b"2 of 2 servers are ready" in systemd.recv(1000), "systemd is told so")
        assert metric(haproxy, 'servers{state="ready"}') == "2"
        assert metric(haproxy, 'actions_total{verb="add"}') == "2"
        service.send_signal(signal.SIGTERM)
        until(lambda: systemd.recv(1000) == b"STOPPING=1", "systemd is told so")
        _, told = service.communicate(timeout=30)
    assert service.returncode == 0
    assert haproxy.in_use() == group.instances()
    for name, address in group.instances().items():
        line = f'event=add server={name} address={address} reason="is wanted and answers"\n'
        assert told.count(line) == 1


def metric(haproxy: Balancer, name: str) -> str:
    """Return a value from HAProxy's private port."""
    connection = http.client.HTTPConnection("127.0.0.1", haproxy.private_port, timeout=30)
    connection.request("GET", "/membership/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    start = f"superset_fleet_membership_{name} "
    return next(line.removeprefix(start) for line in lines if line.startswith(start))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    settings: Settings, haproxy: Balancer, group: Group, tmp_path: Path
) -> None:
    group.scale(1)
    haproxy.api.add("i-gone", "127.0.0.1:1", OPTIONS)
    files = sorted(tmp_path.iterdir())
    config = write_settings(settings, tmp_path / "membership.json")
    done = subprocess.run(command(config, "--dry-run"), check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    ((name, address),) = group.instances().items()
    assert told["servers"] == [
        {"name": "i-gone", **Server("127.0.0.1:1", "maint", False)._asdict()}
    ]
    assert told["steps"] == [
        {"verb": "add", "server": name, "address": address, "reason": "is wanted and answers"},
        {
            "verb": "delete",
            "server": "i-gone",
            "address": "127.0.0.1:1",
            "reason": "is not among the wanted servers, and serves no request",
        },
    ]
    assert set(haproxy.api.servers()) == {"i-gone"}
    assert sorted(tmp_path.iterdir()) == sorted([*files, config])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typo": 1}, "membership.json: .*unexpected keyword argument 'typo'"),
        ({"aws_config_file": "/nonexistent/aws.ini"}, "/nonexistent/aws.ini is missing"),
        ({"socket": "/nonexistent/admin.sock"}, "nothing answers at /nonexistent/admin.sock"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    settings: Settings, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    config = tmp_path / "membership.json"
    config.write_text(json.dumps(vars(settings) | change))
    done = subprocess.run(command(config, "--dry-run"), capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_errors_are_said_once_until_they_are_gone(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def read(_: Collection[str]) -> Sight:
        raise AwsError("region: no")

    unheard = HAProxy("/nonexistent/admin.sock", BACKEND)
    daemon = Membership(settings, unheard, lambda _: Sight({}, {}))
    polled(daemon)
    assert caplog.text.count("event=haproxy_error") == 1
    polled(Membership(settings, unheard, read), "error", times=1)
    assert 'event=poll_error reason="region: no. The servers stay as they are"' in caplog.text


def test_the_metrics_tell_servers_that_are_down_from_those_that_are_ready() -> None:
    figures = Figures({"i-1": Server("a:1"), "i-2": Server("b:1", up=False)}, wanted=2)
    text = figures.text()
    assert 'superset_fleet_membership_servers{state="ready"} 1\n' in text
    assert 'superset_fleet_membership_servers{state="down"} 1\n' in text
    assert "superset_fleet_membership_wanted 2\n" in text
