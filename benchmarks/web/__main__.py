"""Requests for each second of processor time of the web processes: ours, and upstream's command.

    .venv/bin/python -m benchmarks.web SUPERSET [rounds [requests]]

SUPERSET is a virtual environment with what roles/superset/files/requirements.txt locks. Makes an
installation of Superset in a temporary directory, with PostgreSQL and Redis on loopback, serves it
by the role's service and by the command of Superset's Docker image, with as many processes and
threads, and asks both in turns, round by round: for data of charts that are in the cache, and for
what a dashboard asks for when it is opened. Each round is so many requests by four users at a
time; the table has the medians of the rounds, and the ratio is the median of each round's own. Each
answer is looked at, and so is the table of actions: what is not logged costs nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from benchmarks.web.installation import (
    Dashboard,
    Installation,
    Service,
    installation,
    make_dashboard,
)
from tests.support.waiting import until

USERS = 4
Call = Callable[[requests.Session], None]


def chart_data(service: Service, dashboard: Dashboard) -> Iterator[Call]:
    """Yield what asks for the data of one chart after the other, which are in the cache."""
    for chart, context in dashboard.charts.items():
        form = quote(json.dumps({"slice_id": chart}))
        url = f"{service.url}/api/v1/chart/data?form_data={form}&dashboard_id={dashboard.id}"

        def ask(session: requests.Session, url: str = url, context: Any = context) -> None:
            answer = session.post(url, json=context, timeout=60)
            assert answer.status_code == 200, answer.text
            (result,) = answer.json()["result"]
            assert result["is_cached"], result
            assert result["rowcount"] > 0, result

        yield ask


def dashboard_calls(service: Service, dashboard: Dashboard) -> Iterator[Call]:
    """Yield what a dashboard asks of the API when it is opened, but for its charts' data."""
    for path in ("", "/charts", "/datasets"):
        url = f"{service.url}/api/v1/dashboard/{dashboard.id}{path}"

        def get(session: requests.Session, url: str = url) -> None:
            answer = session.get(url, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.json()["result"], answer.text

        yield get

    def log(session: requests.Session) -> None:
        event = {"event_name": "mount_dashboard", "source": "dashboard", "source_id": dashboard.id}
        form = {"events": json.dumps([event, event | {"event_name": "render_chart"}])}
        answer = session.post(f"{service.url}/superset/log/?explode=events", form, timeout=60)
        assert answer.status_code == 200, answer.text

    yield log


LOADS = {"data of a cached chart": chart_data, "API calls of a dashboard": dashboard_calls}


def ask(calls: Sequence[Call], sessions: Sequence[requests.Session], number: int) -> None:
    """Make so many calls, one user beside the other."""

    def use(user: int) -> None:
        for turn in range(user, number, len(sessions)):
            calls[turn % len(calls)](sessions[user])

    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(use, range(len(sessions))))


def main(superset: Path, rounds: int, number: int) -> None:
    """Measure, and print a table."""
    with (
        tempfile.TemporaryDirectory(prefix="web-", ignore_cleanup_errors=True) as name,
        installation(superset, Path(name)) as made,
        made.serve("upstream") as upstream,
        made.serve("ours") as ours,
    ):
        dashboard = make_dashboard(ours, made.postgres.port)
        compare(made, [upstream, ours], dashboard, rounds, number)


def compare(
    made: Installation,
    services: Sequence[Service],
    dashboard: Dashboard,
    rounds: int,
    number: int,
) -> None:
    """Measure services in turns, and print a table."""
    sessions = {service: [service.log_in() for _ in range(USERS)] for service in services}
    for service in services:
        for chart in dashboard.charts.values():  # into the cache
            sessions[service][0].post(f"{service.url}/api/v1/chart/data", json=chart, timeout=60)
    settled(made)
    print("| what | requests a second of CPU: upstream | ours | ratio | of each round |")
    print("|---|---|---|---|---|")
    for what, load in LOADS.items():
        found: dict[Service, list[float]] = defaultdict(list)
        logged: dict[Service, int] = defaultdict(int)
        for turn in range(rounds + 1):  # the first one warms up
            for service in services if turn % 2 else services[::-1]:
                calls = list(load(service, dashboard))
                rows, before = made.logged(), service.cpu_seconds()
                ask(calls, sessions[service], number)
                settled(made)  # which is a part of the work
                if turn:
                    found[service].append(number / (service.cpu_seconds() - before))
                logged[service] += made.logged() - rows
        assert len(set(logged.values())) == 1, f"not all log the same: {logged}"
        upstream, ours = (found[service] for service in services)
        medians = statistics.median(upstream), statistics.median(ours)
        ratios = [b / a for a, b in zip(upstream, ours, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"| {what} | {medians[0]:.1f} | {medians[1]:.1f} "
            f"| {statistics.median(ratios):.2f} | {each} |",
            flush=True,
        )


def settled(made: Installation) -> None:
    """Wait until nobody logs any more."""
    seen: list[int] = []

    def same() -> bool:
        seen.append(made.logged())
        return len(seen) > 100 and len(set(seen[-100:])) == 1

    until(same, "the actions are logged")


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[2:]]
    main(Path(sys.argv[1]), *(given + [9, 100][len(given) :]))
