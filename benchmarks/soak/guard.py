"""No query is lost, finished twice or left over while workers are killed, paused and cut off.

Sends a mix of queries as several users through the load balancer at a steady rate. Meanwhile
workers are killed, paused and cut off from Redis at random. Afterwards each query must have
finished or failed once: with the rows it asked for, or with a message; no data may have been
written twice. The metadata database itself writes down every change of a query's state
(tests/support/history.py).

Prints a summary and exits with status 1 where a query fails the check. With --without-guard the
fleet is first deployed without the guard (and with it afterwards): then the check must fail.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from superset_fleet.control.superset import SupersetError
from tests.support.deployed.fleet import WORKER, Fleet, deploy, observed, wait
from tests.support.deployed.machines import Machine, MachineFailed
from tests.support.deployed.users import ENDED, Query, User
from tests.support.history import History

# Kind of query: how many of a hundred, and between which seconds it takes.
KINDS = {
    "select": (60, (0, 0.3)),
    "long select": (15, (3, 8)),
    "insert": (15, (0, 1.5)),
    "script": (10, (0, 1.5)),
}
FAULTS = {"kill": 4, "pause": 2, "pause main": 2, "cut": 2}  # kind: weight
LONGEST = 20  # seconds of a pause or a cut
SETTLE_SECONDS = 120  # after the last fault, until no query may be unfinished


@dataclass
class Shot:
    """A query of the soak: what it is, and what came of it."""

    name: str
    kind: str
    sql: str
    rows: list[dict[str, Any]] | None  # that it should return; None: it returns none of use
    at: float  # seconds after the beginning
    query: Query | None = None
    fault: str = ""  # what its user met that must not be


@dataclass
class Fault:
    """What was done to a worker, and which jobs ran there then."""

    kind: str
    at: float
    seconds: float
    jobs: set[str] = field(default_factory=set)


def plan(count: int, minutes: float, chance: random.Random) -> list[Shot]:
    """Return the queries to send."""
    shots = []
    for number in range(count):
        kinds, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
        (kind,) = chance.choices(kinds, weights)
        seconds = round(chance.uniform(*KINDS[kind][1]), 2)
        name = f"shot-{number}"
        select = f"select '{name}' as name, warehouse.slow({seconds}) as seconds"
        rows: list[dict[str, Any]] | None = [{"name": name, "seconds": seconds}]
        insert = f"insert into scratch.written select '{name}', warehouse.slow({seconds})"
        sql = {"insert": insert, "script": f"{insert};\n{select}"}.get(kind, select)
        rows = None if kind == "insert" else rows
        shots.append(Shot(name, kind, sql, rows, number * minutes * 60 / count))
    return shots


class Soak:
    """One soak of a fleet."""

    def __init__(self, fleet: Fleet, shots: list[Shot], chance: random.Random) -> None:
        self.fleet, self.shots, self.chance = fleet, shots, chance
        self.faults: list[Fault] = []
        self.errors: list[str] = []  # of the soak itself
        self.begin = time.monotonic()
        self.over = threading.Event()

    # -- Users ------------------------------------------------------------------------------------
    def use(self, user: User, shots: list[Shot]) -> None:
        """Send a user's queries in time, and follow them until they finish or the soak is over."""
        since = time.time() * 1000
        todo, running = list(shots), dict[int, Shot]()
        while (todo or running) and not self.over.is_set():
            now = time.monotonic() - self.begin
            while todo and todo[0].at <= now:
                shot = todo.pop(0)
                shot.query = user.send(shot.sql)
                if shot.query.id:
                    running[shot.query.id] = shot
            try:
                queries = [shot.query for shot in running.values() if shot.query]
                since = user.look_at_all(queries, since - 5000) if queries else since
                for shot in list(running.values()):
                    if shot.query and shot.query.status in ENDED:
                        del running[shot.query.id]
                        self.compare(user, shot)
            except SupersetError as error:
                if error.status not in (0, 502, 503, 504):
                    self.errors.append(f"a user could not look: {error}")
            next_send = todo[0].at - (time.monotonic() - self.begin) if todo else 1
            self.over.wait(min(max(next_send, 0.05), 1))

    @staticmethod
    def compare(user: User, shot: Shot) -> None:
        """Note where a successful query has not the rows that it should have."""
        if shot.query and shot.query.status == "success" and shot.rows is not None:
            try:
                rows = user.rows(shot.query)
            except SupersetError as error:
                shot.fault = f"success, and its rows are not there: {error}"
            else:
                if rows != shot.rows:
                    shot.fault = f"success with rows {rows} instead of {shot.rows}"

    # -- Faults -----------------------------------------------------------------------------------
    def harm(self, seconds: float) -> None:
        """Do one thing after the other to workers, for so long."""
        chance, until = self.chance, time.monotonic() + seconds
        redis = self.fleet.facts["redis_address"], self.fleet.facts["redis_coordination_port"]
        while not self.over.wait(chance.uniform(2, 10)) and time.monotonic() < until:
            (kind,) = chance.choices(list(FAULTS), list(FAULTS.values()))
            worker = chance.choice(self.fleet.workers)
            length = 0 if kind == "kill" else round(chance.uniform(1, LONGEST), 1)
            jobs = self.fleet.runs_on(worker)
            fault = Fault(kind, time.time(), length, jobs)
            try:
                if kind == "kill":
                    worker.signal(WORKER, "KILL")
                elif kind == "cut":
                    with worker.cut_off(*redis):
                        self.over.wait(length)
                else:
                    whom = "main" if kind == "pause main" else "all"
                    with worker.paused(WORKER, whom):
                        self.over.wait(length)
            except MachineFailed as error:
                # It was just starting after another kill: nothing was done to it.
                if "No main process to kill" not in str(error):
                    self.errors.append(f"a fault could not be made: {error}")
                continue
            self.faults.append(fault)

    # -- The whole --------------------------------------------------------------------------------
    def run(self, users: list[User], minutes: float) -> None:
        """Send and harm, and wait until everything is settled or should be."""
        self.begin = time.monotonic()
        threads = [
            threading.Thread(target=self.use, args=(user, self.shots[number :: len(users)]))
            for number, user in enumerate(users)
        ]
        harm = threading.Thread(target=self.harm, args=(minutes * 60,))
        for thread in [*threads, harm]:
            thread.start()
        try:
            harm.join()
            while any(each.is_alive() for each in threads) and (
                time.monotonic() - self.begin < minutes * 60 + SETTLE_SECONDS
            ):
                time.sleep(1)
        finally:
            self.over.set()
            for thread in [*threads, harm]:
                thread.join()


