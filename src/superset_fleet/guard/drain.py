"""A worker that drains takes no more tasks, gives back those that wait, finishes those that run.

It drains while there is the file `FILE`, as a web machine does, and when it is told to stop; then
it stops as soon as it has nothing to do. Celery's own way to stop leaves the event loop first: what
the worker holds without running it waits until its last task has finished, which can be an hour
later, and what finishes meanwhile is confirmed no sooner. So that way is taken last, or where there
is no event loop, as without a broker.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

from celery.bootsteps import StartStopStep
from celery.worker import state
from celery.worker.consumer import Tasks
from celery.worker.request import Request

from ..daemon.journal import tell
from ..daemon.loop import notify_alive
from ..roles import DRAINING, ROLES, WORKER
from ..times import TIMES

FILE = Path(os.environ.get("RUNTIME_DIRECTORY", ROLES[WORKER].directory), DRAINING)


class Drain(StartStopStep):  # type: ignore[misc]
    """A part of a worker's consumer, which is started whenever the broker is there.

    Everything is done by the main thread, in the event loop, which owns the consumer.
    """

    requires = (Tasks,)

    def __init__(self, consumer: Any, **_: Any) -> None:
        consumer.drain = self
        self.draining = False
        self._left = False  # whether the queues are left
        self.changed: Callable[[], object] = lambda: None  # called when `draining` has changed
        self.in_loop = False  # whether the event loop is to turn
        self.turns = 0  # how often it was seen to
        # What kombu does for this connection whenever the event loop turns, and what was done then
        # before there was this connection.
        self._receives: Set[Any] = frozenset()
        self._before: Set[Any] = frozenset()
        self._fewer = 0  # messages that are not received, since what runs from before takes slots
        self._stop: Any = None  # Celery's own way: its handler of the signal
        self._told: Callable[[], None] | None = None

    def start(self, consumer: Any) -> None:
        """Look from now on, and be who is told to stop."""
        if not self._stop:
            self._stop = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self._terminated)
        self.in_loop = True
        self._receives = consumer.hub.on_tick - self._before
        mark_busy(consumer.pool)
        consumer.call_soon(self.look, consumer)
        consumer.timer.call_repeatedly(TIMES.drain_look_seconds, self.look, (consumer,))

    def stop(self, consumer: Any) -> None:
        """The event loop is over: the broker is lost, or the worker stops."""
        self.in_loop = False
        self._fewer = 0
        self._before = frozenset(consumer.hub.on_tick)
        if self._told:
            self._told()

    def _terminated(self, *given: Any) -> None:
        if not self.in_loop:
            self._stop(*given)
        elif not self._told:
            self._told = functools.partial(self._stop, *given)
            self._set(True)

    def _set(self, draining: bool) -> None:
        if draining != self.draining:
            self.draining = draining
            self.changed()

    def look(self, consumer: Any) -> None:
        """Do what there is to do."""
        self.turns += 1
        notify_alive()
        self._receive(consumer.hub)
        self._set(bool(self._told) or FILE.exists())
        slots, running = consumer.pool.num_processes, unconfirmed()
        self._receive_fewer(consumer.qos, min(running, slots - 1))  # kombu's 0 is: without limit
        if self.draining or running >= slots:
            consumer.task_consumer.cancel()
        else:
            consumer.task_consumer.consume()  # from those queues alone from which it does not yet
        if self._left != self.draining:
            self._left = self.draining
            tell("left_queues" if self._left else "takes_tasks")
        if not self.draining:
            return
        for request in [*too_early(consumer), *without_process(consumer)]:
            request.reject(requeue=True)
            state.task_ready(request)
        if self._told and not state.reserved_requests:
            self._told()

    def _receive(self, hub: Any) -> None:
        """Let the event loop receive from the broker, if it has forgotten to.

        kombu before 5.7 forgets it whenever a channel of the connection is closed, as that of
        remote control is when a command has failed: the worker lives, and takes nothing for ever.
        """
        if not self._receives <= hub.on_tick:
            hub.on_tick |= self._receives
            tell("receives_again")

    def _receive_fewer(self, qos: Any, fewer: int) -> None:
        """Receive so many messages fewer than there are slots."""
        qos.decrement_eventually(max(0, fewer - self._fewer))
        qos.increment_eventually(self._fewer - fewer)
        qos.update()
        self._fewer = fewer


def mark_busy(pool: Any) -> None:
    """Let the pool know which of its processes run something, which it forgets with a connection.

    Else the next task is written to any of them, and waits there for as long as the first one runs.
    """
    tasks = pool._pool._cache.values()
    pool._pool._busy_workers.update(
        task._write_to.inqW_fd for task in tasks if task._accepted and task._write_to
    )


def unconfirmed() -> int:
    """Return how many tasks run whose messages came by a connection that was lost since."""
    return len(set(state.active_requests) - set(state.reserved_requests))


def too_early(consumer: Any) -> Iterator[Request]:
    """Forget the tasks whose time has not come, and yield them."""
    for scheduled in consumer.timer.queue:
        entry = scheduled.entry
        request = next(iter(entry.args), None)
        if isinstance(request, Request) and not entry.canceled:
            entry.cancel()
            consumer.qos.decrement_eventually()  # room was made for it
            yield request


def without_process(consumer: Any) -> Iterator[Request]:
    """Forget the tasks that wait until a process of the pool is free, and yield them."""
    waiting = consumer.controller.semaphore._waiting
    while waiting:
        _, (request,), _ = waiting.popleft()
        yield request
