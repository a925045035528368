"""The scaler between a real Redis and an AWS played by moto; workers are what they say."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from superset_fleet.cloud.client import AwsError
from superset_fleet.scaler.daemon import Scaler, Settings, Starts, group_metrics, protections
from superset_fleet.scaler.groups import CloudGroups, Machine, WorkerGroup, lives, owners
from superset_fleet.state.records import GroupReport, Worker
from superset_fleet.state.registry import WORKERS, Registry
from tests.support.aws_server import (
    REGION,
    Aws,
    Reply,
    autoscaling_error,
    make_subnet,
    make_worker_group,
    ordinary,
    serve,
)

NAME = "superset-celery_worker"
NO_TAGS: Mapping[str, str] = {}
SETTINGS = Settings(slots=2, visibility_timeout_seconds=300, cooldown_seconds=60)


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Rig:
    """A scaler, its Redis, and the groups that it scales."""

    def __init__(self, url: str, aws: Aws | None = None, config: Path = Path(), subnet: str = ""):
        self.aws, self.subnet = aws, subnet
        self.registry = Registry(url)
        self.registry.redis.flushall()
        self.tasks = redis.Redis.from_url(url.replace("/0", "/1"))
        self.clock = Clock()
        self.cloud = None
        if aws:
            me = SimpleNamespace(region=REGION, fleet="superset")
            metadata: Any = SimpleNamespace(identity=lambda: me)
            self.cloud = CloudGroups(metadata, config)
            self.api = aws.client("autoscaling")
        self.scaler = self.another()

    def another(self) -> Scaler:
        """A scaler on another machine."""
        return Scaler(self.registry, self.tasks, self.cloud, SETTINGS, self.clock)

    def group(
        self, name: str = NAME, desired: int = 0, high: int = 4, tags: Mapping[str, str] = NO_TAGS
    ) -> None:
        """Make a worker group."""
        assert self.aws
        make_worker_group(self.aws, self.subnet, name, desired, high, tags)
        self.teach(60, name)

    def teach(self, seconds: float, group: str = NAME) -> None:
        """Let a worker that is not there any more have run tasks that took so long."""
        finished = {queue: (20, [seconds] * 20) for queue in ("sql_lab", "charts")}
        self.beat(f"gone-{group}", group=group, finished=finished)

    def told(self, name: str = NAME) -> Any:
        """What AWS says of a group."""
        return self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[name])[
            "AutoScalingGroups"
        ][0]

    def desired(self, name: str = NAME) -> int:
        return int(self.told(name)["DesiredCapacity"])

    def machines(self, name: str = NAME) -> list[str]:
        return sorted(one["InstanceId"] for one in self.told(name)["Instances"])

    def protected(self, name: str = NAME) -> list[str]:
        return sorted(
            one["InstanceId"] for one in self.told(name)["Instances"] if one["ProtectedFromScaleIn"]
        )

    def wait(self, number: int, queue: str = "sql_lab") -> None:
        """Let so many tasks wait in a queue."""
        self.tasks.delete(queue)
        if number:
            self.tasks.rpush(queue, *["task"] * number)

    def abandon(self, queue: str, seconds: float) -> None:
        """Let a worker have taken a task that long ago, and nothing be heard of it since."""
        self.tasks.hset("unacked", "tag", json.dumps([{}, "", queue]))
        self.tasks.zadd("unacked_index", {"tag": self.registry.now() - seconds})

    def beat(self, machine: str, taken: int = 0, group: str = NAME, **changes: Any) -> None:
        """Let the worker on a machine say what it has."""
        said: dict[str, Any] = {
            "host": f"host-{machine}",
            "pid": 1,
            "queues": ["sql_lab", "charts"],
            "slots": 2,
            "tasks": min(taken, 2),
            "instance": machine,
            "group": group,
            "taken": {"sql_lab": taken} if taken else {},
        }
        self.registry.beat(f"worker@{machine}#1", Worker(**said | changes))

    def tick(self, seconds: float = 2.0) -> None:
        """Let time pass and the scaler look."""
        self.clock.at += seconds
        self.scaler.tick()

    def pass_time(self, seconds: float) -> None:
        """Let it look every ten seconds for so long."""
        for _ in range(int(seconds / 10)):
            self.tick(10)

    def report(self, name: str = NAME) -> GroupReport:
        said = self.registry.reported()
        assert said
        return next(group for group in said.groups if group.name == name)


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def config(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = aws.write_config(tmp_path_factory.mktemp("aws") / "aws.ini")
    return path


@pytest.fixture(scope="module")
def subnet(aws: Aws) -> str:
    """A network, and what the groups' machines are made from."""
    made: str = make_subnet(aws)
    return made


