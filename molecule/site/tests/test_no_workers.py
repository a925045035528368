"""What users, probes and operators meet while no worker runs, or none that can read their queries.

The workers are stopped once, for all of these tests, and started with another key for the last.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import BRIEF, Ask, Play, banner, replaced

from tests.support.deployed.fleet import WORKER, Fleet, wait

FACTS = "/etc/superset/facts.json"
OTHER_KEY = '"secret_key": "a key that differs from the web machines\\x27 key"'


@pytest.fixture(scope="module", autouse=True)
def no_workers(fleet: Fleet) -> Iterator[None]:
    """Stop all workers; in the end they take queries again."""
    for machine in fleet.workers:
        machine.run(f"systemctl stop {WORKER}")
    yield
    fleet.want_workers(*fleet.workers)


@pytest.fixture
def workers_with_another_key(fleet: Fleet) -> Iterator[None]:
    """Start all workers with another key than the web machines have."""
    with ExitStack() as changed:
        for machine in fleet.workers:
            changed.enter_context(replaced(machine, FACTS, '"secret_key": ".*"', OTHER_KEY))
            changed.callback(machine.run, f"systemctl stop {WORKER}")
        fleet.want_workers(*fleet.workers)
        yield


def test_a_banner_is_there_and_probes_are_told(health: Ask, url: str, tmp_path: Path) -> None:
    def lacking() -> list[str]:
        answer = health()
        return list(answer.json()["lacking"]) if answer.status_code == 503 else []

    assert "sql_lab" in wait("no worker is seen", lacking, 30)
    assert "no worker is running" in banner(url, tmp_path)


def test_the_canary_names_the_queue_that_no_worker_takes(play: Play) -> None:
    done = play("canary", *BRIEF)
    assert done.returncode != 0
    assert "No worker takes queries from the queue 'sql_lab'" in done.stdout
    assert f"systemctl status {WORKER}" in done.stdout


@pytest.mark.usefixtures("workers_with_another_key")
def test_the_canary_names_the_secret_key_when_workers_have_another_one(play: Play) -> None:
    done = play("canary", *BRIEF)
    assert done.returncode != 0
    assert "SECRET_KEY" in re.sub(r"\s+", " ", done.stdout)
