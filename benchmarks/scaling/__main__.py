"""What users wait and what workers cost, by the way in which a worker group is scaled.

    .venv/bin/python -m benchmarks.scaling [runs]

A simulation; what is simulated of ours is what runs: `superset_fleet.scaler.decide` and
`superset_fleet.scaler.durations`. Each load is drawn `runs` times, a day a quarter as often, always
the same. Ours has one policy for all loads. Each other way gets, load by load and in hindsight, the
value of its own number with which its worker-seconds are ours within 2 %. Prints the tables and
draws docs/scaling.svg.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from superset_fleet.scaler.decide import Policy

from .loads import LOADS, Task
from .machines import MAX, SLOTS, Way, run
from .plot import Line, Panel, draw
from .ways import Cpu, Ours, queue_length, queued_and_running

SVG = Path(__file__).parents[2] / "docs" / "scaling.svg"
FIRST_SEED = 1000  # others than those that were looked at while `decide` was written
EQUAL = 0.02  # of worker-seconds
ACCEPTABLE_WAIT_SECONDS, COOLDOWN_SECONDS = 10, 60  # of our policy


@dataclass(frozen=True)
class Scaler:
    """A way to scale, as it is made with its own number."""

    name: str
    make: Callable[[float], Way]
    shipped: float
    values: tuple[float, ...]  # in order; they show what it can do


@dataclass(frozen=True)
class Place:
    """Where the machines are."""

    name: str
    start: tuple[float, float]  # seconds that a machine takes to start, at least and at most

    def ours(self) -> Scaler:
        """Return our way, whose number is the cooldown; the start is known by its mean."""
        mean = sum(self.start) / 2
        return Scaler(
            "ours",
            lambda cooldown: Ours(Policy(0, MAX, ACCEPTABLE_WAIT_SECONDS, cooldown, mean)),
            COOLDOWN_SECONDS,
            (10, 30, COOLDOWN_SECONDS, 120, 240),
        )


PLACES = (
    Place("start 6 to 15 s", (6, 15)),
    Place("start 60 to 90 s", (60, 90)),
)
OTHERS = (
    Scaler("CPU", Cpu, 0.5, (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.5)),
    Scaler("queue length", queue_length, 5, (1, 2, 5, 10, 20, 40)),
    Scaler("queued + running", queued_and_running, 2, (1, 1.5, 2, 2.5, 3, 4, 8, 16, 32)),
)
NAMES = " | ".join(scaler.name for scaler in OTHERS)


@dataclass(frozen=True)
class Point:
    """What all runs of a way came to with one value of its number."""

    value: float
    cost: float  # worker-seconds, of those that the tasks filled
    waits: list[float]  # seconds of all tasks, in order
    each: tuple[float, ...]  # 95th percentile of each run
    steps: float  # changes of desired, an hour

    def wait(self, percent: int) -> float:
        """Return a percentile of the waits."""
        return percentile(self.waits, percent)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return a percentile of what is in order."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


@dataclass(frozen=True)
class Cell:
    """A load at a place: what was drawn of it."""

    place: Place
    load: str
    drawn: list[list[Task]]

    def measure(self, scaler: Scaler, value: float) -> Point:
        """Let a way work it all off."""
        runs = [
            run(tasks, scaler.make(value), self.place.start, seed)
            for seed, tasks in enumerate(self.drawn)
        ]
        work = sum(task.seconds for tasks in self.drawn for task in tasks) / SLOTS
        hours = sum(tasks[-1].at for tasks in self.drawn) / 3600
        return Point(
            value,
            sum(each.worker_seconds for each in runs) / work,
            sorted(wait for each in runs for wait in each.waits),
            tuple(percentile(sorted(each.waits), 95) for each in runs),
            sum(each.steps for each in runs) / hours,
        )

    def as_dear(self, scaler: Scaler, points: list[Point], cost: float) -> Point:
        """Return what a way comes to at a cost.

        It is looked for between two neighbours of which one costs more and one less; of several
        such pairs, between those with the shorter waits. Where no value comes near enough, the
        next one that costs more.
        """
        pairs = [
            pair
            for pair in itertools.pairwise(points)
            if (pair[0].cost > cost) != (pair[1].cost > cost)
        ]
        found = list(points)
        if pairs:
            left, right = min(pairs, key=lambda pair: pair[0].wait(95) + pair[1].wait(95))
            found = [left, right]
            while len(found) < 8 and not near(found, cost):
                middle = self.measure(scaler, (left.value * right.value) ** 0.5)
                found.append(middle)
                if (middle.cost > cost) == (left.cost > cost):
                    left = middle
                else:
                    right = middle
        choice = near(found, cost) or [point for point in found if point.cost > cost]
        return min(choice, key=lambda point: abs(point.cost - cost))


def near(points: list[Point], cost: float) -> list[Point]:
    """Return the points of a cost."""
    return [point for point in points if abs(point.cost / cost - 1) <= EQUAL]


def told(point: Point, ours: Point) -> str:
    """Return a point in figures: of others also the cost to ours, and how often ours was better."""
    figures = f"{point.wait(95):.2f}, {point.wait(99):.0f}, {point.steps:.0f}"
    if point is ours:
        return figures
    better = sum(mine < other for mine, other in zip(ours.each, point.each, strict=True))
    return f"{figures} ({point.cost / ours.cost:.2f} times, {better} of {len(ours.each)})"


def main(runs: int) -> None:
    """Measure, print the tables, draw the plot."""
    alike: list[str] = []
    shipped: list[str] = []
    panels = []
    for place, (load, drawing) in itertools.product(PLACES, LOADS.items()):
        times = max(1, runs // 4) if load == "daily" else runs
        dice = [random.Random(FIRST_SEED + number) for number in range(times)]
        cell = Cell(place, load, [drawing(each) for each in dice])
        curves = [
            (scaler, [cell.measure(scaler, value) for value in scaler.values])
            for scaler in (place.ours(), *OTHERS)
        ]
        as_they_come = [
            next(point for point in points if point.value == scaler.shipped)
            for scaler, points in curves
        ]
        ours = as_they_come[0]
        as_dear = [cell.as_dear(scaler, points, ours.cost) for scaler, points in curves[1:]]
        name = f"{load}, {place.name}"
        for table, found in ((alike, [ours, *as_dear]), (shipped, as_they_come)):
            cells = [name, f"{ours.cost:.2f}", *(told(point, ours) for point in found)]
            table.append(f"| {' | '.join(cells)} |")
        lines = [
            Line(scaler.name, [(point.cost, point.wait(95)) for point in points])
            for scaler, points in curves
        ]
        panels.append(Panel(name, lines, (ours.cost, ours.wait(95))))
    for title, table in (("At our cost", alike), ("As they come", shipped)):
        print(f"\n{title}: 95th and 99th percentile of the wait in s, changes of size an hour\n")
        print("\n".join([f"| load | cost | ours | {NAMES} |", "|---" * 6 + "|", *table]))
    SVG.write_text(draw(panels, columns=len(LOADS)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["12"]))
