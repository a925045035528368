"""fleet-scaler: gives every worker group as many machines as its queues need.

    python -m superset_fleet.scaler --slots 2 --acceptable-wait 10 --cooldown 60

Any number may run, one leads. Every two seconds it reads the auto-scaling groups, what the workers
say of themselves and how long the queues are; `scaling.decide` says how many machines a group is
to have, and the cloud is asked for them. Machines that have tasks are protected from scale-in.

What cannot be read is taken to be as it was: an error changes the size of no group. Where the
machines are no cloud's it only reports.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import redis

from ..cloud import client as aws
from ..cloud.metadata import Metadata, MetadataError
from ..daemon.credentials import aws_config
from ..daemon.journal import begin_journal, tell
from ..daemon.leading import Lead
from ..daemon.loop import repeat, until_terminated
from ..state import broker, facts
from ..state.jobs import QUEUES
from ..state.records import GroupReport, Hold, Report, Resize, Wake, Worker
from ..state.registry import EVERY_GROUP, PREFIX, Registry
from ..times import TIMES
from .decide import Load, Memory, Policy, decide
from .durations import Durations
from .groups import CLOUD, STANDING, CloudGroups, WorkerGroup, lives, machine_of, owners, standing

STARTS = 5  # newest ones, whose median counts


@dataclass(frozen=True)
class Settings:
    """What an installation wants."""

    slots: int  # tasks that a machine runs at a time, until one has said so itself
    # After so long the next worker takes what one that died had taken.
    visibility_timeout_seconds: float
    acceptable_wait_seconds: float = 10.0
    cooldown_seconds: float = 60.0


# -- What is remembered ---------------------------------------------------------------------------
@dataclass
class Past:
    """What is known of a group from former ticks."""

    memory: Memory = field(default_factory=Memory)
    slots: int = 0
    idle_since: dict[str, float] = field(default_factory=dict)  # by machine, monotonic
    starting: float | None = None  # since when it has machines, or is to, and no worker: by Redis
    changed: Resize | None = None  # the last change of its size
    refused: str = ""  # what the cloud said to the last attempt
    refused_since: float = 0.0  # by Redis


class Starts:
    """How long machines take to start: from their first sight in the group to their first beat."""

    def __init__(self, took: list[float]) -> None:
        self.took = took  # the newest starts, in seconds
        self._since: dict[str, float] = {}  # machines that have no worker yet
        self._known: set[str] | None = None  # None: those of the first look began nobody knows when

    def look(self, at: float, machines: Iterable[str], working: Iterable[str]) -> None:
        """Take in which machines there are, and which of them have a worker."""
        there = set(machines)
        new = there - self._known if self._known is not None else set()
        self._known = there
        self._since |= dict.fromkeys(new, at)
        begun = self._since.keys() & set(working)
        self.took = [*self.took, *(at - self._since[name] for name in begun)][-STARTS:]
        self._since = {name: since for name, since in self._since.items() if name in there - begun}

    @property
    def seconds(self) -> float:
        """What a start takes."""
        return statistics.median(self.took) if self.took else TIMES.start_seconds


# -- The scaler -----------------------------------------------------------------------------------
class Sight(NamedTuple):
    """What is read at one tick."""

    at: float  # monotonic
    now: float  # Redis' time
    workers: dict[str, Worker]  # by machine
    known: set[str]  # machines that have, or had lately, a worker
    waiting: dict[str, int]  # by queue
    holds: dict[str, Hold]  # by group, or EVERY_GROUP
    owners: dict[str, str]  # by queue


class Seen(NamedTuple):
    """What is seen of one group."""

    queues: list[str]  # those for which it scales
    absent: set[str]  # machines in service that take no tasks
    busy: set[str]  # machines with a task, absent ones among them
    policy: Policy  # of the other machines, as load
    load: Load


class Scaler:
    """Reads, decides and acts, once in each tick. Without a cloud it only reports."""

    def __init__(
        self,
        registry: Registry,
        tasks: Any,
        cloud: CloudGroups | None,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._tasks, self._cloud = registry, tasks, cloud
        self._settings, self._clock = settings, clock
        self._lead = Lead(registry.redis, f"{PREFIX}scaler:leader", self._begin)
        self._begin()

    def _begin(self) -> None:
        """Begin to lead, without trust in anything that was seen when another one led."""
        self._durations, self._starts = Durations(), Starts([])
        self._past: dict[str, Past] | None = None  # by group; None: the report is not read yet
        self._seen_at = -TIMES.scale_break_seconds  # when all was read last, by the monotonic clock
        self._due = self._metrics_due = 0.0  # when to ask the cloud, and to tell it, by that clock
        self._failures = 0  # of the cloud, in a row
        self._failing_since = 0.0
        self._trouble = self._unmeasured = ""  # what the cloud said last where it failed
        self._asleep: list[str] = []  # queues of groups without machines, in which nothing waits

    def run(self, terminated: Callable[[float], bool]) -> None:
        """Tick until `terminated`, which waits so many seconds at most; then step down."""
        repeat(
            self.tick,
            TIMES.scale_seconds,
            lambda seconds: self._wait(seconds, terminated),
            (redis.RedisError,),
            lambda: self._lead.status,
        )
        self._lead.leave()

    def _wait(self, seconds: float, terminated: Callable[[float], bool]) -> bool:
        """Wait until the next tick is due; return whether this process is to stop.

        The first task for a group that has no machine is not kept waiting for that.
        """
        due = self._clock() + seconds
        while (left := due - self._clock()) > TIMES.asleep_look_seconds and self._asleep:
            if terminated(TIMES.asleep_look_seconds):
                return True
            with suppress(redis.RedisError):
                if any(broker.waiting(self._tasks, self._asleep).values()):
                    return False
        return terminated(max(0.0, left))

    def tick(self) -> None:
        """Look, decide and act, if this is the one that leads. Raises RedisError."""
        self._asleep = []
        if not self._lead.take():
            return
        if self._past is None:
            self._past = self._remembered()
        at, now = self._clock(), self._registry.now()
        workers = self._registry.workers()
        self._durations.learn(workers)
        machines = lives(workers.values(), now)
        known = {machine_of(worker) for worker in workers.values()}
        groups = self._read_groups(at, machines)
        if groups is None:
            self._hold_on(at)
            return
        if not self._lead.take() or self._past is None:  # the cloud was slow: another one led
            return
        if at - self._seen_at > TIMES.scale_break_seconds:
            for past in self._past.values():
                past.memory, past.idle_since = Memory(), {}
        self._seen_at = at
        if not all(group.queues for group in groups):
            every = tuple(sorted({*QUEUES, *self._registry.queues()}))
            groups = [replace(group, queues=group.queues or every) for group in groups]
        names = sorted({queue for group in groups for queue in group.queues})
        waiting, holds = self._waiting(now, names), self._registry.held()
        sight = Sight(at, now, machines, known, waiting, holds, owners(groups))
        reports = [
            self._step(group, sight, self._past.setdefault(group.name, Past())) for group in groups
        ]
        self._report(reports)
        self._asleep = [
            queue
            for report in reports
            if not report.desired
            for queue in report.queues
            if not waiting[queue]
        ]
        if self._cloud:
            self._registry.wakes(wakes(reports))
            self._measure(self._cloud, at, reports)

    def _remembered(self) -> dict[str, Past]:
        """Return what was reported of the groups before this process led, and learn from it."""
        said = self._registry.reported()
        if not said:
            return {}
        self._starts = Starts(said.starts)
        return {
            group.name: Past(starting=group.starting, changed=group.changed)
            for group in said.groups
        }

    # -- Reading ----------------------------------------------------------------------------------
    def _waiting(self, now: float, queues: Iterable[str]) -> dict[str, int]:
        """Return how many tasks of each queue have no worker."""
        late = broker.abandoned(self._tasks, now - self._settings.visibility_timeout_seconds)
        waiting = broker.waiting(self._tasks, queues)
        return {queue: number + late[queue] for queue, number in waiting.items()}

    def _read_groups(self, at: float, workers: Mapping[str, Worker]) -> list[WorkerGroup] | None:
        """Return the groups as of now; None where the cloud does not tell them."""
        if not self._cloud:
            return [standing(workers)]
        if at < self._due:
            return None
        try:
            groups = self._cloud.groups()
        except (aws.AwsError, MetadataError) as error:
            self._failing_since = self._failing_since if self._failures else at
            self._failures += 1
            self._due = at + aws.backoff(self._failures)
            if str(error) != self._trouble:
                tell("held", reason=f"{error}. The groups stay as they are")
            self._trouble = str(error)
            return None
        if self._trouble:
            tell("well")
        self._trouble, self._failures = "", 0
        self._starts.look(at, [one.id for group in groups for one in group.machines], workers)
        return groups

    def _hold_on(self, at: float) -> None:
        """Say that the cloud is not heard; after a time, that so it starts no worker."""
        groups = (self._registry.reported() or Report()).groups
        self._report(groups)
        if at - self._failing_since >= TIMES.refused_seconds:
            self._registry.wakes(wakes(replace(group, refused=self._trouble) for group in groups))

    def _report(self, groups: list[GroupReport]) -> None:
        """Write down what is seen and decided."""
        self._registry.report(
            Report(socket.gethostname(), self._trouble, self._starts.took, groups)
        )

    # -- Deciding and acting ----------------------------------------------------------------------
    def _step(self, group: WorkerGroup, sight: Sight, past: Past) -> GroupReport:
        """Decide about a group and do it; return what is reported of it."""
        seen = self._see(group, sight, past)
        decision, memory = decide(seen.load, seen.policy, past.memory)
        obstacle = in_the_way(group, sight, seen.policy)
        past.memory = Memory() if obstacle else memory
        absent = len(seen.absent)
        wanted = decision.desired + absent
        why = f"{decision.why}; {absent} more take no tasks" if absent else decision.why
        desired = group.desired if obstacle else wanted
        if self._cloud:
            desired = self._acted(self._cloud, group, seen.busy, desired, past, sight)
            if desired != group.desired:
                tell("scaled", group=group.name, why=why)
                past.changed = Resize(sight.now, group.desired, desired, why)
        comes = desired > len(group.machines) or any(
            machine.id not in sight.known for machine in group.machines
        )
        if seen.load.workers or not comes:
            past.starting = None
        elif past.starting is None:
            past.starting = sight.now
        refusing = sight.now - past.refused_since >= TIMES.refused_seconds
        return GroupReport(
            name=group.name,
            queues=seen.queues,
            scaling=group.scaling,
            min=group.min,
            max=group.max,
            machines=len(group.machines),
            desired=desired,
            wanted=wanted,
            why=why,
            obstacle=obstacle,
            refused=past.refused if refusing else "",
            waiting=seen.load.waiting,
            running=seen.load.running,
            workers=seen.load.workers,
            busy=seen.load.busy,
            slots=seen.load.slots,
            task_seconds=seen.load.task_seconds,
            start_seconds=seen.policy.start_seconds,
            starting=past.starting,
            changed=past.changed,
        )

    def _see(self, group: WorkerGroup, sight: Sight, past: Past) -> Seen:
        """Return what a group has to do, who does it, and what it may have."""
        queues = [queue for queue in group.queues if sight.owners[queue] == group.name]
        mine = {
            machine.id: sight.workers[machine.id]
            for machine in group.machines
            if machine.in_service and machine.id in sight.workers
        }
        absent = absentees(group, mine, sight.known)
        policy = Policy(
            max(0, group.min - len(absent)),
            max(0, group.max - len(absent)),
            self._settings.acceptable_wait_seconds,
            self._settings.cooldown_seconds,
            self._starts.seconds,
        )
        present = [worker for name, worker in mine.items() if name not in absent]
        # A worker that lost the broker takes from no queue.
        taking = [
            worker
            for worker in present
            if sight.now - worker.last_beat <= TIMES.silent_seconds and worker.queues
        ]
        past.slots = max((worker.slots for worker in taking), default=past.slots)
        taken: Counter[str] = Counter()
        for worker in present:
            taken.update(worker.taken)
        waiting = Counter({queue: sight.waiting[queue] for queue in queues})
        # Workers on machines outside of a cloud report no group.
        name = "" if group.name == STANDING else group.name
        load = Load(
            at=sight.at,
            waiting=waiting.total(),
            running=taken.total(),
            workers=len(taking),
            busy=sum(map(has_tasks, present)),
            desired=group.desired - len(absent),
            slots=past.slots or self._settings.slots,
            task_seconds=self._durations.seconds(name, waiting, policy),
        )
        busy = {name for name, worker in mine.items() if has_tasks(worker)}
        return Seen(queues, absent, busy, policy, load)

    def _acted(
        self,
        cloud: CloudGroups,
        group: WorkerGroup,
        busy: set[str],
        desired: int,
        past: Past,
        sight: Sight,
    ) -> int:
        """Protect who is busy, and give a group its size; return that which it has now.

        More machines come whether or not others are protected; none go unless they are.
        """
        protect, release = protections(group, busy, desired, past.idle_since, sight.at)
        size = group.desired
        try:
            if desired > size:
                cloud.resize(group.name, desired)
                size = desired
            for names, protected in ((protect, True), (release, False)):
                if names:
                    cloud.protect(group.name, names, protected)
            if desired < size:
                cloud.resize(group.name, desired)
                size = desired
        except aws.AwsError as error:
            if not past.refused:
                past.refused_since = sight.now
            if str(error) != past.refused:
                tell("refused", group=group.name, reason=error)
            past.refused = str(error)
        else:
            past.refused = ""
        return size

    def _measure(self, cloud: CloudGroups, at: float, reports: Iterable[GroupReport]) -> None:
        """Give the metrics to the cloud, once a minute."""
        values = {report.name: group_metrics(report) for report in reports}
        if at < self._metrics_due or not values:
            return
        self._metrics_due = at + TIMES.metric_seconds
        try:
            cloud.measured(values)
            self._unmeasured = ""
        except aws.AwsError as error:
            if str(error) != self._unmeasured:
                tell("not_measured", reason=error)
            self._unmeasured = str(error)


def in_the_way(group: WorkerGroup, sight: Sight, policy: Policy) -> str:
    """Return why a group's size is not changed, '' where it is."""
    hold = sight.holds.get(EVERY_GROUP) or sight.holds.get(group.name)
    held = f"held: {hold.reason}" if hold else ""
    full = "" if policy.max else "none of its machines takes tasks, and it may have no more"
    return group.obstacle or held or without_instance(sight.workers.values()) or full