def judge(soak: Soak, guarded: bool) -> tuple[list[str], dict[str, History], dict[str, Any]]:
    """Return what fails the check, each query's history, and its row."""
    fleet = soak.fleet
    queries = {shot.name: shot.query for shot in soak.shots if shot.query}
    ids = [query.client_id for query in queries.values()]
    histories, rows = fleet.ledger.histories(ids), fleet.ledger.ends(ids)
    written = fleet.written()
    wrong = list(soak.errors)
    for shot in soak.shots:
        if shot.query is None:
            wrong.append(f"{shot.name}: was not sent")
            continue
        history, row = histories[shot.query.client_id], rows.get(shot.query.client_id)
        times = written.get(shot.name, 0)

        def say(what: str, shot: Shot = shot) -> None:
            wrong.append(f"{shot.name} ({shot.kind}, {shot.query}): {what}")

        if shot.fault:
            say(shot.fault)
        if row is None:
            if shot.query.status != "refused":
                say("has no row")
            continue
        if row["status"] not in ENDED:
            say(f"is still {row['status']}")
        if not history.ended_once(stopped=False) and history.ends:
            say(f"ended {len(history.ends)} times: {history}")
        if row["status"] == "failed" and not row["error_message"]:
            say("failed without a message")
        if shot.kind in ("insert", "script"):
            if len(history.runs) > 1:
                say(f"changes data and ran {len(history.runs)} times")
            if times > 1 or (row["status"] == "success" and times != 1):
                say(f"has status {row['status']} and wrote {times} times")
        if shot.query.status == "refused" and times:
            say("was refused, and wrote")
    if waiting := fleet.waiting():
        wrong.append(f"{waiting} messages wait in the queue")
    if guarded and (jobs := fleet.registry.jobs()):
        wrong.append(f"the guard waits for {jobs}")
    return wrong, histories, rows


