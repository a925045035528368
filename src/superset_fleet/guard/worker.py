"""The heartbeat of a worker: a thread of its main process.

A thread and not a timer of Celery's event loop: that loop has ended while a stopping worker runs
its last queries, which must not look dead.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.worker import state
from redis import RedisError

from .registry import BEAT_SECONDS, Worker
from .tasks import job_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .setup import Guard

log = logging.getLogger(__name__)


def jobs(requests: Iterable[Any]) -> list[str]:
    """Return the jobs of Celery's requests."""
    named = (job_name(each.name, each.args, each.kwargs) for each in requests)
    return [name for name in named if name]


class Heartbeat(threading.Thread):
    """Tells the registry every second what the worker does, until it ends."""

    def __init__(self, guard: Guard, controller: Any) -> None:
        super().__init__(name="guard-heartbeat", daemon=True)
        self._guard, self._controller = guard, controller
        self._wake, self._draining, self._over = (threading.Event() for _ in range(3))
        self._lost = False
        self._worker = Worker(socket.gethostname(), os.getpid(), [], 0)

    def run(self) -> None:
        """Beat; right away once more when something has changed."""
        while not self._over.is_set():
            try:
                self._beat()
                self._lost = False
            except Exception as error:  # a worker that does not beat is taken for dead
                if not self._lost:  # once for each outage
                    log.warning(
                        "event=heartbeat_lost worker=%s reason=%r", self._guard.worker, error
                    )
                self._lost = True
            self._wake.wait(BEAT_SECONDS)
            self._wake.clear()

    def _beat(self) -> None:
        registry, name = self._guard.registry, self._guard.worker
        if not self._worker.since:
            self._worker = replace(self._worker, since=registry.now())
        self._worker = replace(self._worker, **self._look())
        if self._worker.draining:
            registry.withdraw(name, self._worker.queues)
        registry.beat(name, self._worker)

    def _look(self) -> dict[str, Any]:
        draining = self._draining.is_set()
        # Copied first: Celery changes these sets meanwhile.
        active, reserved = set(state.active_requests), set(state.reserved_requests)
        # There is none while the broker cannot be reached, and after the end of taking work.
        consumer = getattr(self._controller.consumer, "task_consumer", None)
        queues = [queue.name for queue in consumer.queues] if consumer else []
        return {
            "queues": queues or (self._worker.queues if draining else []),
            "slots": self._controller.pool.num_processes,
            "tasks": len(active),
            "active": jobs(active),
            "reserved": jobs(reserved - active),
            "draining": draining,
        }

    def drain(self) -> None:
        """Take no more work. Called by a signal's handler, so it only leaves a note."""
        self._draining.set()
        self._wake.set()

    def end(self) -> None:
        """Say good-bye."""
        self._over.set()
        self._wake.set()
        self.join(5)
        try:
            self._guard.registry.leave(self._guard.worker, self._worker.queues)
        except RedisError as error:
            log.warning("event=heartbeat_lost worker=%s reason=%r", self._guard.worker, error)


def beat_from(guard: Guard) -> None:
    """Let this process beat if it becomes a worker's main process."""

    def name(sender: str, **_: Any) -> None:
        # Before the pool's processes are forked, so that they know it, too.
        guard.worker = f"{sender}#{uuid.uuid4().hex[:8]}"

    def start(sender: Any, **_: Any) -> None:
        heartbeat = Heartbeat(guard, sender.controller)

        def drain(**_: Any) -> None:
            heartbeat.drain()

        def end(**_: Any) -> None:
            heartbeat.end()

        signals.worker_shutting_down.connect(drain, weak=False)
        signals.worker_shutdown.connect(end, weak=False)
        heartbeat.start()

    signals.celeryd_init.connect(name, weak=False)
    signals.worker_ready.connect(start, weak=False)
