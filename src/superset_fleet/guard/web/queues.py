"""What is known of queues and their workers, as clients may see it.

It is read from Redis at most once a second in each process, so many requests cost no more than few.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import kombu.exceptions
from redis import RedisError

from ...state import records, registry
from ...times import TIMES

STATE_SECONDS = 1.0  # how long a state is shown before Redis is asked again


@dataclass(frozen=True)
class QueueState:
    """What is known of a queue. A worker that takes several queues counts in each of them."""

    workers: int = 0  # that take tasks
    draining: int = 0  # that take no more and finish what they run
    slots: int = 0  # tasks that the workers can run at a time
    active: int = 0  # tasks that run, on draining workers too
    waiting: int | None = None  # tasks in the broker; None where they cannot be counted
    silent_seconds: float | None = None  # since a worker was heard; None where there never was one
    # Whether the scaler starts a worker for what waits. None where nobody waits for that.
    wakes: bool | None = None
    starting_seconds: float | None = None  # since the first one was asked for; None: none is

    @property
    def takes(self) -> bool:
        """Whether a query is taken: it runs, or waits for a worker that is started."""
        return self.workers > 0 or bool(self.wakes)


@dataclass(frozen=True)
class State:
    """All queues by name, and how often the watchdog decided what."""

    queues: dict[str, QueueState]
    decisions: dict[str, int] = field(default_factory=dict)


class QueuesUnknown(Exception):
    """The state cannot be told; the message, which anybody may read, says why."""


def count(
    name: str, queue: records.Queue, live: Iterable[records.Worker], waiting: int | None
) -> QueueState:
    """Return a queue's state, given the workers of all queues that are not silent."""
    mine = [worker for worker in live if name in worker.queues]
    return QueueState(
        workers=queue.workers,
        draining=sum(worker.draining for worker in mine),
        slots=sum(worker.slots for worker in mine if worker.takes),
        active=sum(worker.tasks for worker in mine),
        waiting=waiting,
        silent_seconds=queue.silent_seconds,
    )


def waking(state: QueueState, queue: records.Queue, now: float) -> QueueState:
    """Return a queue's state with what the scaler says of it; `now` is by Redis."""
    wake = queue.wake
    starting = wake is not None and wake.state == "starting" and not queue.workers
    seconds = max(0.0, round(now - wake.since, 1)) if wake and starting else None
    return replace(state, wakes=queue.starts, starting_seconds=seconds)


def look_at_queues(
    known: registry.Registry,
    names: Iterable[str],
    lengths: Callable[[list[str]], dict[str, int]],
    wake: bool = False,
) -> State:
    """Return the state of these queues, and of all that ever had a worker.

    With `wake`, what the scaler says of them, too. Raises QueuesUnknown where Redis does not tell.
    """
    try:
        now = known.now()
        live = [
            worker
            for worker in known.workers().values()
            if now - worker.last_beat <= TIMES.silent_seconds
        ]
        queues = {name: known.queue(name) for name in sorted({*names, *known.queues()})}
        empty = not all(queue.workers for queue in queues.values())
        if empty and known.up_seconds() <= TIMES.redis_start_seconds:
            raise QueuesUnknown("Redis has just started: its workers come back one by one.")
        decisions = known.decisions()
    except RedisError as error:
        # Its own text holds the address.
        raise QueuesUnknown(f"Redis does not answer ({type(error).__name__}).") from error
    waiting = lengths(list(queues))
    states = {name: count(name, queue, live, waiting.get(name)) for name, queue in queues.items()}
    if wake:
        states = {name: waking(state, queues[name], now) for name, state in states.items()}
    return State(states, decisions)


class Broker:
    """The lengths of a broker's queues, where that is a Redis."""

    def __init__(self, celery: Any) -> None:
        self._celery = celery
        self._channel: Any = None

    def lengths(self, names: list[str]) -> dict[str, int]:
        """Return how many tasks wait in each queue; nothing where that cannot be told."""
        try:
            return self._lengths(names)
        except (RedisError, OSError, kombu.exceptions.KombuError):
            return {}

    def _lengths(self, names: list[str]) -> dict[str, int]:
        if self._channel is None:
            # Celery's own time-outs are for those who have to wait for the broker.
            seconds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), 0.5)
            connection = self._celery.connection_for_read(transport_options=seconds)
            if connection.transport.driver_type != "redis":
                return {}
            self._channel = connection.channel()
        channel = self._channel
        # One list for each priority: `queue`, `queue<sep>3`, ...
        endings = [f"{channel.sep}{step}" if step else "" for step in channel.priority_steps]
        with channel.client.pipeline(transaction=False) as pipeline:
            for name in names:
                for ending in endings:
                    pipeline.llen(name + ending)
            found = iter(pipeline.execute())
        return {name: sum(next(found) for _ in endings) for name in names}


class Glance:
    """A state that is at most a second old; the first who asks after that looks for all."""

    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._seen: State | QueuesUnknown = QueuesUnknown("Nobody has looked yet.")
        self._until = 0.0  # by the monotonic clock

    def __call__(self) -> State:
        """Return the state. Raises QueuesUnknown."""
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._seen = self._look()
                except QueuesUnknown as unknown:
                    self._seen = unknown
                self._until = time.monotonic() + STATE_SECONDS
            seen = self._seen
        if isinstance(seen, QueuesUnknown):
            raise QueuesUnknown(str(seen))
        return seen
