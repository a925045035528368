"""What the registry, the broker and the database say of jobs, and since when they say so."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from ..state import rows
from ..state.jobs import query_id_of, query_name
from ..state.records import Job, Queue, Run, Worker
from ..times import TIMES


class Observed:
    """Since when things look as they do, without a break, by this process' own clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = 0.0
        self._before: dict[Hashable, tuple[Hashable, float]] = {}
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def begin(self) -> None:
        """Begin a tick. What was not looked at in the last one is new."""
        last, self._now = self._now, self._clock()
        self._before, self._seen = self._seen, {}
        if self._now - last > TIMES.watch_break_seconds:
            self._before = {}

    def restart(self) -> None:
        """Forget everything: there was a time when nothing could be seen."""
        self._before, self._seen = {}, {}

    def seconds(self, thing: Hashable, looks: Hashable) -> float:
        """Return for how long a thing has looked so."""
        before = self._before.get(thing)
        since = before[1] if before and before[0] == looks else self._now
        self._seen[thing] = looks, since
        return self._now - since


@dataclass(frozen=True)
class Sight:
    """What the registry, the broker and the database say, at one tick."""

    now: float  # Redis' time
    workers: Mapping[str, Worker] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    rows: Mapping[int, rows.Row] = field(default_factory=dict)
    # Jobs whose message was in no queue at the last look. Where it is only on its way from the
    # queue to a worker, that worker names it with its next beat.
    absent: Set[str] = frozenset()


UNKNOWN = Queue(0, None)  # a queue that nobody has looked at


@dataclass(frozen=True)
class Case:
    """What is to be judged of one job."""

    name: str
    job: Job
    status: str = ""  # of the row; of a chart pending or running; '' where there is none
    token: Any = None  # of the row
    run: Run | None = None
    worker: str = ""  # that has it, or had it last; '' where that is not known
    last_beat: float | None = None  # when that worker was heard last, None where it said good-bye
    process_only: bool = False  # that worker lives, but not the process that ran the job
    ran_seconds: float = 0.0
    held: bool = False  # a worker that lives has it
    # For how long nobody has had it: no worker that lives and, where it waits, no queue.
    orphan_seconds: float = 0.0
    queue_silent: bool = False  # no worker that lives takes from its queue
    queue_seen: float | None = None  # when one was seen last, None for never
    queue: Queue = UNKNOWN  # with what the scaler says of it
    unstarted_seconds: float = 0.0  # for how long nobody has said that he starts a worker for it
    waited_seconds: float = 0.0  # since it was sent, and since a worker was seen, by Redis

    @property
    def host(self) -> str:
        """Where that worker is, e.g. vm of worker@vm#1a2b3c4d."""
        return self.worker.partition("@")[2].partition("#")[0]

    @property
    def dropped(self) -> str:
        """What the database said that dropped the run, '' where none did."""
        return self.run.dropped if self.run else ""

    @property
    def read_only(self) -> bool:
        """Whether it is known that it can be run twice."""
        return query_id_of(self.name) is None or bool(self.run and self.run.read_only)


def silences(sight: Sight, observed: Observed) -> dict[str, float]:
    """Return for how long each worker's heartbeat has stood still."""
    return {
        name: observed.seconds(("worker", name), worker.last_beat)
        for name, worker in sight.workers.items()
    }


def queue_silences(sight: Sight, observed: Observed) -> dict[str, float]:
    """Return for how long the heartbeats of all who take from a queue have stood still.

    A worker without any queue is on its way back to the broker, and may take from each of them.
    """
    takers = {name: worker for name, worker in sight.workers.items() if worker.takes}
    queues = {queue for worker in takers.values() for queue in worker.queues}
    queues.update(job.queue for job in sight.jobs.values())
    beats: dict[str, set[tuple[str, float]]] = {queue: set() for queue in queues}
    for name, worker in takers.items():
        for queue in worker.queues or queues:
            beats[queue].add((name, worker.last_beat))
    return {
        queue: observed.seconds(("queue", queue), frozenset(those))
        for queue, those in beats.items()
    }


def holders(sight: Sight) -> dict[str, list[str]]:
    """Return by job which workers say, or said with their last beat, that they have it."""
    found = defaultdict(list)
    for name, worker in sight.workers.items():
        for job in worker.active + worker.reserved:
            found[job].append(name)
    return found