@pytest.fixture
def rig(aws: Aws, config: Path, subnet: str, redis_url: str) -> Iterator[Rig]:
    rig = Rig(redis_url, aws, config, subnet)
    aws.calls.clear()
    yield rig
    aws.reply = ordinary
    for group in rig.api.describe_auto_scaling_groups()["AutoScalingGroups"]:
        rig.api.delete_auto_scaling_group(
            AutoScalingGroupName=group["AutoScalingGroupName"], ForceDelete=True
        )
    rig.registry.redis.close()
    rig.tasks.close()


# -- How many machines ----------------------------------------------------------------------------
def test_from_zero_the_first_task_that_waits_brings_a_machine_at_once(rig: Rig) -> None:
    rig.group()
    rig.tick()
    assert rig.desired() == 0
    rig.wait(1)
    rig.tick()
    assert rig.desired() == 1


def test_a_task_whose_worker_died_brings_a_machine_when_it_is_due_again(rig: Rig) -> None:
    rig.group()
    rig.abandon("charts", seconds=290)
    rig.tick()
    assert rig.desired() == 0
    rig.abandon("charts", seconds=310)
    rig.tick()
    assert rig.desired() == 1
    assert rig.report().waiting == 1


def test_the_first_task_for_a_group_without_machines_does_not_wait_for_the_next_tick(
    rig: Rig,
) -> None:
    rig.group()
    looks = []

    def ended(seconds: float) -> bool:
        """Let a task come at the third look; what comes after it is too late."""
        looks.append(seconds)
        rig.clock.at += seconds
        if len(looks) == 3:
            rig.wait(1)
        return len(looks) == 10 or rig.desired() > 0

    rig.scaler.run(ended)
    assert rig.desired() == 1
    assert sum(looks[:3]) < 1


