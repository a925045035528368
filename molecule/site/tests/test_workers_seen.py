"""What users, probes and operators see of workers, while they are there and while they are not."""

import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from support import stopped

Ask = Callable[..., requests.Response]


@pytest.fixture
def health(stranger: requests.Session, url: str) -> Ask:
    """Ask for the state of queues as anybody may."""

    def ask(**question: Any) -> requests.Response:
        return stranger.get(f"{url}/fleet/health", params=question, timeout=30)

    return ask


def wait(health: Ask, status: int) -> requests.Response:
    """Wait at most half a minute until the queues of queries have workers (200), or none (503)."""
    deadline = time.monotonic() + 30
    while (answer := health()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    return answer


def banner(url: str, directory: str) -> str:
    """Return what the login page tells of workers in a browser, after ten seconds of its time."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--ignore-certificate-errors", f"--user-data-dir={directory}"]
    command += ["--virtual-time-budget=10000", f"{url}/login/"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'<div id="fleet-banner" role="alert"[^>]*>([^<]*)</div>', page)
    assert found, page
    return found[1]


def test_anybody_sees_how_many_workers_take_queries(health: Ask, facts: dict[str, Any]) -> None:
    answer = wait(health, 200)
    queue = answer.json()["queues"]["sql_lab"]
    assert queue["workers"] == facts["fleet_group_sizes"]["celery_worker"]
    assert queue["slots"] >= queue["workers"]
    assert queue["waiting"] == 0


def test_a_probe_may_ask_for_more_workers_than_there_are(health: Ask) -> None:
    assert health(queue="sql_lab", min=1).status_code == 200
    lacking = health(queue=["sql_lab", "no_such_queue"], min=1)
    assert lacking.status_code == 503
    assert lacking.json()["lacking"] == ["no_such_queue"]
    assert health(min=1000).status_code == 503
    assert health(min="many").status_code == 400


def test_every_web_machine_tells_the_same_over_plain_http(facts: dict[str, Any]) -> None:
    for endpoint in facts["superset_web_endpoints"].values():
        answer = requests.get(f"http://{endpoint}/fleet/health", timeout=30)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/fleet/metrics", "//fleet/metrics", "/%66leet/metrics?a=b"])
def test_users_are_not_given_the_metrics(stranger: requests.Session, url: str, path: str) -> None:
    request = stranger.prepare_request(requests.Request("GET", url))
    request.url = url + path  # as it is
    assert stranger.send(request, verify=stranger.verify, timeout=30).status_code == 404


def test_operators_are_given_the_metrics_at_the_private_port(facts: dict[str, Any]) -> None:
    private = f"http://{facts['haproxy_private_address']}:{facts['haproxy_stats_port']}"
    answer = requests.get(f"{private}/fleet/metrics", timeout=30)
    workers = facts["fleet_group_sizes"]["celery_worker"]
    assert f'superset_fleet_workers{{queue="sql_lab"}} {workers}' in answer.text.splitlines()


def test_a_banner_is_there_while_there_is_no_worker_and_only_then(
    health: Ask, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = str(tmp_path_factory.mktemp("browser"))
    with stopped("celery_worker", "celery-worker"):
        assert "sql_lab" in wait(health, 503).json()["lacking"]
        assert "no worker is running" in banner(url, directory)
    wait(health, 200)
    assert banner(url, directory) == ""
