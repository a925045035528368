"""A worker group in simulated time: machines start, take tasks, and leave when they are done.

Nobody is killed, whoever decides: a machine that is to go takes no more tasks and finishes its own.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from superset_fleet.scaler.durations import COUNTED
from superset_fleet.state.records import Finished

from .loads import Task

SLOTS = 2  # of a machine
MAX = 20  # machines
IDLE_CPU = 0.01  # of a machine, what runs beside the tasks


class Seen(NamedTuple):
    """What a way to scale may know at a tick."""

    at: float
    waiting: int
    running: int
    leaving: int  # of these, on machines that are to go
    workers: int  # machines that take tasks
    busy: int  # of these, with a task
    desired: int
    cpu: float  # mean share of the workers' processors since the last tick; 0 without workers
    finished: Finished  # as a worker says it in its heartbeat, here for the whole group


class Way(Protocol):
    """A way to scale."""

    every: float  # seconds between two ticks
    min: int  # machines
    spares_busy: bool  # a machine with a task is not chosen to go

    def desired(self, seen: Seen) -> int:
        """Return how many machines are to be."""


@dataclass(eq=False)
class Machine:
    """One machine; it costs from when it is asked for until it is gone."""

    asked: float
    ready: bool = False
    leaving: bool = False
    tasks: int = 0


@dataclass
class Outcome:
    """What a run came to."""

    waits: list[float]  # seconds of each task from sent to begun
    worker_seconds: float
    steps: int  # changes of desired


def run(tasks: Sequence[Task], way: Way, start: tuple[float, float], seed: int) -> Outcome:
    """Let a group work off the tasks. `start`: a machine takes so many seconds, at least, at most.

    It begins with one machine, whatever the way, and ends with the last task; machines that are
    left then cost until then.
    """
    group = Group(way, start, random.Random(seed))
    group.ask()
    group.begin(group.machines[0])
    group.follow(tasks)
    return group.outcome()


class Group:
    """The machines, the queue, and the events that are to come."""

    def __init__(self, way: Way, start: tuple[float, float], dice: random.Random) -> None:
        self.way, self.start, self.dice = way, start, dice
        self.now = 0.0
        self.desired = 0
        self.machines: list[Machine] = []  # that are not to go, oldest first
        self.free: list[Machine] = []  # one entry for each free slot
        self.queue: deque[Task] = deque()
        self.events: list[tuple[float, int, Machine, Task | None]] = []
        self.number = 0
        self.running = 0
        self.waits: list[float] = []
        self.cost = 0.0
        self.steps = 0
        self.finished = 0  # tasks
        self.newest: deque[float] = deque(maxlen=COUNTED)  # seconds that these took
        # Processors used, and workers, each times seconds, since the last tick.
        self.cpu, self.cpu_seconds, self.cpu_since = 0.0, 0.0, 0.0

    def follow(self, tasks: Sequence[Task]) -> None:
        """Go through the events in their order."""
        tick, index = 0.0, 0
        while index < len(tasks) or self.queue or self.running:
            coming = tasks[index].at if index < len(tasks) else float("inf")
            event = self.events[0][0] if self.events else float("inf")
            if tick <= coming and tick <= event:
                self.now = tick
                self.decide()
                tick += self.way.every
            elif coming <= event:
                self.now = coming
                self.send(tasks[index])
                index += 1
            else:
                self.now, _, machine, task = heapq.heappop(self.events)
                if task is None:
                    self.begin(machine)
                else:
                    self.end(machine, task)

    def ask(self) -> None:
        """Ask for a machine."""
        machine = Machine(self.now)
        self.machines.append(machine)
        self.desired += 1
        self.push(self.now + self.dice.uniform(*self.start), machine, None)

    def push(self, at: float, machine: Machine, task: Task | None) -> None:
        """Let a machine be there, or a task end, at its time."""
        self.number += 1
        heapq.heappush(self.events, (at, self.number, machine, task))

    def begin(self, machine: Machine) -> None:
        """A machine is there, unless it was to go before."""
        if machine.leaving or machine.ready:
            return
        machine.ready = True
        self.free += [machine] * SLOTS
        while self.queue and self.free:
            self.take(self.queue.popleft())

    def send(self, task: Task) -> None:
        """A user sends a task."""
        if self.free:
            self.take(task)
        else:
            self.queue.append(task)

    def take(self, task: Task) -> None:
        """Any free slot takes a task."""
        place = self.dice.randrange(len(self.free))
        machine = self.free[place]
        self.free[place] = self.free[-1]
        self.free.pop()
        machine.tasks += 1
        self.running += 1
        self.waits.append(self.now - task.at)
        self.use(task.cpu)
        self.push(self.now + task.seconds, machine, task)

    def end(self, machine: Machine, task: Task) -> None:
        """A task has ended."""
        machine.tasks -= 1
        self.running -= 1
        self.finished += 1
        self.newest.append(task.seconds)
        self.use(-task.cpu)
        if not machine.leaving:
            self.free.append(machine)
            if self.queue:
                self.take(self.queue.popleft())
        elif not machine.tasks:
            self.cost += self.now - machine.asked

    def use(self, more: float) -> None:
        """Account for the processors' use until now."""
        self.cpu_seconds += self.cpu * (self.now - self.cpu_since)
        self.cpu += more
        self.cpu_since = self.now

    def decide(self) -> None:
        """Let the way to scale see what is, and do what it says."""
        self.use(0.0)
        ready = [machine for machine in self.machines if machine.ready]
        share = self.cpu_seconds / self.way.every / len(ready) + IDLE_CPU if ready else 0.0
        self.cpu_seconds = 0.0
        seen = Seen(
            self.now,
            len(self.queue),
            self.running,
            self.running - sum([machine.tasks for machine in ready]),
            len(ready),
            len([machine for machine in ready if machine.tasks]),
            self.desired,
            share,
            (self.finished, list(self.newest)),
        )
        wanted = max(self.way.min, min(self.way.desired(seen), MAX))
        if wanted == self.desired:
            return
        while self.desired < wanted:
            self.ask()
        while self.desired > wanted:
            self.leave()
        self.steps += 1

    def leave(self) -> None:
        """One machine goes: one that still starts, else an idle one where busy ones are spared,
        else the newest, as Kubernetes does it."""
        spared = self.way.spares_busy

        def rank(machine: Machine) -> tuple[bool, bool, float]:
            return machine.ready, spared and machine.tasks > 0, -machine.asked

        machine = min(self.machines, key=rank)
        self.machines.remove(machine)
        self.desired -= 1
        machine.leaving = True
        self.free = [other for other in self.free if other is not machine]
        if not machine.tasks:
            self.cost += self.now - machine.asked

    def outcome(self) -> Outcome:
        """Return what it came to."""
        left = sum(self.now - machine.asked for machine in self.machines)
        return Outcome(self.waits, self.cost + left, self.steps)