def without_instance(workers: Iterable[Worker]) -> str:
    """Return why no size is changed while workers do not report their machine; else ''."""
    hosts = sorted(worker.host for worker in workers if not worker.instance)
    if not hosts:
        return ""
    return (
        f"cannot tell which group the workers on {', '.join(hosts)} belong to; do they run an older"
        " release? No group is resized until they report it"
    )


def absentees(group: WorkerGroup, mine: Mapping[str, Worker], known: set[str]) -> set[str]:
    """Return the machines in service that take no tasks and will take none by themselves.

    Their workers drain or are stuck, or have not been heard for so long that they are lost. They
    count for nothing, so others come in their stead where there is work.
    """
    return {
        machine.id
        for machine in group.machines
        if machine.in_service
        and (not mine[machine.id].takes if machine.id in mine else machine.id in known)
    }


def has_tasks(worker: Worker) -> bool:
    """Tell whether a worker has taken a task that is not finished."""
    return bool(worker.tasks or worker.taken)


def protections(
    group: WorkerGroup, busy: set[str], desired: int, idle_since: dict[str, float], at: float
) -> tuple[list[str], list[str]]:
    """Return which machines are to be protected from scale-in, and which no longer.

    `idle_since` is brought up to date: by machine, since when it has no task.
    """
    there = [machine for machine in group.machines if machine.in_service]
    idle = {machine.id: idle_since.get(machine.id, at) for machine in there}
    for name in busy:
        idle.pop(name, None)
    idle_since.clear()
    idle_since.update(idle)
    shrinks = desired < len(there)
    protect = [one.id for one in there if one.id in busy and not one.protected]
    release = [
        one.id
        for one in there
        if one.protected and one.id in idle and (shrinks or at - idle[one.id] >= TIMES.idle_seconds)
    ]
    return protect, release


