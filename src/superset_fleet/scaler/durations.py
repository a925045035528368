"""How long tasks took: learned from the heartbeats of the workers that ran them.

Of each queue of a worker group by itself: a chart takes less than a second and a report half a
minute, and what waits is what counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ..state.records import Worker
from .decide import Policy

# A task counts until so many newer ones of its queue have finished; their median age is half of it.
# Not for a time: after a quiet night the tasks of the evening are the best that is known, and in
# the morning's rush the first seconds are enough to learn from.
COUNTED = 50


class Durations:
    """What is known, of every queue of every group."""

    def __init__(self) -> None:
        self._finished: dict[tuple[str, str], int] = {}  # by life of a worker and queue
        self._newest: dict[tuple[str, str], deque[float]] = {}  # seconds, by group and queue

    def learn(self, workers: Mapping[str, Worker]) -> None:
        """Take in what all workers say, by their lives."""
        before, self._finished = self._finished, {}
        for life, worker in workers.items():
            for queue, (finished, newest) in worker.finished.items():
                self._finished[life, queue] = finished
                new = min(finished - before.get((life, queue), 0), len(newest))
                known = self._newest.setdefault((worker.group, queue), deque(maxlen=COUNTED))
                known.extend(newest[len(newest) - new :])

    def seconds(self, group: str, backlog: Mapping[str, int], policy: Policy) -> float | None:
        """Return how long a task of a group's backlog takes on average, None where none is known.

        `backlog` are the numbers of tasks in its queues. Where none is known of what waits, or
        nothing waits, it is the average of the queues. None counts for longer than
        `policy.within`: then it needs a slot of its own, however long it is, so a single whale does
        not make the others look long.
        """
        means = {
            queue: sum(min(seconds, policy.within) for seconds in newest) / len(newest)
            for (whose, queue), newest in self._newest.items()
            if whose == group and newest
        }
        counts = {queue: backlog.get(queue, 0) for queue in means}
        if not any(counts.values()):
            counts = dict.fromkeys(means, 1)
        total = sum(counts.values())
        return sum(counts[queue] * means[queue] for queue in means) / total if total else None
