"""What the guard costs: a query's time with it and without it, in turns, on the same fleet.

Run by `./fleet soak latency [--rounds 4] [--queries 200]` on a fleet that stands and does nothing
else. Deploys web and workers without the guard and with it again, in each round, and sends queries
through the load balancer one by one: seconds until Superset has answered that the query is sent,
and until its row says success. Then asks the publish guard itself, on a web machine. Prints tables
in Markdown, with the ratio of each round; leaves the fleet as the inventory wants it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from superset_fleet.control.ask import ROOT
from tests.support.deployed.fleet import Fleet, wait
from tests.support.deployed.users import User

SQL = "select origin, count(*) from flights group by origin"
ADMISSIONS = """
import json, time
from superset_fleet.state import facts
from superset_fleet.state.records import Job
from superset_fleet.state.registry import Registry
found = facts.load()["redis"]["coordination"]
registry = Registry(facts.redis_url(found, facts.GUARD))
job = Job("sql_lab.get_sql_results", "task", "sql_lab")
message = json.dumps({"args": [0, "select " + 500 * "1"], "kwargs": {}})
seconds = []
for _ in range(1000):
    begin = time.perf_counter()
    registry.admit("sql_lab", "query:0", job, message)
    seconds.append(time.perf_counter() - begin)
registry.forget("query:0")
print(json.dumps(seconds))
"""


def deploy(enabled: bool) -> None:
    """Switch the guard of web processes and workers on or off."""
    playbooks = [f"playbooks/{name}.yml" for name in ("superset_web", "celery_worker")]
    wanted = json.dumps({"superset_guard_enabled": enabled})
    command = ["ansible-playbook", *playbooks, "--extra-vars", wanted]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def measure(user: User, queries: int) -> tuple[float, float]:
    """Return medians in milliseconds: until it is sent, until it has succeeded."""
    sent, finished = [], []
    for _ in range(queries):
        begin = time.perf_counter()
        query = user.send(SQL)
        sent.append(query.answered_in)
        while user.look(query).status in {"pending", "running"}:
            pass
        if query.status != "success":
            sys.exit(f"a query is {query.status}: {query.error}")
        finished.append(time.perf_counter() - begin)
    return statistics.median(sent) * 1000, statistics.median(finished) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="./fleet soak latency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    fleet = Fleet()
    print("| round | | sent, ms | success, ms |\n|---|---|---|---|")
    ratios = []
    try:
        for number in range(1, options.rounds + 1):
            medians = {}
            for enabled in (False, True):
                deploy(enabled)
                user = fleet.user()
                measure(user, 10)  # connections and caches
                medians[enabled] = measure(user, options.queries)
                name = "with the guard" if enabled else "without"
                print(
                    f"| {number} | {name} | {medians[enabled][0]:.1f} | {medians[enabled][1]:.1f} |"
                )
            ratios.append([medians[True][each] / medians[False][each] for each in (0, 1)])
            print(f"| {number} | ratio | {ratios[-1][0]:.3f} | {ratios[-1][1]:.3f} |", flush=True)
    finally:
        deploy(True)
    sent, finished = (statistics.median(each) for each in zip(*ratios, strict=True))
    print(f"| all | median of the ratios | {sent:.3f} | {finished:.3f} |\n")
    wait("workers take work", fleet.takers)
    program = (
        f"SUPERSET_FACTS=/etc/superset/facts.json /opt/superset/venv/bin/python -c '{ADMISSIONS}'"
    )
    seconds = sorted(json.loads(fleet.one("superset_web").run(program)))
    print("| publish guard, 1000 times | ms |\n|---|---|")
    print(
        f"| median | {seconds[500] * 1000:.2f} |\n| 99th percentile | {seconds[990] * 1000:.2f} |"
    )


if __name__ == "__main__":
    main()
