"""The heartbeat of a worker: a thread of its main process.

A thread and not a timer of Celery's event loop: that loop is over while a stopping worker runs
its last queries, which must not look dead. Nor must they while that loop is stuck; but then each
beat says so, since what takes tasks is the loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from celery import signals
from celery.worker import state
from redis import RedisError

from ..daemon.journal import in_words, tell
from ..daemon.loop import notify_alive
from ..state.jobs import job_name
from ..state.records import Finished, Worker
from ..times import TIMES
from .context import Guard
from .drain import Drain

# Of each queue's finished tasks so many durations are in a beat. A worker of a few slots finishes
# no more between two looks of the scaler, unless they are so short that a sample of them will do.
NEWEST = 20


def jobs(requests: Iterable[Any]) -> list[str]:
    """Return the jobs of Celery's requests."""
    named = (job_name(each.name, each.args, each.kwargs) for each in requests)
    return [name for name in named if name]


def queue_of_task(request: Any) -> str:
    """Return the queue that a request came from: Celery's own queues are bound by their name."""
    return str((request.delivery_info or {}).get("routing_key") or "")


class Stopwatch:
    """How long tasks took, from the processes that run them to the one that beats.

    By a pipe, which the pool's processes inherit: Celery tells the main process that a task has
    finished, but not how long it took, and lets nobody listen.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        for pipe in (self._reading, self._writing):
            os.set_blocking(pipe, False)
        self._began: dict[str, float] = {}  # in a process of the pool: task → monotonic seconds
        self._rest = b""
        self._finished: dict[str, Finished] = {}

    def start(self, task_id: str, **_: Any) -> None:
        """Note that a task begins."""
        self._began[task_id] = time.monotonic()

    def stop(self, task_id: str, task: Any, **_: Any) -> None:
        """Tell that a task has finished; where the pipe is full, one of many is not counted."""
        began = self._began.pop(task_id, None)
        if began is None:
            return
        said = [queue_of_task(task.request), round(time.monotonic() - began, 3)]
        with contextlib.suppress(OSError):
            os.write(self._writing, f"{json.dumps(said)}\n".encode())

    def read(self) -> dict[str, Finished]:
        """Return what was told in this life, by queue."""
        with contextlib.suppress(BlockingIOError):
            while text := os.read(self._reading, 65536):
                self._rest += text
        *lines, self._rest = self._rest.split(b"\n")
        new = defaultdict(list)
        for line in lines:
            queue, seconds = json.loads(line)
            new[queue].append(seconds)
        for queue, took in new.items():
            count, before = self._finished.get(queue, (0, []))
            self._finished[queue] = count + len(took), [*before, *took][-NEWEST:]
        return dict(self._finished)


class Heartbeat(threading.Thread):
    """Tells the registry every second what the worker does, until it leaves."""

    def __init__(self, guard: Guard, controller: Any, stopwatch: Stopwatch) -> None:
        super().__init__(name="guard-heartbeat", daemon=True)
        self._guard, self._controller, self._stopwatch = guard, controller, stopwatch
        self._wake, self._stopping, self._over = (threading.Event() for _ in range(3))
        self._drain: Drain = controller.consumer.drain
        self._drain.changed = self._wake.set
        self._lost = False
        # How often the event loop had turned at the last look, and since when, in monotonic
        # seconds; for how long it was watched and did not.
        self._turns, self._looked, self._turned, self._still = -1, 0.0, 0.0, 0.0
        self._worker = Worker(
            socket.gethostname(),
            os.getpid(),
            [],
            0,
            # Of machines that a cloud has: fleet-boot writes them into the unit's environment.
            instance=os.environ.get("FLEET_INSTANCE", ""),
            group=os.environ.get("FLEET_GROUP", ""),
        )

    def run(self) -> None:
        """Beat; right away once more when something has changed."""
        while not self._over.is_set():
            try:
                self._beat()
                self._lost = False
            except Exception as error:  # a worker that does not beat is taken for dead
                if not self._lost:  # once for each outage
                    self._tell_lost(error)
                self._lost = True
            if self._lives():
                notify_alive()
            self._wake.wait(TIMES.beat_seconds)
            self._wake.clear()

    def _beat(self) -> None:
        registry, name = self._guard.registry, self._guard.worker
        if not self._worker.since:
            self._worker = replace(self._worker, since=registry.now())
        self._worker = replace(self._worker, **self._look())
        if not self._worker.takes:
            registry.withdraw(name, self._worker.queues)
        registry.beat(name, self._worker)

    def _look(self) -> dict[str, Any]:
        draining = self._drain.draining or self._stopping.is_set()
        # Copied first: Celery changes these sets meanwhile.
        active, reserved = set(state.active_requests), set(state.reserved_requests)
        # There is none while the broker cannot be reached, nor after it has left its queues.
        consumer = getattr(self._controller.consumer, "task_consumer", None)
        queues = [queue.name for queue in consumer.queues] if consumer else []
        return {
            "queues": queues or (self._worker.queues if draining else []),
            "slots": self._controller.pool.num_processes,
            "tasks": len(active),
            "active": jobs(active),
            "reserved": jobs(reserved - active),
            "draining": draining,
            "stuck_seconds": self._stuck_seconds(),
            "taken": dict(Counter(queue_of_task(each) for each in active | reserved)),
            "finished": self._stopwatch.read(),
        }

    def _stuck_seconds(self) -> float:
        """Return for how long the event loop has not turned, 0 where that is nothing yet.

        While Redis does not answer this thread, that loop may be waiting for it, too.
        """
        now, turns = time.monotonic(), self._drain.turns
        stuck = self._still >= TIMES.stuck_seconds
        if turns != self._turns or not self._drain.in_loop or (self._lost and not stuck):
            if stuck:
                tell("turns_again", worker=self._guard.worker)
            self._turns, self._turned, self._still = turns, now, 0.0
        else:
            # While this thread itself stood still, it saw nothing.
            self._still += min(now - self._looked, 2 * TIMES.beat_seconds)
            if not stuck and self._still >= TIMES.stuck_seconds:
                tell("stuck", worker=self._guard.worker)
        self._looked = now
        return round(now - self._turned, 1) if self._still >= TIMES.stuck_seconds else 0.0

    def _lives(self) -> bool:
        """Tell whether the worker does what it is to do, where no event loop can say so.

        It waits for Redis, which has time-outs of its own, or for the last tasks of its pool.
        """
        if self._drain.in_loop:
            return self._lost
        return not self._stopping.is_set() or bool(state.active_requests)

    def stop(self) -> None:
        """Take no more work. Called by a signal's handler, so it only leaves a note."""
        self._stopping.set()
        self._wake.set()

    def leave(self) -> None:
        """Say good-bye."""
        self._over.set()
        self._wake.set()
        self.join(5)
        try:
            self._guard.registry.leave(self._guard.worker, self._worker.queues)
        except RedisError as error:
            self._tell_lost(error)

    def _tell_lost(self, error: Exception) -> None:
        tell("heartbeat_lost", worker=self._guard.worker, reason=in_words(error))


def beat_from(guard: Guard) -> None:
    """Let this process beat if it becomes a worker's main process."""

    stopwatch: Stopwatch

    def name(sender: str, instance: Any, **_: Any) -> None:
        nonlocal stopwatch
        # Before the pool's processes are forked, so that they know it, too.
        guard.worker = f"{sender}#{uuid.uuid4().hex[:8]}"
        stopwatch = Stopwatch()
        signals.task_prerun.connect(stopwatch.start, weak=False)
        signals.task_postrun.connect(stopwatch.stop, weak=False)
        instance.app.steps["consumer"].add(Drain)

    def start(sender: Any, **_: Any) -> None:
        heartbeat = Heartbeat(guard, sender.controller, stopwatch)

        def stop(**_: Any) -> None:
            heartbeat.stop()

        def leave(**_: Any) -> None:
            heartbeat.leave()

        signals.worker_shutting_down.connect(stop, weak=False)
        signals.worker_shutdown.connect(leave, weak=False)
        heartbeat.start()

    signals.celeryd_init.connect(name, weak=False)
    signals.worker_ready.connect(start, weak=False)