def summary(
    soak: Soak, histories: dict[str, History], rows: dict[str, Any], wrong: list[str]
) -> None:
    """Print a table in Markdown."""
    sent = [shot for shot in soak.shots if shot.query]
    ended: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    for shot in sent:
        assert shot.query
        row = rows.get(shot.query.client_id, {"status": "no row", "error_message": ""})
        refused = shot.query.status == "refused"
        ended["refused" if refused else row["status"]] += 1
        if row["status"] == "failed":
            messages["".join(c for c in row["error_message"][:90] if not c.isdigit())] += 1
    by_id = {history[0].query_id: history for history in histories.values() if history}
    waits, reruns = [], []
    for fault in soak.faults:
        for job in fault.jobs if fault.kind == "kill" else ():
            history = by_id.get(int(job.partition(":")[2]), History())
            waits += [each.at - fault.at for each in history.ends if each.at > fault.at][:1]
            reruns += [each.at - fault.at for each in history.runs if each.at > fault.at][:1]
    kinds = Counter(fault.kind for fault in soak.faults)
    lines = [
        ("queries sent", f"{len(sent)}"),
        *((f"… {status}", f"{count}") for status, count in sorted(ended.items())),
        ("runs more than one", f"{sum(max(0, len(h.runs) - 1) for h in histories.values())}"),
        ("faults", ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))),
        ("jobs that ran on a worker when it was killed", f"{len(waits)}"),
        ("worst time from the kill to the next run", f"{max(reruns, default=0):.1f} s"),
        ("worst time from the kill to the last status", f"{max(waits, default=0):.1f} s"),
        ("queries that fail the check", f"{len(wrong)}"),
    ]
    print("\n| what | figure |\n|---|---|")
    print("\n".join(f"| {what} | {figure} |" for what, figure in lines))
    print("\nReasons of those that failed:")
    print("\n".join(f"{count:5} {text}" for text, count in messages.most_common()))


@contextmanager
def deployed(without_guard: bool) -> Iterator[None]:
    """Take the guard away for a while, where that is wanted."""
    if without_guard:
        deploy("site", superset_guard_enabled=False)
    try:
        yield
    finally:
        if without_guard:
            deploy("site")


def heal(workers: list[Machine]) -> None:
    """Wait until every worker takes work again."""
    for worker in workers:
        worker.run(f"systemctl start {WORKER}")


def main() -> int:
    """Soak, check and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="./fleet soak guard", description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--without-guard", action="store_true", help="must fail the check")
    options = parser.parse_args()
    print(f"Seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    shots = plan(options.queries, options.minutes, chance)
    with ExitStack() as stack:
        stack.enter_context(deployed(options.without_guard))
        fleet = stack.enter_context(observed())
        users = [fleet.user() for _ in range(options.users)]
        before = users[0].allow(allow_dml=True)
        stack.callback(lambda: users[0].allow(**before))
        soak = Soak(fleet, shots, chance)
        soak.run(users, options.minutes)
        heal(fleet.workers)
        if not options.without_guard:
            with suppress(TimeoutError):  # the check says which jobs are left
                wait("the guard's register is empty", lambda: not fleet.registry.jobs(), 30)
        wrong, histories, rows = judge(soak, not options.without_guard)
        summary(soak, histories, rows, wrong)
    print("\n".join(["", *wrong]))
    print(f"\n{'The check fails' if wrong else 'The check is passed'}; seed {options.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