def test_where_no_machine_comes_the_cloud_is_asked_no_more_often(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.group(high=0)
    rig.wait(1)
    ticks: list[float] = []
    tick = rig.scaler.tick

    def counted() -> None:
        ticks.append(rig.clock.at)
        tick()

    monkeypatch.setattr(rig.scaler, "tick", counted)

    def ended(seconds: float) -> bool:
        rig.clock.at += seconds
        return len(ticks) == 4

    rig.scaler.run(ended)
    assert ticks[-1] - ticks[0] > 4


def test_what_waits_in_any_queue_and_priority_brings_machines_up_to_the_max(rig: Rig) -> None:
    rig.group()
    rig.wait(3)
    rig.wait(3, "charts\x06\x169")
    rig.tick()
    assert rig.desired() == 3
    rig.wait(300)
    rig.tick()
    assert rig.desired() == 4


def test_short_tasks_bring_fewer_machines_than_long_ones(rig: Rig) -> None:
    rig.group()
    rig.wait(8, "charts")
    rig.teach(0.1)
    rig.tick()
    assert rig.desired() == 1
    for number in range(3):
        rig.beat(f"i-{number}", finished={"charts": (20, [60.0] * 20)})
    rig.tick()
    assert rig.desired() == 4


def test_machines_leave_after_a_cooldown_and_more_after_another(
    rig: Rig,
) -> None:
    rig.group(desired=3)
    sizes = []
    for _ in range(30):
        for machine in rig.machines():
            rig.beat(machine)
        rig.tick(10)
        sizes.append(rig.desired())
    changes = [place for place in range(1, 30) if sizes[place] != sizes[place - 1]]
    assert sizes[changes[-1]] == 0 < sizes[changes[0]] < 3
    assert changes[0] >= 6
    assert all(later - earlier >= 6 for earlier, later in itertools.pairwise(changes))


def test_what_a_machine_takes_to_start_is_learned_from_its_first_beat() -> None:
    starts = Starts([])
    starts.look(0, ["old"], [])
    starts.look(10, ["old", "new"], [])
    starts.look(12, ["old", "new"], ["old"])
    assert starts.seconds == 60
    starts.look(21, ["old", "new"], ["old", "new"])
    assert (starts.took, starts.seconds) == ([11], 11)


# -- Which machines -------------------------------------------------------------------------------
def test_machines_with_tasks_are_protected_and_released_when_the_group_shrinks(rig: Rig) -> None:
    rig.group(desired=3)
    first, second, third = rig.machines()
    for machine in (first, second):
        rig.beat(machine, taken=1)
    rig.beat(third)
    rig.tick()
    assert rig.protected() == [first, second]
    rig.beat(first)
    rig.tick()
    assert rig.protected() == [first, second]  # a short query is not worth two calls
    rig.api.set_desired_capacity(AutoScalingGroupName=NAME, DesiredCapacity=2)
    rig.tick()
    assert second in rig.protected()


def test_an_idle_machine_is_protected_no_longer_after_a_while() -> None:
    group = WorkerGroup(NAME, (), "scaler", 0, 4, 1, (Machine("i-1", True, protected=True),))
    idle: dict[str, float] = {}
    assert protections(group, set(), 1, idle, 0) == ([], [])
    assert protections(group, set(), 1, idle, 59) == ([], [])
    assert protections(group, set(), 1, idle, 60) == ([], ["i-1"])


def test_a_machine_that_is_to_go_is_an_idle_one() -> None:
    machines = (Machine("i-1", True, protected=True), Machine("i-2", True, protected=True))
    group = WorkerGroup(NAME, (), "scaler", 0, 4, 2, machines)
    assert protections(group, {"i-1"}, 1, {}, 0) == ([], ["i-2"])


def test_only_machines_in_service_are_protected() -> None:
    group = WorkerGroup(NAME, (), "scaler", 0, 4, 1, (Machine("i-1", in_service=False),))
    assert protections(group, {"i-1"}, 1, {}, 0) == ([], [])


def test_of_a_machine_the_newest_worker_counts_and_a_silent_one_for_a_minute() -> None:
    def worker(since: float, beat: float) -> Worker:
        return Worker("vm", 1, [], 2, instance="i-1", since=since, last_beat=beat)

    older, newer = worker(1, 99), worker(2, 98)
    assert lives([newer, older], 100) == {"i-1": newer}
    assert lives([newer, older], 150)
    assert not lives([newer, older], 160)


def test_a_silent_worker_takes_no_tasks_but_its_machine_is_not_called_idle(rig: Rig) -> None:
    rig.group(desired=1)
    (machine,) = rig.machines()
    rig.beat(machine, taken=2)
    rig.registry.redis.zadd(WORKERS, {f"worker@{machine}#1": rig.registry.now() - 30})
    rig.tick()
    assert (rig.report().workers, rig.report().busy) == (0, 1)
    assert rig.protected() == [machine]


# -- Which queues ---------------------------------------------------------------------------------
def test_a_group_s_tag_says_which_queues_bring_it_machines(rig: Rig) -> None:
    rig.group()
    rig.group("superset-reports", tags={"queues": "reports thumbnails"})
    rig.wait(3, "thumbnails")
    rig.tick()
    assert (rig.desired(), rig.desired("superset-reports")) == (0, 2)


def test_a_group_that_names_no_queues_serves_all_that_ever_had_a_worker(rig: Rig) -> None:
    rig.group(tags={"queues": ""})
    rig.beat("i-gone", queues=["warmup"])
    rig.wait(3, "warmup")
    rig.tick()
    assert rig.desired() == 2


def test_a_queue_that_two_groups_serve_is_the_matter_of_the_one_with_fewer() -> None:
    every = WorkerGroup("every", ("sql_lab", "reports"), "scaler", 0, 4, 0)
    some = WorkerGroup("some", ("reports",), "scaler", 0, 4, 0)
    assert owners([some, every]) == {"sql_lab": "every", "reports": "some"}
    unable = WorkerGroup("some", ("reports",), "scaler", 0, 0, 0)
    assert owners([unable, every]) == {"sql_lab": "every", "reports": "every"}


def test_other_groups_of_the_fleet_and_of_others_are_left_alone(rig: Rig) -> None:
    rig.group("superset-web", tags={"role": "superset_web"})
    rig.group("other-celery_worker", tags={"fleet": "other"})
    rig.wait(3)
    rig.tick()
    assert (rig.desired("superset-web"), rig.desired("other-celery_worker")) == (0, 0)


# -- What holds it --------------------------------------------------------------------------------
def test_held_it_changes_no_size_and_protects_on(rig: Rig) -> None:
    rig.group(desired=1)
    (machine,) = rig.machines()
    rig.beat(machine, taken=2)
    rig.wait(20)
    rig.registry.hold("upgrade to 6.2")
    rig.tick()
    assert rig.desired() == 1
    assert rig.protected() == [machine]
    assert rig.report().obstacle == "held: upgrade to 6.2"
    assert rig.report().wanted == 4
    rig.registry.release_hold()
    rig.tick()
    assert rig.desired() == 4


def test_a_group_that_is_held_alone_holds_no_other(rig: Rig) -> None:
    rig.group()
    rig.wait(1)
    rig.registry.hold("upgrade", "superset-celery_worker_charts")
    rig.tick()
    assert rig.desired() == 1
    rig.wait(20)
    rig.registry.hold("upgrade", NAME)
    rig.tick()
    assert (rig.desired(), rig.report().obstacle) == (1, "held: upgrade")
    rig.registry.release_hold(NAME)
    rig.tick()
    assert rig.desired() > 1


def test_workers_of_an_older_release_hold_all_sizes(rig: Rig) -> None:
    rig.group(desired=2)
    rig.beat("", host="vm-1", taken=2)
    rig.pass_time(200)
    assert rig.desired() == 2
    assert "vm-1" in rig.report().obstacle


def test_who_cannot_protect_a_machine_lets_none_go_but_lets_more_come(rig: Rig) -> None:
    rig.group(desired=1)
    (machine,) = rig.machines()
    rig.beat(machine, taken=2)
    failing(rig, "SetInstanceProtection")
    rig.wait(20)
    rig.tick()
    assert rig.desired() == 4
    changed = rig.report().changed
    assert changed
    assert changed.after == 4


def test_after_a_hold_no_machine_leaves_before_a_cooldown_was_seen(rig: Rig) -> None:
    rig.group(desired=2)
    rig.registry.hold("night")
    rig.pass_time(100)
    rig.registry.release_hold()
    rig.pass_time(60)
    assert rig.desired() == 2
    rig.tick(10)
    assert rig.desired() == 1


@pytest.mark.parametrize("way", ["cloud", "none"])
def test_a_group_that_somebody_else_scales_is_only_reported(rig: Rig, way: str) -> None:
    rig.group(tags={"scaling": way})
    rig.wait(20)
    rig.tick()
    assert rig.desired() == 0
    assert rig.report().wanted == 4


def failing(rig: Rig, *operations: str, message: str = "Rate exceeded") -> None:
    """Let AWS refuse these operations."""
    assert rig.aws

    def reply(operation: str, _: dict[str, str], answer: Any) -> Reply:
        if operation in operations:
            return autoscaling_error("Throttling", message)
        answered: Reply = answer()
        return answered

    rig.aws.reply = reply


def test_an_error_of_the_cloud_holds_and_is_said(rig: Rig) -> None:
    rig.group(desired=2)
    rig.tick()
    failing(rig, "DescribeAutoScalingGroups")
    rig.wait(20)
    rig.tick()
    said = rig.registry.reported()
    assert said
    assert "Rate exceeded" in said.trouble
    failing(rig)
    assert rig.desired() == 2
    rig.tick(60)
    said = rig.registry.reported()
    assert said
    assert (said.trouble, rig.desired()) == ("", 4)


def test_an_outage_of_the_cloud_is_no_time_in_which_a_machine_was_idle(rig: Rig) -> None:
    rig.group(desired=2)
    rig.pass_time(50)
    failing(rig, "DescribeAutoScalingGroups")
    rig.pass_time(60)
    failing(rig)
    rig.tick(60)
    rig.pass_time(50)
    assert rig.desired() == 2


def test_without_redis_nothing_is_done(rig: Rig) -> None:
    rig.group(desired=2)
    rig.tick()
    rig.scaler._registry = Registry("redis://127.0.0.1:1/0")
    with pytest.raises(redis.RedisError):
        rig.tick()


def test_one_that_does_not_lead_does_nothing(rig: Rig) -> None:
    rig.group()
    other = rig.another()
    other.tick()
    rig.wait(3)
    rig.tick()
    assert rig.desired() == 0
    other.tick()
    assert rig.desired() == 2


def test_who_leads_next_remembers_the_last_change_and_how_machines_start(rig: Rig) -> None:
    rig.group()
    rig.tick()
    rig.wait(1)
    rig.tick()
    (machine,) = rig.machines()
    rig.tick()
    rig.beat(machine)
    rig.tick()
    changed = rig.report().changed
    assert changed
    assert (changed.before, changed.after) == (0, 1)
    rig.scaler._lead.leave()
    rig.scaler = rig.another()
    rig.wait(0)
    rig.tick()
    assert rig.report().changed == changed
    assert rig.report().start_seconds < 10


# -- What it says to those who send tasks ---------------------------------------------------------
def wake(rig: Rig, queue: str = "sql_lab") -> Any:
    return rig.registry.queue(queue).wake


def test_a_queue_without_a_worker_is_ready_to_get_one(rig: Rig) -> None:
    rig.group()
    assert wake(rig) is None
    rig.tick()
    assert (wake(rig).group, wake(rig).state) == (NAME, "ready")
    assert wake(rig, "charts").state == "ready"


def test_since_when_the_first_machine_starts_is_said_until_its_worker_is_there(rig: Rig) -> None:
    rig.group()
    rig.wait(1)
    before = rig.registry.now()
    rig.tick()
    said = wake(rig)
    assert (said.state, said.desired) == ("starting", 1)
    assert before <= said.since <= rig.registry.now()
    rig.tick()
    assert wake(rig).since == said.since
    rig.scaler._lead.leave()
    rig.scaler = rig.another()
    rig.tick()
    assert wake(rig).since == said.since  # whoever leads
    rig.beat(rig.machines()[0])
    rig.tick()
    assert wake(rig).state == "ready"


@pytest.mark.parametrize(
    ("high", "tags", "why"),
    [
        (0, {}, "its max is 0"),
        (0, {"scaling": "cloud"}, "the cloud's own policies"),
        (4, {"scaling": "none"}, "nobody sets its size but you"),
    ],
)
def test_where_no_machine_would_come_that_and_why_is_said(
    rig: Rig, high: int, tags: dict[str, str], why: str
) -> None:
    rig.group(high=high, tags=tags)
    rig.tick()
    assert wake(rig).state == "cannot"
    assert why in wake(rig).why


def test_a_policy_of_the_cloud_is_given_the_chance_to_start_one(rig: Rig) -> None:
    rig.group(tags={"scaling": "cloud"})
    rig.tick()
    assert wake(rig).state == "ready"


@pytest.mark.parametrize("what", [{"draining": True}, {"stuck_seconds": 4.0}])
def test_a_worker_that_drains_or_is_stuck_is_none_that_starts(
    rig: Rig, what: dict[str, Any]
) -> None:
    rig.group(desired=1)
    (machine,) = rig.machines()
    rig.beat(machine, taken=1, **what)
    rig.tick()
    assert (wake(rig).state, rig.desired()) == ("ready", 1)
    rig.wait(1)
    rig.tick()
    assert (wake(rig).state, rig.desired()) == ("starting", 2)
    assert rig.protected() == [machine]
    assert "1 more take no tasks" in rig.report().why


def test_where_all_that_there_may_be_take_no_tasks_none_starts(rig: Rig) -> None:
    rig.group(desired=1, high=1)
    (machine,) = rig.machines()
    rig.beat(machine, taken=1, draining=True)
    rig.wait(1)
    rig.tick()
    assert (wake(rig).state, rig.desired()) == ("cannot", 1)
    assert "it may have no more" in wake(rig).why


def test_a_hold_starts_no_worker(rig: Rig) -> None:
    rig.group()
    rig.registry.hold("upgrade")
    rig.tick()
    assert (wake(rig).state, wake(rig).why) == ("cannot", f"{NAME}: held: upgrade")


def test_a_machine_that_was_asked_for_before_a_hold_starts_in_spite_of_it(rig: Rig) -> None:
    rig.group()
    rig.wait(1)
    rig.tick()
    rig.registry.hold("upgrade")
    rig.tick()
    assert wake(rig).state == "starting"


@pytest.mark.parametrize("operation", ["DescribeAutoScalingGroups", "SetDesiredCapacity"])
def test_a_cloud_that_refuses_for_a_while_starts_no_worker(rig: Rig, operation: str) -> None:
    rig.group()
    rig.tick()
    failing(rig, operation)
    rig.wait(1)
    rig.tick()
    assert wake(rig).state == "ready"
    past = rig.scaler._past
    assert past
    past[NAME].refused_since -= 20  # of Redis' clock
    rig.tick(20)
    assert wake(rig).state == "cannot"
    assert "the cloud refuses" in wake(rig).why
    assert "Rate exceeded" not in wake(rig).why  # users read it


# -- Metrics --------------------------------------------------------------------------------------
def test_the_backlog_of_every_group_is_given_to_the_cloud_once_a_minute(rig: Rig) -> None:
    assert rig.aws
    rig.group(tags={"scaling": "cloud"})
    rig.wait(6)
    rig.tick()
    rig.tick()
    assert rig.aws.calls.count("PutMetricData") == 1
    rig.tick(60)
    assert rig.aws.calls.count("PutMetricData") == 2
    listed = rig.aws.client("cloudwatch").list_metrics(
        Namespace="superset-fleet",
        Dimensions=[{"Name": "AutoScalingGroupName", "Value": NAME}],
    )["Metrics"]
    assert {one["MetricName"] for one in listed} == {"Backlog", "BacklogPerSlot"}


def test_metrics_that_the_cloud_does_not_take_stop_nothing(rig: Rig) -> None:
    rig.group()
    failing(rig, "PutMetricData")
    rig.wait(1)
    rig.tick()
    assert rig.desired() == 1


def test_with_no_machine_the_backlog_is_that_of_one_so_that_there_is_a_number() -> None:
    report = GroupReport(NAME, [], waiting=6, slots=2)
    assert group_metrics(report) == {"Backlog": 6, "BacklogPerSlot": 3}
    assert group_metrics(replace(report, running=2, workers=4))["BacklogPerSlot"] == 1


# -- Without a cloud ------------------------------------------------------------------------------
def test_machines_of_no_cloud_are_reported_with_how_many_would_do(redis_url: str) -> None:
    rig = Rig(redis_url)
    worker = Worker("one", 1, ["sql_lab"], 2, taken={"sql_lab": 2})
    worker = replace(worker, finished={"sql_lab": (1, [60.0])})
    for host in ("one", "two"):
        rig.registry.beat(f"worker@{host}#1", replace(worker, host=host))
    rig.wait(4)
    rig.tick()
    report = rig.report("celery_worker")
    assert (report.desired, report.wanted, report.busy, report.waiting) == (2, 4, 2, 4)
    assert report.why.startswith("2 → 4: 4 wait, 4 run")
    assert wake(rig) is None


def test_a_machine_that_does_not_know_its_fleet_says_so() -> None:
    def identity() -> None:
        raise AwsError("no metadata service")

    metadata: Any = SimpleNamespace(identity=identity)
    with pytest.raises(AwsError, match="no metadata service"):
        CloudGroups(metadata, None).groups()


def test_a_tick_takes_little_of_its_two_seconds(rig: Rig) -> None:
    """Of two hundred workers."""
    rig.group()
    for number in range(200):
        rig.beat(f"i-{number}", taken=1, finished={"sql_lab": (20, [1.0] * 20)})
    rig.tick()
    began = time.monotonic()
    rig.tick()
    assert time.monotonic() - began < 1