def turned(worker: Worker) -> float:
    """Return when a worker's event loop turned last: it names what it had then. By Redis."""
    return worker.last_beat - worker.stuck_seconds


def running(worker: Worker) -> list[str]:
    """Return the jobs that a worker may run: a stuck one does not see which of its own began."""
    return worker.active + (worker.reserved if worker.stuck_seconds else [])


def cases(sight: Sight, observed: Observed) -> Iterator[Case]:
    """Make of what is seen, and since when, what is to be judged."""
    silent, queue_silent = silences(sight, observed), queue_silences(sight, observed)
    held = holders(sight)
    for name, job in sight.jobs.items():
        query_id, run = query_id_of(name), sight.runs.get(name)
        if query_id is None:
            row = rows.Row("running" if run else "pending", None)
        else:
            row = sight.rows.get(query_id) or rows.Row("", None)
            if run and run.token != str(row.token):
                run = None  # of an earlier run
        # What a dead or stuck worker had before the job was sent again does not count.
        claiming = [each for each in held.get(name, []) if turned(sight.workers[each]) > job.at]
        if row.status == "running":
            alive = [each for each in held.get(name, []) if silent[each] < TIMES.silent_seconds]
            owners = [run.worker] if run else alive or claiming
            having = [
                each
                for each in owners
                if each in sight.workers and name in running(sight.workers[each])
            ]
            idle = silent
        else:
            owners = having = claiming
            # Nobody begins what a stuck worker has reserved.
            idle = {each: max(silent[each], sight.workers[each].stuck_seconds) for each in having}
        if having:
            orphan = min(idle[each] for each in having)
        elif row.status == "running" or name in sight.absent:
            orphan = observed.seconds(("job", name), (row, run, job.attempt))
        else:
            orphan = 0.0
        owner = owners[0] if owners else ""
        queue = sight.queues.get(job.queue, UNKNOWN)
        since = queue.silent_seconds
        seen = None if since is None else sight.now - since
        unstarted = 0.0 if queue.starts else observed.seconds(("unstarted", job.queue), None)
        worker = sight.workers.get(owner)
        yield Case(
            name=name,
            job=job,
            status=row.status,
            token=row.token,
            run=run,
            worker=owner,
            last_beat=worker.last_beat if worker else None,
            process_only=bool(worker) and silent[owner] < TIMES.lively_seconds,
            ran_seconds=sight.now - run.at if run else 0.0,
            held=bool(having) and orphan < TIMES.silent_seconds,
            orphan_seconds=orphan,
            queue_silent=queue_silent[job.queue] >= TIMES.silent_seconds,
            queue_seen=seen,
            queue=queue,
            unstarted_seconds=unstarted,
            waited_seconds=sight.now - max(job.at, seen or 0.0),
        )


def rows_without_job(
    sight: Sight, silent: Mapping[str, float], unfinished: Mapping[int, rows.Row]
) -> tuple[dict[int, rows.Row], dict[int, Worker]]:
    """Return the rows that are in no register and that no worker has that lives.

    Such a query was sent while Redis could not be asked, or is older than the guard, or its
    request was killed. The second part says which silent worker had it.
    """
    held = holders(sight)
    unknown, died = {}, {}
    for query_id, row in unfinished.items():
        name = query_name(query_id)
        having = held.get(name, [])
        if name in sight.jobs or any(silent[each] < TIMES.silent_seconds for each in having):
            continue
        unknown[query_id] = row
        if having:
            died[query_id] = sight.workers[having[0]]
    return unknown, died


@dataclass(frozen=True)
class Limits:
    """What an installation allows."""

    time_limit_seconds: float  # the hard limit of a query's task
    reruns: int  # how often a query is run again whose worker died
    wake_timeout_seconds: float = 0.0  # of waiting for a worker to be started; 0: for none

    @property
    def wakes(self) -> bool:
        """Whether queries wait for workers that are started."""
        return self.wake_timeout_seconds > 0


def served(case: Case, limits: Limits) -> bool:
    """Return whether a worker takes from a job's queue, or one is started that will.

    The latter for some seconds more than the scaler says so: one may follow on another.
    """
    starts = limits.wakes and case.unstarted_seconds < TIMES.unstarted_seconds
    return starts or not case.queue_silent
