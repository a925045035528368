"""What users ask for: tasks, each with the moment it is sent and what it takes.

A query takes 3 s on average, half of them less than 1.5 s (log-normal), none more than 300 s.
While it runs it uses 2.5 to 7.5 % of its machine's processors: the work is the database's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

HOUR = 3600.0
MEDIAN_SECONDS, SPREAD, LIMIT_SECONDS = 1.5, 1.2, 300.0
WHALE_SECONDS = HOUR


class Task(NamedTuple):
    """One task; times in seconds."""

    at: float
    seconds: float
    cpu: float  # share of its machine's processors that it uses


def query(at: float, dice: random.Random) -> Task:
    """Return a query of usual length."""
    seconds = min(dice.lognormvariate(math.log(MEDIAN_SECONDS), SPREAD), LIMIT_SECONDS)
    return Task(at, seconds, dice.uniform(0.025, 0.075))


def arrivals(
    dice: random.Random, until: float, rate: Callable[[float], float], highest: float
) -> Iterator[Task]:
    """Return queries of users who know nothing of one another; `rate` is a second's."""
    at = dice.expovariate(highest)
    while at < until:
        if dice.random() * highest < rate(at):
            yield query(at, dice)
        at += dice.expovariate(highest)


def steady(dice: random.Random) -> list[Task]:
    """Two queries a second for two hours: six slots on average."""
    return list(arrivals(dice, 2 * HOUR, lambda _: 2.0, 2.0))


def burst(dice: random.Random) -> list[Task]:
    """Crowds of 40 to 120 queries in 20 s, about each ten minutes; between them 0.2 a second."""
    tasks = list(arrivals(dice, 3 * HOUR, lambda _: 0.2, 0.2))
    at = dice.expovariate(1 / 600)
    while at < 3 * HOUR - 60:
        tasks += [query(at + dice.uniform(0, 20), dice) for _ in range(dice.randint(40, 120))]
        at += dice.expovariate(1 / 600)
    return sorted(tasks)


def daily(dice: random.Random) -> list[Task]:
    """A day: ten queries an hour at night, from eight to six up to two a second, less at noon."""

    def rate(at: float) -> float:
        hour = at / HOUR
        if not 8 <= hour < 18:
            return 10 / HOUR
        return 0.4 + 0.8 * (1 - math.cos((hour - 8) * 2 * math.pi / 5))

    return list(arrivals(dice, 24 * HOUR, rate, 2.0))


def whale(dice: random.Random) -> list[Task]:
    """One query of an hour among one short query in two seconds, for two and a half hours."""
    tasks = list(arrivals(dice, 2.5 * HOUR, lambda _: 0.5, 0.5))
    return sorted([*tasks, Task(0.5 * HOUR, WHALE_SECONDS, 0.05)])


LOADS = {"steady": steady, "burst": burst, "daily": daily, "one whale": whale}