def wakes(reports: Iterable[GroupReport]) -> dict[str, Wake]:
    """Return what is said of queues to those who would send a task to one without a worker."""
    said: dict[str, Wake] = {}
    for report in reports:
        # Whom the cloud scales, its policy starts, or the time-out tells that it did not.
        cannot = report.obstacle if report.scaling != CLOUD or not report.max else ""
        if report.refused:
            # In the cloud's own words for operators alone: these name accounts and addresses.
            cannot = cannot or "the cloud refuses to start one"
        if report.starting is not None:  # whatever keeps others away: this one was asked for
            wake = Wake(report.name, "starting", report.starting, report.desired, report.why)
        elif cannot:
            why = f"{report.name}: {cannot}"
            wake = Wake(report.name, "cannot", desired=report.desired, why=why)
        else:
            wake = Wake(report.name, "ready", desired=report.desired, why=report.why)
        said |= dict.fromkeys(report.queues, wake)
    return said


def group_metrics(report: GroupReport) -> dict[str, float]:
    """Return a group's metrics: its tasks, and those for each slot of the machines that work.

    With no machine it is for one machine's slots, so that there is something to scale out on.
    """
    backlog = report.waiting + report.running
    slots = report.slots * max(1, report.workers)
    return {"Backlog": float(backlog), "BacklogPerSlot": backlog / slots}


# -- The process ----------------------------------------------------------------------------------
def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slots", type=int, required=True, help="tasks at a time on a new machine")
    parser.add_argument("--visibility-timeout", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--acceptable-wait", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--cooldown", type=float, default=60.0, metavar="SECONDS")
    options = parser.parse_args()
    begin_journal()
    coordination = facts.load()["redis"]["coordination"]
    tasks = redis.Redis.from_url(
        facts.redis_url(coordination, facts.BROKER), socket_timeout=2, socket_connect_timeout=2
    )
    # fleet-boot says so, on machines that a cloud has.
    config_file = aws_config(Path("/etc/fleet/aws.ini"))
    cloud = CloudGroups(Metadata(), config_file) if os.environ.get("FLEET_INSTANCE") else None
    settings = Settings(
        options.slots, options.visibility_timeout, options.acceptable_wait, options.cooldown
    )
    registry = Registry(facts.redis_url(coordination, facts.GUARD), timeout_seconds=2)
    Scaler(registry, tasks, cloud, settings).run(until_terminated())
