"""What stands in the registry: typed records, stored as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

Finished = tuple[int, list[float]]  # tasks that finished; how long the newest ones took, in seconds


@dataclass(frozen=True)
class Worker:
    """What a worker says of itself with each beat."""

    host: str
    pid: int
    queues: list[str]
    slots: int  # processes that run tasks
    active: list[str] = field(default_factory=list)  # jobs that run
    reserved: list[str] = field(default_factory=list)  # jobs that are taken and do not run yet
    tasks: int = 0  # tasks that run, jobs or not
    draining: bool = False
    # For how long its event loop has not turned, 0 as long as it does: what it runs goes on, and it
    # takes nothing, nor does it begin what it has reserved.
    stuck_seconds: float = 0.0
    instance: str = ""  # id of its machine; "": no cloud has it
    group: str = ""  # name of that machine's auto-scaling group
    # By queue, of tasks of every kind: how many it has taken and not finished, and how many it
    # finished in this life, with the seconds of the newest.
    taken: dict[str, int] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    since: float = 0.0  # when it began, seconds since 1970
    last_beat: float = 0.0  # by Redis; not part of what is sent

    @property
    def takes(self) -> bool:
        """Whether it takes tasks from its queues, as long as it is heard."""
        return not (self.draining or self.stuck_seconds)


@dataclass(frozen=True)
class Job:
    """What the publisher wrote down of a job before it was sent."""

    task: str
    task_id: str
    queue: str
    attempt: int = 1
    at: float = 0.0  # by Redis


@dataclass(frozen=True)
class Run:
    """Who runs a job."""

    worker: str
    token: str  # of this run alone; of a query the row's start_running_time
    read_only: bool
    at: float = 0.0  # by Redis
    dropped: str = ""  # what the database said that dropped the run; then nobody runs the job


@dataclass(frozen=True)
class Hold:
    """Why the scaler changes no group's size, and since when."""

    reason: str
    at: float = 0.0  # by Redis


@dataclass(frozen=True)
class Wake:
    """What the scaler says of a queue: whether a task that waits in it gets a worker started."""

    group: str  # name of the auto-scaling group that serves the queue
    # `ready`: one would be started. `starting`: one was asked for, and none takes tasks yet.
    # `cannot`: none is started, because of `why`.
    state: Literal["ready", "starting", "cannot"]
    since: float = 0.0  # starting: when the first one was asked for, by Redis
    desired: int = 0  # machines that the group is to have
    why: str = ""  # in words that users may read


@dataclass(frozen=True)
class Queue:
    """What is known of a queue."""

    workers: int  # that take from it
    silent_seconds: float | None  # since there was one; None: there never was
    wake: Wake | None = None  # what the scaler says; None: nothing, for long

    @property
    def starts(self) -> bool:
        """Whether the scaler starts a worker for what waits."""
        return self.wake is not None and self.wake.state != "cannot"

    @property
    def not_started(self) -> str:
        """Why the scaler starts none, in words."""
        return self.wake.why if self.wake else "the scaler, which would start one, is silent"


@dataclass(frozen=True)
class Resize:
    """A change of a group's size."""

    at: float = 0.0  # by Redis
    before: int = 0  # machines, as after
    after: int = 0
    why: str = ""


@dataclass(frozen=True)
class GroupReport:
    """What the scaler sees of a worker group, and decided about it."""

    name: str
    queues: list[str]  # those for which this group scales
    scaling: str = ""  # who sets its size
    min: int = 0  # machines, as max
    max: int = 0
    machines: int = 0  # that the group has
    desired: int = 0  # that it is to have
    wanted: int = 0  # that the scaler would give it were nothing in the way
    why: str = ""  # the decision in one line, with its numbers
    obstacle: str = ""  # why its size is not changed; '' where it is
    refused: str = ""  # what the cloud has answered for a while; '' where it obeys
    waiting: int = 0  # tasks, as running
    running: int = 0
    workers: int = 0  # that take tasks
    busy: int = 0  # of its machines, with a task
    slots: int = 0  # of one machine
    task_seconds: float | None = None  # that a task takes on average; None: not known
    start_seconds: float = 0.0  # that a machine takes to start
    starting: float | None = None  # since when it has, or awaits, machines and no worker: by Redis
    changed: Resize | None = None  # the last change of its size

    @property
    def in_the_way(self) -> str:
        """Why it does not get the size that is wanted, '' where it does."""
        return self.obstacle or self.refused


@dataclass(frozen=True)
class Report:
    """What the leading scaler said last."""

    scaler: str = ""  # host name of its machine; '': none has ever reported
    trouble: str = ""  # why it changes nothing at the moment
    starts: list[float] = field(default_factory=list)  # seconds that the newest machines took
    groups: list[GroupReport] = field(default_factory=list)
    at: float = 0.0  # by Redis

    @staticmethod
    def read(said: Mapping[str, Any]) -> Report:
        """Return the report that was written as a dictionary, perhaps by another release."""
        report: Report = known(Report, said)
        groups: list[GroupReport] = [known(GroupReport, group) for group in said["groups"]]
        return replace(
            report,
            groups=[
                replace(group, changed=known(Resize, group.changed) if group.changed else None)
                for group in groups
            ],
        )


def record(value: Any) -> str:
    """Return the JSON that stands in Redis; times are added there."""
    stored = asdict(value)
    stored.pop("at", None)
    stored.pop("last_beat", None)
    return json.dumps(stored)


def read(kind: type[Any], text: str | bytes) -> Any:
    """Return the object of a record; keys of a newer release are left out."""
    return known(kind, json.loads(text))


def known(kind: type[Any], said: Any) -> Any:
    """Return an object of those keys that this release knows."""
    names = {each.name for each in fields(kind)}
    return kind(**{key: value for key, value in said.items() if key in names})
