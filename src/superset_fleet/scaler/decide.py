"""How many machines a worker group shall have: from what waits and runs, and why.

`decide` is pure and is called at every tick. What it must know of former ticks is in `Memory`.
`benchmarks/scaling` runs it against other ways to scale; `docs/benchmarks.md` has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

USUAL_SECONDS = 300.0  # what was so long ago counts e times less in what usually runs
# Standard deviations: of what is spread normally, 19 of 20 are below the mean and so many of them.
# In the simulation 120 and 600 s do as well, and 2 of them; with 1 more changes.
ROOM = 1.64


@dataclass(frozen=True)
class Policy:
    """What an operator wants of a worker group."""

    min: int  # machines, as max
    max: int
    acceptable_wait_seconds: float  # what a task may wait before it runs
    cooldown_seconds: float  # machines go after they were not needed for so long
    start_seconds: float  # from the call that asks for a machine to its first task, more than 0

    @property
    def within(self) -> float:
        """Seconds in which what waits is to be worked off: no new machine helps any sooner."""
        return max(self.acceptable_wait_seconds, self.start_seconds)


@dataclass(frozen=True)
class Load:
    """What is seen of a worker group at one moment."""

    at: float  # monotonic seconds
    waiting: int  # tasks in its queues, of all priorities
    running: int  # tasks that the machines have taken, without those that leave
    workers: int  # machines that take work
    busy: int  # of these, with a task
    desired: int  # machines that the group is to have now
    slots: int  # tasks that one machine runs at a time
    task_seconds: float | None  # what one takes on average; None: nothing has finished yet


@dataclass(frozen=True)
class Usual:
    """How many tasks run, over the last minutes: newer moments count more."""

    at: float = -math.inf  # the last moment that was seen
    mean: float = 0.0
    variance: float = 0.0

    def seen(self, at: float, running: int) -> Usual:
        """Return the same with one moment more."""
        newest = 1 - math.exp((self.at - at) / USUAL_SECONDS)
        off = running - self.mean
        mean = self.mean + newest * off
        return Usual(at, mean, (1 - newest) * (self.variance + newest * off * off))

    @property
    def at_times(self) -> float:
        """Tasks that run at busy moments: no more do in 19 of 20."""
        return self.mean + ROOM * math.sqrt(self.variance)


@dataclass(frozen=True)
class Memory:
    """What `decide` remembers from tick to tick.

    A caller who did not see the load for a while (a read error, a hold, a new leader) begins with
    `Memory()`: then no machine goes before a whole cooldown was seen.
    """

    usual: Usual = field(default_factory=Usual)
    since: float | None = None  # when fewer machines began to be enough; None: all are needed
    enough: int = 0  # machines, at most since then


@dataclass(frozen=True)
class Decision:
    """How many machines a group is to have."""

    desired: int
    why: str  # one line with the numbers


def decide(load: Load, policy: Policy, memory: Memory) -> tuple[Decision, Memory]:
    """Return how many machines the group is to have, and what to remember until the next tick.

    - A slot for every task that runs, and so many more that those that wait are worked off within
      the acceptable wait, or within the time that a machine needs to start if that is longer.
    - What is missing comes at once. Where anything waits, one machine at least.
    - While there is work, none go that the ups and downs of the last minutes will need again.
    - When fewer machines were enough for a whole cooldown, half of the others go, at least one;
      and none more for the next cooldown.
    - No more go than are without a task.
    - The policy's bounds come before all this.
    """
    usual = memory.usual.seen(load.at, load.running)
    least, most = min(policy.min, policy.max), policy.max
    held = max(least, min(load.desired, most))
    need = needed(load, policy)
    room = min(math.ceil(usual.at_times / load.slots), held) if need else 0
    wanted = max(least, min(max(need, room), most))
    notes = []
    if load.workers < load.desired:
        notes.append(f"{load.desired - load.workers} not there yet")
    if room > need:
        notes.append(f"room kept for {usual.at_times:.0f}")
    if held != load.desired or not least <= need <= most:
        notes.append(f"{least} to {most} allowed")
    if held != load.desired or wanted >= held:
        return said(load, policy, max(held, wanted), notes), Memory(usual)
    enough = max(memory.enough, wanted)
    since = load.at if memory.since is None else memory.since
    left = since + policy.cooldown_seconds - load.at
    if left > 0:
        notes.append(f"{enough} would do, fewer in {left:.0f} s")
        return said(load, policy, held, notes), Memory(usual, since, enough)
    go = min(math.ceil((held - enough) / 2), held - load.busy)
    if go <= 0:
        notes.append(f"{enough} would do, but {load.busy} have a task")
        return said(load, policy, held, notes), Memory(usual, since, enough)
    notes.append(f"{enough} would have done for {load.at - since:.0f} s")
    return said(load, policy, held - go, notes), Memory(usual, load.at, wanted)


def needed(load: Load, policy: Policy) -> int:
    """Return how many machines the tasks need, whatever there is and may be."""
    # Of unknown length: taken to last as long as it may wait.
    seconds = policy.acceptable_wait_seconds if load.task_seconds is None else load.task_seconds
    slots = load.running + load.waiting * min(1.0, seconds / policy.within)
    return max(math.ceil(slots / load.slots), 1 if load.waiting else 0)


def said(load: Load, policy: Policy, desired: int, notes: Sequence[str]) -> Decision:
    """Return the decision with its reason."""
    each = "of unknown length" if load.task_seconds is None else f"{load.task_seconds:.1f} s each"
    step = f"{load.desired} → {desired}" if desired != load.desired else f"{desired}"
    tasks = f"{load.waiting} wait, {load.running} run, {each} on {load.slots} slots a machine"
    return Decision(
        desired, "; ".join([f"{step}: {tasks}", f"{policy.within:.0f} s acceptable", *notes])
    )
