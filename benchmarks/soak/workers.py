"""Workers come with the work and go without losing a query: on the real fleet, by the scaler.

From zero: no worker is there, a query wakes one; from the query to its row, and next to it, in the
same run, what the machine's boot and the worker's start took. Then scale-in: ten queries of a
minute run and ten more wait when the group is made as small as it may be. Then bursts of queries at
random, for some minutes, while the scaler keeps one to four machines.

Each query must have succeeded, after one run; from zero may take 1.3 times as long as the boot and
the start by themselves; and no machine may be asked for less than a cooldown before one goes. Else
the exit status is 1. With --without-drain, machines that leave are killed in the scale-in, and the
check must fail.

The fleet is deployed with `superset_no_worker_policy: wake` first, and as it was afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.deployed.fleet import Fleet, deploy, observed, operator, wait
from tests.support.deployed.groups import BOOT_SECONDS, LEAVE_SECONDS, Group, localcloud
from tests.support.deployed.users import Query, User

COOLDOWN_SECONDS = 60
LEAST, MOST = 1, 4
MOST_RATIO = 1.3  # of the time from zero to that of a boot and a worker's start
SECONDS = 60.0  # a query of the scale-in
# Microseconds of the monotonic clock, which all machines share: when what makes the machine a part
# of the fleet began, when the worker was started, when it took work.
TIMES = """
systemctl show --property=ExecMainStartTimestampMonotonic --value fleet-boot
systemctl show --property=ExecMainStartTimestampMonotonic --value celery-worker
systemctl show --property=ActiveEnterTimestampMonotonic --value celery-worker
"""


class Soak:
    """The group of workers, its users, and what went wrong."""

    def __init__(self, fleet: Fleet, user: User) -> None:
        self.fleet, self.user, self.group = fleet, user, Group("celery_worker")
        self.rows: list[tuple[str, str]] = []
        self.wrong: list[str] = []

    def check(self, what: str, queries: list[Query]) -> None:
        """Note what became of queries: each is to have succeeded after one run."""
        histories = self.fleet.ledger.histories(query.client_id for query in queries)
        for query in queries:
            history = histories[query.client_id]
            if query.status != "success" or not history.ended_once(False) or len(history.runs) != 1:
                self.wrong.append(f"{what}: {query}: {history}")
        good = sum(query.status == "success" for query in queries)
        self.note(what, f"{good} of {len(queries)} queries")

    def note(self, what: str, figure: str) -> None:
        """Keep a figure."""
        print(f"{time.strftime('%H:%M:%S')} {what}: {figure}", flush=True)
        self.rows.append((what, figure))

    # -- From zero --------------------------------------------------------------------------------
    def from_zero(self, times: int) -> None:
        """Let queries wake workers, one at a time."""
        took, boots, starts = [], [], []
        queries = []
        for _ in range(times):
            self.group.want(0)
            self.group.resize(MaxSize=MOST)
            wait("no worker is left", lambda: not self.group.members(), LEAVE_SECONDS)
            wait("the scaler would start one", self._ready)
            query = self.user.send("select 1 as one")
            begin = time.monotonic()
            self.user.wait([query], BOOT_SECONDS)
            self.user.rows(query)
            took.append(time.monotonic() - begin)
            queries.append(query)
            self.fleet.look_again()
            (machine,) = self.fleet.workers
            boot, cold, there = (int(word) / 1e6 for word in machine.run(TIMES).split())
            launched = self.group.launched(machine) - time.time() + time.monotonic()
            boots.append(boot - launched)
            starts.append(there - cold)
        self.check("from zero", queries)
        whole, boot, start = (statistics.median(column) for column in (took, boots, starts))
        self.note("… query sent → row, median", f"{whole:.1f} s")
        self.note("… boot, and the worker's start, median", f"{boot:.1f} s, {start:.1f} s")
        ratio = whole / (boot + start)
        self.note("… ratio", f"{ratio:.2f}")
        if ratio > MOST_RATIO:
            self.wrong.append(f"from zero took {ratio:.2f} times as long as boot and start")

    def _ready(self) -> bool:
        wake = self.fleet.registry.queue("sql_lab").wake
        return wake is not None and wake.state == "ready"

    # -- Scale-in ---------------------------------------------------------------------------------
    def scale_in(self, killed: bool) -> None:
        """Let all machines but one go while they work; or kill those that go, for comparison.

        The cloud is told which ones: else it would take none that are busy, and that are protected.
        """
        operator("scale", "--hold", "soak workers")
        slots = 10
        size = -(-slots // self.fleet.takers()[0].slots)
        self.group.want(size)
        wait("all take work", lambda: len(self.fleet.takers()) == size, BOOT_SECONDS)
        self.fleet.look_again()
        queries = [self._slow() for _ in range(slots)]
        for query in queries:
            self.fleet.wait_for_run(f"query:{query.id}")
        queries += [self._slow() for _ in range(slots)]
        for leaver in self.fleet.workers[1:]:
            self.group.remove(leaver)
            if killed:
                localcloud("kill", leaver.name)
        self.user.wait(queries, 20 * SECONDS)
        self.check("scale-in with ten queries running and ten waiting", queries)
        operator("scale", "--release")

    def _slow(self) -> Query:
        return self.user.send(f"select warehouse.slow({SECONDS}) as seconds")

    # -- Bursts -----------------------------------------------------------------------------------
    def bursts(self, minutes: float, chance: random.Random) -> None:
        """Send queries in bursts at random, and watch what the scaler makes of it."""
        self.group.resize(MinSize=LEAST, MaxSize=MOST)
        over = threading.Event()
        sizes = [(time.monotonic(), self.group.desired)]

        def watch() -> None:
            while not over.wait(1):
                desired = self.group.desired
                if desired != sizes[-1][1]:
                    sizes.append((time.monotonic(), desired))
                    print(f"{time.strftime('%H:%M:%S')}   {desired} machines", flush=True)

        watching = threading.Thread(target=watch)
        watching.start()
        queries: list[Query] = []
        try:
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                for _ in range(chance.choice([1, 2, 5, 10, 20])):
                    seconds = round(chance.uniform(0.2, 15), 1)
                    queries.append(self.user.send(f"select warehouse.slow({seconds}) as seconds"))
                over.wait(chance.uniform(5, 90))
            self.user.wait(queries, 300)
        finally:
            over.set()
            watching.join()
        self.check(f"{minutes:.0f} minutes of bursts", queries)
        steps = [(then, after - before) for (_, before), (then, after) in itertools.pairwise(sizes)]
        outs = [then for then, step in steps if step > 0]
        ins = [then for then, step in steps if step < 0]
        flaps = sum(0 < one - other < COOLDOWN_SECONDS for other in outs for one in ins)
        if flaps:
            self.wrong.append(f"{flaps} times a machine was asked for, and one went soon after")
        self.note("… changes of desired", f"{len(outs)} up, {len(ins)} down, {flaps} flaps")
        histories = self.fleet.ledger.histories(query.client_id for query in queries)
        waits = sorted(history.runs[0].at - history[0].at for history in histories.values())
        self.note(
            "… wait, median and 95th percentile",
            f"{waits[len(waits) // 2]:.1f} s, {waits[int(len(waits) * 0.95)]:.1f} s",
        )


@contextmanager
def deployed() -> Iterator[None]:
    """Let queries wake workers for a while, and machines go after a short cooldown."""
    wanted = {"superset_no_worker_policy": "wake", "scaler_cooldown_seconds": COOLDOWN_SECONDS}
    deploy("superset_web", **wanted)
    deploy("scheduler", **wanted)
    try:
        yield
    finally:
        deploy("superset_web")
        deploy("scheduler")


def main() -> int:
    """Soak, check and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="./fleet soak workers", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="how often from zero")
    parser.add_argument("--minutes", type=float, default=20, help="of bursts")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--without-drain", action="store_true", help="must fail the check")
    options = parser.parse_args()
    print(f"Seed {options.seed}", flush=True)
    with ExitStack() as stack:
        stack.enter_context(deployed())
        fleet = stack.enter_context(observed())
        soak = Soak(fleet, fleet.user())
        stack.callback(operator, "scale", "--release")
        stack.callback(soak.group.restore)
        soak.from_zero(options.times)
        soak.scale_in(options.without_drain)
        soak.bursts(options.minutes, random.Random(options.seed))
    print("\n| what | figure |\n|---|---|")
    print("\n".join(f"| {what} | {figure} |" for what, figure in soak.rows))
    print("\n".join(["", *soak.wrong]))
    print(f"\nThe check {'fails' if soak.wrong else 'is passed'}; seed {options.seed}")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
