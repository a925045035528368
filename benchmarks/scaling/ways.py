"""The ways to scale that are compared, each with the one number by which its cost is set."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from superset_fleet.scaler.decide import Load, Memory, Policy, decide
from superset_fleet.scaler.durations import Durations
from superset_fleet.state.records import Worker

from .machines import MAX, SLOTS, Seen

GROUP, QUEUE = "workers", "queries"


class Ours:
    """What the scaler does: `Durations` learns how long tasks take, `decide` decides by that."""

    every = 2.0
    min = 0
    spares_busy = True

    def __init__(self, policy: Policy) -> None:
        self.policy, self.memory, self.durations = policy, Memory(), Durations()

    def desired(self, seen: Seen) -> int:
        """Decide."""
        worker = Worker("", 0, [QUEUE], SLOTS, group=GROUP, finished={QUEUE: seen.finished})
        self.durations.learn({"its life": worker})
        load = Load(
            seen.at,
            seen.waiting,
            seen.running - seen.leaving,
            seen.workers,
            seen.busy,
            seen.desired,
            SLOTS,
            self.durations.seconds(GROUP, {QUEUE: seen.waiting}, self.policy),
        )
        decision, self.memory = decide(load, self.policy, self.memory)
        return decision.desired


class Cpu:
    """Target tracking on the processors' use, as AWS does it.

    A data point a minute. Three in a row above the target: as many machines as would bring the
    last one to the target. Fifteen below nine tenths of it: fewer in the same way, not while
    machines start. Its alarms have no data without machines, so one is always there.
    """

    every = 60.0
    min = 1
    spares_busy = False

    def __init__(self, target: float) -> None:
        self.target = target
        self.points: deque[float] = deque(maxlen=15)

    def desired(self, seen: Seen) -> int:
        """Look at the alarms."""
        self.points.append(seen.cpu)
        wanted = math.ceil(seen.workers * seen.cpu / self.target)
        if len(self.points) >= 3 and min(list(self.points)[-3:]) > self.target:
            return max(seen.desired, wanted)
        low = len(self.points) == 15 and max(self.points) < 0.9 * self.target
        return min(seen.desired, wanted) if low and seen.workers == seen.desired else seen.desired


class Keda:
    """KEDA and the HorizontalPodAutoscaler that it makes, with Kubernetes' defaults.

    KEDA asks each `poll` seconds: to one machine when there is anything, to none after `cooldown`
    without. Between, the autoscaler each 15 s: signal / target, no change within a tenth; at most
    four more or twice as many at a time; fewer only to the most of the last 300 s.
    """

    min = 0
    spares_busy = False

    def __init__(
        self, signal: Callable[[Seen], float], target: float, poll: float, cooldown: float
    ) -> None:
        self.signal, self.target, self.poll, self.cooldown = signal, target, poll, cooldown
        self.every = min(15.0, poll)
        self.active = -math.inf
        self.asked: deque[tuple[float, int]] = deque()

    def desired(self, seen: Seen) -> int:
        """Poll and sync, each when it is its time."""
        signal = self.signal(seen)
        if not seen.at % self.poll:
            if signal:
                self.active = seen.at
                if not seen.desired:
                    return 1
            elif seen.desired and seen.at - self.active >= self.cooldown:
                self.asked.clear()
                return 0
        if not seen.desired or seen.at % 15:
            return seen.desired
        ratio = signal / self.target / seen.desired
        wanted = seen.desired if abs(ratio - 1) <= 0.1 else math.ceil(signal / self.target - 1e-9)
        wanted = max(1, min(wanted, MAX))
        while self.asked and self.asked[0][0] <= seen.at - 300:
            self.asked.popleft()
        self.asked.append((seen.at, wanted))
        if wanted > seen.desired:
            return min(wanted, max(2 * seen.desired, seen.desired + 4))
        return min(seen.desired, max(number for _, number in self.asked))


def queue_length(target: float) -> Keda:
    """KEDA's scaler for Redis lists, with its defaults."""
    return Keda(lambda seen: seen.waiting, target, 30, 300)


def queued_and_running(target: float) -> Keda:
    """The query of Airflow's chart, with the chart's defaults."""
    return Keda(lambda seen: math.ceil((seen.waiting + seen.running) / target), 1, 5, 30)
